"""Resampling images through affine matrices, antialiased where the picture gets smaller.

What a reader would get wrong: plain `cv2.warpAffine` looks at 4x4 source pixels however much it shrinks the picture, so
a large face in a small crop is made of single pixels and shimmers as it moves. The default here averages the whole
footprint of every crop pixel. It samples on a grid fixed to the *crop*, several times finer than it, and averages that,
so that a moving face does not beat against a grid fixed to the frame.

Shape legend: H, W = height and width of the source, C = channels, 2x3 = affine matrix, b = M a.
"""

import math
from typing import Literal, TypeVar, cast, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml_common.geometry.affine import compose, invert_affine, resize_matrix, transform_points, translation

Interpolation = Literal["antialiased", "cubic", "linear"]
Border = Literal["constant", "replicate", "reflect"]
PixelT = TypeVar("PixelT", np.uint8, np.uint16, np.float32)

# Beyond this the finer grid costs more memory than a frame; the footprint is then sampled more sparsely.
_MAX_FINE_SIDE_PX = 4096
# From this factor on the finer grid is sampled bilinearly: the average hides the difference, at a third of the cost.
_LINEAR_FROM_FACTOR = 3
_BORDERS = {"constant": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE, "reflect": cv2.BORDER_REFLECT_101}
_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


def align(
    image_HWC: NDArray[PixelT],
    frame_to_face_2x3: ArrayLike,
    size_px: int,
    *,
    border: Border = "constant",
    interpolation: Interpolation = "antialiased",
) -> NDArray[PixelT]:
    """The square face crop [size, size, C] of a frame, in the frame's dtype.

    `warp_affine` to a square; see there. The result for DeepFaceLab's own crops is `interpolation="cubic"` (its merge)
    or `"linear"` (its extraction), both with a constant border.
    """
    return warp_affine(image_HWC, frame_to_face_2x3, size_px, size_px, border=border, interpolation=interpolation)


def warp_affine(
    image_HWC: NDArray[PixelT],
    a_to_b_2x3: ArrayLike,
    width_px: int,
    height_px: int,
    *,
    border: Border = "constant",
    interpolation: Interpolation = "antialiased",
) -> NDArray[PixelT]:
    """Resamples an image (HW or HWC; uint8, uint16 or float32 of any range) so that its pixel p lands on M p.

    `antialiased`: where the matrix shrinks, the mean over each result pixel's footprint; elsewhere the same as `cubic`.
    `cubic`, `linear`: OpenCV's point sampling. Cubic overshoots at edges: float results may leave the source's range.
    `border` is what lies outside the source: black, its edge pixels repeated, or its mirror image. Only the part of the
    source that is needed is looked at. Keeps dtype and number of axes. ValueError for anything else.
    """
    if image_HWC.dtype not in _DTYPES or image_HWC.ndim not in (2, 3) or 0 in image_HWC.shape:
        raise ValueError(
            "an image must be a non-empty HW or HWC array of uint8, uint16 or float32, "
            f"got {list(image_HWC.shape)} of {image_HWC.dtype}"
        )
    if width_px < 1 or height_px < 1:
        raise ValueError(f"the result must be at least 1x1 px, got {width_px}x{height_px}")
    if interpolation not in get_args(Interpolation) or border not in _BORDERS:
        raise ValueError(
            f"unknown interpolation {interpolation!r} or border {border!r}; "
            f"use one of {get_args(Interpolation)} and one of {tuple(_BORDERS)}"
        )
    a_to_b = np.asarray(a_to_b_2x3, dtype=np.float64)
    factor = _shrink_factor(a_to_b, max(width_px, height_px)) if interpolation == "antialiased" else 1
    a_to_fine = compose(resize_matrix(factor), a_to_b)
    left, top, right, bottom = source_window(a_to_b, width_px, height_px, image_HWC.shape[1], image_HWC.shape[0])
    flags = cv2.INTER_LINEAR if interpolation == "linear" or factor >= _LINEAR_FROM_FACTOR else cv2.INTER_CUBIC
    fine = cv2.warpAffine(
        image_HWC[top:bottom, left:right],
        compose(a_to_fine, translation(left, top)),
        (width_px * factor, height_px * factor),
        flags=flags,
        borderMode=_BORDERS[border],
    )
    result = fine if factor == 1 else cv2.resize(fine, (width_px, height_px), interpolation=cv2.INTER_AREA)
    # OpenCV drops a last axis of length 1; its stubs forget the dtype.
    return cast("NDArray[PixelT]", result.reshape(height_px, width_px, *image_HWC.shape[2:]))


def source_window(
    a_to_b_2x3: ArrayLike, width_px: int, height_px: int, source_width_px: int, source_height_px: int
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom), half-open, of the source pixels that a warp into width x height can depend on.

    Lies within the source and is never empty: a result that shows nothing of the source gets the nearest pixel of it,
    which the border rule then continues.
    """
    corners = [(-0.5, -0.5), (width_px - 0.5, -0.5), (width_px - 0.5, height_px - 0.5), (-0.5, height_px - 0.5)]
    corners_in_a = transform_points(corners, invert_affine(a_to_b_2x3))
    reach = 3.0  # a cubic kernel sees two pixels to either side, plus the rounding of coordinates
    low = np.floor(corners_in_a.min(axis=0) - reach)
    high = np.ceil(corners_in_a.max(axis=0) + reach) + 1.0
    size = np.array([source_width_px, source_height_px], dtype=np.float64)
    left, top = (int(value) for value in np.clip(low, 0, size - 1))
    right, bottom = (int(value) for value in np.clip(high, (left + 1, top + 1), size))
    return left, top, right, bottom


def _shrink_factor(a_to_b: NDArray[np.float64], side_px: int) -> int:
    """How many samples a result pixel needs along each axis so that none of its footprint is skipped."""
    smallest_scale = float(np.linalg.svd(a_to_b[:, :2], compute_uv=False)[-1])
    if smallest_scale >= 1.0 - 1e-6:
        return 1
    wanted = math.ceil(min(1.0 / max(smallest_scale, 1e-9), _MAX_FINE_SIDE_PX) - 1e-6)
    return max(1, min(wanted, _MAX_FINE_SIDE_PX // side_px))
