"""Extraction at 1080p: frames a second of each step alone and of all of them at the same time, through the stage that workers run.

What one would get wrong: the steps share the cores. Where there are as many cores as steps, the whole runs at the pace of its slowest
step; on fewer it cannot, so the ratio is also given against what the cores allow.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ml_common.media import open_source
from services.faces.app import extraction_plan
from services.faces.crops import FaceCutter
from services.faces.finders import Finders, kept, placed
from services.faces.options import ExtractionOptions
from services.faces.stages import ExtractStage
from services.kit.clips import MediaFile
from services.kit.operations.stage import WorkerEnv
from services.kit.records import Records
from services.kit.storage import open_store
from services.kit.weights import default_weights_dir
from tests.support.footage import head_clip

FRAMES = 48
WIDTH, HEIGHT = 1920, 1080


def run() -> list[dict[str, Any]]:
    """Rows for the CPU, and for the GPU where there is one."""
    torch.set_num_threads(1)  # as in a worker, which Ray gives one CPU
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    with tempfile.TemporaryDirectory() as folder:
        clip = head_clip(
            Path(folder, "clip.mp4"), identity="mei", frame_count=FRAMES, width=WIDTH, height=HEIGHT, channels=0
        )
        return [row for device in devices for row in _rows(Path(folder, device), clip, device)]


def _rows(folder: Path, clip: Path, device: str) -> list[dict[str, Any]]:
    folder.mkdir()
    store = open_store("folder", root=folder / "objects")
    store.put("clip", clip)
    env = WorkerEnv(
        store=store, records=Records(store), weights_dir=default_weights_dir(), device=device, scratch_dir=folder
    )
    options = ExtractionOptions()
    plan = extraction_plan(
        clip="projects/p/clips/c",
        clip_file="clip",
        media=MediaFile("clip", "video/mp4"),
        media_sha256="0" * 64,
        faceset="projects/p/facesets/f",
        frames=range(FRAMES),
        options=options,
        chunk_frames=FRAMES,
    )
    finder = Finders().get(env, options.to_json())
    decode_s, frames = _timed(lambda: [image for _, image in _read(clip)])
    finder.find(frames[:2])  # the first call builds kernels
    find_s, found = _timed(lambda: [faces for i in range(0, FRAMES, 8) for faces in finder.find(frames[i : i + 8])])
    cutter = FaceCutter(store, faceset="projects/p/facesets/alone", clip="c", clip_file="c", options=options.to_json())

    def store_faces() -> None:
        for start in range(0, FRAMES, 8):
            objects = []
            for number in range(start, min(start + 8, FRAMES)):
                for index, face in enumerate(kept(found[number], options.to_json())):
                    objects += cutter.cut(number, index, frames[number], placed(finder, face)).objects()
            store.put_many(objects)

    store_s, _ = _timed(store_faces)
    stage = ExtractStage()
    stage.process_chunk(env, plan, type(plan.chunks[0])(0, 1, {"frames": [[0, 0, 1]]}), lambda done: None)
    whole_s, _ = _timed(lambda: stage.process_chunk(env, plan, plan.chunks[0], lambda done: None))
    steps = {"decode": decode_s, "find": find_s, "cut_and_store": store_s}
    slowest, total, cores = max(steps.values()), sum(steps.values()), os.cpu_count() or 1
    bound = max(slowest, total / min(cores, len(steps)))
    suffix = "" if device == "cpu" else f"_{device}"
    rows = [_row(f"faces.{name}_frames_per_s_1080p{suffix}", FRAMES / seconds) for name, seconds in steps.items()]
    aim = 50.0 if device == "cuda" else None
    return [
        *rows,
        _row(f"faces.frames_per_s_1080p{suffix}", FRAMES / whole_s, baseline=aim),
        _row(f"faces.overlap_ratio{suffix}", slowest / whole_s, "of the slowest step alone", baseline=0.85),
        _row(f"faces.overlap_ratio_of_cores{suffix}", bound / whole_s, f"of what {cores} cores allow", baseline=0.85),
        _row(f"faces.one_after_another_frames_per_s_1080p{suffix}", FRAMES / total),
    ]


def _read(clip: Path) -> list[tuple[int, np.ndarray]]:
    with open_source(clip) as source:
        return list(source.frames(0, FRAMES))


def _timed(work: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _row(name: str, value: float, unit: str = "frames/s", baseline: float | None = None) -> dict[str, Any]:
    ratio = value / baseline if baseline else None
    return {"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}
