"""How exact and how fast the default face finder is; speeds on one CPU core.

Accuracy: on heads whose truth is known because they are rendered (``faces.synthetic.*``, poses up to 60 degrees of yaw),
and on photos annotated by people, which nothing here was fitted to (``../shared/data``; without it those rows are left
out). Errors are means over points over the distance between the outer eye corners of the truth. Speed of each graph is
set against the reference interpreter (ai-edge-litert, one thread) on the same input.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter

from ml_common import weights
from ml_common.detect import FaceFinder, FoundFace, load_finder
from ml_common.detect.graph_module import load_graph
from ml_common.synthetic import IDENTITIES, FrameState, RenderedFrame, performance, render
from services.kit.weights import GRAPHS, default_weights_dir, fetch

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
Array = np.ndarray[Any, Any]
_BATCH = 8
_POSES_EACH, _STILL_FRAMES = 24, 10
_AIM_NME, _AIM_FOUND = 4.0, 98.0


def run() -> list[dict[str, Any]]:
    folder = default_weights_dir()
    fetch(folder, on_event=print)
    threads, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        finder = load_finder(folder, torch.device("cpu"))
        rows = [row for graph in GRAPHS for row in _graph_rows(folder, graph.name, folder / graph.source_file)]
        rows += _synthetic_rows(finder) + _still_rows(finder) + _speed_rows(folder, finder)
        if DATA.is_dir():
            rows += _photo_rows(finder) + _group_rows(finder)
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(opencv_threads)
    return rows


def _row(name: str, value: float, unit: str, baseline: float | None = None) -> dict[str, Any]:
    ratio = value / baseline if baseline else None
    return {"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}


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
    return [_row(f"detect.{name}.inputs_per_s", 1 / ours, "1/s", 1 / theirs)]


def _errors(faces: list[FoundFace], truth_68x2: Array) -> Array | None:
    """Per point, in % of the distance between the outer eye corners, of the face that is nearest to the truth; None where
    none is near."""
    scale = 100 / np.linalg.norm(truth_68x2[36] - truth_68x2[45])
    errors = [np.linalg.norm(face.landmarks_px_68x2 - truth_68x2, axis=1) * scale for face in faces]
    nearest = min(errors, key=np.mean, default=None)
    # Against the face's size: in profile the eye corners nearly meet.
    extent = np.linalg.norm(np.ptp(truth_68x2, axis=0)) * scale
    return nearest if nearest is not None and nearest.mean() < 0.2 * extent else None


def _photo_rows(finder: FaceFinder) -> list[dict[str, Any]]:
    folder = DATA / "landmarks68"
    rows, errors = [], dict[str, list[Array | None]]()
    for name in ("human68", "aflw3d68"):
        faces = json.loads((folder / f"{name}.json").read_text())["faces"]
        found = [finder.find([cv2.imread(str(folder / face["image"]))])[0] for face in faces]
        errors[name] = [_errors(f, np.array(face["points"])) for f, face in zip(found, faces, strict=True)]
        seen = [e for e in errors[name] if e is not None]
        rows += [
            _row(f"faces.{name}.detected_percent", len(seen) / len(faces) * 100, "%", _AIM_FOUND),
            _row(f"faces.{name}.nme_inner_percent", _mean(e[17:] for e in seen), "% of inter-ocular"),
            _row(
                f"faces.{name}.nme_inner_median_percent",
                float(np.median([e[17:].mean() for e in seen])),
                "% of inter-ocular",
            ),
            _row(f"faces.{name}.nme_jaw_percent", _mean(e[:17] for e in seen), "% of inter-ocular"),
        ]
    both = [e for name in errors for e in errors[name]]
    human = [e[17:] for e in errors["human68"] if e is not None]
    return [
        _row("faces.nme_inner_percent", _mean(human), "% of inter-ocular", _AIM_NME),
        _row("faces.detected_percent", sum(e is not None for e in both) / len(both) * 100, "%", _AIM_FOUND),
        *rows,
    ]


def _mean(errors: Iterable[Array]) -> float:
    return float(np.mean([e.mean() for e in errors]))


def _synthetic_rows(finder: FaceFinder) -> list[dict[str, Any]]:
    """Clips of talking heads that turn just under 60 degrees aside; of the inner points those in sight count."""
    found, all_inner, inner, jaw = [], [], [], []
    for seed, identity in enumerate(IDENTITIES.values()):
        for state in performance(seed, 10 * _POSES_EACH, max_yaw_deg=59.9)[::10]:
            frame = render(identity, state, 640, 480)
            error = _errors(finder.find([frame.image_bgr_HWC])[0], frame.landmarks_px_68x2)
            found.append(error is not None)
            if error is not None:
                all_inner.append(error[17:])
                inner.append(error[17:][frame.visible_68[17:]])
                jaw.append(error[:17][frame.visible_68[:17]])
    return [
        _row("faces.synthetic.detected_percent", float(np.mean(found)) * 100, "%", 100.0),
        _row("faces.synthetic.nme_inner_percent", _mean(inner), "% of inter-ocular", _AIM_NME),
        _row("faces.synthetic.nme_inner_with_hidden_percent", _mean(all_inner), "% of inter-ocular"),
        _row("faces.synthetic.nme_jaw_percent", _mean(jaw), "% of inter-ocular"),
    ]


def _still_rows(finder: FaceFinder) -> list[dict[str, Any]]:
    """How much the points of a head tremble that does not move, under a camera's noise: deviation per point."""
    random = np.random.default_rng(5)
    trembling = []
    for seed, identity in enumerate(IDENTITIES.values()):
        (state,) = performance(seed, 1, max_yaw_deg=30)
        offsets = []
        for _ in range(_STILL_FRAMES):
            x, y = random.uniform(-0.5, 0.5, 2) / (640, 480)
            frame = render(identity, replace(state, center_x=state.center_x + x, center_y=state.center_y + y), 640, 480)
            (found,) = finder.find([_noisy(frame, random)])
            truth = frame.landmarks_px_68x2
            offsets.append((found[0].landmarks_px_68x2 - truth)[17:] / np.linalg.norm(truth[36] - truth[45]) * 100)
        trembling.append(np.sqrt(np.var(offsets, axis=0).sum(axis=-1)))
    return [_row("faces.synthetic.still_tremble_percent", _mean(trembling), "% of inter-ocular")]


def _noisy(frame: RenderedFrame, random: np.random.Generator) -> Array:
    noise = random.normal(0, 3, frame.image_bgr_HWC.shape)
    return np.clip(np.round(frame.image_bgr_HWC + noise), 0, 255).astype(np.uint8)


def _speed_rows(folder: Path, finder: FaceFinder) -> list[dict[str, Any]]:
    """One rendered face, or none, in frames of several sizes, eight frames a call."""
    rows = []
    for width, height in ((512, 512), (1920, 1080), (3840, 2160)):
        frame = render(IDENTITIES["ada"], FrameState(face_height=0.35), width, height).image_bgr_HWC
        rows += _stage_rows(f"{width}x{height}_one_face", finder, [frame] * _BATCH)
    empty = np.full((1080, 1920, 3), 90, np.uint8)
    rows += _stage_rows("1920x1080_no_face", finder, [empty] * _BATCH)
    frame = render(IDENTITIES["ada"], FrameState(face_height=0.35), 1920, 1080).image_bgr_HWC
    for smallest_px in (24.0, 80.0, 160.0):
        coarse = load_finder(folder, torch.device("cpu"), smallest_face_px=smallest_px)
        seconds = _median_s(lambda coarse=coarse: coarse.detector.detect([frame] * 2), 3) / 2  # type: ignore[misc]
        rows.append(_row(f"detect.1920x1080_faces_from_{smallest_px:.0f}_px.detect_ms", seconds * 1000, "ms"))
    return rows


def _group_rows(finder: FaceFinder) -> list[dict[str, Any]]:
    group = cv2.imread(str(DATA / "groups" / "human_group-5.jpg"))
    return _stage_rows("1920x1080_seven_faces", finder, [cv2.resize(group, (1920, 1080))] * 4)


def _stage_rows(name: str, finder: FaceFinder, frames: list[Array]) -> list[dict[str, Any]]:
    boxes = finder.detector.detect(frames)
    frame_of_K = [index for index, found in enumerate(boxes) for _ in found]
    faces_K = [face for found in boxes for face in found]
    stages = {
        "detect_ms": lambda: finder.detector.detect(frames),
        "locate_ms": lambda: finder.landmarker.locate(frames, frame_of_K, faces_K),
        "total_ms": lambda: finder.find(frames),
    }
    took = {stage: _median_s(call, 3) / len(frames) for stage, call in stages.items()}
    return [
        *(_row(f"detect.{name}.{stage}", seconds * 1000, "ms") for stage, seconds in took.items()),
        _row(f"detect.{name}.frames_per_s", 1 / took["total_ms"], "1/s"),
    ]
