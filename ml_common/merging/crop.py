"""What the model is shown of a frame.

What a reader would get wrong: the crop is BGR and is made for the model's resolution directly from the frame. Resizing
a larger crop instead shifts the picture by a fraction of a pixel and loses what the frame had.

Shape legend: HWC = BGR frame, RR3 = BGR crop of side R, float32 0 to 1, N = faces.
Specification: merge, sections 4.3 and 4.4.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml_common.geometry import Border, FaceType, align, alignment_matrix, compose, source_window, translation
from ml_common.merging.pixels import Frame, checked_frame, to_unit
from ml_common.merging.settings import Flavour


def network_crop(
    frame_bgr_HWC: Frame,
    landmarks_px_68x2: ArrayLike,
    face_type: FaceType,
    resolution: int,
    *,
    flavour: Flavour = "default",
) -> NDArray[np.float32]:
    """The aligned face [R, R, 3] of a frame, float32 BGR 0 to 1; black where the square leaves the frame.

    The frame may be uint8, uint16 or float32 (values outside 0 to 1 are clipped, for the model only). `default`
    averages the footprint of each pixel; `reference` samples single points, as DeepFaceLab does. ValueError for
    unusable landmarks or frames.
    """
    checked_frame(frame_bgr_HWC)
    frame_to_face_2x3 = alignment_matrix(landmarks_px_68x2, face_type, resolution)
    return crop_by_matrix(frame_bgr_HWC, frame_to_face_2x3, resolution, flavour)


def network_crops(
    frames_bgr_HWC: Sequence[Frame],
    landmarks_px_N682: Sequence[ArrayLike],
    face_type: FaceType,
    resolution: int,
    *,
    flavour: Flavour = "default",
) -> NDArray[np.float32]:
    """`network_crop` of N faces, each with the frame it is in (a frame may repeat), as one batch [N, R, R, 3]."""
    if len(frames_bgr_HWC) != len(landmarks_px_N682):
        raise ValueError(
            f"got {len(frames_bgr_HWC)} frames for {len(landmarks_px_N682)} faces; give one frame per face"
        )
    batch_NRR3 = np.empty((len(frames_bgr_HWC), resolution, resolution, 3), dtype=np.float32)
    for i, (frame, landmarks) in enumerate(zip(frames_bgr_HWC, landmarks_px_N682, strict=True)):
        batch_NRR3[i] = network_crop(frame, landmarks, face_type, resolution, flavour=flavour)
    return batch_NRR3


def crop_by_matrix(
    frame_bgr_HWC: Frame,
    frame_to_face_2x3: NDArray[np.float64],
    size_px: int,
    flavour: Flavour,
    border: Border = "constant",
) -> NDArray[np.float32]:
    """`network_crop` for a matrix already known, and with a choice of what lies beyond the frame."""
    height, width = frame_bgr_HWC.shape[:2]
    left, top, right, bottom = source_window(frame_to_face_2x3, size_px, size_px, width, height)
    # To float before resampling: resampling bytes would round twice.
    window = to_unit(frame_bgr_HWC[top:bottom, left:right])
    if frame_bgr_HWC.dtype == np.float32:
        np.clip(window, 0.0, 1.0, out=window)
    crop = align(
        window,
        compose(frame_to_face_2x3, translation(left, top)),
        size_px,
        border=border,
        interpolation="cubic" if flavour == "reference" else "antialiased",
    )
    return np.clip(crop, 0.0, 1.0, out=crop)
