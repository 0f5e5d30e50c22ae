"""Tiny footage for tests: rendered once a session, small enough for two cores."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from ml_common.media import AudioSamples, ColorTags, EncodeSettings, encode_video
from ml_common.synthetic import IDENTITIES, performance, render, tone

RATE = Fraction(25)
BT709 = ColorTags(range="tv", matrix="bt709", primaries="bt709", transfer="bt709")


def head_clip(
    path: Path,
    *,
    identity: str,
    frame_count: int,
    seed: int = 1,
    width: int = 320,
    height: int = 240,
    channels: int = 1,
) -> Path:
    """A talking head with a tone of ``channels`` equal channels (0 for silence), H.264 in MP4."""
    states = performance(seed, frame_count, rate=RATE)
    frames = (render(IDENTITIES[identity], state, width, height).image_bgr_HWC for state in states)
    sound = None
    if channels:
        samples = tone(frame_count / float(RATE), follow=states)
        sound = AudioSamples(samples.repeat(channels, axis=1), 48000)
    settings = EncodeSettings(crf=12, preset="ultrafast")
    encode_video(path, frames, rate=RATE, color=BT709, settings=settings, audio=sound)
    return path
