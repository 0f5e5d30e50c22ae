"""How long it takes to measure faces, to sort them and to find duplicates, and how that grows from 1,000 to 10,000 faces.

What one would get wrong: sorts run on columns that are there already; measuring is a row of its own. The faces are drawn from
numbers, in shots that drift, because how alike neighbours are decides how much the chains can skip. From 1,000 to 10,000 the
chain of unlike pictures also changes to coarser stand-ins, so its exponent spans both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import cv2
import numpy as np

from ml_common.curation import ORDERS, STRENGTHS, Columns, OrderOptions, find_duplicates, measure_face
from ml_common.synthetic import IDENTITIES, FrameState, render

_SMALL, _LARGE = 1_000, 10_000
_SHOT_FACES = 60
_QUADRATIC = ("hist", "hist-dissim", "absdiff", "absdiff-dissim")
# Seconds that the original takes for 1,000 faces of 256 pixels on two cores; by blur it measures only CPBD.
_ORIGINAL_HIST_1K_S, _ORIGINAL_BLUR_1K_S = 3.7, 236.0


def _best_s(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _columns(count: int, seed: int) -> Columns:
    """Shots of sixty faces that drift, shuffled."""
    rng = np.random.default_rng(seed)
    shot = np.arange(count) // _SHOT_FACES
    shots = int(shot[-1]) + 1
    drift = np.cumsum(rng.normal(0, 0.4, (count, 3)), axis=0)
    drift -= drift[shot * _SHOT_FACES]
    centre = rng.uniform(60, 200, (shots, 3))[shot] + drift
    width = rng.uniform(10, 45, (shots, 3))[shot]
    bins = np.arange(256, dtype=np.float32)

    def histogram(channel: int, total: float) -> np.ndarray:
        density = np.exp(-0.5 * ((bins - centre[:, channel, None]) / width[:, channel, None]) ** 2) + 0.002
        return rng.poisson(total * density / density.sum(axis=1, keepdims=True)).astype(np.uint32)

    y, x = np.mgrid[0:32, 0:32].astype(np.float32) / 32.0
    wave = rng.uniform(-3, 3, (shots, 2, 3))[shot] + rng.normal(0, 0.05, (count, 2, 3))
    thumbnails = np.empty((count, 32, 32, 3), dtype=np.uint8)
    for face in range(count):
        phase = x[..., None] * wave[face, 0] + y[..., None] * wave[face, 1]
        picture = centre[face] + width[face] * np.sin(phase) + rng.normal(0, 2, (32, 32, 3))
        thumbnails[face] = picture.clip(0, 255)
    hashes = rng.integers(0, 1 << 63, shots).astype(np.uint64)[shot]
    columns = {
        "cpbd": rng.random(count),
        "edge_width_px": rng.uniform(2, 9, count),
        "laplacian_variance": rng.uniform(1e10, 1e12, count),
        "value_mean": rng.uniform(60, 200, count),
        "hue_deg": rng.uniform(0, 40, count),
        "black_fraction": rng.random(count),
        "yaw_deg": rng.normal(0, 25, count).clip(-89, 89).astype(np.float32),
        "pitch_deg": rng.normal(0, 12, count).clip(-89, 89).astype(np.float32),
        "source_area_px": rng.uniform(1e3, 1e5, count).astype(np.float32),
        "frame_number": np.arange(count),
        "face_index": (rng.random(count) < 0.05).astype(np.int32),
        "source_name": np.array([f"{number:06}.png" for number in range(count)], dtype=object),
        "histogram_bgr": np.concatenate([histogram(channel, 65536.0) for channel in range(3)], axis=1),
        "histogram_grey": histogram(1, 65536.0),
        "histogram_face_grey": histogram(1, 30000.0),
        "thumbnail_bgr": thumbnails.reshape(count, -1),
        "perceptual_hash": hashes ^ (np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)),
    }
    shuffled = rng.permutation(count)
    return Columns({name: values[shuffled] for name, values in columns.items()})


def _measure_per_s(size_px: int) -> float:
    frame = render(next(iter(IDENTITIES.values())), FrameState(face_height=0.6), size_px, size_px)
    noise = np.random.default_rng(0).normal(0, 3, frame.image_bgr_HWC.shape)
    image = (frame.image_bgr_HWC + noise).clip(0, 255).astype(np.uint8)
    measure_face(image, frame.landmarks_px_68x2)
    return 1.0 / _best_s(lambda: measure_face(image, frame.landmarks_px_68x2), 20)


def run() -> list[dict[str, object]]:
    """Rows {name, value, unit, baseline, ratio}, all on one core; a ratio above 1 is better than the original."""
    cv2.setNumThreads(1)
    small, large = _columns(_SMALL, 0), _columns(_LARGE, 0)
    options = OrderOptions(target_count=2000)

    def row(name: str, value: float, unit: str, baseline: float | None = None, ratio: float | None = None) -> None:
        rows.append({"name": f"facesets.{name}", "value": value, "unit": unit, "baseline": baseline, "ratio": ratio})

    rows: list[dict[str, object]] = []
    rate, baseline = _measure_per_s(256), 1000.0 / _ORIGINAL_BLUR_1K_S
    row("measure_per_s", rate, "faces/s", baseline, rate / baseline)
    row("measure_512px_per_s", _measure_per_s(512), "faces/s")
    for name, order in ORDERS.items():
        key = name.replace("-", "_")
        seconds = _best_s(lambda order=order: order.order(large, options), 1 if name in _QUADRATIC else 3)
        row(f"sort_{key}_10k_s", seconds, "s")
        if name in _QUADRATIC:
            small_s = _best_s(lambda order=order: order.order(small, options), 3)
            original = _ORIGINAL_HIST_1K_S if name == "hist" else None
            row(f"sort_{key}_1k_s", small_s, "s", original, None if original is None else original / small_s)
            row(f"growth_exponent_{key}", math.log10(seconds / small_s), "")
    for strength in STRENGTHS:
        seconds = _best_s(lambda strength=strength: find_duplicates(large, strength), 1)
        small_s = _best_s(lambda strength=strength: find_duplicates(small, strength), 3)
        row(f"duplicates_{strength}_10k_s", seconds, "s")
        row(f"growth_exponent_duplicates_{strength}", math.log10(seconds / small_s), "")
    return rows
