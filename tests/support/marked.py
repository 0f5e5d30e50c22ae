"""Footage whose frames say their own number: six blocks of black and white along the top, which survive any encoder."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 6
WIDTH, HEIGHT = 16 * BITS, 64
SOUND_HZ = 48000


def marked(number: int, *, colour_bgr: tuple[int, int, int] = (60, 120, 180), noise: float = 0.0) -> np.ndarray:
    """``image_bgr_HWC`` uint8 that ``number_in`` reads."""
    image = np.empty((HEIGHT, WIDTH, 3), np.float64)
    image[:] = colour_bgr
    image[24:] += np.linspace(-40, 40, WIDTH)[None, :, None]
    image += np.random.default_rng(number).normal(0, noise, image.shape) if noise else 0
    for bit in range(BITS):
        image[:16, 16 * bit : 16 * bit + 16] = 235 if number >> bit & 1 else 20
    return np.asarray(image.clip(0, 255).round(), np.uint8)


def number_in(image_bgr_HWC: np.ndarray) -> int:
    """The number that a frame says it has, whatever its sample type."""
    white = {"uint8": 255, "uint16": 65535, "float32": 1}[image_bgr_HWC.dtype.name]
    return sum((image_bgr_HWC[4:12, 16 * bit + 4 : 16 * bit + 12].mean() > white / 2) << bit for bit in range(BITS))


def write_clip(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    tones_hz: Sequence[int] = (),
    key_every: int = 12,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    times_ms: Sequence[int] | None = None,
    timecode: str = "",
    comment: str = "",
) -> Path:
    """Frames at 25 a second (or at ``times_ms``), with one mono sound stream a tone."""
    with av.open(str(path), "w", container_options={"movflags": "+use_metadata_tags"}) as container:
        if comment:
            container.metadata["comment"] = comment
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        if codec == "libx264":
            stream.options = {"g": str(key_every), "crf": "8", "preset": "veryfast", "bf": "0" if times_ms else "2"}
        stream.codec_context.time_base = Fraction(1, 1000 if times_ms else 25)
        if timecode:
            stream.metadata["timecode"] = timecode
        sounds = [container.add_stream("aac", rate=SOUND_HZ, layout="mono") for _ in tones_hz]
        for index, image in enumerate(images):
            deep = image.dtype == np.uint16
            frame = av.VideoFrame.from_ndarray(image, format="bgr48le" if deep else "bgr24")
            frame = frame.reformat(format=pixel_format)
            frame.pts = times_ms[index] if times_ms else index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for sound, tone_hz in zip(sounds, tones_hz, strict=True):
            count = len(images) * SOUND_HZ // 25
            wave = 0.5 * np.sin(2 * np.pi * tone_hz * np.arange(count) / SOUND_HZ).astype(np.float32)
            samples = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            samples.sample_rate, samples.pts = SOUND_HZ, 0
            container.mux(sound.encode(samples))
            container.mux(sound.encode(None))
    return path


def damage(path: Path, index: int) -> None:
    """Overwrites the packet of frame ``index`` (of footage without B-frames) with nonsense."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
        packet = packets[index]
        start, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    assert start is not None
    data[start + 8 : start + size] = bytes((7 * at) % 251 for at in range(size - 8))
    path.write_bytes(bytes(data))
