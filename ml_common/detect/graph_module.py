"""Runs a converted graph (``tflite_graph``) as a batched torch module.

What a reader would get wrong: values are NCHW (kept in channels_last memory), while ``reshape`` follows the NHWC order
of the source graph, so the module permutes there and only there. Any batch size runs, whatever the source graph was
frozen at. And an addition to a convolution's result is no step of its own: it runs within the convolution, while that
result is still in the cache (the graphs spend their time on memory more than on arithmetic).

Legend: N batch, C channels, H height, W width, tblr = top, bottom, left, right.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn
from torch.nn import functional

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class _Step:
    run: Callable[..., Tensor]
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    output: str
    drop: tuple[str, ...]  # values that nobody reads after this step


class GraphModule(nn.Module):
    """A feed-forward graph for inference. ``forward(batch_NCHW) -> tuple`` of outputs in the source graph's order.

    ``input_NCHW`` is the shape of one input (N = 1). Rank-4 outputs are NCHW, others are ``(N, ...)`` as in the source.
    """

    def __init__(self, graph: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.input_NCHW: tuple[int, ...] = tuple(graph["input_NCHW"])
        self._outputs: tuple[str, ...] = tuple(graph["outputs"])
        for name, tensor in tensors.items():
            layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
            self.register_buffer(name, tensor.to(torch.float32).contiguous(memory_format=layout))
        self._steps = _plan(graph["ops"], self._outputs)
        self._input = _input_name(graph["ops"])

    def forward(self, batch_NCHW: Tensor) -> tuple[Tensor, ...]:
        if batch_NCHW.ndim != 4 or tuple(batch_NCHW.shape[1:]) != self.input_NCHW[1:]:
            raise ValueError(f"this graph takes N x {self.input_NCHW[1:]}, got {tuple(batch_NCHW.shape)}")
        values: dict[str, Tensor] = {self._input: batch_NCHW.contiguous(memory_format=torch.channels_last)}
        weights: dict[str, Tensor | None] = self._buffers
        for step in self._steps:
            values[step.output] = step.run(
                *[values[name] for name in step.inputs], *[weights[name] for name in step.weights]
            )
            for name in step.drop:
                del values[name]
        return tuple(values[name] for name in self._outputs)


def load_graph(path: Path) -> GraphModule:
    """Reads a file that ``tflite_graph.convert_tflite`` wrote. Raises ValueError if it holds no graph or an operation
    is unknown.
    """
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "graph" not in metadata:
            raise ValueError(f"{path} holds tensors but no graph; fetch the weights again")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    module = GraphModule(json.loads(metadata["graph"]), tensors)
    return module.eval()


def _input_name(ops: list[dict[str, Any]]) -> str:
    made = {op["output"] for op in ops}
    free = {name for op in ops for name in op["inputs"]} - made
    if len(free) != 1:
        raise ValueError(f"a graph must have one input, this one has {sorted(free)}")
    return str(free.pop())


def _plan(ops: list[dict[str, Any]], outputs: tuple[str, ...]) -> list[_Step]:
    steps, made = [], dict[str, str]()
    ops = _fused(ops, outputs)
    last_reader = {name: position for position, op in enumerate(ops) for name in op["inputs"]}
    for position, op in enumerate(ops):
        if op["kind"] not in _BUILDERS:
            raise ValueError(f"operation {op['kind']!r} of the graph is unknown to this version")
        drop = {name for name in op["inputs"] if last_reader[name] == position and name not in outputs}
        # What a step may overwrite: values that die here and share their memory with no other (so not the caller's
        # batch, and no view).
        own = {name for name in drop if name in made and made[name] != "reshape"}
        if len(set(op["inputs"])) < len(op["inputs"]):
            own = set()
        made[op["output"]] = op["kind"]
        weights = tuple(op[key] for key in ("weight", "bias", "slope") if op.get(key))
        run = _BUILDERS[op["kind"]]({**op, "own": own})
        steps.append(_Step(run, tuple(op["inputs"]), weights, op["output"], tuple(sorted(drop))))
    return steps


def _fused(ops: list[dict[str, Any]], outputs: tuple[str, ...]) -> list[dict[str, Any]]:
    """The same graph with additions moved into the convolutions whose results nobody else reads: such a convolution has
    two inputs, the second to be added."""
    readers = Counter(name for op in ops for name in op["inputs"])
    plain = {
        op["output"]: op
        for op in ops
        if op["kind"] == "conv"
        and op.get("activation", "none") == "none"
        and readers[op["output"]] == 1
        and op["output"] not in outputs
    }
    result, gone = [], set()
    for op in ops:
        # The later of two convolutions takes the other's result.
        convolved = (
            next((name for name in reversed(op["inputs"]) if name in plain), None) if op["kind"] == "add" else None
        )
        if convolved is None:
            result.append(op)
            continue
        (other,) = (name for name in op["inputs"] if name != convolved)
        kept: dict[str, Any] = {key: op[key] for key in ("activation", "slope", "output") if key in op}
        result.append({**plain[convolved], **kept, "inputs": [*plain[convolved]["inputs"], other]})
        gone.add(convolved)
    return [op for op in result if op["output"] not in gone]


@dataclass(slots=True)
class _Convolution:
    """A convolution with what follows it. On the CPU oneDNN is asked for by name: torch leaves it, on one thread, for
    convolutions that are two to five times slower here."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    relu: bool
    packed: Tensor | None = None  # the weight in the order that oneDNN wants for this convolution

    def __call__(self, x: Tensor, added: Tensor | None, own: bool, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``own``: ``added`` may be overwritten."""
        if x.device.type != "cpu" or not _HAS_ONEDNN:
            y = functional.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
            y = y if added is None else y.add_(added)
            return torch.relu_(y) if self.relu else y
        if self.packed is None:
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(
                weight, self.padding, self.stride, self.dilation, self.groups, list(x.shape)
            )
        where = (self.padding, self.stride, self.dilation, self.groups)
        if added is None:
            alone: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, self.packed, bias, *where, "relu" if self.relu else "none", [], ""
            )
            return alone
        after: tuple[object, ...] = ("add", 1.0, "relu" if self.relu else None, [], None)
        sum_: Tensor
        if own and added.is_contiguous(memory_format=torch.channels_last):
            sum_ = torch.ops.mkldnn._convolution_pointwise_.binary(added, x, self.packed, bias, *where, *after)
        else:
            sum_ = torch.ops.mkldnn._convolution_pointwise.binary(x, added, self.packed, bias, *where, *after)
        return sum_


def _activation(op: dict[str, Any]) -> Callable[..., Tensor] | None:
    """In-place where that is safe: the caller hands over a tensor that it has just made."""
    kinds: dict[str, Callable[..., Tensor] | None] = {
        "none": None,
        "relu": torch.relu_,
        "relu6": lambda x: x.clamp_(0.0, 6.0),
        "sigmoid": torch.sigmoid_,
        "prelu": torch.prelu,
    }
    if op.get("activation", "none") not in kinds:
        raise ValueError(f"activation {op['activation']!r} of the graph is unknown to this version")
    return kinds[op.get("activation", "none")]


def _pair(op: dict[str, Any], key: str) -> tuple[int, int]:
    first, second = op.get(key, (1, 1))
    return int(first), int(second)


def _build_conv(op: dict[str, Any]) -> Callable[..., Tensor]:
    top, bottom, left, right = op.get("pad_tblr", (0, 0, 0, 0))
    even = top == bottom and left == right
    relu = op.get("activation") == "relu"
    activation = None if relu else _activation(op)
    convolve = _Convolution(
        stride=_pair(op, "stride_hw"),
        padding=(top, left) if even else (0, 0),
        dilation=_pair(op, "dilation_hw"),
        groups=op.get("groups", 1),
        relu=relu,
    )
    has_bias, adds, own = bool(op.get("bias")), len(op["inputs"]) > 1, op["inputs"][-1] in op["own"]

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        if not even:
            x = functional.pad(x, (left, right, top, bottom))
        weight, *biased = rest[adds:]
        bias = biased.pop(0) if has_bias else None
        y = convolve(x, rest[0] if adds else None, own, weight, bias)
        return y if activation is None else activation(y, *biased)

    return run


def _build_add(op: dict[str, Any]) -> Callable[..., Tensor]:
    activation = _activation(op)
    into_left, into_right = (name in op["own"] for name in op["inputs"])

    def run(a: Tensor, b: Tensor, *slope: Tensor) -> Tensor:
        y = b.add_(a) if into_right else a.add_(b) if into_left else a + b
        return y if activation is None else activation(y, *slope)

    return run


def _build_activation(op: dict[str, Any]) -> Callable[..., Tensor]:
    activation = _activation(op)
    if activation is None:
        raise ValueError("the graph has an activation step of kind 'none'")
    if activation is torch.prelu:
        return activation
    return lambda x: activation(x.clone())  # the input may have other readers


def _build_max_pool(op: dict[str, Any]) -> Callable[..., Tensor]:
    top, bottom, left, right = op.get("pad_tblr", (0, 0, 0, 0))
    window, stride, activation = tuple(op["window_hw"]), tuple(op["stride_hw"]), _activation(op)

    def run(x: Tensor) -> Tensor:
        if top or bottom or left or right:
            x = functional.pad(x, (left, right, top, bottom), value=float("-inf"))
        y = functional.max_pool2d(x, window, stride)
        return y if activation is None else activation(y)

    return run


def _build_pad(op: dict[str, Any]) -> Callable[..., Tensor]:
    top, bottom, left, right = op.get("pad_tblr", (0, 0, 0, 0))
    pads = (left, right, top, bottom, *op.get("pad_channels", (0, 0)))
    return lambda x: functional.pad(x, pads)


def _build_resize_bilinear(op: dict[str, Any]) -> Callable[..., Tensor]:
    size_hw = tuple(op["size_hw"])
    return lambda x: functional.interpolate(x, size=size_hw, mode="bilinear", align_corners=False)


def _build_depth_to_space(op: dict[str, Any]) -> Callable[..., Tensor]:
    block = int(op["block"])

    def run(x: Tensor) -> Tensor:
        # Channels are (row, column, C) here, while pixel_shuffle wants (C, row, column).
        n, c, h, w = x.shape
        x = x.reshape(n, block, block, c // block**2, h, w)
        return x.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)

    return run


def _build_reshape(op: dict[str, Any]) -> Callable[..., Tensor]:
    shape = tuple(op["shape"])

    def run(x: Tensor) -> Tensor:
        if x.ndim == 4:
            x = x.permute(0, 2, 3, 1)
        return x.reshape(x.shape[0], *shape)

    return run


def _build_concat(op: dict[str, Any]) -> Callable[..., Tensor]:
    axis = int(op["axis"])
    return lambda *parts: torch.cat(parts, dim=axis)


_BUILDERS: dict[str, Callable[[dict[str, Any]], Callable[..., Tensor]]] = {
    "conv": _build_conv,
    "add": _build_add,
    "activation": _build_activation,
    "max_pool": _build_max_pool,
    "pad": _build_pad,
    "resize_bilinear": _build_resize_bilinear,
    "depth_to_space": _build_depth_to_space,
    "reshape": _build_reshape,
    "concat": _build_concat,
}
