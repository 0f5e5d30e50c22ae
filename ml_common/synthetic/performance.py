"""A performance: how a head moves, talks, blinks and is lit over a clip.

What a reader would get wrong: time comes from `rate` alone. The same seed at another rate is the same performance
sampled at other moments, except that the turn of the head is stretched so that even a short clip shows the whole range.

Shape legend: F = frames.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ml_common.synthetic.scene import Expression, FrameState, Light

Array = NDArray[np.float64]


def performance(
    seed: int,
    frame_count: int,
    *,
    rate: Fraction = Fraction(25),
    max_yaw_deg: float = 45,
    max_pitch_deg: float = 20,
    talk: bool = True,
) -> list[FrameState]:
    """`frame_count` states of smooth motion, `rate` frames a second; the same arguments give the same states.

    Yaw reaches `max_yaw_deg` to one side at least and never passes it, pitch likewise. With `talk` the mouth opens in
    syllables and phrases, without it stays shut. Raises ValueError for a negative seed, no frames, a rate of 0 or less,
    or a turn beyond 90 degrees.
    """
    if seed < 0:
        raise ValueError(f"seed={seed}: choose 0 or more.")
    if frame_count < 1:
        raise ValueError(f"frame_count={frame_count}: a performance needs at least one frame.")
    if rate <= 0:
        raise ValueError(f"rate={rate}: choose a number of frames per second above 0.")
    if not (0 <= max_yaw_deg <= 90 and 0 <= max_pitch_deg <= 90):
        raise ValueError("max_yaw_deg and max_pitch_deg are 0..90 degrees.")
    chance = np.random.default_rng([seed, 68])
    time_F = np.arange(frame_count) / float(rate)
    duration_s = frame_count / float(rate)

    yaw = max_yaw_deg * _sway(chance, time_F, max(0.20, 0.8 / duration_s))
    pitch = max_pitch_deg * _sway(chance, time_F, max(0.27, 0.9 / duration_s))
    roll = 9.0 * _sway(chance, time_F, 0.17)
    mouth = _syllables(chance, time_F, duration_s) if talk else np.zeros(frame_count)
    pitch = np.clip(pitch + 1.5 * (mouth - 0.3) * talk, -max_pitch_deg, max_pitch_deg)
    blink = _blinks(chance, time_F, duration_s)
    smile = np.clip(0.25 + 0.45 * _sway(chance, time_F, 0.13), 0.0, 1.0)
    brows = np.clip(0.10 + 0.5 * _sway(chance, time_F, 0.31), 0.0, 1.0)
    gaze_x = np.clip(0.012 * yaw + 0.35 * _sway(chance, time_F, 0.43), -1.0, 1.0)
    gaze_y = np.clip(0.010 * pitch + 0.20 * _sway(chance, time_F, 0.37), -1.0, 1.0)

    lamp_side = chance.choice((-1.0, 1.0))
    lamp_turn = np.radians(lamp_side * 40.0 + 25.0 * _sway(chance, time_F, 0.11))
    intensity = 0.80 + 0.06 * _sway(chance, time_F, 0.19)
    warmth = 0.05 + 0.04 * _sway(chance, time_F, 0.09)
    center_x = 0.5 + 0.022 * _sway(chance, time_F, 0.21) - 0.0004 * yaw
    center_y = 0.44 + 0.014 * _sway(chance, time_F, 0.29)
    face_height = 0.5 * (1.0 + 0.03 * _sway(chance, time_F, 0.12))
    return [
        FrameState(
            yaw_deg=float(yaw[f]),
            pitch_deg=float(pitch[f]),
            roll_deg=float(roll[f]),
            center_x=float(center_x[f]),
            center_y=float(center_y[f]),
            face_height=float(face_height[f]),
            expression=Expression(
                mouth_open=float(mouth[f]),
                smile=float(smile[f]),
                brow_raise=float(brows[f]),
                blink_left=float(blink[f]),
                blink_right=float(blink[f]),
                gaze_x=float(gaze_x[f]),
                gaze_y=float(gaze_y[f]),
            ),
            light=Light(
                direction_xyz=(float(np.sin(lamp_turn[f])), -0.65, -float(np.cos(lamp_turn[f]))),
                intensity=float(intensity[f]),
                color_bgr=(float(1.0 - 1.4 * warmth[f]), float(1.0 - 0.4 * warmth[f]), 1.0),
            ),
            background_seed=seed,
        )
        for f in range(frame_count)
    ]


def _sway(chance: np.random.Generator, time_F: Array, frequency_hz: float) -> Array:
    """A slow wave of two frequencies, -1..1, that reaches 1 or -1 within the clip."""
    phases = chance.uniform(0.0, 2.0 * np.pi, 2)
    ratio = chance.uniform(1.5, 2.1)
    wave = np.sin(2 * np.pi * frequency_hz * time_F + phases[0])
    wave += 0.35 * np.sin(2 * np.pi * frequency_hz * ratio * time_F + phases[1])
    peak = np.abs(wave).max()
    scaled: Array = wave / max(float(peak), 0.2)
    return scaled


def _syllables(chance: np.random.Generator, time_F: Array, duration_s: float) -> Array:
    """Openings 0..0.9 of about five a second, with pauses between phrases."""
    mouth = np.zeros_like(time_F)
    moment, phrase_stop = 0.12, chance.uniform(1.2, 2.4)
    while moment < duration_s + 0.3:
        opening, width_s = chance.uniform(0.25, 0.85), chance.uniform(0.055, 0.085)
        mouth += opening * np.exp(-np.square((time_F - moment) / width_s))
        moment += chance.uniform(0.16, 0.26)
        if moment > phrase_stop:
            moment += chance.uniform(0.25, 0.6)
            phrase_stop = moment + chance.uniform(1.2, 2.4)
    return np.clip(mouth, 0.0, 0.9)


def _blinks(chance: np.random.Generator, time_F: Array, duration_s: float) -> Array:
    closed = np.zeros_like(time_F)
    moment = chance.uniform(0.5, 1.3)
    while moment < duration_s + 0.3:
        closed = np.maximum(closed, 1.2 * np.exp(-np.square((time_F - moment) / 0.085)) - 0.02)
        moment += chance.uniform(1.6, 3.6)
    return np.clip(closed, 0.0, 1.0)
