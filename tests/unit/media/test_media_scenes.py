"""Scene cuts: hard cuts are found at their frame; flashes, pans, fades and dissolves are none."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from ml_common.media.scenes import SIGNATURE_SIZE, frame_signature, scene_cuts
from ml_common.synthetic import IDENTITIES, performance, render_clip

_SIZE = (240, 136)


def _place(seed, height=200, width=2200):
    """A wide soft picture with blobs of several sizes and colours, to pan over."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), rng.integers(30, 220, 3), np.float32)
    for _ in range(100):
        center = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        colour = tuple(float(value) for value in rng.integers(0, 255, 3))
        cv2.circle(image, center, int(rng.integers(15, 130)), colour, -1)
    return cv2.GaussianBlur(image, (0, 0), 2)


def _shot(seed, count, speed_px=1.0):
    """``count`` frames panning over a place of its own, with grain."""
    place = _place(seed)
    rng = np.random.default_rng(seed + 1000)
    width, height = _SIZE
    frames = []
    for index in range(count):
        left = int(20 + speed_px * index)
        view = place[30 : 30 + height, left : left + width]
        frames.append(np.clip(view + rng.normal(0, 4, view.shape), 0, 255).astype(np.uint8))
    return frames


def _cuts(frames, numbers=None, **options):
    signatures = np.stack([frame_signature(frame) for frame in frames])
    return scene_cuts(signatures, numbers or list(range(len(frames))), **options)


@pytest.mark.parametrize("speed_px", [0.0, 3.0, 10.0])
def test_hard_cuts_are_found_where_they_are(speed_px):
    frames, cuts = [], []
    for seed, count in enumerate((12, 8, 25, 6, 14)):
        cuts.append(len(frames))
        frames += _shot(seed, count, speed_px)
    assert _cuts(frames) == cuts[1:]


def test_talking_heads():
    """Rendered shots: another person before another wall, then the first one again."""
    frames = []
    first, second = list(IDENTITIES)[:2]
    for name, seed in ((first, 1), (second, 2), (first, 1)):
        states = [replace(state, background_seed=seed) for state in performance(seed, 14)]
        frames += [frame.image_bgr_HWC for frame in render_clip(IDENTITIES[name], states, 160, 120)]
    assert _cuts(frames) == [14, 28]


def test_a_fast_pan_is_no_cut():
    for speed_px in (10, 25, 45):
        assert _cuts(_shot(3, 40, speed_px)) == []


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("gain", [0.0, 1.8, 5.0])
def test_a_flash_or_a_dropout_is_no_cut(length, gain):
    frames = _shot(4, 30, 2.0)
    for index in range(12, 12 + length):
        frames[index] = np.clip(frames[index] * gain + (40 if gain else 0), 0, 255).astype(np.uint8)
    assert _cuts(frames) == []


def test_a_cut_under_a_flash_is_one_cut():
    frames = _shot(5, 15) + _shot(6, 15)
    frames[15] = np.full_like(frames[15], 250)
    assert _cuts(frames) in ([15], [16])


@pytest.mark.parametrize("length", [8, 16])
def test_fades_and_dissolves_are_no_cuts(length):
    first, second = _shot(7, 40, 1.0), _shot(8, 40, 1.0)
    weights = np.clip((np.arange(40) - 10) / length, 0, 1)
    to_black = [(frame * (1 - weight)).astype(np.uint8) for frame, weight in zip(first, weights, strict=True)]
    assert _cuts(to_black) == []
    assert _cuts(to_black[::-1]) == []
    mixed = [
        (a * (1 - weight) + b * weight).astype(np.uint8) for a, b, weight in zip(first, second, weights, strict=True)
    ]
    assert _cuts(mixed) == []


def test_numbers_with_gaps():
    frames = _shot(9, 10) + _shot(10, 10)
    numbers = [*range(1001, 1006), *range(1050, 1055), *range(1055, 1060), *range(1090, 1095)]
    assert _cuts(frames, numbers) == [1055]
    numbers = [*range(1001, 1011), *range(2000, 2010)]  # the cut falls into a gap
    assert _cuts(frames, numbers) == [2000]


def test_a_higher_threshold_finds_fewer():
    frames = [frame for seed in range(20, 28) for frame in _shot(seed, 10, 2.0)]
    found = [set(_cuts(frames, threshold=threshold)) for threshold in (0.05, 0.2, 0.6, 1.0)]
    assert found[0] >= found[1] >= found[2] >= found[3]
    assert len(found[1]) == 7
    assert not found[3]


def test_signatures_do_not_depend_on_depth_or_size():
    frame = _shot(11, 1)[0]
    signature = frame_signature(frame)
    assert (signature.shape, signature.dtype) == ((SIGNATURE_SIZE,), np.float32)
    assert SIGNATURE_SIZE <= 256
    assert np.allclose(frame_signature(frame.astype(np.uint16) * 257), signature, atol=1e-5)
    assert np.allclose(frame_signature(frame.astype(np.float32) / 255), signature, atol=1e-5)
    larger = cv2.resize(frame, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    other = frame_signature(_shot(12, 1)[0])
    assert np.abs(frame_signature(larger) - signature).mean() < 0.1 * np.abs(other - signature).mean()


def test_odd_pictures():
    for shape in ((1, 1, 3), (1, 500, 3), (700, 2, 3)):
        assert np.isfinite(frame_signature(np.zeros(shape, np.uint8))).all()
    wild = np.full((20, 20, 3), np.nan, np.float32)
    wild[0] = np.inf
    wild[1] = -1e30
    assert np.isfinite(frame_signature(wild)).all()
    with pytest.raises(ValueError, match="uint8"):
        frame_signature(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match="H, W, 3"):
        frame_signature(np.zeros((4, 4), np.uint8))


def test_few_frames_and_bad_wishes():
    empty = np.zeros((0, SIGNATURE_SIZE), np.float32)
    assert scene_cuts(empty, []) == scene_cuts(empty[:0], []) == []
    assert _cuts(_shot(13, 1)) == []
    assert _cuts([_shot(13, 1)[0], _shot(14, 1)[0]], [7, 8]) == [8]
    assert _cuts([np.zeros((9, 9, 3), np.uint8)] * 20) == []
    with pytest.raises(ValueError, match="signatures"):
        scene_cuts(np.zeros((3, 5), np.float32), [1, 2, 3])
    with pytest.raises(ValueError, match="rise"):
        _cuts(_shot(13, 3), [1, 3, 3])
    for threshold in (-0.1, 1.1):
        with pytest.raises(ValueError, match="0 to 1"):
            _cuts(_shot(13, 2), threshold=threshold)
