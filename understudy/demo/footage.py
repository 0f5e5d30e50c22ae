"""Renders the demo's clips: src, dst with sound, and the truth of putting src's face onto dst.

Rendering runs in one process a core, a clip cut into pieces; the pieces are encoded in order.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from ml_common.media import AudioSamples, ColorTags, EncodeSettings, encode_video
from ml_common.synthetic import IDENTITIES, FrameState, performance, render, tone

RATE = Fraction(25)
WIDTH, HEIGHT = 640, 360
SRC_IDENTITY, DST_IDENTITY = "ada", "bruno"
_SRC_SEED, _DST_SEED = 11, 23
_PIECE_FRAMES = 10
_COLOR = ColorTags(range="tv", matrix="bt709", primaries="bt709", transfer="bt709")


@dataclass(frozen=True, slots=True)
class Footage:
    """The rendered clips. ``truth`` and ``face_masks`` have one entry a dst frame: image_bgr_HWC, and mask_HW (bool) of the facial skin
    that is visible in the truth."""

    src: Path
    dst: Path
    truth: list[np.ndarray]
    face_masks: list[np.ndarray]


def render_footage(folder: Path, src_frames: int, dst_frames: int) -> Footage:
    """Renders everything into ``folder`` (src.mp4, dst.mp4). The same arguments give the same pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    dst_states = performance(_DST_SEED, dst_frames, rate=RATE)
    # Both people sit under the same drifting lamp: a swap learns the light that it has seen, and src is shot to match dst.
    src_states = [
        replace(state, light=dst_states[index % dst_frames].light)
        for index, state in enumerate(performance(_SRC_SEED, src_frames, rate=RATE))
    ]
    # Spawned, not forked: the parent may hold threads of media libraries.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        truth_pieces = [pool.submit(_rendered_with_masks, SRC_IDENTITY, list(piece)) for piece in _pieces(dst_states)]
        src = _encoded(pool, folder / "src.mp4", SRC_IDENTITY, src_states, tone_hz=330.0)
        dst = _encoded(pool, folder / "dst.mp4", DST_IDENTITY, dst_states, tone_hz=220.0)
        truth, masks = [], []
        for future in truth_pieces:
            images, piece_masks = future.result()
            truth += list(images)
            masks += list(piece_masks)
    return Footage(src, dst, truth, masks)


def _encoded(pool: ProcessPoolExecutor, path: Path, identity: str, states: list[FrameState], *, tone_hz: float) -> Path:
    pieces = [pool.submit(_rendered, identity, list(piece)) for piece in _pieces(states)]

    def frames() -> Iterator[np.ndarray]:
        for future in pieces:
            yield from future.result()

    sound = AudioSamples(tone(len(states) / float(RATE), frequency_hz=tone_hz, follow=states), 48000)
    settings = EncodeSettings(crf=10, preset="veryfast")
    encode_video(path, frames(), rate=RATE, color=_COLOR, settings=settings, audio=sound)
    return path


def _pieces(states: list[FrameState]) -> Iterator[tuple[FrameState, ...]]:
    return (tuple(states[start : start + _PIECE_FRAMES]) for start in range(0, len(states), _PIECE_FRAMES))


def _rendered(identity: str, states: list[FrameState]) -> np.ndarray:
    return np.stack([render(IDENTITIES[identity], state, WIDTH, HEIGHT).image_bgr_HWC for state in states])


def _rendered_with_masks(identity: str, states: list[FrameState]) -> tuple[np.ndarray, np.ndarray]:
    frames = [render(IDENTITIES[identity], state, WIDTH, HEIGHT) for state in states]
    return np.stack([frame.image_bgr_HWC for frame in frames]), np.stack([frame.face_mask_HW > 127 for frame in frames])
