"""Where a new scene begins, from a few numbers per frame.

What a reader would get wrong: a large difference between two frames is no cut. A flash differs from the frame before it,
and from the one after; a fast pan differs at every frame. So a cut is where everything shortly before differs from
everything shortly after, by more than the picture moves around there. A dissolve or a fade has no such place, and is
not found; nor is a jump within a shot that leaves the picture much as it was.

Legend: H height, W width, C channels (B, G, R); N frames, S numbers of a signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_CELLS = 8  # the picture as 8 x 8 cells of luma, Cr and Cb
_LUMA_BINS, _CHROMA_BINS = 32, 16
_GRID_SIZE = 3 * _CELLS * _CELLS
SIGNATURE_SIZE = _GRID_SIZE + _LUMA_BINS + 2 * _CHROMA_BINS
DEFAULT_THRESHOLD = 0.2

_SAMPLED_SIDE_PX = 128  # every k-th pixel is enough, and averaging over all of them would take most of the time
_CHROMA_RANGE = (0.25, 0.75)  # where nearly all colours lie; the rest counts into the outer bins
_WINDOW = 4  # frames on either side; a flash may be one shorter
_MOTION_ALLOWANCE = 1.5
_GAP_LIMIT = 4
_FLAT_CONTRAST = 0.03  # below this the cells of a picture count as flat: noise in black frames is no change
_LAYOUT_WEIGHT = 0.6
_LUMA_SHIFT_SCALE, _CHROMA_SHIFT_SCALE = 3.0, 6.0  # bring a usual change of colours at a cut near to 1


def frame_signature(image_bgr_HWC: NDArray[Any]) -> NDArray[np.float32]:
    """What ``scene_cuts`` compares: float32 (SIGNATURE_SIZE,), the layout of luma and colour and their distributions.

    ``image_bgr_HWC`` uint8, uint16 (white 65535) or float32 (clipped to 0..1, NaN counts as 0). Deterministic; the
    same picture at another size gives nearly the same. ValueError for another type or shape.
    """
    scale = {np.dtype(np.uint8): 1 / 255, np.dtype(np.uint16): 1 / 65535, np.dtype(np.float32): 1.0}.get(
        image_bgr_HWC.dtype
    )
    if scale is None or image_bgr_HWC.ndim != 3 or image_bgr_HWC.shape[2] != 3 or 0 in image_bgr_HWC.shape:
        raise ValueError(
            f"a picture must be (H, W, 3) uint8, uint16 or float32, not {image_bgr_HWC.shape} {image_bgr_HWC.dtype}"
        )
    step = max(1, min(image_bgr_HWC.shape[:2]) // _SAMPLED_SIDE_PX)
    sampled = np.multiply(image_bgr_HWC[::step, ::step], scale, dtype=np.float32)
    if image_bgr_HWC.dtype == np.float32:
        sampled = np.nan_to_num(sampled, nan=0.0).clip(0.0, 1.0)
    small = cv2.resize(sampled, (_SAMPLED_SIDE_PX // 2,) * 2, interpolation=cv2.INTER_AREA)
    ycc_HWC = cv2.cvtColor(small, cv2.COLOR_BGR2YCrCb)
    grid_HWC = cv2.resize(ycc_HWC, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
    shares = [
        _shares_below(ycc_HWC[..., 0], _LUMA_BINS, (0.0, 1.0)),
        _shares_below(ycc_HWC[..., 1], _CHROMA_BINS, _CHROMA_RANGE),
        _shares_below(ycc_HWC[..., 2], _CHROMA_BINS, _CHROMA_RANGE),
    ]
    return np.concatenate([grid_HWC.transpose(2, 0, 1).reshape(-1), *shares]).astype(np.float32)


def _shares_below(values: NDArray[Any], bins: int, limits: tuple[float, float]) -> NDArray[np.float64]:
    """The cumulative histogram: differences of these are how far colours moved, not only that they did."""
    positions = ((values.reshape(-1) - limits[0]) * (bins / (limits[1] - limits[0]))).clip(0, bins - 1).astype(np.intp)
    return np.cumsum(np.bincount(positions, minlength=bins)) / positions.size


def scene_cuts(
    signatures_NS: NDArray[np.float32], numbers: Sequence[int], *, threshold: float = DEFAULT_THRESHOLD
) -> list[int]:
    """The numbers of the frames that begin a new scene, rising; never the first frame.

    ``signatures_NS`` (N, SIGNATURE_SIZE) of frames ``numbers`` (N, rising; numbers may be missing: over a gap more
    change counts as motion). ``threshold`` 0..1: how much more than the motion around it the picture must change;
    higher finds fewer. ValueError for shapes that do not fit, numbers that do not rise or a threshold outside 0..1.
    """
    if signatures_NS.ndim != 2 or signatures_NS.shape != (len(numbers), SIGNATURE_SIZE):
        raise ValueError(f"signatures must be ({len(numbers)}, {SIGNATURE_SIZE}), not {signatures_NS.shape}")
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold={threshold}: choose 0 to 1")
    steps: NDArray[np.int64] = np.diff(np.asarray(numbers, np.int64)).astype(np.int64)
    if (steps < 1).any():
        raise ValueError("frame numbers must rise")
    if len(numbers) < 2:
        return []
    scores = _scores(np.asarray(signatures_NS, np.float32), steps)
    cuts = []
    for index, score in enumerate(scores, start=1):
        # Of several candidates a few frames apart (a cut onto a flash) the strongest is the cut.
        around = scores[max(0, index - _WINDOW) : index - 1 + _WINDOW]
        if score >= threshold and score > 0 and score == around.max():
            cuts.append(int(numbers[index]))
    return cuts


def _scores(signatures_NS: NDArray[np.float32], steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """For each frame but the first: how much more it begins something new than motion explains."""
    count = len(signatures_NS)
    apart = {  # apart[k][i]: distance of frames i and i + k
        k: _distances(signatures_NS[:-k], signatures_NS[k:]) for k in range(1, min(2 * _WINDOW, count))
    }
    adjacent = apart[1]
    scores = np.zeros(count - 1)
    for cut in range(1, count):
        before, after = range(max(0, cut - _WINDOW), cut), range(cut, min(count, cut + _WINDOW))
        change = min(apart[late - early][early] for early in before for late in after)
        sides = [adjacent[max(0, cut - _WINDOW) : cut - 1], adjacent[cut : cut + _WINDOW - 1]]
        motion = np.mean([np.median(side) for side in sides if len(side)]) if any(map(len, sides)) else 0.0
        scores[cut - 1] = change - _MOTION_ALLOWANCE * motion * min(int(steps[cut - 1]), _GAP_LIMIT)
    return scores


def _distances(first_NS: NDArray[np.float32], second_NS: NDArray[np.float32]) -> NDArray[np.float64]:
    """0 (alike) to 1 between the frames of two rows of signatures."""
    grids = [part[:, :_GRID_SIZE].reshape(len(part), 3, -1).astype(np.float64) for part in (first_NS, second_NS)]
    # Without each channel's mean, and relative to the contrast: a change of exposure changes this little.
    layouts = [(grid - grid.mean(2, keepdims=True)).reshape(len(grid), -1) for grid in grids]
    energy = np.square(layouts[0]).sum(1) + np.square(layouts[1]).sum(1) + _GRID_SIZE * _FLAT_CONTRAST**2
    layout = np.minimum(np.square(layouts[0] - layouts[1]).sum(1) / energy, 1.0)
    moved = np.abs(first_NS[:, _GRID_SIZE:].astype(np.float64) - second_NS[:, _GRID_SIZE:])
    luma, chroma = moved[:, :_LUMA_BINS].mean(1), moved[:, _LUMA_BINS:].mean(1)
    colours = np.minimum(_LUMA_SHIFT_SCALE * luma + _CHROMA_SHIFT_SCALE * chroma, 1.0)
    return np.asarray(_LAYOUT_WEIGHT * layout + (1.0 - _LAYOUT_WEIGHT) * colours)
