"""One face's layer exactly as DeepFaceLab makes it, defects included, to compare against and to reproduce old work.

What a reader would get wrong: nothing here is a recommendation. Crops are point-sampled, colour statistics count
blackened background, masks have a hard hull in whole frame pixels, faces with a faint or tiny mask are skipped.

Shape legend: RR = model resolution squared, hw = window of the frame. Images BGR, float32 0 to 1.
Specification: merge, sections 4.2 to 4.14; golden frames: tests/unit/merging.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_common.color import match_histogram, reference_transfer_color
from ml_common.geometry import FaceType, alignment_matrix, compose, source_window, translation, warp_affine
from ml_common.masks import erode_blur, hull_mask_window
from ml_common.merging.crop import crop_by_matrix
from ml_common.merging.layer import LEAST_ALPHA, FaceLayer, MergeFace, learned_mask, paste_window
from ml_common.merging.pixels import Frame
from ml_common.merging.settings import MergeSettings

_MASK_FACTOR = 4
_SKIP_BELOW_ALPHA = 0.1
_SKIP_BELOW_SPAN_PX = 4


def reference_face_layer(
    frame_bgr_HWC: Frame, face: MergeFace, face_type: FaceType, settings: MergeSettings
) -> FaceLayer | None:
    """The layer of one face in the reference flavour; None where the square is outside the frame."""
    prediction, side = face.prediction, face.prediction.resolution
    mask_side = _MASK_FACTOR * side
    frame_to_crop = alignment_matrix(face.landmarks_px_68x2, face_type, side)
    frame_to_paste = alignment_matrix(face.landmarks_px_68x2, face_type, side, settings.paste_scale)
    frame_to_mask = alignment_matrix(face.landmarks_px_68x2, face_type, mask_side, settings.paste_scale)
    window = paste_window(frame_to_paste, (0, 0, side, side), frame_bgr_HWC)
    if window is None:
        return None
    left, top = window[:2]
    if settings.mask_mode == "full":
        mask_RR = np.ones((side, side), dtype=np.float32)
    elif settings.mask_mode == "dst":
        mask_RR = _hull_in_crop(frame_bgr_HWC, face, frame_to_crop, side)
    else:
        mask_RR = learned_mask(settings.mask_mode, prediction)
    mask_RR[mask_RR < LEAST_ALPHA] = 0.0
    mask_MM = cv2.resize(mask_RR, (mask_side, mask_side), interpolation=cv2.INTER_CUBIC).astype(np.float32, copy=False)
    if settings.mode != "raw-rgb":
        mask_MM = erode_blur(mask_MM, settings.erode, settings.blur)
    matte_hw = np.clip(_paste(mask_MM, frame_to_mask, window), 0.0, 1.0)
    matte_hw[matte_hw < LEAST_ALPHA] = 0.0
    image_RR3 = np.clip(prediction.image_bgr_RR3, 0.0, 1.0)
    if settings.mode == "raw-rgb":
        # The cubic overshoot of the square's rim is clipped only after blending.
        square_hw = _paste(np.ones((side, side), dtype=np.float32), frame_to_paste, window)
        return FaceLayer(left, top, _paste(image_RR3, frame_to_paste, window), square_hw, matte_hw)
    if settings.mode == "original" or _skipped(matte_hw):
        return FaceLayer(left, top, None, matte_hw, matte_hw)
    footage_RR3 = crop_by_matrix(frame_bgr_HWC, frame_to_crop, side, "reference")
    area_RR = (cv2.resize(mask_MM, (side, side), interpolation=cv2.INTER_CUBIC) > 0).astype(np.float32)
    if settings.color_transfer != "none":
        image_RR3 = reference_transfer_color(
            settings.color_transfer, image_RR3, footage_RR3, area_RR, seed=settings.color_seed
        )
    if settings.mode == "hist-match":
        counted = area_RR[..., None] if settings.masked_hist_match else np.float32(1.0)
        image_RR3 = match_histogram(
            np.minimum(image_RR3 * counted + (1 - counted), 1.0).astype(np.float32, copy=False),
            (footage_RR3 * counted + (1 - counted)).astype(np.float32, copy=False),
            settings.hist_match_threshold,
        )
    image = np.clip(_paste(image_RR3, frame_to_paste, window), 0.0, 1.0)
    return FaceLayer(left, top, image, matte_hw, matte_hw)


def _hull_in_crop(
    frame_bgr_HWC: Frame, face: MergeFace, frame_to_crop_2x3: NDArray[np.float64], side: int
) -> NDArray[np.float32]:
    height, width = frame_bgr_HWC.shape[:2]
    left, top, right, bottom = source_window(frame_to_crop_2x3, side, side, width, height)
    hull = hull_mask_window(face.landmarks_px_68x2, left, top, bottom - top, right - left)
    matrix = compose(frame_to_crop_2x3, translation(left, top))
    return np.clip(warp_affine(hull, matrix, side, side, interpolation="cubic"), 0.0, 1.0)


def _paste(
    crop: NDArray[np.float32], frame_to_crop_2x3: NDArray[np.float64], window: tuple[int, int, int, int]
) -> NDArray[np.float32]:
    left, top, right, bottom = window
    return cv2.warpAffine(
        crop,
        compose(frame_to_crop_2x3, translation(left, top)),
        (right - left, bottom - top),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
    ).astype(np.float32, copy=False)


def _skipped(matte_hw: NDArray[np.float32]) -> bool:
    _, _, width, height = cv2.boundingRect((matte_hw >= _SKIP_BELOW_ALPHA).view(np.uint8))
    return min(width, height) - 1 < _SKIP_BELOW_SPAN_PX
