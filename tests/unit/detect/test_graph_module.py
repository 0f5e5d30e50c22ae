"""Operations of a graph one by one, against definitions written out here, without any weight file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ml_common.detect.graph_module import GraphModule, load_graph


def _module(ops: list[dict[str, Any]], tensors: dict[str, Tensor] | None = None, shape: tuple[int, ...] = (1, 4, 6, 6)):
    return GraphModule({"input_NCHW": list(shape), "ops": ops, "outputs": [ops[-1]["output"]]}, tensors or {})


def _run(module: GraphModule, batch_NCHW: Tensor) -> Tensor:
    with torch.inference_mode():
        return module(batch_NCHW)[0]


def test_convolution_pads_bottom_and_right_apart() -> None:
    batch = torch.randn(3, 4, 6, 6)
    weight, bias = torch.randn(5, 4, 3, 3), torch.randn(5)
    op = {"kind": "conv", "inputs": ["x0"], "output": "x1", "weight": "w", "bias": "b", "activation": "relu"}
    got = _run(_module([{**op, "stride_hw": [2, 2], "pad_tblr": [0, 1, 0, 1]}], {"w": weight, "b": bias}), batch)
    padded = np.zeros((3, 4, 7, 7), np.float32)
    padded[:, :, :6, :6] = batch.numpy()
    for y, x in np.ndindex(3, 3):
        window = padded[:, :, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3]
        expected = np.maximum(np.einsum("nchw,ochw->no", window, weight.numpy()) + bias.numpy(), 0)
        np.testing.assert_allclose(got[:, :, y, x].numpy(), expected, atol=1e-4)


def test_prelu_has_one_slope_per_channel() -> None:
    batch = torch.randn(2, 4, 6, 6)
    op = {"kind": "activation", "inputs": ["x0"], "output": "x1", "activation": "prelu", "slope": "s"}
    slope = torch.tensor([0.1, -0.2, 0.5, 0.0])
    got = _run(_module([op], {"s": slope}), batch)
    torch.testing.assert_close(got, torch.where(batch > 0, batch, batch * slope[:, None, None]))


def test_depth_to_space_takes_row_and_column_before_channel() -> None:
    batch = torch.arange(8.0).reshape(1, 8, 1, 1)  # block 2, two channels: row 0 holds (0, 1) and (2, 3)
    got = _run(
        _module([{"kind": "depth_to_space", "inputs": ["x0"], "output": "x1", "block": 2}], {}, (1, 8, 1, 1)), batch
    )
    np.testing.assert_array_equal(got[0].permute(1, 2, 0), [[[0, 1], [2, 3]], [[4, 5], [6, 7]]])


def test_reshape_reads_channels_last() -> None:
    batch = torch.randn(2, 4, 3, 5)
    got = _run(
        _module([{"kind": "reshape", "inputs": ["x0"], "output": "x1", "shape": [15, 4]}], {}, (1, 4, 3, 5)), batch
    )
    torch.testing.assert_close(got, batch.permute(0, 2, 3, 1).reshape(2, 15, 4))


def test_max_pool_ignores_its_padding() -> None:
    batch = -torch.rand(1, 1, 3, 3) - 1.0
    op = {"kind": "max_pool", "inputs": ["x0"], "output": "x1", "window_hw": [2, 2], "stride_hw": [2, 2]}
    got = _run(_module([{**op, "pad_tblr": [0, 1, 0, 1]}], {}, (1, 1, 3, 3)), batch)
    assert got[0, 0, 1, 1] == batch[0, 0, 2, 2]


def test_values_that_are_read_again_are_not_overwritten() -> None:
    ops = [
        {"kind": "activation", "inputs": ["x0"], "output": "x1", "activation": "relu"},
        {"kind": "activation", "inputs": ["x1"], "output": "x2", "activation": "sigmoid"},
        {"kind": "add", "inputs": ["x1", "x2"], "output": "x3"},
        {"kind": "add", "inputs": ["x3", "x3"], "output": "x4"},
        {"kind": "add", "inputs": ["x4", "x0"], "output": "x5"},
    ]
    batch = torch.randn(2, 4, 6, 6)
    kept = batch.clone()
    got = _run(_module(ops), batch)
    relu = kept.clamp(min=0)
    torch.testing.assert_close(got, 2 * (relu + relu.sigmoid()) + kept)
    torch.testing.assert_close(batch, kept)


@pytest.mark.parametrize("activation", ["none", "relu", "prelu"])
def test_additions_to_convolutions_are_the_same_as_apart(activation: str) -> None:
    """x1 is read twice, x2 is added to x1, x4 is added to x3 and kept, and x0 belongs to the caller."""
    generator = torch.Generator().manual_seed(3)
    tensors = {name: torch.randn(4, 4, 1, 1, generator=generator) for name in ("w1", "w2", "w3")}
    tensors |= {"b": torch.randn(4, generator=generator), "s": torch.tensor([0.1, -0.2, 0.5, 0.0])}
    conv = {"kind": "conv", "bias": "b"}
    add = {"kind": "add", "activation": activation, "slope": "s"}
    ops = [
        {**conv, "inputs": ["x0"], "output": "x1", "weight": "w1"},
        {**conv, "inputs": ["x1"], "output": "x2", "weight": "w2"},
        {**add, "inputs": ["x1", "x2"], "output": "x3"},
        {**conv, "inputs": ["x3"], "output": "x4", "weight": "w3"},
        {**add, "inputs": ["x4", "x3"], "output": "x5"},
        {**conv, "inputs": ["x5"], "output": "x6", "weight": "w1"},
        {**add, "inputs": ["x0", "x6"], "output": "x7"},
    ]
    if activation != "prelu":
        ops = [{key: value for key, value in op.items() if key != "slope"} for op in ops]
    module = GraphModule({"input_NCHW": [1, 4, 5, 5], "ops": ops, "outputs": ["x7", "x3"]}, tensors)

    def conv_by_hand(x: Tensor, name: str) -> Tensor:
        return torch.einsum("nchw,oc->nohw", x, tensors[name][:, :, 0, 0]) + tensors["b"][:, None, None]

    def act(x: Tensor) -> Tensor:
        if activation == "none":
            return x
        return torch.where(x > 0, x, x * tensors["s"][:, None, None] if activation == "prelu" else 0.0 * x)

    for count in (1, 3):
        batch = torch.randn(count, 4, 5, 5, generator=generator)
        kept = batch.clone()
        with torch.inference_mode():
            got = module(batch)
        x1 = conv_by_hand(kept, "w1")
        x3 = act(x1 + conv_by_hand(x1, "w2"))
        x5 = act(x3 + conv_by_hand(x3, "w3"))
        torch.testing.assert_close(got[0], act(kept + conv_by_hand(x5, "w1")), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(got[1], x3, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(batch, kept)


def test_pad_concat_and_resize() -> None:
    ops = [
        {"kind": "pad", "inputs": ["x0"], "output": "x1", "pad_tblr": [1, 0, 0, 2], "pad_channels": [0, 1]},
        {"kind": "concat", "inputs": ["x1", "x1"], "output": "x2", "axis": 1},
        {"kind": "resize_bilinear", "inputs": ["x2"], "output": "x3", "size_hw": [14, 16]},
    ]
    batch = torch.randn(2, 4, 6, 6)
    got = _run(_module(ops), batch)
    assert got.shape == (2, 10, 14, 16)
    assert got[:, 4].abs().max() == 0
    # Doubling with half-pixel centres: output 2 lies a quarter between inputs 0 and 1 (input 0 here is the padded row).
    torch.testing.assert_close(got[:, 0, 2, 0], 0.75 * batch[:, 0, 0, 0])


@pytest.mark.parametrize(
    ("op", "name"),
    [
        ({"kind": "gru", "inputs": ["x0"], "output": "x1"}, "gru"),
        ({"kind": "activation", "inputs": ["x0"], "output": "x1", "activation": "mish"}, "mish"),
    ],
)
def test_unknown_names_are_said(op: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        _module([op])


def test_wrong_input_shape_is_refused() -> None:
    module = _module([{"kind": "activation", "inputs": ["x0"], "output": "x1", "activation": "relu"}])
    with pytest.raises(ValueError, match="4, 6, 6"):
        module(torch.zeros(1, 4, 6, 7))


def test_a_file_without_a_graph_is_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="no graph"):
        load_graph(tmp_path / "plain.safetensors")
