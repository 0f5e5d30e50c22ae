"""How fast samples are made and iterations run. Baselines: the original program on two CPU cores.

It made 31 to 69 samples a second in a process (50 is taken here), needed 1.33 s for a Quick96 iteration of batch 4 and
2.4 s for a SAEHD 128 liae-ud iteration of batch 4.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ml_common.geometry import FaceType, HEAD_MODEL_68x3
from ml_common.training.checkpoint import read_checkpoint, write_checkpoint
from ml_common.training.config import TrainConfig
from ml_common.training.data import TrainingData
from ml_common.training.presets import preset_config
from ml_common.training.samples import FaceSample, SampleSet
from ml_common.training.step import TrainState, train_step

FACES = 64
ORIGINAL_SAMPLES_PER_S = 50.0
ORIGINAL_ITERATION_S = {"quick96": 1.33, "saehd": 2.4}


def run() -> list[dict[str, Any]]:
    """Rows {name, value, unit, baseline, ratio}; a ratio above 1 is better than the baseline."""
    rows = _sampling_rows()
    for preset in ("demo", "quick96", "saehd"):
        config = replace(preset_config(preset), batch_size=preset_config("demo").batch_size)
        if preset != "demo":
            config = replace(config, batch_size=4)
        rows.append(_step_row(preset, config))
    return rows + _checkpoint_rows()


def _row(
    name: str, value: float, unit: str, baseline: float | None = None, ratio: float | None = None
) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}


def _faces(size_px: int = 256) -> list[FaceSample]:
    rng = np.random.default_rng(0)
    model = np.asarray(HEAD_MODEL_68x3)[:, :2]
    points = (model - model.mean(0)) / np.ptp(model[:, 1]) * size_px * 0.5 + size_px * 0.5
    faces = []
    for _ in range(FACES):
        noise = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        image = cv2.resize(noise, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
        jpeg = cv2.imencode(".jpg", image)[1].tobytes()
        faces.append(FaceSample(image=jpeg, landmarks_px_68x2=points.astype(np.float32), face_type=FaceType.WHOLE_FACE))
    return faces


def _data(config: TrainConfig, cache_bytes: int) -> TrainingData:
    face_type = FaceType.from_string(config.model.face_type)
    samples = SampleSet(_faces(), face_type=face_type, resolution=config.model.resolution, cache_bytes=cache_bytes)
    return TrainingData(samples, samples, config, device=torch.device("cpu"))


def _seconds(action: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        action()
        times.append(time.perf_counter() - began_s)
    return min(times)


def _sampling_rows() -> list[dict[str, Any]]:
    config = replace(preset_config("saehd"), batch_size=16)
    rows = []
    for name, cache_bytes in (("kept in memory", 1 << 30), ("decoded each time", 0)):
        with _data(config, cache_bytes) as data:
            for start in range(0, 5 * config.batch_size, config.batch_size):  # fills the caches: masks are drawn once
                data.next_batch(start, warp=True)
            batches = 8
            began_s = time.perf_counter()
            for index in range(5, 5 + batches):
                data.next_batch(index * config.batch_size, warp=True)
            took_s = (time.perf_counter() - began_s) / batches
        rate = 2 * config.batch_size / took_s
        rows.append(
            _row(f"samples at 128 px, {name}", rate, "samples/s", ORIGINAL_SAMPLES_PER_S, rate / ORIGINAL_SAMPLES_PER_S)
        )
    return rows


def _step_row(preset: str, config: TrainConfig) -> dict[str, Any]:
    state = TrainState.create(config, torch.device("cpu"))
    with _data(config, 1 << 30) as data:
        batch = data.next_batch(0, warp=True)
        train_step(state, batch)
        took_s = _seconds(lambda: train_step(state, batch), repeats=5)
    original_s = ORIGINAL_ITERATION_S.get(preset)
    ratio = original_s / took_s if original_s else None
    return _row(f"iteration {preset}, batch {config.batch_size}", took_s, "s", original_s, ratio)


def _checkpoint_rows() -> list[dict[str, Any]]:
    config = preset_config("quick96")
    state = TrainState.create(config, torch.device("cpu"))
    with _data(config, 1 << 30) as data:
        train_step(state, data.next_batch(0, warp=True))
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "checkpoint"
        write_s = _seconds(lambda: write_checkpoint(state, directory), repeats=2)
        read_s = _seconds(lambda: read_checkpoint(directory), repeats=2)
    return [_row("write a quick96 checkpoint", write_s, "s"), _row("read a quick96 checkpoint", read_s, "s")]


if __name__ == "__main__":
    for row in run():
        print(row)
