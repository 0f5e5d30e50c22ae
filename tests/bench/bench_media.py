"""Frames per second in and out at 1920x1080, one process. Baseline of reading: PyAV's plain decode loop with its own conversion."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from ml_common.media import ColorTags, EncodeSettings, SegmentWriter, encode_video, open_source, probe, read_segment

_COUNT = 60
_SIZE = (1920, 1080)


def _pictures() -> Iterator[np.ndarray]:
    """A soft moving picture with grain, as a camera gives."""
    width, height = _SIZE
    x_HW, y_HW = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    grain = np.random.default_rng(0).normal(0, 3, (height, width, 1)).astype(np.float32)
    soft = (
        np.stack([np.sin(x_HW / 90 + phase) * np.cos(y_HW / 120 - phase) for phase in (0.0, 1.1, 2.3)], -1) * 90 + 128
    )
    for t in range(_COUNT):
        yield np.clip(np.roll(soft, 4 * t, 1) + np.roll(grain, 37 * t, 0), 0, 255).astype(np.uint8)


def _row(name: str, count: int, started: float, baseline: float | None = None) -> dict[str, Any]:
    value = count / (time.perf_counter() - started)
    ratio = value / baseline if baseline else None
    return {"name": name, "value": value, "unit": "frames/s", "baseline": baseline, "ratio": ratio}


def run() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    pictures = list(_pictures())
    with tempfile.TemporaryDirectory() as folder:
        film, segment = Path(folder) / "film.mp4", Path(folder) / "segment.mkv"
        color = ColorTags(range="tv", matrix="bt709", primaries="bt709", transfer="bt709")
        for preset in ("veryfast", "medium"):
            started = time.perf_counter()
            settings = EncodeSettings(crf=16, preset=preset)
            encode_video(film, pictures, rate=Fraction(25), color=color, settings=settings)
            rows.append(_row(f"media: encode 1080p {preset}", _COUNT, started))

        started = time.perf_counter()
        probe(film)
        rows.append(_row("media: probe 1080p", _COUNT, started))
        started = time.perf_counter()
        with av.open(str(film)) as container:
            container.streams.video[0].thread_type = "AUTO"
            count = sum(1 for frame in container.decode(video=0) if frame.to_ndarray(format="bgr24") is not None)
        plain = count / (time.perf_counter() - started)
        with open_source(film) as source:
            started = time.perf_counter()
            for _ in source.frames(0, _COUNT):
                pass
            rows.append(_row("media: read 1080p in order", _COUNT, started, plain))
            order = np.random.default_rng(1).permutation(_COUNT)[:10]
            started = time.perf_counter()
            for index in order:
                source.frame(int(index))
            rows.append(_row("media: read 1080p at random", len(order), started))

        for kind, images in (
            ("8-bit", pictures[:20]),
            ("16-bit", [picture.astype(np.uint16) * 257 for picture in pictures[:20]]),
        ):
            started = time.perf_counter()
            with SegmentWriter(segment) as writer:
                for image in images:
                    writer.write(image)
            rows.append(_row(f"media: write 1080p segment {kind}", len(images), started))
            started = time.perf_counter()
            count = sum(1 for _ in read_segment(segment))
            rows.append(_row(f"media: read 1080p segment {kind}", count, started))
    return rows
