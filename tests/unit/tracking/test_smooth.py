"""Smoothing a track: what it takes away, what it must keep, and that it looks no farther than it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_common.geometry import HEAD_MODEL_68x3
from ml_common.tracking import DEFAULT_RADIUS_FRAMES, smooth_track

Array = np.ndarray[Any, np.dtype[np.float64]]

EYES_PX = 100.0
NOISE_PX = 0.4


def head(yaw_deg: Any, *, center_px: Any = (320.0, 240.0), roll_deg: Any = 0.0) -> Array:
    """Landmarks [N, 68, 2] of the head model, turned; outer eye corners 100 px apart when frontal."""
    model = HEAD_MODEL_68x3 * (EYES_PX / np.ptp(HEAD_MODEL_68x3[[36, 45], 0]))
    yaw, roll = np.atleast_1d(np.radians(yaw_deg)), np.atleast_1d(np.radians(roll_deg))
    x = np.cos(yaw)[:, None] * model[:, 0] + np.sin(yaw)[:, None] * model[:, 2]
    seen = x + 1j * model[:, 1]
    seen = seen * np.exp(1j * roll)[:, None]
    center = np.atleast_2d(center_px)
    return np.stack((seen.real, seen.imag), axis=-1) + center[:, None]


def noisy(truth: Array, seed: int, noise_px: float = NOISE_PX) -> Array:
    """As landmarkers err: each point on its own, and all together a little in place, size and angle."""
    chance = np.random.default_rng(seed)
    count = len(truth)
    center = truth.mean(axis=1, keepdims=True)
    rigid = 1.0 + 0.004 * noise_px * (chance.normal(size=count) + 1j * chance.normal(size=count))
    around = (truth - center) @ np.array((1.0, 1.0j)) * rigid[:, None]
    result = center + np.stack((around.real, around.imag), axis=-1)
    result += 0.3 * noise_px * chance.normal(size=(count, 1, 2))
    # Jaw and lips are the least certain.
    points = np.full((68, 1), 0.4)
    points[:17], points[48:] = 1.0, 0.6
    noise: Array = result + noise_px * points * chance.normal(size=truth.shape)
    return noise


def rms(values: Array) -> float:
    return float(np.sqrt(np.square(values).sum(axis=-1).mean()))


def jitter(values: Array) -> float:
    return rms(np.diff(values, 2, axis=0))


@pytest.mark.parametrize("noise_px", [0.2, 0.4, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_still_head_becomes_steady(noise_px: float, seed: int) -> None:
    truth = np.repeat(head(10.0), 120, axis=0)
    seen = noisy(truth, seed, noise_px)
    smooth = smooth_track(np.arange(120), seen)
    assert jitter(seen - truth) / jitter(smooth - truth) > 4.0
    assert rms(seen - truth) / rms(smooth - truth) > 3.0


def fast_turn(count: int = 90, frames: int = 8, sweep_deg: float = 80.0) -> Array:
    """Yaw: still, then `sweep_deg` in `frames` frames, still, and back."""
    yaw = np.empty(count)
    for i in range(count):
        done = np.clip((i % 45 - 18) / frames, 0.0, 1.0)
        turn = sweep_deg * done * done * (3 - 2 * done) - sweep_deg / 2
        yaw[i] = -turn if i // 45 % 2 else turn
    return yaw


def lag_frames(truth: Array, signal: Array) -> float:
    times = np.arange(len(truth), dtype=np.float64)
    shifts = np.arange(-2.0, 2.001, 0.02)
    scores = [np.corrcoef(np.interp(times[4:-4] - s, times, truth), signal[4:-4])[0, 1] for s in shifts]
    return float(shifts[int(np.argmax(scores))])


def test_a_fast_turn_is_neither_late_nor_rounded_off() -> None:
    yaw = fast_turn()
    truth = head(yaw)
    seen = noisy(truth, 3)
    smooth = smooth_track(np.arange(len(yaw)), seen)
    nose_truth, nose = truth[:, 30, 0] - truth[:, 36, 0], smooth[:, 30, 0] - smooth[:, 36, 0]
    assert abs(lag_frames(nose_truth, nose)) < 0.1
    turning = np.abs(np.gradient(yaw)) > 1.0
    assert rms((smooth - truth)[turning]) < 1.1 * rms((seen - truth)[turning])
    assert rms(smooth - truth) < 0.8 * rms(seen - truth)


def test_a_running_mean_would_fail_the_same_turn() -> None:
    """So the test above can tell: the same window without adaptation rounds the turn off."""
    truth = head(fast_turn())
    padded = np.pad(truth, ((8, 8), (0, 0), (0, 0)), mode="edge")
    mean = np.mean([padded[k : k + len(truth)] for k in range(17)], axis=0)
    assert rms(mean - truth) > 3.0 * rms(noisy(truth, 3) - truth)


def test_a_dash_across_the_frame_is_followed() -> None:
    done = np.clip((np.arange(80) - 30) / 9, 0.0, 1.0)
    x = 100.0 + 400.0 * done * done * (3 - 2 * done)
    truth = head(np.zeros(80), center_px=np.stack((x, np.full(80, 200.0)), axis=1), roll_deg=20.0 * done)
    seen = noisy(truth, 4)
    smooth = smooth_track(np.arange(80), seen)
    running = (np.arange(80) >= 28) & (np.arange(80) <= 41)
    assert rms((smooth - truth)[running]) < 1.15 * rms((seen - truth)[running])
    assert abs(lag_frames(truth[:, 30, 0], smooth[:, 30, 0])) < 0.1


def test_blinks_and_speech_are_not_smeared() -> None:
    count = 120
    time = np.arange(count)
    truth = np.repeat(head(5.0), count, axis=0)
    closed = np.exp(-np.square((time[:, None] - np.array([30.0, 70.0, 95.0])) / 1.3)).sum(axis=1)
    truth[:, [37, 38, 43, 44], 1] += 9.0 * closed[:, None]
    opened = 10.0 * np.square(np.sin(2 * np.pi * time / 10.0)) * ((time > 20) & (time < 105))
    truth[:, [55, 56, 57, 58, 59, 65, 66, 67], 1] += opened[:, None]
    seen = noisy(truth, 5)
    smooth = smooth_track(time, seen)
    for part in (slice(36, 48), slice(48, 68)):
        assert rms((smooth - truth)[:, part]) < rms((seen - truth)[:, part])
    lids = smooth[:, 37, 1] - smooth[:, 41, 1]
    true_lids = truth[:, 37, 1] - truth[:, 41, 1]
    for blink in (30, 70, 95):
        assert abs(lids[blink] - true_lids[blink]) < 1.0
    assert rms((smooth - truth)[:, :17]) < 0.5 * rms((seen - truth)[:, :17])  # while the jaw line is steadied


@pytest.mark.parametrize("radius", [1, 4, 15, 30])
def test_a_piece_with_a_margin_of_the_radius_gives_the_same_numbers(radius: int) -> None:
    numbers = np.array([n for n in range(200) if n not in (40, 41, 77, 120, 121, 122, 123, 124, 125)])
    x = 300.0 + 60.0 * np.sin(numbers / 9.0)
    truth = head(30.0 * np.sin(numbers / 6.0), center_px=np.stack((x, 0.0 * x + 200.0), axis=1))
    seen = noisy(truth, 6)
    whole = smooth_track(numbers, seen, radius_frames=radius)
    first, last = 70, 129
    with_margin = (numbers >= first - radius) & (numbers <= last + radius)
    piece = smooth_track(numbers[with_margin], seen[with_margin], radius_frames=radius)
    wanted = (numbers[with_margin] >= first) & (numbers[with_margin] <= last)
    np.testing.assert_allclose(piece[wanted], whole[(numbers >= first) & (numbers <= last)], rtol=0, atol=1e-9)
    assert np.abs(whole - seen).max() > 0.1 or radius == 1


def test_one_frame_changes_nothing_beyond_the_radius() -> None:
    seen = noisy(head(10.0 * np.sin(np.arange(120) / 8.0)), 7)
    changed = seen.copy()
    changed[60] += 5.0
    moved = np.abs(
        smooth_track(np.arange(120), changed, radius_frames=12) - smooth_track(np.arange(120), seen, radius_frames=12)
    )
    touched = moved.max(axis=(1, 2)) > 1e-9
    assert touched[60]
    assert not touched[: 60 - 12].any()
    assert not touched[60 + 13 :].any()


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    turn_deg=st.floats(-180, 180),
    scale=st.floats(0.1, 20),
    shift=st.tuples(st.floats(-5000, 5000), st.floats(-5000, 5000)),
)
def test_it_does_not_matter_where_how_large_and_how_turned_the_frame_is(
    seed: int, turn_deg: float, scale: float, shift: tuple[float, float]
) -> None:
    seen = noisy(head(fast_turn(60)), seed)
    turn = scale * np.exp(1j * np.radians(turn_deg))

    def moved(points: Array) -> Array:
        values = points @ np.array((1.0, 1.0j)) * turn
        return np.stack((values.real, values.imag), axis=-1) + shift

    numbers = np.arange(60)
    expected = moved(smooth_track(numbers, seen))
    np.testing.assert_allclose(smooth_track(numbers, moved(seen)), expected, rtol=0, atol=1e-6 * scale)


def test_time_has_no_direction() -> None:
    """No lag by construction: a reversed track is smoothed to the reverse."""
    seen = noisy(head(fast_turn()), 8)
    numbers = np.arange(len(seen))
    np.testing.assert_allclose(smooth_track(numbers, seen[::-1]), smooth_track(numbers, seen)[::-1], atol=1e-8)


def test_a_track_that_obeys_a_line_is_left_alone() -> None:
    numbers = np.array([0, 1, 2, 5, 6, 9, 10, 11, 15, 16, 17, 18, 30, 31])
    centers = np.stack((100.0 + 7.0 * numbers, 300.0 - 3.0 * numbers), axis=1)
    truth = head(np.zeros(len(numbers)), center_px=centers)
    np.testing.assert_allclose(smooth_track(numbers, truth), truth, atol=1e-6)


def test_gaps_count_as_time() -> None:
    """A head in even motion whose frames are missing in places: taken for evenly spaced, it would jerk."""
    numbers = np.array([n for n in range(90) if n % 7 not in (2, 3)])
    x = 100.0 + 3.0 * numbers
    truth = head(np.zeros(len(numbers)), center_px=np.stack((x, 0 * x + 200.0), axis=1))
    seen = noisy(truth, 9)
    assert rms(smooth_track(numbers, seen) - truth) < 0.45 * rms(seen - truth)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8])
def test_short_tracks(count: int) -> None:
    truth = np.repeat(head(0.0), count, axis=0)
    seen = noisy(truth, 10) if count else truth
    smooth = smooth_track(np.arange(count), seen)
    assert smooth.shape == (count, 68, 2)
    assert smooth.dtype == np.float64
    assert np.isfinite(smooth).all()
    if count == 1:
        assert (smooth == seen).all()
    if count > 2:
        assert rms(smooth - truth) < rms(seen - truth)


def test_every_fifth_frame() -> None:
    numbers = np.arange(0, 300, 5)
    truth = np.repeat(head(0.0), len(numbers), axis=0)
    seen = noisy(truth, 11)
    assert rms(smooth_track(numbers, seen) - truth) < 0.8 * rms(seen - truth)


def test_the_input_is_not_written_to_and_the_result_is_repeatable() -> None:
    seen = noisy(head(fast_turn()), 12)
    kept = seen.copy()
    first = smooth_track(np.arange(len(seen)), seen)
    assert (seen == kept).all()
    assert (first == smooth_track(np.arange(len(seen)), seen, radius_frames=DEFAULT_RADIUS_FRAMES)).all()


def test_bad_input_is_refused_with_what_to_do() -> None:
    face = head([0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="rise strictly"):
        smooth_track([0, 2, 1], face)
    with pytest.raises(ValueError, match="rise strictly"):
        smooth_track([0, 1, 1], face)
    with pytest.raises(ValueError, match="integers"):
        smooth_track([0.0, 1.0, 2.0], face)
    with pytest.raises(ValueError, match=r"\[3, 68, 2\]"):
        smooth_track([0, 1, 2], face[:, :51])
    with pytest.raises(ValueError, match="NaN"):
        smooth_track([0, 1, 2], np.where(np.arange(3)[:, None, None] == 1, np.nan, face))
    with pytest.raises(ValueError, match="no extent"):
        smooth_track([0, 1, 2], np.zeros((3, 68, 2)))
    for radius in (0, 31):
        with pytest.raises(ValueError, match="radius_frames"):
            smooth_track([0, 1, 2], face, radius_frames=radius)
