"""How fast and how exact the default face finder is, on one CPU core.

Speed of each graph is set against the reference interpreter (ai-edge-litert, one thread) on the same input. Accuracy
and speed on photos need ``../shared/data``; without it those rows are left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter

from ml_common import weights
from ml_common.detect import FaceFinder, load_default_finder
from ml_common.detect.graph_module import load_graph
from services.kit.weights import GRAPHS, default_weights_dir, fetch

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
_BATCH = 8


def run() -> list[dict[str, Any]]:
    folder = default_weights_dir()
    fetch(folder, on_event=print)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [row for graph in GRAPHS for row in _graph_rows(folder, graph.name, folder / graph.source_file)]
        if DATA.is_dir():
            finder = load_default_finder(folder, torch.device("cpu"))
            rows += _accuracy_rows(finder) + _speed_rows(finder)
    finally:
        torch.set_num_threads(threads)
    return rows


def _row(name: str, value: float, unit: str, baseline: float | None = None) -> dict[str, Any]:
    ratio = value / baseline if baseline else None
    return {"name": f"detect.{name}", "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}


def _median_s(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _graph_rows(folder: Path, name: str, source: Path) -> list[dict[str, Any]]:
    module = load_graph(weights.locate(name, folder))
    batch = torch.rand(_BATCH, *module.input_NCHW[1:]).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        ours = _median_s(lambda: module(batch), 20) / _BATCH
    reference = Interpreter(model_path=str(source), num_threads=1)
    reference.allocate_tensors()
    reference.set_tensor(reference.get_input_details()[0]["index"], batch[:1].permute(0, 2, 3, 1).contiguous().numpy())
    theirs = _median_s(reference.invoke, 50)
    return [_row(f"{name}.inputs_per_s", 1 / ours, "1/s", 1 / theirs)]


def _accuracy_rows(finder: FaceFinder) -> list[dict[str, Any]]:
    folder = DATA / "landmarks68"
    inner, outline, missed = [], [], 0
    faces = json.loads((folder / "human68.json").read_text())["faces"]
    for face in faces:
        truth = np.array(face["points"])
        (found,) = finder.find([cv2.imread(str(folder / face["image"]))])
        errors = [
            np.linalg.norm(f.landmarks_px_68x2 - truth, axis=1) / np.linalg.norm(truth[36] - truth[45]) for f in found
        ]
        nearest = min(errors, key=np.mean, default=np.full(68, np.inf))
        if nearest.mean() > 0.5:
            missed += 1
            continue
        inner.append(nearest[17:].mean())
        outline.append(nearest[:17].mean())
    return [
        _row("found_of_annotated", (len(faces) - missed) / len(faces) * 100, "%"),
        _row("nme_inner_51", float(np.mean(inner)) * 100, "% of inter-ocular"),
        _row("nme_inner_51_median", float(np.median(inner)) * 100, "% of inter-ocular"),
        _row("nme_jaw_17", float(np.mean(outline)) * 100, "% of inter-ocular"),
    ]


def _speed_rows(finder: FaceFinder) -> list[dict[str, Any]]:
    portrait = cv2.imread(str(DATA / "portraits" / "skimage_astronaut.png"))
    group = cv2.imread(str(DATA / "groups" / "human_group-5.jpg"))
    rows = []
    for name, image, size in (
        ("512x512_one_face", portrait, (512, 512)),
        ("1080p_seven_faces", group, (1920, 1080)),
        ("4k_seven_faces", group, (3840, 2160)),
    ):
        frames = [cv2.resize(image, size)] * (_BATCH if size[0] < 1000 else 2)
        seconds = _median_s(lambda frames=frames: finder.find(frames), 3)  # type: ignore[misc]
        faces = sum(len(found) for found in finder.find(frames))
        rows += [
            _row(f"{name}.frames_per_s", len(frames) / seconds, "1/s"),
            _row(f"{name}.faces_per_s", faces / seconds, "1/s"),
        ]
    return rows
