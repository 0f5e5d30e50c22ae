"""Small clips made on the spot: every frame carries its number as a row of black and white blocks, so a test can read
which it got."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

_BITS = 8


def numbered_picture(number: int, width: int, height: int) -> np.ndarray:
    """BGR picture: ``number`` in binary as blocks along the top half, a moving gradient below (so that there is motion
    to predict)."""
    x_W = np.arange(width)
    image = np.empty((height, width, 3), np.uint8)
    bits = np.array([(number >> bit) & 1 for bit in range(_BITS)])
    image[: height // 2] = (40 + 170 * bits[np.minimum(x_W * _BITS // width, _BITS - 1)])[None, :, None]
    ramp_HW = (x_W[None, :] * 2 + np.arange(height)[:, None] * 3 + number * 7) % 200
    image[height // 2 :] = np.stack([ramp_HW, 220 - ramp_HW, ramp_HW // 2 + 40], -1)[height // 2 :]
    return image


def number_of(image: np.ndarray) -> int:
    """The number that a decoded ``numbered_picture`` carries (black is 40, white 210 of 255)."""
    height, width = image.shape[:2]
    middle = 125 * (257 if image.dtype == np.uint16 else 1)
    columns = [int((bit + 0.5) * width / _BITS) for bit in range(_BITS)]
    return sum(int(image[height // 4, column].mean() > middle) << bit for bit, column in enumerate(columns))


def write_clip(
    path: Path,
    count: int = 40,
    *,
    size: tuple[int, int] = (128, 96),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    rate: Fraction = Fraction(25),
    times_ms: Sequence[int] | None = None,
    rotation: tuple[float, bool] | None = None,
    tags: tuple[int, int, int, int] | None = None,
    container_options: dict[str, str] | None = None,
    timecode: str | None = None,
    audio: tuple[str, str, int, np.ndarray] | None = None,
    paint: Callable[[int, int, int], np.ndarray] = numbered_picture,
) -> Path:
    """A clip of ``count`` pictures. ``rotation``: counter-clockwise degrees and mirror. ``tags``: range, matrix,
    primaries, transfer. ``audio``: codec, layout, sample rate, float32 (channels, n)."""
    width, height = size
    with av.open(str(path), "w", container_options=container_options or {}) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.thread_count = 1
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1])
        if tags is not None:
            context = stream.codec_context
            context.color_range, context.colorspace, context.color_primaries, context.color_trc = tags
        if timecode is not None:
            stream.metadata["timecode"] = timecode
        sound = None
        if audio is not None:
            sound = output.add_stream(audio[0], rate=audio[2])
            sound.layout = audio[1]
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(paint(number, width, height), format="bgr24")
            frame = frame.reformat(format=pixel_format)
            frame.pts = times_ms[number] if times_ms is not None else number
            frame.time_base = Fraction(1, 1000) if times_ms is not None else 1 / rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound is not None and audio is not None:
            block = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio[3]), format="fltp", layout=audio[1])
            block.sample_rate, block.pts, block.time_base = audio[2], 0, Fraction(1, audio[2])
            resampler = av.AudioResampler(format=sound.codec_context.format, layout=audio[1], rate=audio[2])
            for frame in resampler.resample(block):
                output.mux(sound.encode(frame))
            output.mux(sound.encode(None))
    return path


@pytest.fixture(name="write_clip", scope="session")
def _write_clip() -> Callable[..., Path]:
    return write_clip


@pytest.fixture(name="number_of", scope="session")
def _number_of() -> Callable[[np.ndarray], int]:
    return number_of


@pytest.fixture(name="numbered_picture", scope="session")
def _numbered_picture() -> Callable[[int, int, int], np.ndarray]:
    return numbered_picture
