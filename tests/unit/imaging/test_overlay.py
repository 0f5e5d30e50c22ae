"""Debug drawing: what is drawn where, that it stays in the frame's bounds, and that lines grow with it."""

from __future__ import annotations

import numpy as np
import pytest

from ml_common.geometry import FaceType, HEAD_MODEL_68x3, alignment_matrix, invert_affine, transform_points
from ml_common.imaging.overlay import draw_face

GREY = 120


def _face(center: tuple[float, float], height_px: float) -> np.ndarray:
    model = np.asarray(HEAD_MODEL_68x3)[:, :2]
    return (model - model.mean(0)) / np.ptp(model[:, 1]) * height_px + np.array(center)


def _drawn(
    landmarks: np.ndarray, *, width: int = 320, height: int = 240, box: list[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    canvas = np.full((height, width, 3), GREY, np.uint8)
    matrix = alignment_matrix(landmarks, FaceType.WHOLE_FACE, 128)
    draw_face(canvas, landmarks, None if box is None else np.array(box), matrix, 128)
    return canvas, matrix


def _has(canvas: np.ndarray, x: float, y: float, color: tuple[int, int, int]) -> bool:
    """Whether a pixel of about this colour is within two pixels."""
    x0, y0 = round(x), round(y)
    window = canvas[max(y0 - 2, 0) : y0 + 3, max(x0 - 2, 0) : x0 + 3].astype(int)
    return bool((np.abs(window - np.array(color)).max(axis=2) < 70).any())


def test_landmarks_box_crop_and_mask_are_where_they_belong() -> None:
    landmarks = _face((160, 130), 90)
    canvas, matrix = _drawn(landmarks, box=[100, 60, 220, 200])
    assert all(_has(canvas, x, y, (0, 255, 0)) for x, y in landmarks)
    assert all(_has(canvas, x, y, (255, 0, 0)) for x, y in ((100, 60), (220, 60), (220, 200), (100, 130)))
    corners = transform_points([(0, 0), (127, 0), (127, 127), (0, 127)], invert_affine(matrix))
    assert all(_has(canvas, x, y, (0, 0, 255)) for x, y in corners if 0 <= x < 320 and 0 <= y < 240)
    cheek = landmarks[[2, 31]].mean(axis=0)
    assert (canvas[round(cheek[1]), round(cheek[0])] == GREY // 2).all(), "inside the mask is half as bright"
    assert (canvas[5, 310] == GREY).all(), "outside is left alone"


def test_the_arrow_shows_which_way_is_up() -> None:
    """The arrow lies at the crop's top left corner: for a face that stands on its head that is bottom right in the frame."""
    upright = _face((160, 120), 60)
    turned = np.array([320.0, 240.0]) - upright
    for landmarks in (upright, turned):
        canvas, matrix = _drawn(landmarks)
        tip, base = transform_points([(0.05 * 128, 3), (0.05 * 128, 0.09 * 128)], invert_affine(matrix))
        assert _has(canvas, *tip, (0, 0, 255))
        assert _has(canvas, *base, (0, 0, 255))


def test_without_a_box_none_is_drawn() -> None:
    canvas, _ = _drawn(_face((160, 120), 80))
    assert not ((canvas[..., 0] > 200) & (canvas[..., 1] < 60)).any()


@pytest.mark.parametrize("center", [(0, 0), (319, 239), (-5000, 120), (160, 1e7), (1e7, -1e7)])
def test_a_face_may_lie_outside(center: tuple[float, float]) -> None:
    canvas, _ = _drawn(_face(center, 90), box=[center[0] - 50, center[1] - 50, center[0] + 50, center[1] + 50])
    seen = abs(center[0]) < 1000 and abs(center[1]) < 1000
    assert bool((canvas != GREY).any()) == seen


def test_a_face_larger_than_the_frame_darkens_all_of_it() -> None:
    canvas, _ = _drawn(_face((160, 120), 4000))
    assert (canvas == GREY // 2).mean() > 0.8


def test_lines_grow_with_the_frame() -> None:
    """The same face in a frame four times as large covers four times the width with its lines, not the same."""
    shares = []
    for factor in (2, 8):
        landmarks = _face((160 * factor, 120 * factor), 80 * factor)
        canvas, _ = _drawn(landmarks, width=320 * factor, height=240 * factor)
        shares.append(float((canvas[..., 1] > 200).mean()))
    assert shares[1] > 0.5 * shares[0]


def test_what_cannot_be_drawn_on_is_refused() -> None:
    landmarks, matrix = _face((50, 50), 40), np.eye(2, 3)
    for canvas in (np.zeros((9, 9, 3), np.float32), np.zeros((9, 9), np.uint8), np.zeros((0, 9, 3), np.uint8)):
        with pytest.raises(ValueError, match="canvas"):
            draw_face(canvas, landmarks, None, matrix, 128)  # type: ignore[arg-type]
    canvas = np.zeros((9, 9, 3), np.uint8)
    with pytest.raises(ValueError, match="NaN"):
        draw_face(canvas, np.full((68, 2), np.nan), None, matrix, 128)
    with pytest.raises(ValueError, match="size"):
        draw_face(canvas, landmarks, None, matrix, 0)
