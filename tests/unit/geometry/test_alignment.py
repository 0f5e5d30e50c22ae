"""Alignment against golden numbers (tests/golden/geometry) and by its properties."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_common.geometry import (
    FaceType,
    MEAN_FACE_UNIT_51x2,
    alignment_matrix,
    average_yaw,
    compose,
    frame_square_matrix,
    frame_to_unit_square,
    invert_affine,
    landmarks_98_to_68,
    mirror_landmarks,
    pose_pitch_yaw_roll,
    rect_from_landmarks,
    resize_matrix,
    transform_points,
    umeyama,
)

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "geometry" / "geometry.npz")
LANDMARKS = GOLDEN["landmarks"]
FRAMED = [face_type for face_type in FaceType if face_type not in (FaceType.MARK_ONLY, FaceType.FRAME_SQUARE)]


def test_matrices_of_all_types_sizes_and_scales_agree_to_a_thousandth_of_a_pixel():
    worst = 0.0
    for s, landmarks in enumerate(LANDMARKS):
        for t, type_id in enumerate(GOLDEN["face_types"]):
            for z, size in enumerate(GOLDEN["sizes"]):
                for k, scale in enumerate(GOLDEN["scales"]):
                    ours = alignment_matrix(landmarks, FaceType(int(type_id)), int(size), float(scale))
                    theirs = GOLDEN["mats"][s, t, z, k]
                    corners = transform_points([(0, 0), (size, 0), (size, size), (0, size)], invert_affine(theirs))
                    error = np.abs(transform_points(corners, ours) - transform_points(corners, theirs)).max()
                    worst = max(worst, error)
    assert worst < 1e-3


@pytest.mark.parametrize("index", range(8))
def test_umeyama_rect_yaw_mirror_and_pose_agree(index):
    landmarks, aligned = LANDMARKS[index], GOLDEN["aligned_wf256"][index]
    np.testing.assert_allclose(frame_to_unit_square(landmarks), GOLDEN["umeyama"][index][:2], atol=5e-6)
    np.testing.assert_allclose(rect_from_landmarks(landmarks), GOLDEN["rect_from_landmarks"][index], atol=1e-3)
    assert average_yaw(aligned) == pytest.approx(GOLDEN["averaged_yaw"][index], abs=1e-4)
    in_unit_square = transform_points(landmarks, frame_to_unit_square(landmarks))
    assert average_yaw(in_unit_square) == pytest.approx(GOLDEN["averaged_yaw_unit"][index], abs=1e-5)
    np.testing.assert_allclose(mirror_landmarks(aligned, 256), GOLDEN["mirror_256"][index], atol=1e-4)
    np.testing.assert_allclose(pose_pitch_yaw_roll(aligned, 256), GOLDEN["pyr_256"][index], atol=1e-4)
    np.testing.assert_allclose(pose_pitch_yaw_roll(aligned * 2, 512), GOLDEN["pyr_512"][index], atol=1e-4)


def test_98_points_become_68():
    np.testing.assert_allclose(landmarks_98_to_68(GOLDEN["lm98"]), GOLDEN["lm98_to_68"], atol=1e-4)


def test_mirroring_twice_is_the_identity():
    np.testing.assert_allclose(mirror_landmarks(mirror_landmarks(LANDMARKS[0], 640), 640), LANDMARKS[0])


similarity = st.builds(
    lambda angle, scale, x, y: np.array(
        [[scale * np.cos(angle), -scale * np.sin(angle), x], [scale * np.sin(angle), scale * np.cos(angle), y]]
    ),
    st.floats(-3.1, 3.1),
    st.floats(0.05, 20.0),
    st.floats(-5000, 5000),
    st.floats(-5000, 5000),
)


@settings(max_examples=60, deadline=None)
@given(moved=similarity, index=st.integers(0, 7), face_type=st.sampled_from(FRAMED))
def test_a_crop_follows_its_face_under_rotation_scale_and_translation(moved, index, face_type):
    if face_type.keeps_rotation:
        moved = np.array([[np.hypot(*moved[:, 0]), 0, moved[0, 2]], [0, np.hypot(*moved[:, 0]), moved[1, 2]]])
    landmarks = LANDMARKS[index].astype(np.float64)
    original = alignment_matrix(landmarks, face_type, 256)
    followed = alignment_matrix(transform_points(landmarks, moved), face_type, 256)
    inside = np.array([(0.0, 0.0), (256.0, 40.0), (100.0, 256.0)])
    in_frame = transform_points(inside, invert_affine(original))
    np.testing.assert_allclose(transform_points(transform_points(in_frame, moved), followed), inside, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(moved=similarity, points=st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), min_size=1))
def test_inverse_undoes(moved, points):
    back = transform_points(transform_points(points, moved), invert_affine(moved))
    np.testing.assert_allclose(back, points, atol=1e-6)
    np.testing.assert_allclose(compose(invert_affine(moved), moved), [[1, 0, 0], [0, 1, 0]], atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(moved=similarity)
def test_umeyama_finds_the_similarity_that_was_applied(moved):
    np.testing.assert_allclose(
        umeyama(MEAN_FACE_UNIT_51x2, transform_points(MEAN_FACE_UNIT_51x2, moved)), moved, rtol=1e-6, atol=1e-6
    )


def test_umeyama_never_mirrors():
    matrix = umeyama(MEAN_FACE_UNIT_51x2, MEAN_FACE_UNIT_51x2 * [-1, 1])
    assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_resize_matrix_keeps_the_image_edges_together(factor):
    edges = transform_points([(-0.5, -0.5), (9.5, 9.5)], resize_matrix(factor))
    np.testing.assert_allclose(edges, [(-0.5, -0.5), (10 * factor - 0.5, 10 * factor - 0.5)])


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (np.zeros((68, 2)), "coincide"),
        (np.full((68, 2), 731.3), "coincide"),
        (np.full((68, 2), np.nan), "NaN"),
        (np.zeros((67, 2)), r"\[68, 2\]"),
    ],
)
def test_degenerate_landmarks_are_refused_with_a_reason(landmarks, message):
    with pytest.raises(ValueError, match=message):
        alignment_matrix(landmarks, FaceType.WHOLE_FACE, 256)


def test_landmarks_on_one_line_still_give_an_invertible_matrix():
    line = np.stack((np.arange(68.0), np.arange(68.0) * 0.5), axis=1)
    matrix = alignment_matrix(line, FaceType.FULL, 128)
    np.testing.assert_allclose(compose(matrix, invert_affine(matrix)), [[1, 0, 0], [0, 1, 0]], atol=1e-9)


@pytest.mark.parametrize(("size", "scale"), [(0, 1.0), (-4, 1.0), (64, 0.0), (64, -1.0), (64, float("nan"))])
def test_impossible_sizes_and_scales_are_refused(size, scale):
    with pytest.raises(ValueError, match="must be"):
        alignment_matrix(LANDMARKS[0], FaceType.FULL, size, scale)


def test_mark_only_has_no_crop():
    with pytest.raises(ValueError, match="mark_only"):
        alignment_matrix(LANDMARKS[0], FaceType.MARK_ONLY, 256)


def test_the_nose_tip_is_the_middle_of_a_nose_centred_head_and_the_crop_stays_upright():
    matrix = alignment_matrix(LANDMARKS[0], FaceType.HEAD_NOSE, 256)
    np.testing.assert_allclose(transform_points(LANDMARKS[0][30:31], matrix), [[128, 128]], atol=1e-3)
    assert matrix[0, 1] == matrix[1, 0] == 0
    assert matrix[0, 0] == pytest.approx(alignment_matrix(LANDMARKS[0], FaceType.HEAD_NO_ALIGN, 256)[0, 0])


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (1080, 1920), (512, 512), (7, 1)])
def test_the_frame_square_holds_the_middle_of_the_frame_edge_to_edge(width, height):
    matrix = frame_square_matrix(width, height, 256)
    side = min(width, height)
    left, top = (width - side) / 2 - 0.5, (height - side) / 2 - 0.5  # edges, half a pixel outside the outermost centres
    corners = transform_points([(left, top), (left + side, top + side)], matrix)
    np.testing.assert_allclose(corners, [[-0.5, -0.5], [255.5, 255.5]], atol=1e-9)


def test_a_frame_square_is_not_framed_by_landmarks():
    with pytest.raises(ValueError, match="frame_square"):
        alignment_matrix(LANDMARKS[0], FaceType.FRAME_SQUARE, 256)
    with pytest.raises(ValueError, match="at least 1 px"):
        frame_square_matrix(0, 10, 256)


def test_singular_matrices_are_refused():
    with pytest.raises(ValueError, match="singular"):
        invert_affine([[1, 2, 0], [2, 4, 0]])


def test_face_type_names_are_those_of_the_format():
    for type_id, name in zip(GOLDEN["face_types"], GOLDEN["face_type_names"], strict=True):
        assert FaceType.from_string(str(name)) is FaceType(int(type_id))
        assert FaceType(int(type_id)).metadata_name == name
    assert FaceType.from_string(" WF ") is FaceType.WHOLE_FACE
    for face_type in FaceType:
        assert FaceType.from_string(face_type.metadata_name.upper()) is face_type
    with pytest.raises(ValueError, match="unknown face type 'nose'"):
        FaceType.from_string("nose")
