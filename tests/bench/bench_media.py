"""Frames per second in and out at 1920x1080, one process, and what else is done to frames.

Baselines: of reading, PyAV's plain decode loop with its own conversion; of pictures, OpenCV on the same bytes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from ml_common.imaging.picture import decode_picture, encode_picture
from ml_common.media import ColorTags, EncodeSettings, SegmentWriter, encode_video, open_source, probe, read_segment
from ml_common.media.denoise import denoise
from ml_common.media.scenes import frame_signature

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
    return rows + _picture_rows(pictures[0]) + _frame_rows(pictures)


def _picture_rows(image: np.ndarray) -> list[dict[str, Any]]:
    """Pictures from and to bytes, each depth that a format has."""
    deep, linear = image.astype(np.uint16) * 257, image.astype(np.float32) / 255
    rows = []
    for suffix, kind, picture in (
        (".png", "8-bit", image),
        (".png", "16-bit", deep),
        (".jpg", "8-bit", image),
        (".tif", "16-bit", deep),
        (".dpx", "16-bit", deep),
        (".exr", "half", linear.astype(np.float16).astype(np.float32)),
        (".exr", "float", linear),
    ):
        data = encode_picture(picture, suffix)
        baseline = None
        if suffix not in (".dpx", ".exr"):
            coded = np.frombuffer(data, np.uint8)
            baseline = _rate(lambda coded=coded: cv2.imdecode(coded, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH))
        write = _rate(lambda picture=picture, suffix=suffix: encode_picture(picture, suffix))
        read = _rate(lambda data=data, suffix=suffix: decode_picture(data, suffix))
        label = f"1080p {suffix[1:]} {kind}"
        rows.append(_value(f"media: write {label}", write))
        rows.append(_value(f"media: read {label}", read, baseline))
    return rows


def _frame_rows(pictures: list[np.ndarray]) -> list[dict[str, Any]]:
    """Signatures for scene cuts, and denoising on one core: speed, and how far noise of 5 levels falls."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    still = cv2.GaussianBlur(pictures[0], (0, 0), 3)
    rng = np.random.default_rng(2)
    window = [np.clip(still + rng.normal(0, 5, still.shape), 0, 255).astype(np.uint8) for _ in range(7)]
    rows = [
        _value("media: scene signature 1080p one core", _rate(lambda: frame_signature(pictures[0]))),
        _value("media: denoise 1080p one core", _rate(lambda: denoise(window, 3, 7))),
    ]
    cv2.setNumThreads(threads)
    noise = [np.square(image.astype(np.float32) - still).mean() for image in (window[3], denoise(window, 3, 7))]
    rows.append({**_value("media: denoise still picture", 10 * float(np.log10(noise[0] / noise[1]))), "unit": "dB"})
    return rows


def _rate(work: Callable[[], object], times: int = 5) -> float:
    work()
    started = time.perf_counter()
    for _ in range(times):
        work()
    return times / (time.perf_counter() - started)


def _value(name: str, value: float, baseline: float | None = None) -> dict[str, Any]:
    ratio = value / baseline if baseline else None
    return {"name": name, "value": value, "unit": "frames/s", "baseline": baseline, "ratio": ratio}
