"""Crops and points of the face mesh, without the network."""

from __future__ import annotations

import numpy as np
import pytest

from ml_common.detect.facemesh import (
    LEFT_EYE_OUTER,
    RIGHT_EYE_OUTER,
    SIDE_PX,
    Region,
    crop_region,
    region_of_detection,
    region_of_mesh,
)
from ml_common.detect.mesh68 import MESH_TO_68, MIRROR_68, landmarks_of_mesh


def _coordinates_picture(width: int, height: int) -> np.ndarray:
    """Blue is x, green is y, both over 255: a crop of it tells where each of its pixels comes from."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)[None].round()
    picture[..., 1] = np.linspace(0, 255, height)[:, None].round()
    return picture


@pytest.mark.parametrize("side", [90.0, 192.0, 700.0, 1500.0])
@pytest.mark.parametrize("roll", [0.0, 0.6, -2.0])
def test_crop_shows_what_its_matrix_says(side: float, roll: float) -> None:
    width, height = 2400, 2000
    region = Region((1230.4, 980.7), side, roll)
    crop = crop_region(_coordinates_picture(width, height), region)
    matrix = region.crop_to_frame_23()
    for x, y in ((20, 30), (96, 96), (170, 60), (40, 150)):
        frame_xy = matrix @ [x, y, 1]
        # Eight bits over the frame resolve about 9 px; so the middle of a step is 5 px off at most, an average a little
        # more.
        np.testing.assert_allclose(crop[y, x, :2] / 255 * [width - 1, height - 1], frame_xy, atol=9)


def test_region_turns_with_the_eyes() -> None:
    keypoints = np.array([[10, 10], [30, 30], [0, 0], [0, 0], [0, 0], [0, 0]], dtype=np.float64)
    region = region_of_detection(np.array([0.0, 0, 40, 20]), keypoints)
    assert region.roll_rad == pytest.approx(np.pi / 4)
    assert region.centre_xy_px == (20, 10)
    assert region.side_px == 60
    # The crop's x axis follows the eye line in the frame.
    across = region.crop_to_frame_23() @ [[0, 1], [0, 0], [1, 1]]
    assert np.arctan2(*(across[:, 1] - across[:, 0])[::-1]) == pytest.approx(np.pi / 4)


@pytest.mark.parametrize("roll", [0.0, 1.0, 2.8, -1.2])
def test_region_of_a_turned_mesh_is_the_turned_region(roll: float) -> None:
    mesh = np.random.default_rng(3).uniform(-50, 50, (468, 2))
    mesh[RIGHT_EYE_OUTER], mesh[LEFT_EYE_OUTER] = (-30, -10), (30, -10)
    upright = region_of_mesh(mesh)
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    turned = region_of_mesh(mesh @ turn.T + [400, 300])
    assert turned.side_px == pytest.approx(upright.side_px)
    assert turned.roll_rad == pytest.approx(roll)
    np.testing.assert_allclose(turned.centre_xy_px, turn @ upright.centre_xy_px + [400, 300])


def test_crop_outside_the_frame_repeats_its_edge() -> None:
    picture = np.full((50, 60, 3), 77, np.uint8)
    for side in (40.0, 900.0):
        assert (crop_region(picture, Region((-5.0, 48.0), side, 0.3)) == 77).all()
    assert crop_region(np.full((1, 1, 3), 9, np.uint8), Region((0.0, 0.0), 1.0, 0.0)).shape == (SIDE_PX, SIDE_PX, 3)


def test_map_to_68_points_is_an_average_and_mirrors() -> None:
    assert len(MESH_TO_68) == 68
    for point, row in enumerate(MESH_TO_68):
        vertices, shares = zip(*row, strict=True)
        assert sum(shares) == pytest.approx(1.0)
        assert min(shares) > 0
        assert len(set(vertices)) == len(vertices)
        assert all(0 <= v < 468 for v in vertices)
        assert MIRROR_68[MIRROR_68[point]] == point
        mirrored_shares = [share for _, share in MESH_TO_68[MIRROR_68[point]]]
        assert sorted(mirrored_shares) == pytest.approx(sorted(shares))


def test_map_moves_with_the_mesh() -> None:
    mesh = np.random.default_rng(1).normal(size=(2, 468, 3)).astype(np.float32)
    points = landmarks_of_mesh(mesh)
    assert points.shape == (2, 68, 2)
    np.testing.assert_allclose(landmarks_of_mesh(mesh * 3 + 5), points * 3 + 5, atol=1e-5)
    np.testing.assert_allclose(points[:, 8], mesh[:, 152, :2])
    np.testing.assert_allclose(points[:, 21], 0.375 * mesh[:, 107, :2] + 0.625 * mesh[:, 55, :2], rtol=1e-6)
