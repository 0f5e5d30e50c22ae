"""Telling persons apart, on rendered heads whose landmarks are known."""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest

from ml_common.geometry import FaceType, align, alignment_matrix, mirror_landmarks, transform_points
from ml_common.synthetic import IDENTITIES, Expression, FrameState, Light, render
from ml_common.tracking import DEFAULT_MIN_SIMILARITY, choose_faces, describe_face, mean_descriptor, similarity
from ml_common.tracking.appearance import measure, typical_face
from ml_common.tracking.sheet import SHEET_PX, SHEET_POINTS_78x2, lay_flat, on_face

Array = np.ndarray[Any, Any]

STATES = (
    FrameState(),
    FrameState(yaw_deg=28, light=Light(direction_xyz=(0.7, -0.5, -0.6), color_bgr=(0.85, 0.95, 1.0))),
    FrameState(yaw_deg=-25, pitch_deg=8, expression=Expression(smile=0.6), light=Light(intensity=0.6)),
    FrameState(pitch_deg=-10, roll_deg=12, expression=Expression(mouth_open=0.5, blink_left=0.8, blink_right=0.8)),
)


@cache
def crop(name: str, state: int, size: int = 192, face_type: FaceType = FaceType.WHOLE_FACE) -> tuple[Array, Array]:
    frame = render(IDENTITIES[name], STATES[state], 400, 300)
    frame_to_face = alignment_matrix(frame.landmarks_px_68x2, face_type, size)
    return align(frame.image_bgr_HWC, frame_to_face, size), transform_points(frame.landmarks_px_68x2, frame_to_face)


@cache
def described(name: str, state: int) -> Array:
    return describe_face(*crop(name, state))


def test_each_of_the_five_is_found_by_one_frontal_picture() -> None:
    tracks = {name: mean_descriptor([described(name, state) for state in (1, 2, 3)]) for name in IDENTITIES}
    for name in IDENTITIES:
        likeness = {other: similarity(described(name, 0), track) for other, track in tracks.items()}
        assert max(likeness, key=lambda other: likeness[other]) == name
        assert likeness[name] > DEFAULT_MIN_SIMILARITY
        assert sum(value > DEFAULT_MIN_SIMILARITY for value in likeness.values()) <= 2


def test_people_differ_more_than_pose_light_and_expression() -> None:
    names = list(IDENTITIES)
    same = [similarity(described(n, a), described(n, b)) for n in names for a in range(4) for b in range(a)]
    others = [
        similarity(described(n, a), described(m, b))
        for n in names
        for m in names
        if n < m
        for a in range(4)
        for b in range(4)
    ]
    assert np.mean(np.array(same)[:, None] > np.array(others)) > 0.8


def test_exposure_size_and_face_type_matter_little() -> None:
    for name in ("bruno", "mei"):
        picture, landmarks = crop(name, 0)
        plain = described(name, 0)
        assert similarity(plain, describe_face((picture * 0.7).astype(np.uint8), landmarks)) > 0.9
        assert similarity(plain, describe_face(*crop(name, 0, 320))) > 0.95
        assert similarity(plain, describe_face(*crop(name, 0, 192, FaceType.FULL))) > 0.95
        small = cv2.resize(picture, (96, 96), interpolation=cv2.INTER_AREA)
        assert similarity(plain, describe_face(small, (landmarks + 0.5) / 2 - 0.5)) > 0.9


def test_the_mirror_shows_the_same_person() -> None:
    """The halves are folded: light from the other side or the other profile is no other face."""
    for name, state in (("ada", 1), ("olaf", 2)):
        picture, landmarks = crop(name, state)
        mirrored = describe_face(np.ascontiguousarray(picture[:, ::-1]), mirror_landmarks(landmarks, picture.shape[1]))
        assert similarity(described(name, state), mirrored) > 0.97


def test_a_descriptor_is_a_unit_vector_and_repeatable() -> None:
    first, again = describe_face(*crop("chidi", 1)), describe_face(*crop("chidi", 1))
    assert first.dtype == np.float32
    assert first.ndim == 1
    assert (first == again).all()
    assert np.linalg.norm(first) == pytest.approx(1.0, abs=1e-5)
    mean = mean_descriptor([first, described("chidi", 0)])
    assert mean.shape == first.shape
    assert np.linalg.norm(mean) == pytest.approx(1.0, abs=1e-5)


def test_similarity_is_symmetric_and_between_0_and_1() -> None:
    for name in IDENTITIES:
        for other in IDENTITIES:
            value = similarity(described(name, 0), described(other, 1))
            assert 0.0 <= value <= 1.0
            assert value == pytest.approx(similarity(described(other, 1), described(name, 0)))
    assert similarity(described("ada", 0), described("ada", 0)) == pytest.approx(1.0)
    assert similarity(described("ada", 0), -described("ada", 0)) == 0.0


def test_landmarks_lie_where_the_sheet_says() -> None:
    """A crop that holds its own coordinates shows, at each place of the sheet, where it came from."""
    _, landmarks = crop("mei", 1)
    y, x = np.mgrid[:192, :192].astype(np.float32)
    sheet = lay_flat(np.stack((x, y, x), axis=2), landmarks)
    known = on_face()
    assert 0.4 < known.mean() < 0.95
    for point in (19, 24, 30, 33, 36, 45, 48, 54, 57):
        column, row = np.round(SHEET_POINTS_78x2[point]).astype(int)
        assert known[row, column]
        per_sheet_px = 192 / SHEET_PX
        np.testing.assert_allclose(sheet[row, column, :2], landmarks[point], atol=1.5 * per_sheet_px)


def test_the_stored_typical_face_is_that_of_rendered_heads() -> None:
    """So a change of `measure` that forgets to renew the file shows."""
    measured = [(measure(*crop(name, state)), k) for k, name in enumerate(IDENTITIES) for state in range(4)]
    relief, color = (np.array([parts[k] for parts, _ in measured]) for k in (0, 1))
    made = typical_face(relief, color, np.array([k for _, k in measured]))
    with np.load("ml_common/tracking/typical_face.npz") as stored:
        assert set(stored.files) == set(made)
        assert np.corrcoef(stored["relief_R"].astype(float), made["relief_R"])[0, 1] > 0.9
        spread = np.maximum(stored["color_spread_C"].astype(float), 0.05)
        assert (np.abs(stored["color_C"] - made["color_C"]) < 4 * spread).all()


def test_the_largest_frontal_faces_are_described() -> None:
    landmarks = [
        render(IDENTITIES["ada"], FrameState(yaw_deg=yaw), 400, 300).landmarks_px_68x2 for yaw in (40, 3, -35, 0, 20)
    ]
    assert choose_faces(landmarks, 2) == [1, 3]
    assert choose_faces(landmarks, 99) == [0, 1, 2, 3, 4]
    assert choose_faces([points * (1 + (k == 1)) for k, points in enumerate(landmarks)], 1) == [1]
    assert choose_faces([landmarks[1]] * 3, 1) == [0]


def test_bad_input_is_refused_with_what_to_do() -> None:
    picture, landmarks = crop("ada", 0)
    for wrong in (picture.astype(np.float32), picture[..., 0], picture[:40, :40]):
        with pytest.raises(ValueError, match="uint8"):
            describe_face(wrong, landmarks)
    with pytest.raises(ValueError, match=r"\[68, 2\]"):
        describe_face(picture, landmarks[:51])
    with pytest.raises(ValueError, match="NaN"):
        describe_face(picture, landmarks * np.nan)
    with pytest.raises(ValueError, match="coincide"):
        describe_face(picture, np.full((68, 2), 50.0))
    with pytest.raises(ValueError, match="equal length"):
        similarity(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="N >= 1"):
        mean_descriptor(np.zeros((0, 8)))
    with pytest.raises(ValueError, match=r"\[N, 68, 2\]"):
        choose_faces(np.zeros((68, 2)))
    with pytest.raises(ValueError, match="count"):
        choose_faces(np.zeros((1, 68, 2)), 0)
