"""Colour transfers against golden numbers (tests/golden/color) and by their properties.

In the golden file "src" is the picture that was changed and "trg" the one it should look like.
"""

from pathlib import Path

import numpy as np
import pytest

from ml_common.color import (
    COLOR_TRANSFERS,
    lct,
    match_histogram,
    mkl,
    rct,
    reference_transfer_color,
    transfer_color,
)
from ml_common.color.distribution import draw_rotations, idt, mix_8bit, sot

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "color" / "color.npz")
TARGET, SOURCE, MASK = GOLDEN["src"], GOLDEN["trg"], GOLDEN["mask"][..., 0]


@pytest.mark.parametrize(
    ("name", "tolerance", "make"),
    [
        ("ct_rct", 1e-5, lambda: rct(TARGET, SOURCE)),
        ("ct_rct", 1e-5, lambda: transfer_color("rct", TARGET, SOURCE)),
        ("rct_masked", 2e-5, lambda: reference_transfer_color("rct", TARGET, SOURCE, MASK)),
        ("ct_lct", 1e-5, lambda: lct(TARGET, SOURCE)),
        ("ct_mkl", 1e-5, lambda: mkl(TARGET, SOURCE)),
        ("mkl_masked", 1e-5, lambda: reference_transfer_color("mkl-m", TARGET, SOURCE, MASK)),
        ("ct_idt", 1e-4, lambda: idt(TARGET, SOURCE, rotations_K33=GOLDEN["idt_rotations"], lowest_to_zero=True)),
        ("ct_sot", 1e-5, lambda: transfer_color("sot", TARGET, SOURCE, seed=0)),
        ("hist_match_255", 1e-6, lambda: match_histogram(TARGET, SOURCE, 255)),
        ("hist_match_238", 1e-6, lambda: match_histogram(TARGET, SOURCE, 238)),
    ],
)
def test_agrees_with_the_golden_picture(name, tolerance, make):
    result = make()
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, GOLDEN[name], atol=tolerance)


def test_dense_sot_agrees_up_to_the_final_clip():
    expected = np.clip(GOLDEN["sot_steps10_batch30"], 0, 1)
    np.testing.assert_allclose(transfer_color("sot-m", TARGET, SOURCE, seed=0), expected, atol=1e-5)


def test_mix_agrees_but_for_some_8_bit_steps():
    difference = np.abs(mix_8bit(TARGET, SOURCE, seed=0) - GOLDEN["mix"])
    assert difference.mean() < 1e-3
    assert difference.max() < 13 / 255


@pytest.mark.parametrize("name", COLOR_TRANSFERS)
def test_every_registered_transfer_moves_the_target_towards_the_source(name):
    weights = np.ones(TARGET.shape[:2], np.float32)
    result = transfer_color(name, TARGET, SOURCE, weights, weights, seed=3)
    assert result.shape == TARGET.shape
    assert result.dtype == np.float32
    assert 0 <= result.min() <= result.max() <= 1
    before = np.abs(TARGET.mean((0, 1)) - SOURCE.mean((0, 1))).sum()
    assert np.abs(result.mean((0, 1)) - SOURCE.mean((0, 1))).sum() < 0.6 * before
    np.testing.assert_array_equal(result, transfer_color(name, TARGET, SOURCE, weights, weights, seed=3))


@pytest.mark.parametrize("name", COLOR_TRANSFERS)
def test_what_has_no_weight_has_no_say(name):
    weights = np.zeros(TARGET.shape[:2], np.float32)
    weights[10:40, 12:50] = 1.0
    other_target, other_source = TARGET.copy(), SOURCE.copy()
    other_target[weights == 0], other_source[weights == 0] = 0.9, 0.1
    inside = weights > 0
    a = transfer_color(name, TARGET, SOURCE, weights, weights)[inside]
    b = transfer_color(name, other_target, other_source, weights, weights)[inside]
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_soft_weights_count_by_their_share():
    doubled_target = np.concatenate((TARGET, TARGET[:, :20]), axis=1)
    doubled_source = np.concatenate((SOURCE, SOURCE[:, :20]), axis=1)
    weights = np.full(TARGET.shape[:2], 0.5, np.float32)
    weights[:, :20] = 1.0
    for function in (rct, lct):
        expected = function(doubled_target, doubled_source)[:, : TARGET.shape[1]]
        np.testing.assert_allclose(function(TARGET, SOURCE, weights, weights), expected, atol=1e-5)


@pytest.mark.parametrize("name", COLOR_TRANSFERS)
def test_flat_pictures_give_finite_colours(name):
    flat = np.full((16, 16, 3), 0.4, np.float32)
    weights = np.ones((16, 16), np.float32)
    for target, source in ((flat, SOURCE[:16, :16]), (SOURCE[:16, :16], flat), (flat, flat)):
        assert np.isfinite(transfer_color(name, target, source, weights, weights)).all()


def test_a_flat_target_moves_to_the_source_mean():
    flat = np.full((16, 16, 3), 0.4, np.float32)
    other = np.full((16, 16, 3), (0.2, 0.5, 0.7), np.float32)
    np.testing.assert_allclose(rct(flat, other), other, atol=1e-3)


@pytest.mark.parametrize("function", [rct, lct, mkl])
def test_a_picture_matched_to_itself_stays(function):
    picture = TARGET * 0.8 + 0.1
    np.testing.assert_allclose(function(picture, picture), picture, atol=2e-3)


def test_rotations_are_rotations_and_repeat_with_the_seed():
    rotations = draw_rotations(20, 5)
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (20, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0)
    np.testing.assert_array_equal(rotations, draw_rotations(20, 5))


def test_sizes_may_differ():
    small = SOURCE[:20, :30].copy()
    directions = np.eye(3)[None]
    assert sot(TARGET, small, directions_SB3=directions).shape == TARGET.shape
    for name in ("rct", "lct", "mkl", "idt"):
        assert transfer_color(name, TARGET, small).shape == TARGET.shape


def test_unusable_input_is_refused():
    nothing = np.zeros(TARGET.shape[:2], np.float32)
    with pytest.raises(ValueError, match="weights"):
        rct(TARGET, SOURCE, nothing, nothing)
    with pytest.raises(ValueError, match="weight"):
        transfer_color("sot-m", TARGET, SOURCE, nothing, nothing)
    with pytest.raises(ValueError, match="unknown colour transfer 'magic'"):
        transfer_color("magic", TARGET, SOURCE)
    with pytest.raises(ValueError, match="threshold"):
        match_histogram(TARGET, SOURCE, 256)
