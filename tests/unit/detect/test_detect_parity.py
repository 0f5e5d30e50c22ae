"""The converted graphs against the reference interpreter on the original files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ml_common import weights
from ml_common.detect import tflite_graph
from ml_common.detect.graph_module import load_graph
from services.kit.weights import GRAPHS, Graph

litert = pytest.importorskip("ai_edge_litert.interpreter", reason="the reference interpreter is not installed")


def _inputs(graph: Graph, shape: tuple[int, ...]) -> np.ndarray:
    low = 0.0 if graph.name == "face_mesh_468" else -1.0
    rng = np.random.default_rng(7)
    noise = rng.uniform(low, 1.0, (3, *shape)).astype(np.float32)
    # One is smooth like a picture, one is flat: noise alone would not excite a detector's deep layers.
    ramp = np.linspace(low, 1.0, shape[1], dtype=np.float32)
    noise[1] = ramp[None, :, None] * np.float32(0.7) + ramp[None, None, :] * np.float32(0.3)
    noise[2] = 1.0
    return noise


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda g: g.name)
def test_batched_module_agrees_with_reference(graph: Graph, weights_dir: Path) -> None:
    module = load_graph(weights.locate(graph.name, weights_dir))
    batch_NCHW = _inputs(graph, module.input_NCHW[1:])
    with torch.inference_mode():
        outputs = [o.permute(0, 2, 3, 1) if o.ndim == 4 else o for o in module(torch.from_numpy(batch_NCHW))]
    reference = litert.Interpreter(model_path=str(weights_dir / graph.source_file), num_threads=1)
    reference.allocate_tensors()
    details = reference.get_output_details()
    assert len(details) == len(outputs)
    for row, image in enumerate(batch_NCHW):
        reference.set_tensor(reference.get_input_details()[0]["index"], image.transpose(1, 2, 0)[None].copy())
        reference.invoke()
        for output, detail in zip(outputs, details, strict=True):
            expected = reference.get_tensor(detail["index"])[0]
            assert tuple(output.shape[1:]) == expected.shape
            assert np.abs(expected).max() > 1e-2
            assert np.abs(output[row].numpy() - expected).max() < 1e-3


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda g: g.name)
def test_conversion_is_reproducible(graph: Graph, weights_dir: Path) -> None:
    source = (weights_dir / graph.source_file).read_bytes()
    assert tflite_graph.convert_tflite(source) == (weights_dir / weights.entry(graph.name).file).read_bytes()


def test_unknown_operator_is_named(weights_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tflite_graph._Reader, "_read_depth_to_space")
    with pytest.raises(ValueError, match="DEPTH_TO_SPACE"):
        tflite_graph.convert_tflite((weights_dir / GRAPHS[0].source_file).read_bytes())


def test_other_files_are_refused() -> None:
    with pytest.raises(ValueError, match="TensorFlow Lite"):
        tflite_graph.convert_tflite(b"\x00" * 64)
