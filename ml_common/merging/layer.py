"""One face of one frame as a layer: what to paste, where, and how strongly.

What a reader would get wrong: `alpha` is what the picture is blended with, `matte` is what is reported as the face's
mask. They differ only in `raw-rgb`, where the whole square is pasted but the matte still outlines the face, and in
`original`, where nothing is pasted.

Everything happens in a window of the frame around the face, so that the cost follows the face's size, not the frame's.

Shape legend: RR = model resolution squared, hw = the window's size, HWC = whole frame. Images BGR, float32 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_common.color import COLOR_TRANSFERS, match_histogram, transfer_color
from ml_common.geometry import (
    FaceType,
    alignment_matrix,
    compose,
    invert_affine,
    resize_matrix,
    transform_points,
    translation,
    warp_affine,
)
from ml_common.masks import erode_blur, soft_hull_mask
from ml_common.merging.crop import crop_by_matrix
from ml_common.merging.pixels import Frame
from ml_common.merging.settings import MaskMode, MergeSettings

# Half of the smallest step of an 8-bit mask would be invisible; below a whole one a pixel counts as outside.
LEAST_ALPHA = 1.0 / 255.0

# Erode and blur are given in 1/4 model pixels. Wide kernels do not need samples that fine: (up to this width, samples
# per model pixel). A blur needs fewer than an erosion, whose edge stays sharp.
_UNITS_PER_MODEL_PIXEL = 4
_ERODE_GRIDS = ((12, 4), (48, 2))
_BLUR_GRIDS = ((15, 4), (31, 2))


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model made of a crop: the swapped face and two masks, all float32, 0 to 1, of one side length R.

    image_bgr_RR3: the face; mask_RR: where the swapped face is; dst_mask_RR: where the original face is.
    """

    image_bgr_RR3: NDArray[np.float32]
    mask_RR: NDArray[np.float32]
    dst_mask_RR: NDArray[np.float32]

    def __post_init__(self) -> None:
        side = self.image_bgr_RR3.shape[0] if self.image_bgr_RR3.ndim else 0
        expected = {"image_bgr_RR3": (side, side, 3), "mask_RR": (side, side), "dst_mask_RR": (side, side)}
        for name, shape in expected.items():
            array = getattr(self, name)
            if side < 1 or array.shape != shape or array.dtype != np.float32:
                raise ValueError(
                    f"{name} must be float32 of shape {list(shape)}, got {array.dtype} of {list(array.shape)}"
                )
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds NaN or infinity: the model is broken; restore an earlier checkpoint")

    @property
    def resolution(self) -> int:
        """The side length R in pixels."""
        return int(self.image_bgr_RR3.shape[0])


@dataclass(frozen=True, slots=True)
class MergeFace:
    """A face to merge: its 68 landmarks in frame pixels, and the model's prediction for its crop."""

    landmarks_px_68x2: NDArray[np.floating]
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class FaceLayer:
    """A face ready to be blended into the window of a frame that starts at (left, top)."""

    left: int
    top: int
    image_bgr_hw3: NDArray[np.float32] | None
    alpha_hw: NDArray[np.float32]
    matte_hw: NDArray[np.float32]


def face_layer(frame_bgr_HWC: Frame, face: MergeFace, face_type: FaceType, settings: MergeSettings) -> FaceLayer | None:
    """The layer of one face in the default flavour; None where the face leaves no mark on the frame."""
    prediction, resolution = face.prediction, face.prediction.resolution
    frame_to_crop = alignment_matrix(face.landmarks_px_68x2, face_type, resolution)
    frame_to_paste = alignment_matrix(face.landmarks_px_68x2, face_type, resolution, settings.paste_scale)
    mask_RR = face_mask(settings.mask_mode, prediction, transform_points(face.landmarks_px_68x2, frame_to_crop))
    if settings.mode == "raw-rgb":
        return _raw_layer(frame_bgr_HWC, prediction, frame_to_paste, mask_RR)
    grid, mask_gg = _with_edge(mask_RR, settings.erode, settings.blur)
    frame_to_mask = compose(resize_matrix(grid), frame_to_paste)
    part = _bounds_of_nonzero(mask_gg)
    window = paste_window(frame_to_mask, part, frame_bgr_HWC) if part else None
    if window is None:
        return None
    matte_hw = _paste_mask(mask_gg, frame_to_mask, window)
    bounds = _bounds_of_nonzero(matte_hw)
    if bounds is None:
        return None
    x0, y0, x1, y1 = bounds
    matte_hw = matte_hw[y0:y1, x0:x1]
    window = (window[0] + x0, window[1] + y0, window[0] + x1, window[1] + y1)
    if settings.mode == "original":
        return FaceLayer(window[0], window[1], None, matte_hw, matte_hw)
    image_RR3 = _matched(frame_bgr_HWC, prediction, frame_to_crop, mask_gg, grid, settings)
    image = _paste_image(image_RR3, frame_to_paste, window)
    return FaceLayer(window[0], window[1], image, matte_hw, matte_hw)


def _raw_layer(
    frame_bgr_HWC: Frame,
    prediction: Prediction,
    frame_to_paste_2x3: NDArray[np.float64],
    mask_RR: NDArray[np.float32],
) -> FaceLayer | None:
    side = prediction.resolution
    window = paste_window(frame_to_paste_2x3, (0, 0, side, side), frame_bgr_HWC)
    if window is None:
        return None
    image = _paste_image(np.clip(prediction.image_bgr_RR3, 0.0, 1.0), frame_to_paste_2x3, window)
    square_hw = _paste_mask(np.ones((side, side), dtype=np.float32), frame_to_paste_2x3, window)
    return FaceLayer(window[0], window[1], image, square_hw, _paste_mask(mask_RR, frame_to_paste_2x3, window))


def face_mask(
    mode: MaskMode, prediction: Prediction, landmarks_in_crop_68x2: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The mask of the chosen kind in the model's crop, float32 [R, R], 0 to 1; values under 1/255 are 0."""
    side = prediction.resolution
    if mode == "full":
        mask = np.ones((side, side), dtype=np.float32)
    elif mode == "dst":
        mask = soft_hull_mask(landmarks_in_crop_68x2, side, side)
    else:
        mask = learned_mask(mode, prediction)
    mask[mask < LEAST_ALPHA] = 0.0
    return mask


def learned_mask(mode: MaskMode, prediction: Prediction) -> NDArray[np.float32]:
    """The model's masks, combined as the mode says; float32 [R, R], 0 to 1, a new array."""
    swap, original = np.clip(prediction.mask_RR, 0.0, 1.0), np.clip(prediction.dst_mask_RR, 0.0, 1.0)
    if mode == "learned-prd":
        return swap
    if mode == "learned-dst":
        return original
    if mode == "learned-prd*learned-dst":
        return swap * original
    if mode == "learned-prd+learned-dst":
        return np.clip(np.add(swap, original, dtype=np.float32), 0.0, 1.0)
    raise ValueError(f"mask mode {mode!r} does not come from the model")


def paste_window(
    frame_to_crop_2x3: NDArray[np.float64], bounds_px: tuple[int, int, int, int], frame_bgr_HWC: Frame
) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom), half-open, of the frame pixels that a part of a crop can reach when pasted.

    `bounds_px` is that part, (left, top, right, bottom), half-open, in crop pixels. None if it is outside the frame.
    """
    # A cubic kernel carries the part's edge two of its pixels further.
    left, top, right, bottom = bounds_px[0] - 2.5, bounds_px[1] - 2.5, bounds_px[2] + 1.5, bounds_px[3] + 1.5
    corners = transform_points(
        [(left, top), (right, top), (right, bottom), (left, bottom)], invert_affine(frame_to_crop_2x3)
    )
    height, width = frame_bgr_HWC.shape[:2]
    limits = np.array([width, height], dtype=np.float64)
    x0, y0 = (int(value) for value in np.clip(np.floor(corners.min(axis=0)) - 1.0, 0, limits))
    x1, y1 = (int(value) for value in np.clip(np.ceil(corners.max(axis=0)) + 2.0, 0, limits))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _with_edge(mask_RR: NDArray[np.float32], erode: int, blur: int) -> tuple[int, NDArray[np.float32]]:
    """(grid, mask): the mask eroded and blurred, with `grid` samples per model pixel along each axis.

    The grid depends on the settings alone: were it to follow the face's size, the edge would jump as the face grows.
    """
    if erode == 0 and blur == 0:
        return 1, mask_RR
    grid = _grid(abs(erode), _ERODE_GRIDS)
    # An odd kernel, because an even one shifts the mask by half a sample.
    width = 2 * round(abs(erode) * grid / _UNITS_PER_MODEL_PIXEL / 2) + 1
    eroded = erode_blur(_resampled(mask_RR, 1, grid), width if erode > 0 else -width, 0)
    if blur == 0:
        return grid, eroded
    blur_grid = _grid(blur, _BLUR_GRIDS)
    return blur_grid, erode_blur(
        _resampled(eroded, grid, blur_grid), 0, round(blur * blur_grid / _UNITS_PER_MODEL_PIXEL)
    )


def _grid(width: int, grids: tuple[tuple[int, int], ...]) -> int:
    return next((grid for limit, grid in grids if 0 < width <= limit), 1)


def _resampled(mask_gg: NDArray[np.float32], grid: int, new_grid: int) -> NDArray[np.float32]:
    if grid == new_grid:
        return mask_gg
    size = (mask_gg.shape[1] * new_grid // grid, mask_gg.shape[0] * new_grid // grid)
    method = cv2.INTER_CUBIC if new_grid > grid else cv2.INTER_AREA
    resized = cv2.resize(mask_gg, size, interpolation=method).astype(np.float32, copy=False)
    return np.clip(resized, 0.0, 1.0, out=resized)


def _paste_mask(
    mask_gg: NDArray[np.float32], frame_to_mask_2x3: NDArray[np.float64], window: tuple[int, int, int, int]
) -> NDArray[np.float32]:
    left, top, right, bottom = window
    mask_to_window = compose(translation(-left, -top), invert_affine(frame_to_mask_2x3))
    pasted = warp_affine(mask_gg, mask_to_window, right - left, bottom - top)
    np.clip(pasted, 0.0, 1.0, out=pasted)
    pasted[pasted < LEAST_ALPHA] = 0.0
    return pasted


def _paste_image(
    image_RR3: NDArray[np.float32], frame_to_paste_2x3: NDArray[np.float64], window: tuple[int, int, int, int]
) -> NDArray[np.float32]:
    left, top, right, bottom = window
    paste_to_window = compose(translation(-left, -top), invert_affine(frame_to_paste_2x3))
    # The face's own edge pixels go on outside of its square: with black there, a soft mask would fade to dark.
    pasted = warp_affine(image_RR3, paste_to_window, right - left, bottom - top, border="replicate")
    return np.clip(pasted, 0.0, 1.0, out=pasted)


def _matched(
    frame_bgr_HWC: Frame,
    prediction: Prediction,
    frame_to_crop_2x3: NDArray[np.float64],
    mask_gg: NDArray[np.float32],
    grid: int,
    settings: MergeSettings,
) -> NDArray[np.float32]:
    """The predicted face with its colours matched to the footage, as the settings say."""
    image_RR3 = np.clip(prediction.image_bgr_RR3, 0.0, 1.0)
    if settings.color_transfer == "none" and settings.mode != "hist-match":
        return image_RR3
    side = prediction.resolution
    # Not the crop the model saw: along the frame's edge that one is mixed with the black beyond.
    footage_RR3 = crop_by_matrix(frame_bgr_HWC, frame_to_crop_2x3, side, "default", border="replicate")
    in_frame_RR = _inside_frame(frame_to_crop_2x3, side, frame_bgr_HWC)
    counted_RR = _resampled(mask_gg, grid, 1) * in_frame_RR
    if not counted_RR.any():
        # Only the rim of the crop's mask reaches the frame: there is nothing to compare, so nothing is changed.
        return image_RR3
    if settings.color_transfer != "none":
        # What the square shows beyond the frame is made up and counts for no transfer.
        weights_RR = counted_RR if COLOR_TRANSFERS[settings.color_transfer].masked else in_frame_RR
        image_RR3 = transfer_color(
            settings.color_transfer, image_RR3, footage_RR3, weights_RR, weights_RR, seed=settings.color_seed
        )
    if settings.mode == "hist-match":
        chosen = (counted_RR > 0) if settings.masked_hist_match else in_frame_RR > 0
        matched = match_histogram(image_RR3[chosen][None], footage_RR3[chosen][None], settings.hist_match_threshold)
        image_RR3 = image_RR3.copy()
        image_RR3[chosen] = matched[0]
    return image_RR3


def _inside_frame(frame_to_crop_2x3: NDArray[np.float64], side: int, frame_bgr_HWC: Frame) -> NDArray[np.float32]:
    """1 where a crop pixel shows the frame, 0 where the square has left it; float32 [R, R]."""
    crop_to_frame = invert_affine(frame_to_crop_2x3)
    height, width = frame_bgr_HWC.shape[:2]
    x, y = np.arange(side), np.arange(side)[:, None]
    inside = np.ones((side, side), dtype=bool)
    for row, limit in zip(crop_to_frame, (width, height), strict=True):
        position = row[0] * x + row[1] * y + row[2]
        inside &= (position >= 0) & (position <= limit - 1)
    return inside.astype(np.float32)


def _bounds_of_nonzero(mask_hw: NDArray[np.float32]) -> tuple[int, int, int, int] | None:
    x, y, width, height = cv2.boundingRect((mask_hw > 0).view(np.uint8))
    return (x, y, x + width, y + height) if width and height else None
