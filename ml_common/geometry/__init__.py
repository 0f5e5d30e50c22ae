"""Where a face is and how it is framed: landmarks, affine matrices, alignment, pose, resampling.

What a reader would get wrong: pixel centres lie at integer coordinates (the first pixel's centre is (0, 0)), as in
OpenCV, and every matrix is called by its direction: `frame_to_face` maps frame pixels to crop pixels.
"""

from ml_common.geometry.affine import compose, invert_affine, resize_matrix, transform_points, translation, umeyama
from ml_common.geometry.alignment import (
    alignment_matrix,
    average_yaw,
    frame_square_matrix,
    frame_to_unit_square,
    rect_from_landmarks,
)
from ml_common.geometry.face_type import FaceType
from ml_common.geometry.landmarks import checked_landmarks, landmarks_98_to_68, mirror_landmarks
from ml_common.geometry.pose import pose_pitch_yaw_roll
from ml_common.geometry.templates import HEAD_MODEL_68x3, MEAN_FACE_UNIT_51x2
from ml_common.geometry.warp import Border, Interpolation, align, source_window, warp_affine

__all__ = [
    "Border",
    "FaceType",
    "HEAD_MODEL_68x3",
    "Interpolation",
    "MEAN_FACE_UNIT_51x2",
    "align",
    "alignment_matrix",
    "average_yaw",
    "checked_landmarks",
    "compose",
    "frame_square_matrix",
    "frame_to_unit_square",
    "invert_affine",
    "landmarks_98_to_68",
    "mirror_landmarks",
    "pose_pitch_yaw_roll",
    "rect_from_landmarks",
    "resize_matrix",
    "source_window",
    "transform_points",
    "translation",
    "umeyama",
    "warp_affine",
]
