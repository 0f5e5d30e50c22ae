"""How long one face takes to merge into a 1080p frame.

The baseline is DeepFaceLab's 145 ms for overlay with rct on two CPU cores (specification: merge).
"""

import time
from statistics import median
from typing import Any

import cv2
import numpy as np

from ml_common.geometry import FaceType, HEAD_MODEL_68x3
from ml_common.merging import MergeFace, MergeSettings, Prediction, merge_frame, network_crop

_ORIGINAL_OVERLAY_RCT_MS = 145.0
_ORIGINAL_SOT_M_MS = 5400.0
_RESOLUTION = 128
_REPEATS = 9


def run() -> list[dict[str, Any]]:
    """Rows of milliseconds per frame."""
    rng = np.random.default_rng(0)
    frame = cv2.resize(rng.integers(0, 255, (68, 120, 3), dtype=np.uint8), (1920, 1080), interpolation=cv2.INTER_CUBIC)
    landmarks = HEAD_MODEL_68x3[:, :2] * 2.0 + (960, 540)
    crop = network_crop(frame, landmarks, FaceType.WHOLE_FACE, _RESOLUTION)
    y, x = (np.mgrid[:_RESOLUTION, :_RESOLUTION] - (_RESOLUTION - 1) / 2) / _RESOLUTION
    mask = np.clip((1 - np.hypot(x / 0.36, y / 0.42)) * 8, 0, 1).astype(np.float32)
    face = MergeFace(landmarks, Prediction(np.ascontiguousarray(crop[..., ::-1]) * np.float32(0.7), mask, mask))
    cases = (
        ("merge 1080p overlay rct", MergeSettings(), _ORIGINAL_OVERLAY_RCT_MS),
        ("merge 1080p overlay rct, erode 20 blur 40", MergeSettings(erode=20, blur=40), _ORIGINAL_OVERLAY_RCT_MS),
        ("merge 1080p overlay rct, reference", MergeSettings(flavour="reference"), _ORIGINAL_OVERLAY_RCT_MS),
        ("merge 1080p overlay sot-m", MergeSettings(color_transfer="sot-m"), _ORIGINAL_SOT_M_MS),
    )
    rows = [
        _row(name, lambda s=settings: merge_frame(frame, [face], FaceType.WHOLE_FACE, s), baseline)
        for name, settings, baseline in cases
    ]
    rows.append(_row("network crop of 1080p", lambda: network_crop(frame, landmarks, FaceType.WHOLE_FACE, 128), None))
    return rows


def _row(name: str, call: Any, baseline: float | None) -> dict[str, Any]:
    call()
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    value = median(times)
    return {
        "name": name,
        "value": value,
        "unit": "ms",
        "baseline": baseline,
        "ratio": baseline / value if baseline else None,
    }
