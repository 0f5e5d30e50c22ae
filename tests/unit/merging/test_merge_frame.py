"""What a merge promises for any input: untouched pixels, dtypes, order, borders, errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_common.color import COLOR_TRANSFERS
from ml_common.geometry import FaceType, HEAD_MODEL_68x3
from ml_common.merging import MergeFace, MergeSettings, Prediction, merge_frame, network_crop, network_crops

WHOLE = FaceType.WHOLE_FACE
SIDE = 48


def landmarks_at(x, y, scale=0.6, degrees=0.0):
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return HEAD_MODEL_68x3[:, :2] @ rotation.T * scale + [x, y]


def oval(side=SIDE):
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) / side
    return np.clip((1 - np.hypot(x / 0.36, y / 0.42)) * 6, 0, 1).astype(np.float32)


def face_at(x, y, scale=0.6, degrees=0.0, seed=0, side=SIDE):
    image = np.random.default_rng(seed).random((side, side, 3)).astype(np.float32)
    return MergeFace(landmarks_at(x, y, scale, degrees), Prediction(image, oval(side), oval(side)))


def random_frame(dtype, seed=0, height=180, width=240):
    rng = np.random.default_rng(seed)
    if dtype == np.float32:
        # Footage beyond black and white, as in scene-linear files.
        return (rng.random((height, width, 3)) * 4 - 1).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, 3), dtype=dtype, endpoint=True)


some_settings = st.builds(
    MergeSettings,
    mode=st.sampled_from(["original", "overlay", "hist-match"]),
    mask_mode=st.sampled_from(
        ["full", "dst", "learned-prd", "learned-dst", "learned-prd*learned-dst", "learned-prd+learned-dst"]
    ),
    erode=st.integers(-60, 60),
    blur=st.integers(0, 90),
    color_transfer=st.sampled_from(["none", "rct", "lct", "mkl", "mkl-m"]),
    face_scale=st.integers(-50, 50),
    flavour=st.sampled_from(["default", "reference"]),
)


@settings(max_examples=80, deadline=None)
@given(
    chosen=some_settings,
    dtype=st.sampled_from([np.uint8, np.uint16, np.float32]),
    places=st.lists(
        st.tuples(st.floats(-60, 300), st.floats(-60, 240), st.floats(0.05, 1.5), st.floats(-180, 180)),
        min_size=1,
        max_size=3,
    ),
    face_type=st.sampled_from([FaceType.HALF, FaceType.FULL, FaceType.WHOLE_FACE, FaceType.HEAD]),
)
def test_pixels_without_alpha_are_bit_identical(chosen, dtype, places, face_type):
    frame = random_frame(dtype)
    before = frame.copy()
    result = merge_frame(frame, [face_at(*place, seed=i) for i, place in enumerate(places)], face_type, chosen)
    assert result.image_bgr_HWC.dtype == dtype
    assert result.image_bgr_HWC.shape == frame.shape
    assert result.mask_HW.shape == frame.shape[:2]
    assert result.mask_HW.dtype == np.float32
    assert 0 <= result.mask_HW.min() <= result.mask_HW.max() <= 1
    untouched = result.mask_HW == 0
    np.testing.assert_array_equal(result.image_bgr_HWC[untouched], before[untouched])
    np.testing.assert_array_equal(frame, before)
    assert np.isfinite(result.image_bgr_HWC.astype(np.float64)).all()


@pytest.mark.parametrize("flavour", ["default", "reference"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_raw_rgb_touches_only_the_square(dtype, flavour):
    frame = random_frame(dtype)
    face = face_at(100, 90, 0.3, 20)
    result = merge_frame(frame, [face], WHOLE, MergeSettings(mode="raw-rgb", flavour=flavour))
    square = merge_frame(
        frame, [face], WHOLE, MergeSettings(mask_mode="full", color_transfer="none", flavour="default")
    )
    far = square.mask_HW == 0
    far[:-4] &= far[4:]
    far[4:] &= far[:-4]
    far[:, :-4] &= far[:, 4:]
    far[:, 4:] &= far[:, :-4]
    np.testing.assert_array_equal(result.image_bgr_HWC[far], frame[far])
    assert (result.image_bgr_HWC != frame).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_inside_the_mask_the_face_is_pasted(dtype):
    frame = random_frame(dtype)
    colour = np.array([0.25, 0.5, 0.75], np.float32)
    face = MergeFace(landmarks_at(120, 90), Prediction(np.tile(colour, (SIDE, SIDE, 1)), oval(), oval()))
    result = merge_frame(frame, [face], WHOLE, MergeSettings(color_transfer="none"))
    white = 1 if dtype == np.float32 else np.iinfo(dtype).max
    inside = result.mask_HW > 0.99999
    assert inside.sum() > 500
    pasted = result.image_bgr_HWC[inside].astype(np.float64) / white
    assert np.abs(pasted - colour).max() <= (0.5 / white if white > 1 else 0) + 1e-4


def test_16_bit_frames_keep_their_precision():
    frame = random_frame(np.uint16)
    ramp = np.linspace(0.4, 0.41, SIDE, dtype=np.float32)
    face = MergeFace(landmarks_at(120, 90), Prediction(np.tile(ramp[:, None, None], (1, SIDE, 3)), oval(), oval()))
    result = merge_frame(frame, [face], WHOLE, MergeSettings(color_transfer="none"))
    # 8-bit steps would leave three values in this ramp.
    assert len(np.unique(result.image_bgr_HWC[result.mask_HW > 0.99999])) > 100


def test_the_blend_is_the_alpha_between_footage_and_face():
    frame = np.full((180, 240, 3), 3.0, np.float32)
    face = MergeFace(landmarks_at(120, 90), Prediction(np.zeros((SIDE, SIDE, 3), np.float32), oval(), oval()))
    result = merge_frame(frame, [face], WHOLE, MergeSettings(color_transfer="none", blur=30))
    np.testing.assert_allclose(result.image_bgr_HWC, 3.0 * (1 - result.mask_HW[..., None].repeat(3, 2)), atol=1e-5)


@pytest.mark.parametrize("flavour", ["default", "reference"])
def test_faces_apart_merge_in_any_order(flavour):
    frame = random_frame(np.uint8, width=420)
    faces = [face_at(90, 90, 0.4), face_at(320, 90, 0.4, 30, seed=1)]
    one = merge_frame(frame, faces, WHOLE, MergeSettings(flavour=flavour))
    other = merge_frame(frame, faces[::-1], WHOLE, MergeSettings(flavour=flavour))
    if flavour == "default":
        np.testing.assert_array_equal(one.image_bgr_HWC, other.image_bgr_HWC)
    np.testing.assert_array_equal(one.mask_HW, other.mask_HW)


def test_where_faces_overlap_the_later_one_lies_on_top():
    frame = np.zeros((180, 240, 3), np.float32)
    colours = (0.2, 0.8)
    faces = [
        MergeFace(landmarks_at(100 + 30 * i, 90), Prediction(np.full((SIDE, SIDE, 3), c, np.float32), oval(), oval()))
        for i, c in enumerate(colours)
    ]
    setting = MergeSettings(color_transfer="none", blur=20)
    alphas = [merge_frame(frame, [face], WHOLE, setting).mask_HW for face in faces]
    both = merge_frame(frame, faces, WHOLE, setting)
    expected = alphas[0] * colours[0] * (1 - alphas[1]) + alphas[1] * colours[1]
    np.testing.assert_allclose(both.image_bgr_HWC[..., 0], expected, atol=1e-5)
    np.testing.assert_allclose(both.mask_HW, 1 - (1 - alphas[0]) * (1 - alphas[1]), atol=1e-6)


def test_three_overlapping_faces_equal_merging_one_after_another_in_float():
    frame = random_frame(np.float32)
    faces = [face_at(80 + 40 * i, 90, seed=i) for i in range(3)]
    setting = MergeSettings(color_transfer="none", blur=20)
    step_by_step = frame
    for face in faces:
        step_by_step = merge_frame(step_by_step, [face], WHOLE, setting).image_bgr_HWC
    np.testing.assert_allclose(merge_frame(frame, faces, WHOLE, setting).image_bgr_HWC, step_by_step, atol=1e-5)


@pytest.mark.parametrize("flavour", ["default", "reference"])
def test_a_face_outside_the_frame_changes_nothing(flavour):
    frame = random_frame(np.uint8)
    result = merge_frame(frame, [face_at(-900, 4000)], WHOLE, MergeSettings(flavour=flavour))
    np.testing.assert_array_equal(result.image_bgr_HWC, frame)
    assert not result.mask_HW.any()


@pytest.mark.parametrize("color", ["none", *(name for name in COLOR_TRANSFERS if name != "sot")])
def test_a_face_at_the_edge_is_cut_and_not_darkened_by_the_black_outside(color):
    frame = np.full((180, 240, 3), 160, np.uint8)
    face = MergeFace(landmarks_at(2, 90), Prediction(np.full((SIDE, SIDE, 3), 160 / 255, np.float32), oval(), oval()))
    result = merge_frame(frame, [face], WHOLE, MergeSettings(color_transfer=color))
    assert result.mask_HW[:, 0].max() > 0.5
    assert np.abs(result.image_bgr_HWC.astype(int) - 160).max() <= 2


def test_no_faces_and_empty_masks_give_the_frame_back():
    frame = random_frame(np.uint16)
    nothing = np.zeros((SIDE, SIDE), np.float32)
    empty = MergeFace(landmarks_at(120, 90), Prediction(np.ones((SIDE, SIDE, 3), np.float32), nothing, nothing))
    for faces in ([], [empty]):
        for flavour in ("default", "reference"):
            result = merge_frame(frame, faces, WHOLE, MergeSettings(flavour=flavour))
            np.testing.assert_array_equal(result.image_bgr_HWC, frame)
            assert result.image_bgr_HWC is not frame


def test_mask_settings_do_what_they_say():
    frame = random_frame(np.uint8)
    face = face_at(120, 90)
    area = {
        name: merge_frame(frame, [face], WHOLE, MergeSettings(**changes)).mask_HW
        for name, changes in {
            "plain": {},
            "eroded": {"erode": 20},
            "dilated": {"erode": -20},
            "blurred": {"blur": 40},
            "smaller": {"face_scale": 25},
            "full": {"mask_mode": "full"},
        }.items()
    }
    assert area["eroded"].sum() < area["plain"].sum() < area["dilated"].sum() < area["full"].sum()
    assert area["smaller"].sum() == pytest.approx(area["plain"].sum() / 1.25**2, rel=0.02)
    steepest = {name: np.abs(np.diff(mask, axis=1)).max() for name, mask in area.items()}
    assert steepest["blurred"] < steepest["plain"]


@pytest.mark.parametrize(
    "changes", [{"erode": 10}, {"erode": 30}, {"blur": 10}, {"blur": 24}, {"erode": 10, "blur": 40}]
)
def test_the_mask_stays_centred_on_the_face_whatever_grid_it_is_worked_on(changes):
    frame = random_frame(np.uint8)
    face = face_at(120, 90)

    def centre(**settings):
        mask = merge_frame(frame, [face], WHOLE, MergeSettings(mode="original", **settings)).mask_HW
        return np.array([mask.sum(0) @ np.arange(240), mask.sum(1) @ np.arange(180)]) / mask.sum()

    # The oval is symmetric about its middle, so eroding and blurring must not move it.
    np.testing.assert_allclose(centre(**changes), centre(), atol=0.1)


@pytest.mark.parametrize("limits", [(12, 13), (48, 49)])
def test_the_erosion_is_continuous_where_its_grid_changes(limits):
    frame = random_frame(np.uint8)
    face = face_at(120, 90)
    sums = [merge_frame(frame, [face], WHOLE, MergeSettings(mode="original", erode=e)).mask_HW.sum() for e in limits]
    assert sums[0] == pytest.approx(sums[1], rel=0.04)


def test_the_same_seed_gives_the_same_frame():
    frame, face = random_frame(np.uint8), face_at(120, 90)
    one, again, other = (
        merge_frame(frame, [face], WHOLE, MergeSettings(color_transfer="idt-m", color_seed=seed)).image_bgr_HWC
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_network_crops_are_float_bgr_and_batched():
    frames = [random_frame(np.uint8), random_frame(np.uint16, 1), random_frame(np.float32, 2)]
    landmarks = [landmarks_at(120, 90), landmarks_at(60, 60, 1.1, 40), landmarks_at(230, 10)]
    batch = network_crops(frames, landmarks, WHOLE, 32)
    assert batch.shape == (3, 32, 32, 3)
    assert batch.dtype == np.float32
    assert 0 <= batch.min() <= batch.max() <= 1
    for crop, frame, points in zip(batch, frames, landmarks, strict=True):
        np.testing.assert_array_equal(crop, network_crop(frame, points, WHOLE, 32))
    assert network_crops([], [], WHOLE, 32).shape == (0, 32, 32, 3)
    with pytest.raises(ValueError, match="one frame per face"):
        network_crops(frames, landmarks[:2], WHOLE, 32)


def test_crops_of_the_same_picture_agree_across_dtypes():
    frame = random_frame(np.uint8)
    crop = network_crop(frame, landmarks_at(120, 90), WHOLE, 40)
    for other in (frame.astype(np.uint16) * 257, frame.astype(np.float32) / np.float32(255)):
        np.testing.assert_allclose(network_crop(other, landmarks_at(120, 90), WHOLE, 40), crop, atol=1e-5)


@pytest.mark.parametrize("flavour", ["default", "reference"])
def test_degenerate_landmarks_are_refused(flavour):
    face = MergeFace(np.full((68, 2), 50.0), face_at(0, 0).prediction)
    with pytest.raises(ValueError, match="coincide"):
        merge_frame(random_frame(np.uint8), [face], WHOLE, MergeSettings(flavour=flavour))


@pytest.mark.parametrize(
    "frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float64)]
)
def test_wrong_frames_are_refused(frame):
    with pytest.raises(ValueError, match="a frame must be"):
        merge_frame(frame, [], WHOLE, MergeSettings())


def test_wrong_predictions_are_refused():
    image, mask = np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.float32)
    with pytest.raises(ValueError, match="mask_RR must be float32"):
        Prediction(image, mask[:4], mask)
    with pytest.raises(ValueError, match="image_bgr_RR3 must be float32"):
        Prediction(image.astype(np.float64), mask, mask)
    with pytest.raises(ValueError, match="NaN"):
        Prediction(image, mask, np.full((8, 8), np.nan, np.float32))
