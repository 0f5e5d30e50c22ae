"""Reads a TensorFlow Lite flatbuffer and writes it as one safetensors file that ``graph_module.GraphModule`` runs.

What a reader would get wrong: this is needed once, when weights are fetched. Nothing at run time imports it (or the
``tflite`` package). It does no arithmetic on weights: fp16 is widened to fp32 (exact), sparse tensors are filled out,
axes are permuted. So the output bytes are a pure function of the input bytes and their SHA-256 can be pinned on every
platform.

The file: tensors ``w<i>`` (fp32, convolution weights as OIHW) and one metadata key, ``graph``, a JSON object
``{"input_NCHW": [...], "ops": [...], "outputs": [...]}``. Values in ``ops`` are named ``x<i>`` and are NCHW where they
have four axes. Each operation is an ``Op`` below. A pad in front of a convolution and an activation behind one are
folded into it.

Formats: tensorflow/lite/schema/schema.fbs (Apache-2.0), https://huggingface.co/docs/safetensors/index#format.

Legend: N batch, H height, W width, C channels, O out, I in, tblr = top, bottom, left, right.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import tflite

FloatArray = np.ndarray[Any, np.dtype[np.float32]]

_BUILTIN_NAMES: dict[int, str] = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}
_TENSOR_DTYPES = {
    tflite.TensorType.FLOAT32: np.dtype("<f4"),
    tflite.TensorType.FLOAT16: np.dtype("<f2"),
    tflite.TensorType.INT32: np.dtype("<i4"),
}
_ACTIVATIONS = {
    tflite.ActivationFunctionType.NONE: "none",
    tflite.ActivationFunctionType.RELU: "relu",
    tflite.ActivationFunctionType.RELU6: "relu6",
}
_INDEX_VECTORS = {
    tflite.SparseIndexVector.Int32Vector: tflite.Int32Vector,
    tflite.SparseIndexVector.Uint16Vector: tflite.Uint16Vector,
    tflite.SparseIndexVector.Uint8Vector: tflite.Uint8Vector,
}


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of a converted graph. Fields that a kind does not use keep their default.

    kind: ``conv`` (grouped, so depthwise too), ``add``, ``concat``, ``max_pool``, ``pad``, ``resize_bilinear``
    (half-pixel centres), ``depth_to_space``, ``reshape`` (to the NHWC order of the source graph), ``activation``.
    inputs/output: value names. weight/bias/slope: tensor names. ``activation``: none, relu, relu6, sigmoid or prelu
    (then ``slope``).
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    weight: str = ""
    bias: str = ""
    slope: str = ""
    activation: str = "none"
    stride_hw: tuple[int, int] = (1, 1)
    dilation_hw: tuple[int, int] = (1, 1)
    window_hw: tuple[int, int] = (1, 1)
    pad_tblr: tuple[int, int, int, int] = (0, 0, 0, 0)
    pad_channels: tuple[int, int] = (0, 0)
    groups: int = 1
    axis: int = 0
    size_hw: tuple[int, int] = (0, 0)
    block: int = 0
    shape: tuple[int, ...] = ()


def convert_tflite(model_bytes: bytes) -> bytes:
    """Converts a ``.tflite`` file's bytes to the bytes of a safetensors file (see the module text).

    The graph must have one subgraph, one NHWC float input with batch 1, and only the operators named in ``Op``. Raises
    ValueError naming the operator, tensor type or option that it does not know. Parity with the reference interpreter
    is pinned by tests/unit/detect/test_detect_parity.py.
    """
    reader = _Reader(model_bytes)
    ops = _fold_activations(_fold_pads(reader.read_ops(), reader.outputs), reader.outputs)
    used = {name for op in ops for name in (op.weight, op.bias, op.slope) if name}
    graph = {
        "input_NCHW": list(reader.input_NCHW),
        "ops": [_without_defaults(op) for op in ops],
        "outputs": list(reader.outputs),
    }
    return _safetensors_bytes({name: reader.constants[name] for name in sorted(used)}, graph)


def _without_defaults(op: Op) -> dict[str, Any]:
    fields = asdict(op)
    plain = asdict(Op(op.kind, op.inputs, op.output))
    return {k: v for k, v in fields.items() if k in ("kind", "inputs", "output") or v != plain[k]}


def _safetensors_bytes(tensors: dict[str, FloatArray], graph: dict[str, Any]) -> bytes:
    # Written by hand: the safetensors library does not promise the same bytes from one version to the next, and we pin
    # their hash.
    header: dict[str, Any] = {"__metadata__": {"graph": json.dumps(graph, sort_keys=True, separators=(",", ":"))}}
    blobs, offset = [], 0
    for name, tensor in tensors.items():
        blob = np.ascontiguousarray(tensor, dtype="<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(blobs)


class _Reader:
    """Walks one flatbuffer: constants go to ``constants`` (by name), the rest becomes ``Op`` in execution order."""

    def __init__(self, model_bytes: bytes) -> None:
        if model_bytes[4:8] != b"TFL3":
            raise ValueError("not a TensorFlow Lite file (no TFL3 mark at byte 4)")
        self._model = tflite.Model.GetRootAs(model_bytes, 0)
        if self._model.SubgraphsLength() != 1:
            raise ValueError(f"the graph has {self._model.SubgraphsLength()} subgraphs; only one is supported")
        self._graph = self._model.Subgraphs(0)
        self._folded: dict[int, np.ndarray[Any, Any]] = {}
        self.constants: dict[str, FloatArray] = {}
        if self._graph.InputsLength() != 1:
            raise ValueError(f"the graph has {self._graph.InputsLength()} inputs; only one is supported")
        n, h, w, c = self._shape(self._graph.Inputs(0))
        if n != 1:
            raise ValueError(f"the graph's batch size is {n}; only 1 is supported")
        self.input_NCHW = (1, c, h, w)
        self.input_name = f"x{self._graph.Inputs(0)}"
        self.outputs = tuple(f"x{i}" for i in self._graph.OutputsAsNumpy())

    def read_ops(self) -> list[Op]:
        ops = []
        for position in range(self._graph.OperatorsLength()):
            op = self._read_op(self._graph.Operators(position))
            if op is not None:
                ops.append(op)
        return ops

    # -- tensors -------------------------------------------------------------------------------------------------------

    def _shape(self, index: int) -> tuple[int, ...]:
        return tuple(int(v) for v in self._graph.Tensors(index).ShapeAsNumpy())

    def _constant(self, index: int) -> np.ndarray[Any, Any]:
        """The tensor's stored values, dense and in its own dtype; ValueError if it is not a constant."""
        if index in self._folded:
            return self._folded[index]
        tensor = self._graph.Tensors(index)
        buffer = self._model.Buffers(tensor.Buffer())
        if buffer.DataLength() == 0:
            raise ValueError(f"tensor {tensor.Name().decode()!r} is expected to be a constant, but has no data")
        if tensor.Type() not in _TENSOR_DTYPES:
            raise ValueError(f"tensor {tensor.Name().decode()!r} has an unsupported type {tensor.Type()}")
        values = buffer.DataAsNumpy().view(_TENSOR_DTYPES[tensor.Type()])
        return _densify(values, tensor) if tensor.Sparsity() else values.reshape(self._shape(index))

    def _is_constant(self, index: int) -> bool:
        return (
            index in self._folded or self._model.Buffers(self._graph.Tensors(index).Buffer()).DataLength() > 0
        )  # activations have an empty buffer

    def _keep(self, index: int, values: np.ndarray[Any, Any]) -> str:
        name = f"w{index}"
        self.constants[name] = values.astype(np.float32)
        return name

    # -- operators -----------------------------------------------------------------------------------------------------

    def _read_op(self, operator: Any) -> Op | None:
        code = self._model.OperatorCodes(operator.OpcodeIndex())
        # Files older than the extended enum keep the number in the deprecated field; the larger of the two is the right
        # one.
        kind = _BUILTIN_NAMES.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "UNKNOWN")
        custom = code.CustomCode()
        if custom:
            kind = f"CUSTOM {custom.decode()}"
        inputs = [int(i) for i in operator.InputsAsNumpy() if i >= 0]
        output = int(operator.Outputs(0))
        if kind in ("DEQUANTIZE", "DENSIFY"):
            self._folded[output] = self._constant(inputs[0])
            return None
        method = getattr(self, f"_read_{kind.lower()}", None)
        if method is None:
            raise ValueError(f"operator {kind} is not supported by this converter")
        op: Op = method(inputs, f"x{output}", operator)
        return op

    @staticmethod
    def _options(operator: Any, kind: Any) -> Any:
        options = kind()
        table = operator.BuiltinOptions()
        options.Init(table.Bytes, table.Pos)
        return options

    @staticmethod
    def _activation(options: Any) -> str:
        code = options.FusedActivationFunction()
        if code not in _ACTIVATIONS:
            raise ValueError(f"fused activation {code} is not supported by this converter")
        return _ACTIVATIONS[code]

    def _same_pads(
        self, index: int, options: Any, window_hw: tuple[int, int], dilation_hw: tuple[int, int]
    ) -> tuple[int, int, int, int]:
        """TensorFlow's SAME: output size is ceil(size / stride); an odd pixel of padding goes to bottom and right."""
        if options.Padding() == tflite.Padding.VALID:
            return (0, 0, 0, 0)
        pads: list[int] = []
        strides = (options.StrideH(), options.StrideW())
        for size, window, dilation, stride in zip(
            self._shape(index)[1:3], window_hw, dilation_hw, strides, strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
            pads += [total // 2, total - total // 2]
        return (pads[0], pads[1], pads[2], pads[3])

    def _convolution(self, inputs: list[int], output: str, options: Any, weight_OIHW: Any, groups: int) -> Op:
        window_hw = (int(weight_OIHW.shape[2]), int(weight_OIHW.shape[3]))
        dilation_hw = (options.DilationHFactor(), options.DilationWFactor())
        return Op(
            "conv",
            (f"x{inputs[0]}",),
            output,
            weight=self._keep(inputs[1], weight_OIHW),
            bias=self._keep(inputs[2], self._constant(inputs[2])) if len(inputs) > 2 else "",
            activation=self._activation(options),
            stride_hw=(options.StrideH(), options.StrideW()),
            dilation_hw=dilation_hw,
            pad_tblr=self._same_pads(inputs[0], options, window_hw, dilation_hw),
            groups=groups,
        )

    def _read_conv_2d(self, inputs: list[int], output: str, operator: Any) -> Op:
        weight_OIHW = self._constant(inputs[1]).transpose(0, 3, 1, 2)
        groups = self._shape(inputs[0])[3] // weight_OIHW.shape[1]
        return self._convolution(inputs, output, self._options(operator, tflite.Conv2DOptions), weight_OIHW, groups)

    def _read_depthwise_conv_2d(self, inputs: list[int], output: str, operator: Any) -> Op:
        weight_OIHW = self._constant(inputs[1]).transpose(3, 0, 1, 2)
        options = self._options(operator, tflite.DepthwiseConv2DOptions)
        return self._convolution(inputs, output, options, weight_OIHW, self._shape(inputs[0])[3])

    def _read_add(self, inputs: list[int], output: str, operator: Any) -> Op:
        if any(self._is_constant(i) for i in inputs) or self._shape(inputs[0]) != self._shape(inputs[1]):
            raise ValueError("operator ADD with a constant or with broadcasting is not supported by this converter")
        activation = self._activation(self._options(operator, tflite.AddOptions))
        return Op("add", tuple(f"x{i}" for i in inputs), output, activation=activation)

    def _read_relu(self, inputs: list[int], output: str, operator: Any) -> Op:
        return Op("activation", (f"x{inputs[0]}",), output, activation="relu")

    def _read_relu6(self, inputs: list[int], output: str, operator: Any) -> Op:
        return Op("activation", (f"x{inputs[0]}",), output, activation="relu6")

    def _read_logistic(self, inputs: list[int], output: str, operator: Any) -> Op:
        return Op("activation", (f"x{inputs[0]}",), output, activation="sigmoid")

    def _read_prelu(self, inputs: list[int], output: str, operator: Any) -> Op:
        slope = self._constant(inputs[1])
        if slope.size != slope.shape[-1]:
            raise ValueError("operator PRELU is supported with one slope per channel only")
        kept = self._keep(inputs[1], slope.reshape(-1))
        return Op("activation", (f"x{inputs[0]}",), output, activation="prelu", slope=kept)

    def _read_max_pool_2d(self, inputs: list[int], output: str, operator: Any) -> Op:
        options = self._options(operator, tflite.Pool2DOptions)
        window_hw = (options.FilterHeight(), options.FilterWidth())
        return Op(
            "max_pool",
            (f"x{inputs[0]}",),
            output,
            activation=self._activation(options),
            stride_hw=(options.StrideH(), options.StrideW()),
            window_hw=window_hw,
            pad_tblr=self._same_pads(inputs[0], options, window_hw, (1, 1)),
        )

    def _read_pad(self, inputs: list[int], output: str, operator: Any) -> Op:
        (n0, n1), (top, bottom), (left, right), (c0, c1) = self._constant(inputs[1]).tolist()
        if n0 or n1:
            raise ValueError("operator PAD on the batch axis is not supported by this converter")
        return Op("pad", (f"x{inputs[0]}",), output, pad_tblr=(top, bottom, left, right), pad_channels=(c0, c1))

    def _read_resize_bilinear(self, inputs: list[int], output: str, operator: Any) -> Op:
        options = self._options(operator, tflite.ResizeBilinearOptions)
        if options.AlignCorners() or not options.HalfPixelCenters():
            raise ValueError("operator RESIZE_BILINEAR is supported with half-pixel centres only")
        height, width = self._constant(inputs[1]).tolist()
        return Op("resize_bilinear", (f"x{inputs[0]}",), output, size_hw=(height, width))

    def _read_depth_to_space(self, inputs: list[int], output: str, operator: Any) -> Op:
        block = self._options(operator, tflite.DepthToSpaceOptions).BlockSize()
        return Op("depth_to_space", (f"x{inputs[0]}",), output, block=block)

    def _read_reshape(self, inputs: list[int], output: str, operator: Any) -> Op:
        shape = self._shape(int(operator.Outputs(0)))
        if shape[0] != 1 or len(shape) == 4:
            raise ValueError(
                f"operator RESHAPE to {shape} is not supported: the batch axis must stay and rank 4 is kept for images"
            )
        return Op("reshape", (f"x{inputs[0]}",), output, shape=shape[1:])

    def _read_concatenation(self, inputs: list[int], output: str, operator: Any) -> Op:
        rank = len(self._shape(inputs[0]))
        axis = self._options(operator, tflite.ConcatenationOptions).Axis() % rank
        if rank == 4:
            axis = (0, 2, 3, 1)[axis]
        return Op("concat", tuple(f"x{i}" for i in inputs), output, axis=axis)


def _densify(values: np.ndarray[Any, Any], tensor: Any) -> np.ndarray[Any, Any]:
    """Fills out a tensor stored as nested dense and compressed-sparse-row axes (schema.fbs, SparsityParameters)."""
    sparsity, shape = tensor.Sparsity(), tuple(int(v) for v in tensor.ShapeAsNumpy())
    if sparsity.BlockMapLength() or sparsity.TraversalOrderAsNumpy().tolist() != list(range(len(shape))):
        raise ValueError(f"tensor {tensor.Name().decode()!r}: sparse blocks or a changed axis order are not supported")
    position = np.zeros(1, np.int64)  # where each stored entry lies in the levels read so far
    flat = np.zeros(1, np.int64)  # the same as an index into the dense tensor
    for level, size in enumerate(shape):
        metadata = sparsity.DimMetadata(level)
        if metadata.Format() == tflite.DimensionType.DENSE:
            position = (position[:, None] * size + np.arange(size)).reshape(-1)
            flat = (flat[:, None] * size + np.arange(size)).reshape(-1)
            continue
        starts = _index_vector(metadata.ArraySegments(), metadata.ArraySegmentsType())
        indices = _index_vector(metadata.ArrayIndices(), metadata.ArrayIndicesType())
        counts = starts[position + 1] - starts[position]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        position_next = np.repeat(starts[position], counts) + within
        flat = np.repeat(flat, counts) * size + indices[position_next]
        position = position_next
    dense = np.zeros(int(np.prod(shape)), values.dtype)
    dense[flat] = values[position]
    return dense.reshape(shape)


def _index_vector(table: Any, kind: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    vector = _INDEX_VECTORS[kind]()
    vector.Init(table.Bytes, table.Pos)
    return np.asarray(vector.ValuesAsNumpy()).astype(np.int64)


def _readers_of(ops: list[Op], outputs: tuple[str, ...]) -> dict[str, int]:
    counts = dict.fromkeys(outputs, 1)
    for op in ops:
        for name in op.inputs:
            counts[name] = counts.get(name, 0) + 1
    return counts


def _fold_pads(ops: list[Op], outputs: tuple[str, ...]) -> list[Op]:
    """A zero pad read by convolutions alone becomes their padding."""
    pads = {op.output: op for op in ops if op.kind == "pad" and op.pad_channels == (0, 0)}
    for op in ops:
        if op.kind != "conv":
            for name in op.inputs:
                pads.pop(name, None)
    for name in outputs:
        pads.pop(name, None)
    folded = []
    for op in ops:
        if op.output in pads:
            continue
        pad = pads.get(op.inputs[0])
        if pad is not None:
            both = tuple(a + b for a, b in zip(op.pad_tblr, pad.pad_tblr, strict=True))
            op = replace(op, inputs=pad.inputs, pad_tblr=(both[0], both[1], both[2], both[3]))
        folded.append(op)
    return folded


def _fold_activations(ops: list[Op], outputs: tuple[str, ...]) -> list[Op]:
    """An activation that is the only reader of the operation before it becomes part of that operation."""
    readers = _readers_of(ops, outputs)
    folded: list[Op] = []
    made_at: dict[str, int] = {}
    for op in ops:
        before = made_at.get(op.inputs[0])
        if (
            op.kind == "activation"
            and before is not None
            and readers[op.inputs[0]] == 1
            and folded[before].activation == "none"
            and folded[before].kind in ("conv", "add")
        ):
            folded[before] = replace(folded[before], output=op.output, activation=op.activation, slope=op.slope)
            made_at[op.output] = before
            continue
        made_at[op.output] = len(folded)
        folded.append(op)
    return folded
