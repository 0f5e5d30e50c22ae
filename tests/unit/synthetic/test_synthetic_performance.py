"""Performances, voices and the limits of every parameter."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from ml_common.synthetic import (
    IDENTITIES,
    Expression,
    FrameState,
    Identity,
    Light,
    Occluder,
    performance,
    tone,
)


def test_performance_is_the_same_for_the_same_seed_and_differs_for_another() -> None:
    assert performance(3, 40) == performance(3, 40)
    assert performance(3, 40) != performance(4, 40)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("frames", (1, 50, 250))
def test_performance_keeps_its_limits_and_moves_smoothly(seed: int, frames: int) -> None:
    states = performance(seed, frames, max_yaw_deg=40, max_pitch_deg=15)
    yaw, pitch = (np.array([getattr(s, name) for s in states]) for name in ("yaw_deg", "pitch_deg"))
    assert len(states) == frames
    assert np.abs(yaw).max() <= 40
    assert np.abs(pitch).max() <= 15
    if frames > 1:
        assert np.abs(yaw).max() > 35
        assert np.abs(np.diff(yaw)).max() < 10  # degrees a frame, at 25 a second
        assert np.abs(np.diff([s.light.direction_xyz[0] for s in states])).max() < 0.05


def test_performer_talks_and_blinks() -> None:
    states = performance(1, 250)
    mouth = np.array([s.expression.mouth_open for s in states])
    blink = np.array([s.expression.blink_left for s in states])
    openings = ((mouth[1:-1] > mouth[:-2]) & (mouth[1:-1] >= mouth[2:]) & (mouth[1:-1] > 0.2)).sum()
    assert 15 < openings < 70  # in ten seconds
    assert mouth.min() < 0.05
    closings = ((blink[1:] > 0.8) & (blink[:-1] <= 0.8)).sum()
    assert 2 <= closings <= 7
    assert all(s.expression.mouth_open == 0 for s in performance(1, 50, talk=False))


def test_rate_sets_the_tempo() -> None:
    slow, fast = performance(2, 100, rate=Fraction(25)), performance(2, 200, rate=Fraction(50))
    np.testing.assert_allclose(
        [s.expression.mouth_open for s in slow], [s.expression.mouth_open for s in fast[::2]], atol=1e-9
    )


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"frame_count": 0}, {"rate": Fraction(0)}, {"max_yaw_deg": 120.0}])
def test_performance_refuses_bad_input(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        performance(**({"seed": 0, "frame_count": 10} | arguments))  # type: ignore[arg-type]


def test_tone_has_the_length_the_pitch_and_the_range() -> None:
    sound = tone(1.0, 16000, frequency_hz=440.0)
    assert sound.shape == (16000, 1)
    assert sound.dtype == np.float32
    assert np.abs(sound).max() <= 1.0
    assert np.abs(np.fft.rfft(sound[:, 0])).argmax() == 440


def test_tone_follows_the_mouth() -> None:
    closed, opened = FrameState(), FrameState(expression=Expression(mouth_open=1.0))
    sound = tone(2.0, 8000, follow=[closed] * 25 + [opened] * 25)[:, 0]
    quiet, loud = (np.sqrt(np.mean(np.square(half))) for half in (sound[:7000], sound[9000:]))
    assert loud > 10 * quiet > 0
    for bad in ({"duration_s": 0.0}, {"follow": []}, {"sample_rate": 500}):
        with pytest.raises(ValueError):
            tone(**({"duration_s": 1.0} | bad))  # type: ignore[arg-type]


def test_demo_pair_and_identities_differ() -> None:
    assert len(IDENTITIES) >= 4
    ada, bruno = IDENTITIES["ada"], IDENTITIES["bruno"]
    for name in ("jaw_width", "nose_width", "skin_bgr", "iris_bgr", "brow_bgr", "brow_thickness_mm", "hair_bgr"):
        assert getattr(ada, name) != getattr(bruno, name)
    assert all(name == who.name for name, who in IDENTITIES.items())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Identity("x", jaw_width=2.0),
        lambda: Identity("x", skin_bgr=(1.0, 2.0, 0.0)),
        lambda: Identity("x", hair_style="mohawk"),  # type: ignore[arg-type]
        lambda: Expression(mouth_open=1.5),
        lambda: Expression(gaze_x=-2.0),
        lambda: Light(direction_xyz=(0.0, 0.0, 0.0)),
        lambda: Light(ambient=-1.0),
        lambda: Occluder("cat", 0.5, 0.5, 0.1),  # type: ignore[arg-type]
        lambda: Occluder("bar", 0.5, 0.5, 0.0),
        lambda: FrameState(yaw_deg=float("nan")),
        lambda: FrameState(face_height=0.0),
        lambda: replace(FrameState(), background_seed=-3),
    ],
)
def test_impossible_parameters_are_refused(make: object) -> None:
    with pytest.raises(ValueError):
        make()  # type: ignore[operator]
