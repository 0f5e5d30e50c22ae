"""Crops and points of the face mesh, without the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ml_common.detect.facemesh import (
    LEFT_EYE_OUTER,
    MIRROR_468,
    RIGHT_EYE_OUTER,
    SIDE_PX,
    VERTICES,
    FaceMesh,
    Region,
    crop_region,
    region_of_detection,
    region_of_mesh,
)
from ml_common.detect.fit_mesh68 import _MIRRORED
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


def test_mirrored_vertices_pair_up() -> None:
    np.testing.assert_array_equal(MIRROR_468[MIRROR_468], np.arange(VERTICES))
    assert np.count_nonzero(MIRROR_468 - np.arange(VERTICES)) == VERTICES - 28
    assert all(MIRROR_468[right] == left for right, left in _MIRRORED.items())
    # A point and its mirror image are mixed from mirrored vertices.
    for point, row in enumerate(MESH_TO_68):
        other = dict(MESH_TO_68[MIRROR_68[point]])
        assert {int(MIRROR_468[vertex]): share for vertex, share in row} == other


class _CentreOfLight(torch.nn.Module):
    """A landmark network for one thing: every vertex lies where the crop's light is, but those of the left half lie a
    little to the right, by mistake."""

    def forward(self, batch_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        light = batch_NCHW[:, 1]
        across = (torch.arange(SIDE_PX) + 0.5) * light.sum(dim=1) / light.sum(dim=(1, 2))[:, None]
        points = torch.zeros(len(light), VERTICES, 3)
        points[..., 0] = across.sum(dim=1)[:, None]
        points[:, 248:, 0] += 3.0
        return points.reshape(len(light), -1), batch_NCHW[:, 2].mean(dim=(1, 2))


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_both_ways_undo_what_the_network_does_to_one_side(batch: int) -> None:
    pictures = [np.zeros((192, 192, 3), np.uint8) for _ in range(5)]
    for index, picture in enumerate(pictures):
        picture[50:60, 20 + 25 * index : 30 + 25 * index, 1] = 200
    mesh = FaceMesh(_CentreOfLight(), torch.device("cpu"), batch=batch)
    regions = [Region((95.5, 95.5), 192.0, 0.0)] * 5
    once, _ = mesh.fit(pictures, range(5), regions)
    both, presence = mesh.fit(pictures, range(5), regions, both_ways=True)
    at = 24.5 + 25 * np.arange(5)
    np.testing.assert_allclose(once[:, [33, 263], 0], np.stack([at, at + 3], axis=1), atol=1e-3)
    # Half of the mistake on either side, in opposite directions: the face keeps its place.
    np.testing.assert_allclose(both[:, [33, 263], 0], np.stack([at - 1.5, at + 1.5], axis=1), atol=1e-3)
    np.testing.assert_allclose(presence, 0.5, atol=1e-6)
    assert mesh.fit(pictures, [], [], both_ways=True)[0].shape == (0, VERTICES, 3)
