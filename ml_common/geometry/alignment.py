"""From 68 landmarks to the matrix that maps the frame onto a face crop.

What a reader would get wrong: the matrix maps frame pixels to crop pixels (`frame_to_face`), and the points (0, 0) and
(size, size) of the crop are pixel *centres*: the matrix for size 2S is exactly twice that for size S, which differs by
half a pixel from resizing the crop. Use `alignment_matrix` for the size wanted instead of resizing where that matters.

The framing is that of DeepFaceLab's face types, so that facesets and models can be exchanged (specification: faceset,
sections 3 and 4; golden numbers with all types, sizes and scales: tests/unit/geometry, within 1e-3 px).

Shape legend: 68x2 = landmarks (x, y) in frame pixels, 2x3 = affine matrix, b = M a.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml_common.geometry.affine import invert_affine, transform_points, umeyama
from ml_common.geometry.face_type import FaceType
from ml_common.geometry.landmarks import checked_landmarks
from ml_common.geometry.templates import MEAN_FACE_UNIT_51x2

# Brows, nose, eyes and the two mouth corners: what stays put when a mouth opens.
_FITTED = np.array([*range(17, 49), 54])
_FITTED_TEMPLATE_33x2 = MEAN_FACE_UNIT_51x2[_FITTED - 17]

_WHOLE_FACE_RISE = 0.07
_HEAD_RISE = 0.50
_NOSE_TIP = 30


def alignment_matrix(
    landmarks_px_68x2: ArrayLike, face_type: FaceType, size_px: int, scale: float = 1.0
) -> NDArray[np.float64]:
    """frame_to_face, float64 2x3: maps frame pixels to the pixels of a square crop of side `size_px`.

    `scale` divides the square: at 1.1 the crop shows 1/1.1 as much of the frame. ValueError for landmarks of a wrong
    shape, not finite or degenerate, for a size or scale that is not positive, and for MARK_ONLY and FRAME_SQUARE, which
    landmarks do not frame.
    """
    if face_type in (FaceType.MARK_ONLY, FaceType.FRAME_SQUARE):
        raise ValueError(f"face type {face_type.metadata_name} is not framed by landmarks; choose a type that is")
    if size_px < 1:
        raise ValueError(f"the crop size must be at least 1 px, got {size_px}")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"the crop scale must be a positive number, got {scale}")
    landmarks = checked_landmarks(landmarks_px_68x2)
    frame_to_unit_2x3 = frame_to_unit_square(landmarks)
    corners = transform_points([(0, 0), (1, 0), (1, 1), (0, 1), (0.5, 0.5)], invert_affine(frame_to_unit_2x3))
    top_left, top_right, bottom_right, bottom_left, centre = corners
    right, up = top_right - top_left, top_left - bottom_left
    if face_type is FaceType.WHOLE_FACE:
        centre = centre + _WHOLE_FACE_RISE * up
    elif face_type is FaceType.HEAD:
        # A turned head shows more of one side: move towards it, little for small turns, where yaw is mostly noise.
        yaw = average_yaw(transform_points(landmarks, frame_to_unit_2x3))
        centre = centre + 0.5 * yaw * abs(math.tanh(2.0 * yaw)) * right + _HEAD_RISE * up
    elif face_type is FaceType.HEAD_NOSE:
        centre = landmarks[_NOSE_TIP]
    half_diagonal = math.dist(top_left, bottom_right) * (face_type.padding * math.sqrt(2.0) + 0.5) / scale
    side = half_diagonal * math.sqrt(2.0)
    if not side > 0:
        raise ValueError("landmarks are degenerate: the face has no extent; detect the landmarks again")
    if face_type.keeps_rotation:
        across, down = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    else:
        across = right / np.linalg.norm(right)
        down = -up / np.linalg.norm(up)
    linear = np.stack((across, down)) * (size_px / side)
    return np.column_stack((linear, size_px / 2.0 - linear @ centre))


def frame_square_matrix(width_px: int, height_px: int, size_px: int) -> NDArray[np.float64]:
    """frame_to_face of FRAME_SQUARE, float64 2x3: the largest square in the middle of a frame of this size, for every
    face the same, so that the background stands still. Its edges, not its pixel centres, meet the crop's edges.
    """
    if min(width_px, height_px, size_px) < 1:
        raise ValueError(f"frame and crop must be at least 1 px, got {width_px} x {height_px} and {size_px}")
    scale = size_px / min(width_px, height_px)
    middle = np.array([(width_px - 1) / 2, (height_px - 1) / 2])
    return np.column_stack((np.eye(2) * scale, (size_px - 1) / 2 - scale * middle))


def frame_to_unit_square(landmarks_px_68x2: ArrayLike) -> NDArray[np.float64]:
    """The similarity, 2x3, that lays the face over the mean face in the unit square. ValueError if degenerate."""
    return umeyama(checked_landmarks(landmarks_px_68x2)[_FITTED], _FITTED_TEMPLATE_33x2)


def average_yaw(aligned_landmarks_68x2: ArrayLike) -> float:
    """How far the nose is off the middle of the jaw, in the units of the (aligned) points given.

    Positive when the nose points to the image's left. Meaningful only for upright, aligned landmarks: it compares x.
    """
    x = checked_landmarks(aligned_landmarks_68x2)[:, 0]
    towards_left = (x[[16, 15, 14]] - x[[27, 28, 29]]).mean()
    towards_right = (x[[27, 28, 29]] - x[[0, 1, 2]]).mean()
    return float(towards_left - towards_right)


def rect_from_landmarks(landmarks_px_68x2: ArrayLike) -> tuple[float, float, float, float]:
    """The upright box (left, top, right, bottom) around a face in frame pixels: the full-face square, not rotated."""
    frame_to_face_2x3 = alignment_matrix(landmarks_px_68x2, FaceType.FULL_NO_ALIGN, 256)
    corners = transform_points([(0, 0), (255, 255)], invert_affine(frame_to_face_2x3))
    left, top, right, bottom = (float(value) for value in corners.ravel())
    return left, top, right, bottom
