"""The fit of the mesh-to-68 table: it finds the mixtures that made the truth, and says nothing of left or right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ml_common.detect import FaceFinder
from ml_common.detect.fit_mesh68 import STEPS, fit
from ml_common.detect.mesh68 import MESH_TO_68, MIRROR_68, landmarks_of_mesh
from ml_common.synthetic import IDENTITIES, Expression, FrameState, render

# The vertex that the field commonly takes for each point, in iBUG order.
COMMON = (
    *(162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389),
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),
    *(78, 82, 13, 312, 308, 317, 14, 87),
)

Array = np.ndarray[Any, Any]


def _meshes(count: int, seed: int = 4) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 468, 2))


def _all_seen(count: int) -> Array:
    return np.ones((count, 68), dtype=bool)


def test_the_mixtures_that_made_the_truth_are_found() -> None:
    meshes = _meshes(12)
    assert fit(meshes, landmarks_of_mesh(meshes), _all_seen(12), pull=0) == MESH_TO_68


def test_size_and_place_of_a_face_do_not_matter() -> None:
    meshes = _meshes(12)
    truth = landmarks_of_mesh(meshes) + np.random.default_rng(1).normal(0, 0.3, (12, 68, 2))
    table = fit(meshes, truth, _all_seen(12), pull=0.05)
    scale = np.linspace(0.2, 40, 12)[:, None, None]
    assert fit(meshes * scale + 300, truth * scale + 300, _all_seen(12), pull=0.05) == table


def test_a_point_out_of_sight_does_not_count() -> None:
    meshes = _meshes(12)
    truth, seen = landmarks_of_mesh(meshes), _all_seen(12)
    truth[:6, 20:40] = truth[6:, 20:40]
    assert fit(meshes, truth, seen, pull=0) != MESH_TO_68
    seen[:6, 20:40] = False
    assert fit(meshes, truth, seen, pull=0) == MESH_TO_68


def test_a_strong_pull_gives_the_common_vertices() -> None:
    meshes = _meshes(6)
    truth = np.random.default_rng(9).normal(size=(6, 68, 2))
    assert fit(meshes, truth, _all_seen(6), pull=1e9) == tuple(((vertex, 1.0),) for vertex in COMMON)


def test_any_truth_gives_a_mirrored_average() -> None:
    meshes, truth = _meshes(8), np.random.default_rng(2).normal(size=(8, 68, 2))
    table = fit(meshes, truth, _all_seen(8), pull=0.01)
    for point, row in enumerate(table):
        shares = [share for _, share in row]
        assert sum(shares) == 1
        assert all(share > 0 and share * STEPS == int(share * STEPS) for share in shares)
        assert shares == [share for _, share in table[MIRROR_68[point]]]
    assert fit(meshes * [-1, 1], truth * [-1, 1], _all_seen(8), pull=0.01) == table


def test_what_cannot_be_fitted_is_refused() -> None:
    meshes, seen = _meshes(2), _all_seen(2)
    truth = landmarks_of_mesh(meshes)
    with pytest.raises(ValueError, match="468"):
        fit(meshes[:, :400], truth, seen, pull=0)
    with pytest.raises(ValueError, match="pull"):
        fit(meshes, truth, seen, pull=-1)
    with pytest.raises(ValueError, match="point 8 "):
        fit(meshes, truth, seen & (np.arange(68) != 8), pull=0)
    with pytest.raises(ValueError, match="finite"):
        fit(meshes, truth * np.nan, seen, pull=0)


@pytest.mark.parametrize(("name", "yaw_deg"), [("ada", 20.0), ("bruno", 0.0), ("mei", -15.0)])
def test_points_of_rendered_heads_are_near_their_truth(finder: FaceFinder, name: str, yaw_deg: float) -> None:
    state = FrameState(yaw_deg=yaw_deg, pitch_deg=-4, roll_deg=6, expression=Expression(mouth_open=0.3, smile=0.4))
    frame = render(IDENTITIES[name], state, 480, 360)
    (faces,) = finder.find([frame.image_bgr_HWC])
    truth = frame.landmarks_px_68x2
    errors = np.linalg.norm(faces[0].landmarks_px_68x2 - truth, axis=1) / np.linalg.norm(truth[36] - truth[45])
    assert errors[17:][frame.visible_68[17:]].mean() < 0.04
    assert errors[:17][frame.visible_68[:17]].mean() < 0.09
