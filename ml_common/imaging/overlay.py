"""Draws what is known of a face into its frame, for people to look at: landmarks, default mask, face box, crop, and which way is up.

What a reader would get wrong: everything may lie partly or wholly outside the frame (a face placed by hand, a crop with its
forehead above the picture); what is outside is simply not seen. Lines grow with the frame, so that 4K is as readable as 480p.

Legend: HWC = frame, 68x2 = landmarks (x, y) in frame pixels, 4 = left, top, right, bottom, 2x3 = affine matrix, S = side of the crop.
Specification: faceset, end of section 5 (colours and what is drawn), with inner and outer lips as two outlines instead of one.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml_common.geometry import checked_landmarks, invert_affine, transform_points
from ml_common.masks import expand_eyebrows, hull_mask_window

_GREEN, _BLUE, _RED = (0, 255, 0), (255, 0, 0), (0, 0, 255)
_OPEN = (range(17), range(17, 22), range(22, 27), (*range(27, 36), 30))  # jaw, brows, nose with its lower edge closed
_CLOSED = (range(36, 42), range(42, 48), range(48, 60), range(60, 68))  # eyes, lips
_JAW = 17
_SUBPIXEL_BITS = 4
_FAR_PX = 1 << 20  # OpenCV counts in 32 bits; no line is told apart from one that ends here
_LINE_OF_FRAME = 1 / 960  # of the longer side


def draw_face(
    canvas_bgr_HWC: NDArray[np.uint8],
    landmarks_px_68x2: ArrayLike,
    box_px_4: ArrayLike | None,
    frame_to_face_2x3: ArrayLike,
    size_px: int,
) -> None:
    """Draws one face into ``canvas_bgr_HWC`` (uint8 BGR, changed in place).

    Green: landmarks; their default mask at half brightness. Blue: the detector's box; None where nothing was detected. Red: the crop
    of side ``size_px``, with an arrow at its top left corner that points up in the crop. ValueError for a canvas of another kind,
    landmarks of a wrong shape or not finite, a matrix that cannot be inverted, or a size under 1.
    """
    canvas = canvas_bgr_HWC
    if canvas.dtype != np.uint8 or canvas.ndim != 3 or canvas.shape[2] != 3 or 0 in canvas.shape:
        raise ValueError(
            f"a canvas must be uint8 H x W x 3 and not empty, got {list(canvas.shape)} of {canvas.dtype}: use as_bgr_u8"
        )
    if size_px < 1:
        raise ValueError(f"the crop size must be at least 1 px, got {size_px}")
    landmarks = np.clip(checked_landmarks(landmarks_px_68x2), -_FAR_PX, _FAR_PX)
    face_to_frame_2x3 = invert_affine(frame_to_face_2x3)
    line_px = max(1, round(max(canvas.shape[:2]) * _LINE_OF_FRAME))
    _darken_mask(canvas, landmarks)
    if box_px_4 is not None:
        left, top, right, bottom = np.asarray(box_px_4, dtype=np.float64)
        _outline(canvas, [(left, top), (right, top), (right, bottom), (left, bottom)], _BLUE, line_px, closed=True)
    low, high = -0.5, size_px - 0.5
    crop = transform_points([(low, low), (high, low), (high, high), (low, high)], face_to_frame_2x3)
    _outline(canvas, crop, _RED, line_px, closed=True)
    arrow = np.array([(0.05, 0.0), (0.1, 0.1), (0.0, 0.1)]) * size_px
    cv2.fillPoly(
        canvas, [_fixed(transform_points(arrow, face_to_frame_2x3))], _RED, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS
    )
    for part in _OPEN:
        _outline(canvas, landmarks[list(part)], _GREEN, line_px, closed=False)
    for part in _CLOSED:
        _outline(canvas, landmarks[list(part)], _GREEN, line_px, closed=True)
    for index, centre in enumerate(_fixed(landmarks).tolist()):
        radius = (2 * line_px if index < _JAW else line_px) << _SUBPIXEL_BITS
        cv2.circle(canvas, centre, radius, _GREEN, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS)


def _darken_mask(canvas: NDArray[np.uint8], landmarks: NDArray[np.float64]) -> None:
    """Halves the brightness inside the default mask; costs what the face covers, not what the frame holds."""
    expanded = expand_eyebrows(landmarks)
    height, width = canvas.shape[:2]
    left, top = np.clip(expanded.min(axis=0), 0, (width, height)).tolist()
    right, bottom = np.clip(expanded.max(axis=0) + 1, 0, (width, height)).tolist()
    if right > left and bottom > top:
        mask = hull_mask_window(landmarks, left, top, bottom - top, right - left) > 0.5
        window = canvas[top:bottom, left:right]
        window[mask] //= 2


def _outline(
    canvas: NDArray[np.uint8], points_N2: ArrayLike, color_bgr: tuple[int, int, int], line_px: int, *, closed: bool
) -> None:
    cv2.polylines(canvas, [_fixed(points_N2)], closed, color_bgr, line_px, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)


def _fixed(points_N2: ArrayLike) -> NDArray[np.int32]:
    """Points in 1/16 of a pixel, as OpenCV wants them."""
    points = np.clip(np.asarray(points_N2, dtype=np.float64), -_FAR_PX, _FAR_PX)
    return np.rint(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)
