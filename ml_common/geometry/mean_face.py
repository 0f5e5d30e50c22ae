"""The mean face placed where a person says a face is: 68 points for a face that no network sees.

What a reader would get wrong: the published mean face has no jaw. It is completed here from the 3D head model seen from the front, so
that masks drawn from the points cover the cheeks and the chin (specification: faceset, section 21, defect 18).

Shape legend: 68x2 = landmarks (x, y), iBUG order.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ml_common.geometry.affine import transform_points, umeyama
from ml_common.geometry.templates import HEAD_MODEL_68x3, MEAN_FACE_UNIT_51x2


def mean_face_unit_68x2() -> NDArray[np.float64]:
    """The frontal mean face with a jaw, float64 [68, 2]: brows to mouth in the unit square, the jaw around and below it."""
    model_to_unit_2x3 = umeyama(HEAD_MODEL_68x3[17:, :2], MEAN_FACE_UNIT_51x2)
    jaw_17x2 = transform_points(HEAD_MODEL_68x3[:17, :2], model_to_unit_2x3)
    return np.concatenate((jaw_17x2, MEAN_FACE_UNIT_51x2))


def place_mean_face(center_x_px: float, center_y_px: float, side_px: float, roll_deg: float) -> NDArray[np.float64]:
    """The mean face with the middle of its unit square at a point, its side ``side_px`` long, turned clockwise by ``roll_deg``.

    float64 [68, 2] in the pixels of the arguments. ValueError when one is not finite or the side is not over 0.
    """
    if not all(math.isfinite(value) for value in (center_x_px, center_y_px, side_px, roll_deg)) or side_px <= 0:
        raise ValueError(
            f"a face is placed by finite numbers and a side over 0, got center ({center_x_px}, {center_y_px}), "
            f"side {side_px}, roll {roll_deg}"
        )
    # y points down, so this turns clockwise as seen.
    cosine, sine = side_px * math.cos(math.radians(roll_deg)), side_px * math.sin(math.radians(roll_deg))
    linear = np.array([[cosine, -sine], [sine, cosine]])
    offset = np.array([center_x_px, center_y_px]) - linear @ np.array([0.5, 0.5])
    return transform_points(mean_face_unit_68x2(), np.column_stack((linear, offset)))
