"""The renderer against itself: its truth must agree with its pictures, and an identity must change the head alone."""

from dataclasses import replace
from math import atan2, degrees, hypot

import cv2
import numpy as np
import pytest

from ml_common.geometry import HEAD_MODEL_68x3, mirror_landmarks
from ml_common.synthetic import IDENTITIES, Expression, FrameState, Identity, Light, Occluder, render, render_clip
from ml_common.synthetic.head_mesh import head_mesh
from ml_common.synthetic.head_paint import head_paint
from ml_common.synthetic.head_surface import head_surface

WIDTH, HEIGHT = 320, 240
ADA, BRUNO = IDENTITIES["ada"], IDENTITIES["bruno"]
BIG = FrameState(face_height=0.7, center_y=0.5, background_seed=4)
POSES = [(0, 0, 0), (35, 10, 8), (-50, -12, -15), (60, 0, 0)]


def _state(yaw: float, pitch: float, roll: float) -> FrameState:
    return replace(BIG, yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll, expression=Expression(mouth_open=0.3, smile=0.2))


def _grown(mask: np.ndarray, radius_px: int) -> np.ndarray:
    return cv2.dilate(mask, np.ones((2 * radius_px + 1,) * 2, np.uint8))


def _polygon(points: np.ndarray) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 255)
    return mask


@pytest.mark.parametrize("pose", POSES)
def test_only_the_head_differs_between_identities(pose: tuple[float, float, float]) -> None:
    state = _state(*pose)
    ada, bruno = render(ADA, state, WIDTH, HEIGHT), render(BRUNO, state, WIDTH, HEIGHT)
    outside = (ada.head_mask_HW == 0) & (bruno.head_mask_HW == 0)
    assert outside.mean() > 0.3
    np.testing.assert_array_equal(ada.image_bgr_HWC[outside], bruno.image_bgr_HWC[outside])
    inside = (ada.face_mask_HW > 0) & (bruno.face_mask_HW > 0)
    difference = np.abs(ada.image_bgr_HWC[inside].astype(float) - bruno.image_bgr_HWC[inside])
    assert difference.mean() > 15  # two people, not one


def test_demo_pair_agrees_in_the_outline_of_the_head() -> None:
    state = _state(20, 5, 0)
    ada, bruno = (render(who, state, WIDTH, HEIGHT).head_mask_HW > 0 for who in (ADA, BRUNO))
    assert (ada & bruno).sum() / (ada | bruno).sum() > 0.9


def test_same_arguments_give_the_same_bytes_with_cold_caches_and_other_threads() -> None:
    state = replace(_state(25, 5, 5), occluder=Occluder("hand", 0.5, 0.6, 0.5, 20))
    first = render(BRUNO, state, WIDTH, HEIGHT)
    for cache in (head_surface, head_mesh, head_paint):
        cache.cache_clear()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1 if threads > 1 else 2)
    try:
        second = render(BRUNO, state, WIDTH, HEIGHT)
    finally:
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(first.image_bgr_HWC, second.image_bgr_HWC)
    np.testing.assert_array_equal(first.landmarks_px_68x2, second.landmarks_px_68x2)
    np.testing.assert_array_equal(first.face_mask_HW, second.face_mask_HW)


@pytest.mark.parametrize("who", IDENTITIES.values(), ids=lambda who: who.name)
def test_mirrored_pose_gives_mirrored_landmarks_and_masks(who: Identity) -> None:
    expression = Expression(mouth_open=0.5, smile=0.6, blink_left=0.7, brow_raise=0.4)
    mirrored_expression = replace(expression, blink_left=0.0, blink_right=0.7)
    state = replace(BIG, yaw_deg=30, pitch_deg=8, roll_deg=10, center_x=0.45, expression=expression)
    other = replace(state, yaw_deg=-30, roll_deg=-10, center_x=0.55, expression=mirrored_expression)
    one, two = render(who, state, WIDTH, HEIGHT), render(who, other, WIDTH, HEIGHT)
    np.testing.assert_allclose(mirror_landmarks(one.landmarks_px_68x2, WIDTH), two.landmarks_px_68x2, rtol=0, atol=1e-6)
    a, b = one.face_mask_HW[:, ::-1] > 0, two.face_mask_HW > 0
    assert (a & b).sum() / (a | b).sum() > 0.98


@pytest.mark.parametrize("pose", POSES)
def test_pose_is_recovered_from_the_landmarks(pose: tuple[float, float, float]) -> None:
    state = replace(BIG, yaw_deg=pose[0], pitch_deg=pose[1], roll_deg=pose[2], center_x=0.3)
    points = render(Identity("mean"), state, WIDTH, HEIGHT).landmarks_px_68x2
    focal = state.face_height * HEIGHT / 180.0 * 1100.0
    camera = np.array([[focal, 0, 0.3 * WIDTH - 0.5], [0, focal, 0.5 * HEIGHT - 0.5], [0, 0, 1]])
    rigid = np.array([*range(17), *range(27, 31), 36, 39, 42, 45, 48, 54])
    _, vector, _ = cv2.solvePnP(
        HEAD_MODEL_68x3[rigid], points[rigid], camera, None, np.zeros(3), np.array([0.0, 0.0, 1100.0]), True
    )
    rotation = cv2.Rodrigues(vector)[0]
    yaw = degrees(atan2(-rotation[2, 0], hypot(rotation[0, 0], rotation[1, 0])))
    pitch = -degrees(atan2(rotation[2, 1], rotation[2, 2]))
    roll = degrees(atan2(rotation[1, 0], rotation[0, 0]))
    np.testing.assert_allclose((yaw, pitch, roll), pose, atol=2.0)


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("who", (ADA, BRUNO), ids=lambda who: who.name)
def test_landmarks_lie_in_the_masks(who: Identity, pose: tuple[float, float, float]) -> None:
    frame = render(who, _state(*pose), WIDTH, HEIGHT)
    columns, rows = np.round(frame.landmarks_px_68x2).astype(int).T
    inner = np.arange(68) >= 17
    in_face = _grown(frame.face_mask_HW, 1)[rows, columns] > 0
    assert in_face[inner & frame.visible_68].all()
    assert (_grown(frame.face_mask_HW, 3)[rows, columns] > 0)[frame.visible_68].all()
    assert not (frame.face_mask_HW[frame.head_mask_HW == 0]).any()
    assert frame.visible_68[[30, 33, 48, 54]].sum() >= 3


def test_face_mask_is_the_hull_of_jaw_and_brows_when_frontal() -> None:
    frame = render(BRUNO, BIG, WIDTH, HEIGHT)
    hull = cv2.convexHull(frame.landmarks_px_68x2[:27].astype(np.float32))[:, 0]
    expected, mask = _polygon(hull) > 0, frame.face_mask_HW > 0
    assert (expected & mask).sum() / (expected | mask).sum() > 0.88
    assert (expected & mask).sum() / expected.sum() > 0.95


@pytest.mark.parametrize("pose", POSES)
def test_head_has_no_holes(pose: tuple[float, float, float]) -> None:
    frame = render(ADA, _state(*pose), WIDTH, HEIGHT)
    contours, _ = cv2.findContours(frame.head_mask_HW, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(frame.head_mask_HW)
    cv2.drawContours(filled, contours, -1, 255, -1)
    assert len(contours) == 1
    assert ((filled > 0) & (frame.head_mask_HW == 0)).sum() <= 12  # between ear and hair the wall may show


def test_far_side_is_hidden() -> None:
    frame = render(
        ADA, replace(BIG, yaw_deg=60), WIDTH, HEIGHT
    )  # nose to image-left: the subject's right side turns away
    assert not frame.visible_68[[1, 2, 3, 4]].any()
    assert frame.visible_68[[12, 13, 14, 42, 45, 54]].all()


def test_landmarks_sit_on_painted_lips_and_eyes() -> None:
    frame = render(ADA, BIG, WIDTH * 2, HEIGHT * 2)
    points, image = frame.landmarks_px_68x2, frame.image_bgr_HWC.astype(float)
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(points[48:60]).astype(np.int32)], 255)
    ring = (_grown(mask, 5) > 0) & (_grown(mask, 2) == 0)
    lips = cv2.erode(mask, np.ones((5, 5), np.uint8)) > 0
    redness = image[..., 2] / image.sum(axis=-1)
    assert redness[lips].mean() > redness[ring].mean() + 0.04
    for corners, lids in (((36, 39), range(36, 42)), ((42, 45), range(42, 48))):
        eye = np.zeros(image.shape[:2], np.uint8)
        cv2.fillPoly(eye, [np.round(points[list(lids)]).astype(np.int32)], 255)
        dark = (image.sum(axis=-1) < 120) & (cv2.erode(eye, np.ones((3, 3), np.uint8)) > 0)  # the pupil
        columns = np.nonzero(dark)[1]
        middle = points[list(corners)].mean(axis=0)
        assert abs(columns.mean() - middle[0]) < 0.12 * np.ptp(points[list(corners), 0])


def test_closed_eye_hides_the_eyeball() -> None:
    open_eyes, shut = (
        render(ADA, replace(BIG, expression=Expression(blink_left=b)), WIDTH, HEIGHT) for b in (0.0, 1.0)
    )
    left = open_eyes.landmarks_px_68x2[42:48]
    middle = np.round(left.mean(axis=0)).astype(int)
    pupil, lid = (frame.image_bgr_HWC[middle[1], middle[0]].sum() for frame in (open_eyes, shut))
    assert pupil < 250
    assert lid > pupil + 100
    closed = shut.landmarks_px_68x2
    np.testing.assert_allclose(closed[[43, 44], 1], closed[[47, 46], 1], atol=0.35)
    np.testing.assert_allclose(closed[36:42], open_eyes.landmarks_px_68x2[36:42], atol=1e-9)


def _moved(expression: Expression) -> np.ndarray:
    still = render(BRUNO, BIG, WIDTH, HEIGHT).landmarks_px_68x2
    return render(BRUNO, replace(BIG, expression=expression), WIDTH, HEIGHT).landmarks_px_68x2 - still


def test_open_mouth_moves_lower_lip_and_chin() -> None:
    moved = _moved(Expression(mouth_open=1.0))
    assert (moved[[56, 57, 58, 65, 66, 67, 7, 8, 9], 1] > 8).all()
    assert (moved[6:11, 1] > 5).all()
    np.testing.assert_allclose(moved[17:48], 0, atol=0.8)
    np.testing.assert_allclose(moved[[50, 51, 52, 61, 62, 63]], 0, atol=2.0)
    assert (np.linalg.norm(moved[[0, 16]], axis=1) < 2).all()


def test_mouth_is_shut_at_rest_and_its_landmarks_coincide() -> None:
    points = render(BRUNO, BIG, WIDTH, HEIGHT).landmarks_px_68x2
    np.testing.assert_allclose(points[[61, 62, 63]], points[[67, 66, 65]], atol=1e-6)


def test_smile_lifts_and_spreads_the_corners() -> None:
    moved = _moved(Expression(smile=1.0))
    assert moved[48, 0] < -3
    assert moved[54, 0] > 3
    assert (moved[[48, 54], 1] < -3).all()
    np.testing.assert_allclose(moved[[*range(17, 31), *range(36, 40)]], 0, atol=1.0)


def test_raised_brows_move_up_alone() -> None:
    moved = _moved(Expression(brow_raise=1.0))
    assert (moved[17:27, 1] < -2.5).all()
    np.testing.assert_allclose(moved[[*range(17), *range(29, 36), *range(48, 68)]], 0, atol=0.6)


def test_gaze_moves_no_landmark_but_the_pupils() -> None:
    np.testing.assert_array_equal(_moved(Expression(gaze_x=1.0)), 0)
    right, left = (
        render(ADA, replace(BIG, expression=Expression(gaze_x=x)), WIDTH, HEIGHT).image_bgr_HWC.astype(int).sum(axis=-1)
        for x in (1.0, -1.0)
    )
    box = render(ADA, BIG, WIDTH, HEIGHT).landmarks_px_68x2[42:48].round().astype(int)
    rows, columns = slice(box[:, 1].min() + 1, box[:, 1].max()), slice(box[:, 0].min(), box[:, 0].max())
    assert right[rows, columns].min(axis=0).argmin() > left[rows, columns].min(axis=0).argmin() + 4


def test_landmarks_are_independent_of_resolution_and_place() -> None:
    small, large = (render(ADA, BIG, WIDTH * k, HEIGHT * k) for k in (1, 3))
    np.testing.assert_allclose((small.landmarks_px_68x2 + 0.5) * 3, large.landmarks_px_68x2 + 0.5, atol=1e-6)
    moved = render(ADA, replace(BIG, center_x=0.6), WIDTH, HEIGHT)
    np.testing.assert_allclose(moved.landmarks_px_68x2 - small.landmarks_px_68x2, [[0.1 * WIDTH, 0]] * 68, atol=1e-6)


def test_occluder_is_cut_out_of_masks_and_hides_landmarks() -> None:
    free = render(ADA, BIG, WIDTH, HEIGHT)
    state = replace(BIG, occluder=Occluder("bar", 0.5, 0.5, 0.15, 90.0))
    ada, bruno = render(ADA, state, WIDTH, HEIGHT), render(BRUNO, state, WIDTH, HEIGHT)
    band = slice(HEIGHT // 2 - 16, HEIGHT // 2 + 16)  # 36 px wide
    for frame in (ada, bruno):
        assert not frame.face_mask_HW[band].any()
        assert not frame.head_mask_HW[band].any()
    np.testing.assert_array_equal(ada.image_bgr_HWC[band], bruno.image_bgr_HWC[band])
    np.testing.assert_array_equal(ada.image_bgr_HWC[: HEIGHT // 2 - 20], free.image_bgr_HWC[: HEIGHT // 2 - 20])
    behind = np.abs(ada.landmarks_px_68x2[:, 1] - (HEIGHT / 2 - 0.5)) < 16
    assert behind.any()
    assert not ada.visible_68[behind].any()
    assert ada.visible_68[~behind].sum() > 20


def test_light_comes_from_where_it_is_said() -> None:
    def halves(direction: tuple[float, float, float]) -> tuple[float, float]:
        frame = render(BRUNO, replace(BIG, light=Light(direction_xyz=direction)), WIDTH, HEIGHT)
        face, middle = frame.face_mask_HW > 0, WIDTH // 2
        image = frame.image_bgr_HWC.astype(float)
        return image[:, :middle][face[:, :middle]].mean(), image[:, middle:][face[:, middle:]].mean()

    left, right = halves((-1.0, -0.3, -0.5))
    assert left > right * 1.3
    left, right = halves((1.0, -0.3, -0.5))
    assert right > left * 1.3


def test_head_outside_the_frame_leaves_the_background() -> None:
    away = render(ADA, replace(BIG, center_x=5.0), WIDTH, HEIGHT)
    assert not away.head_mask_HW.any()
    assert not away.face_mask_HW.any()
    assert not away.visible_68.any()
    half = render(ADA, replace(BIG, center_x=0.0), WIDTH, HEIGHT)
    assert half.face_mask_HW[:, 0].any()
    assert not half.visible_68[half.landmarks_px_68x2[:, 0] < -0.5].any()


@pytest.mark.parametrize("size", [(16, 16), (33, 57), (641, 359)])
def test_any_size_works(size: tuple[int, int]) -> None:
    (frame,) = render_clip(ADA, [BIG], *size)
    assert frame.image_bgr_HWC.shape == (size[1], size[0], 3)
    assert frame.image_bgr_HWC.dtype == frame.face_mask_HW.dtype == np.uint8
    assert set(np.unique(frame.face_mask_HW)) == {0, 255}
    assert frame.landmarks_px_68x2.dtype == np.float64


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="for each side"):
        render(ADA, BIG, 8, 100)


def test_every_shape_parameter_at_its_limits_keeps_a_face() -> None:
    parameters = ("face_width", "jaw_width", "eye_spacing", "eye_size", "nose_width", "mouth_width", "lip_fullness")
    for sign in (-1.0, 1.0):
        who = Identity("limit", **dict.fromkeys(parameters, sign))
        frame = render(who, replace(BIG, expression=Expression(mouth_open=0.5)), WIDTH, HEIGHT)
        points = frame.landmarks_px_68x2
        assert np.isfinite(points).all()
        assert (np.diff(points[[36, 39, 42, 45], 0]) > 3).all()
        assert (np.diff(points[[33, 51, 57, 8], 1]) > 3).all()
        assert frame.visible_68[17:].all()
