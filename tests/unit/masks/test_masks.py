"""Masks from landmarks against golden numbers (tests/golden/geometry), and what the edges do."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ml_common.masks import (
    erode_blur,
    expand_eyebrows,
    eyes_mask,
    eyes_mouth_mask,
    hull_mask,
    hull_mask_window,
    mouth_mask,
    soft_hull_mask,
)

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "geometry" / "geometry.npz")
ALIGNED = GOLDEN["aligned_wf256"]


@pytest.mark.parametrize("index", range(8))
def test_masks_equal_the_golden_ones(index):
    landmarks = ALIGNED[index]
    for m, expand in enumerate(GOLDEN["hull_mask_mods"]):
        expected = np.unpackbits(GOLDEN["hull_mask_wf256_bits"][index, m], axis=-1)
        np.testing.assert_array_equal(hull_mask(landmarks, 256, 256, float(expand)), expected)
    np.testing.assert_allclose(eyes_mask(landmarks, 256, 256), GOLDEN["eye_mask_wf256"][index], atol=1e-6)
    np.testing.assert_allclose(mouth_mask(landmarks, 256, 256), GOLDEN["mouth_mask_wf256"][index], atol=1e-6)
    for m, expand in enumerate((0.0, 0.5, 1.0, 2.0)):
        np.testing.assert_array_equal(expand_eyebrows(landmarks, expand), GOLDEN["expand_eyebrows"][index, m])


def test_a_window_is_a_cut_out_of_the_whole():
    landmarks = ALIGNED[1] - 90.4
    whole = hull_mask(landmarks, 200, 220)
    np.testing.assert_array_equal(hull_mask_window(landmarks, 30, 10, 77, 88), whole[10:87, 30:118])


@pytest.mark.parametrize("index", range(8))
def test_the_soft_hull_has_the_same_shape(index):
    hard, soft = hull_mask(ALIGNED[index], 256, 256), soft_hull_mask(ALIGNED[index], 256, 256)
    inner = cv2.erode(hard, np.ones((7, 7))) > 0
    outer = cv2.dilate(hard, np.ones((7, 7))) == 0
    assert soft[inner].min() == 1.0
    assert soft[outer].max() == 0.0
    assert soft.sum() == pytest.approx(hard.sum(), rel=0.03)


def test_the_soft_hull_moves_with_fractions_of_a_pixel():
    areas = [soft_hull_mask(ALIGNED[0] + [shift, 0], 256, 256) for shift in (0.0, 0.25, 0.5, 0.75)]
    centres = [(area.sum(0) @ np.arange(256)) / area.sum() for area in areas]
    np.testing.assert_allclose(np.diff(centres), 0.25, atol=0.03)


@pytest.mark.parametrize("size", [1, 7, 15, 31, 32])
def test_small_images_have_masks_too(size):
    landmarks = ALIGNED[0] * size / 256
    for mask in (
        hull_mask(landmarks, size, size),
        soft_hull_mask(landmarks, size, size),
        eyes_mouth_mask(landmarks, size, size),
    ):
        assert mask.shape == (size, size)
        assert mask.dtype == np.float32
        assert 0 <= mask.min() <= mask.max() <= 1


def test_a_face_far_outside_leaves_nothing():
    assert hull_mask(ALIGNED[0] + 1e6, 64, 64).sum() == 0
    assert soft_hull_mask(ALIGNED[0] - 1e6, 64, 64).sum() == 0
    assert eyes_mouth_mask(ALIGNED[0] + 1e9, 64, 64).sum() == 0


def test_unusable_input_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        hull_mask(np.full((68, 2), np.nan), 64, 64)
    with pytest.raises(ValueError, match="1x1"):
        hull_mask(ALIGNED[0], 0, 64)
    with pytest.raises(ValueError, match="eyebrows_expand"):
        hull_mask(ALIGNED[0], 64, 64, -1.0)


def disc(size=128, radius=40.0):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (np.hypot(x, y) < radius).astype(np.float32)


@pytest.mark.parametrize("erode", [-40, -11, 11, 40])
def test_eroding_moves_the_edge_by_half_the_kernel(erode):
    radius = np.sqrt(erode_blur(disc(), erode, 0).sum() / np.pi)
    assert radius == pytest.approx(40.0 - erode / 2, abs=1.0)


@pytest.mark.parametrize(("erode", "blur"), [(0, 0), (13, 0), (-13, 0), (0, 30), (20, 41), (-30, 90), (0, 127)])
def test_padding_as_the_specification_describes_it_gives_the_same(erode, blur):
    rng = np.random.default_rng(0)
    mask = cv2.resize(rng.random((8, 8), dtype=np.float32), (128, 128))
    pad = 32
    padded = np.pad(mask, pad)
    if erode:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (abs(erode), abs(erode)))
        padded = (cv2.erode if erode > 0 else cv2.dilate)(padded, kernel)
    clip = pad + blur // 2
    padded[:clip] = padded[:, :clip] = padded[-clip:] = padded[:, -clip:] = 0
    if blur:
        padded = cv2.GaussianBlur(padded, (blur + 1 - blur % 2,) * 2, 0)
    np.testing.assert_allclose(erode_blur(mask, erode, blur), np.clip(padded[pad:-pad, pad:-pad], 0, 1), atol=1e-6)


def test_a_blur_wider_than_the_mask_empties_it_and_the_input_is_kept():
    mask = np.ones((20, 20), np.float32)
    assert erode_blur(mask, 0, 100).sum() == 0
    assert (mask == 1).all()


def test_wrong_masks_are_refused():
    with pytest.raises(ValueError, match="2D float32"):
        erode_blur(np.zeros((4, 4)), 1, 1)
    with pytest.raises(ValueError, match="0 or more"):
        erode_blur(np.zeros((4, 4), np.float32), 1, -1)
