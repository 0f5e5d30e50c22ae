"""Head pose from 68 aligned landmarks.

What a reader would get wrong: roll must not be trusted. The landmarks are nearly a parallel projection, for which the
mirrored solution fits about as well; yaw and pitch survive that, roll saturates at a right angle. Take roll from the
alignment matrix where it is needed.

Specification: faceset, section 4; golden numbers: tests/unit/geometry.
"""

import math

import cv2
import numpy as np
from numpy.typing import ArrayLike

from ml_common.geometry.landmarks import checked_landmarks
from ml_common.geometry.templates import HEAD_MODEL_68x3

_RIGID = np.array([*range(27), *range(30, 36)])


def pose_pitch_yaw_roll(landmarks_in_crop_68x2: ArrayLike, size_px: int) -> tuple[float, float, float]:
    """(pitch, yaw, roll) in radians, each within -pi/2 to pi/2, of landmarks given in pixels of a crop of `size_px`.

    Positive pitch looks up, positive yaw points the nose to the image's left, positive roll turns clockwise. ValueError
    when the landmarks are not usable or no pose can be found.
    """
    points = checked_landmarks(landmarks_in_crop_68x2)[_RIGID]
    if size_px < 1:
        raise ValueError(f"the crop size must be at least 1 px, got {size_px}")
    half = size_px / 2.0
    camera_3x3 = np.array([[size_px, 0.0, half], [0.0, size_px, half], [0.0, 0.0, 1.0]])
    try:
        found, rotation_vector, _ = cv2.solvePnP(HEAD_MODEL_68x3[_RIGID], points, camera_3x3, np.zeros(4))
    except cv2.error as error:
        raise ValueError("no head pose fits the landmarks; detect them again") from error
    if not found or not np.isfinite(rotation_vector).all():
        raise ValueError("no head pose fits the landmarks; detect them again")
    rotation = cv2.Rodrigues(rotation_vector)[0]
    sine_y = math.hypot(rotation[0, 0], rotation[1, 0])
    if sine_y >= 1e-6:
        x, z = math.atan2(rotation[2, 1], rotation[2, 2]), math.atan2(rotation[1, 0], rotation[0, 0])
    else:
        x, z = math.atan2(-rotation[1, 2], rotation[1, 1]), 0.0
    y = math.atan2(-rotation[2, 0], sine_y)
    limit = math.pi / 2.0
    pitch, yaw, roll = (min(max(angle, -limit), limit) for angle in (-x, y, z))
    return pitch, yaw, roll
