"""The mean face placed by hand: where it lands, how it is turned, and that its jaw makes a usable mask."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ml_common.geometry import MEAN_FACE_UNIT_51x2, frame_to_unit_square, mirror_landmarks
from ml_common.geometry.mean_face import mean_face_unit_68x2, place_mean_face
from ml_common.masks import hull_mask


def test_placing_is_undone_by_the_alignment() -> None:
    """The alignment finds the very square that the person drew."""
    landmarks = place_mean_face(200.0, 150.0, 80.0, 30.0)
    frame_to_unit_2x3 = frame_to_unit_square(landmarks)
    assert np.abs(frame_to_unit_2x3 @ [200.0, 150.0, 1.0] - 0.5).max() < 1e-9
    assert math.isclose(1 / math.hypot(*frame_to_unit_2x3[0, :2]), 80.0, rel_tol=1e-9)
    assert math.isclose(math.degrees(math.atan2(-frame_to_unit_2x3[1, 0], frame_to_unit_2x3[0, 0])), 30.0)


def test_roll_is_clockwise_in_the_image() -> None:
    """Turned by a quarter clockwise, the brows are on the right of the mouth."""
    landmarks = place_mean_face(0.0, 0.0, 100.0, 90.0)
    assert landmarks[17:27, 0].mean() > landmarks[48:68, 0].mean() + 50


def test_the_jaw_runs_from_ear_to_ear_below_the_mouth() -> None:
    face = mean_face_unit_68x2()
    assert (face[17:] == MEAN_FACE_UNIT_51x2).all()
    jaw = face[:17]
    assert (np.diff(jaw[:, 0]) > 0).all(), "right to left"
    assert jaw[:, 1].argmax() == 8, "the chin is lowest"
    assert jaw[8, 1] > face[48:68, 1].max() + 0.1
    assert jaw[0, 0] < face[36, 0] < face[45, 0] < jaw[16, 0]
    # 45 and 36 are where a face that is nearly its own mirror image should have them.
    assert np.abs(mirror_landmarks(face, 2) - face).max() < 0.06


def test_the_mask_covers_cheeks_and_chin() -> None:
    landmarks = place_mean_face(100.0, 90.0, 100.0, 0.0)
    mask = hull_mask(landmarks, 240, 200)
    inner = hull_mask(np.concatenate((np.repeat(landmarks[8:9], 17, axis=0), landmarks[17:])), 240, 200)
    assert mask.sum() > 1.2 * inner.sum(), "a collapsed jaw leaves the cheeks out"
    x, y = (landmarks[4] * 0.9 + landmarks[33] * 0.1).round().astype(int)
    assert mask[y, x] == 1


@pytest.mark.parametrize("values", [(0, 0, 0, 0), (0, 0, -1, 0), (math.nan, 0, 1, 0), (0, 0, 1, math.inf)])
def test_what_places_nothing_is_refused(values: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="side"):
        place_mean_face(*values)
