"""How fast S3FD and FAN are, and how near to a heat map's true peak a point comes.

Weights are random: speed does not depend on them. On one CPU core, and on a CUDA device where there is one. The baseline
of the error is the quarter-cell rule that FAN was published with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ml_common.detect.fan import FAN, read_maps
from ml_common.detect.fan_landmarker import FANLandmarker
from ml_common.detect.s3fd import S3FD
from ml_common.detect.s3fd_detector import S3FDDetector
from ml_common.detect.types import Detection

_CPU_FRAMES, _CUDA_FRAMES = 2, 64
_MAPS = 680


def run() -> list[dict[str, Any]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = _speed_rows(torch.device("cpu"), _CPU_FRAMES, repeats=2)
        if torch.cuda.is_available():
            rows += _speed_rows(torch.device("cuda"), _CUDA_FRAMES, repeats=5)
    finally:
        torch.set_num_threads(threads)
    return rows + _error_rows()


def _speed_rows(device: torch.device, frames: int, *, repeats: int) -> list[dict[str, Any]]:
    """Per 1080p frame with everything but the decoding of the file, and per face of two looks."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (1080, 1920, 3), dtype=np.uint8)] * frames
    batch_px = min(frames, 16) * 640 * 360
    detector = S3FDDetector(_quiet(S3FD().eval()), device, version="bench", min_score=0.5, batch_px=batch_px)
    landmarker = FANLandmarker("fan2d", _lifted(FAN().eval()), device, version="bench", batch=frames)
    faces = [Detection(np.array([600.0, 300, 1000, 800]), 0.9)] * frames
    return [
        _row(f"s3fd.{device.type}.1080p_ms_per_frame", _ms(lambda: detector.detect(images), repeats) / frames, "ms"),
        _row(
            f"fan.{device.type}.ms_per_face",
            _ms(lambda: landmarker.locate(images, range(frames), faces), repeats) / frames,
            "ms",
        ),
    ]


def _quiet(network: S3FD) -> S3FD:
    """Random heads fire in half of all cells; real ones nearly nowhere."""
    for name, parameter in network.named_parameters():
        if name.endswith("_conf.bias"):
            nn.init.constant_(parameter[:-1], 30.0)
    return network


def _lifted(network: FAN) -> FAN:
    """Random maps peak low; lifted, every face gets its second look."""
    for name, parameter in network.named_parameters():
        if name == "l.3.bias":
            nn.init.ones_(parameter)
    return network


def _ms(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1000


def _error_rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    centres = rng.uniform(4, 59, (_MAPS, 2))
    y, x = np.mgrid[:64, :64]
    squared = (x - centres[:, 0, None, None]) ** 2 + (y - centres[:, 1, None, None]) ** 2
    maps = 0.7 * np.exp(-squared / (2 * 1.75**2)) + rng.normal(0, 0.02, (_MAPS, 64, 64))
    points, _ = read_maps(torch.from_numpy(maps.astype(np.float32)).reshape(-1, 68, 64, 64))
    ours = np.linalg.norm(points.reshape(-1, 2) - centres, axis=1).mean()
    quarter = np.linalg.norm(np.array([_quarter(one) for one in maps]) - centres, axis=1).mean()
    return [_row("fan.peak_error_cells", float(ours), "cells of 4 crop px", float(quarter))]


def _quarter(one_HW: np.ndarray[Any, Any]) -> tuple[float, float]:
    row, column = (int(i) for i in np.unravel_index(one_HW.argmax(), one_HW.shape))
    across = np.sign(one_HW[row, column + 1] - one_HW[row, column - 1])
    down = np.sign(one_HW[row + 1, column] - one_HW[row - 1, column])
    return column + 0.25 * float(across), row + 0.25 * float(down)


def _row(name: str, value: float, unit: str, baseline: float | None = None) -> dict[str, Any]:
    ratio = value / baseline if baseline else None
    return {"name": f"detect.{name}", "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}
