"""Noise falls, moving edges stay, and a frame's result hangs on its window alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ml_common.media.denoise import SUPPORT_FRAMES, denoise
from ml_common.synthetic import IDENTITIES, performance, render_clip

_SIGMA = 5.0  # of 255: what factor 7 is made for


@pytest.fixture(scope="module")
def head():
    identity = next(iter(IDENTITIES.values()))
    return [frame.image_bgr_HWC for frame in render_clip(identity, performance(3, 12), 320, 240)]


@pytest.fixture(scope="module")
def box():
    """A box and a thin line that move 18 px a frame before a rich still background."""
    grain = np.random.default_rng(0).integers(0, 255, (160, 320, 3)).astype(np.float32)
    still = np.clip((cv2.GaussianBlur(grain, (0, 0), 1.5) - 128) * 3 + 128, 0, 255)
    frames = []
    for index in range(12):
        frame, left = still.copy(), 5 + 18 * index
        frame[30:110, left : left + 60] = (30, 200, 240)
        cv2.line(frame, (left, 120), (left + 40, 150), (255, 255, 255), 2)
        frames.append(frame.astype(np.uint8))
    return frames


def _noisy(frames, sigma=_SIGMA):
    rng = np.random.default_rng(5)
    return [np.clip(np.rint(frame + rng.normal(0, sigma, frame.shape)), 0, 255).astype(np.uint8) for frame in frames]


def _window(frames, index):
    first = max(0, index - SUPPORT_FRAMES)
    return frames[first : index + SUPPORT_FRAMES + 1], index - first


def _psnr_db(image, truth, where=None):
    error = (image.astype(float) - truth) ** 2
    return 10 * np.log10(255**2 / error[where if where is not None else slice(None)].mean())


def _gains_db(clean, factor, sigma=_SIGMA):
    """(over the picture, where it moves), averaged over frames from the start, the middle and the end."""
    noisy, gains = _noisy(clean, sigma), []
    for index in (0, 5, 11):
        result = denoise(*_window(noisy, index), factor)
        other = clean[index - 1 if index else 1]
        moved = (np.abs(clean[index].astype(int) - other).max(-1) > 12).astype(np.uint8)
        moving = cv2.dilate(moved, np.ones((5, 5), np.uint8)) > 0
        before = [_psnr_db(noisy[index], clean[index]), _psnr_db(noisy[index], clean[index], moving)]
        after = [_psnr_db(result, clean[index]), _psnr_db(result, clean[index], moving)]
        gains.append(np.subtract(after, before))
    return np.mean(gains, axis=0)


def test_noise_falls_and_motion_stays_sharp(head, box):
    for clean, overall_db, moving_db in ((head, 5.0, 1.0), (box, 5.5, 2.0)):
        overall, moving = _gains_db(clean, 7)
        assert overall > overall_db
        assert moving > moving_db


def test_a_still_picture_gains_as_much_as_averaging(box):
    """Seven frames that only noise tells apart: 10 log10(7) = 8.5 dB, less what weights under 1 cost."""
    clean = [box[0]] * 7
    noisy = _noisy(clean)
    gain_db = _psnr_db(denoise(noisy, 3, 12), clean[3]) - _psnr_db(noisy[3], clean[3])
    assert gain_db > 7.5


def test_the_factor_is_how_much(head):
    noisy = _noisy(head)
    changes = [
        np.abs(denoise(*_window(noisy, 5), factor).astype(int) - noisy[5]).mean() for factor in (1, 4, 7, 12, 20)
    ]
    assert changes == sorted(changes)
    assert changes[0] < 0.2 * changes[-1]
    clean_cost = _psnr_db(denoise(*_window(head, 5), 7), head[5])
    assert clean_cost > 40  # a clean picture is hardly touched


def test_nothing_of_a_moved_thing_is_left_behind():
    """A bright square that is elsewhere in every other frame leaves no ghost."""
    frames = [np.full((80, 200, 3), 60, np.uint8) for _ in range(7)]
    for index, frame in enumerate(frames):
        frame[20:50, 10 + 25 * index : 30 + 25 * index] = 200
    result = denoise(frames, 3, 20)
    assert np.abs(result.astype(int) - frames[3]).max() <= 8


def test_a_cut_in_the_window_is_seen(head, box):
    first, second = head[5], cv2.resize(box[5], (320, 240))
    window = [first] * 3 + [second] * 3
    assert _psnr_db(denoise(window, 2, 7), first) > 40
    assert _psnr_db(denoise(window, 2, 7), denoise(window[:3], 2, 7)) > 45


def test_a_frame_hangs_on_its_window_alone(head):
    """Chunks with an overlap of the support give the whole clip's frames, bit for bit."""
    noisy = _noisy(head)
    whole = [denoise(*_window(noisy, index), 7) for index in range(len(noisy))]
    start = 4 - SUPPORT_FRAMES
    chunk = [frame.copy() for frame in noisy[start : 8 + SUPPORT_FRAMES]]
    for index in range(4, 8):
        window, centre = _window(chunk, index - start)
        assert np.array_equal(denoise(window, centre, 7), whole[index])


def test_depths_agree(head):
    noisy = _noisy(head)[:7]
    result = denoise(noisy, 3, 7)
    deep = denoise([frame.astype(np.uint16) * 257 for frame in noisy], 3, 7)
    assert (result.dtype, deep.dtype) == (np.uint8, np.uint16)
    assert np.abs(deep / 257.0 - result).max() <= 0.51
    assert len(np.unique(deep)) > 256  # not 8 bits stretched
    linear = [(frame / np.float32(255)) ** 2 for frame in noisy]
    as_float = denoise(linear, 3, 7)
    assert as_float.dtype == np.float32
    clean = (head[3] / 255.0) ** 2
    assert np.square(as_float - clean).mean() < 0.35 * np.square(linear[3] - clean).mean()


def test_float_values_out_of_range_and_no_numbers_stay():
    rng = np.random.default_rng(1)
    window = [rng.normal(0.5, 0.01, (40, 50, 3)).astype(np.float32) for _ in range(7)]
    for frame in window:
        frame[:, 25:] *= 30  # highlights
        frame[0, 0] = -0.5
    window[3][10, 10, 1] = np.nan
    window[3][20, 30, 0] = np.inf
    window[5][30, 30] = np.nan
    result = denoise(window, 3, 7)
    lost = ~np.isfinite(result)
    assert (np.isnan(result[10, 10, 1]), result[20, 30, 0]) == (True, np.inf)
    assert lost.sum() == 2
    assert result[:, 30:].max() > 14
    assert result[0, 0].max() < 0


def test_one_frame_and_tiny_pictures():
    frame = np.random.default_rng(2).integers(0, 255, (1, 1, 3)).astype(np.uint8)
    assert np.abs(denoise([frame], 0, 7).astype(int) - frame).max() <= 1
    assert denoise([frame] * 7, 3, 20).shape == (1, 1, 3)


def test_bad_wishes():
    frame = np.zeros((8, 8, 3), np.uint8)
    for factor in (0, 0.5, 21):
        with pytest.raises(ValueError, match="1 to 20"):
            denoise([frame], 0, factor)
    for window, centre in (([frame] * 9, 4), ([frame] * 5, 4), ([frame], 1), ([], 0)):
        with pytest.raises(ValueError, match="window"):
            denoise(window, centre, 7)
    with pytest.raises(ValueError, match="mixes"):
        denoise([frame, np.zeros((8, 9, 3), np.uint8)], 0, 7)
    with pytest.raises(ValueError, match="mixes"):
        denoise([frame, frame.astype(np.uint16)], 0, 7)
    with pytest.raises(ValueError, match="uint8"):
        denoise([frame.astype(float)], 0, 7)
