"""The tensors in files that torch wrote, by name, without unpickling them and without torch.

What a reader would get wrong: such a file is a pickle with the tensors' bytes beside it, and loading it the usual way
runs whatever it asks for; a TorchScript archive carries code on top. Here the pickle is walked as a list of opcodes
(``pickletools.genops`` of the standard library only takes them apart): names of classes and functions stay names,
nothing is looked up or called, objects become dictionaries of their attributes, and the one thing that is built is an
array over stored bytes. Where a state dict holds anything else, that is refused by its name.

Three forms: a zip of ``data.pkl`` and ``data/N`` (since torch 1.6); the same with ``code/`` (TorchScript); and before
1.6 a row of pickles with the tensors' bytes behind them.

Sources: the opcode table in CPython's ``pickletools``; torch's notes on serialization semantics. Pinned by
tests/unit/detect/test_foreign_weights.py, against what torch itself reads.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

LEGACY_MAGIC: Final = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # follows the two bytes of the pickle's protocol

_MAX_PICKLE_BYTES = 32 << 20
_MAX_DEPTH, _MAX_ATTRIBUTES = 64, 100_000
_BFLOAT16: Final = "bfloat16"  # no number of NumPy's: the upper half of a float32
_STORAGES: Final = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
}
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_INNER_NAMES = ("state_dict", "model_state_dict", "model", "params_ema", "params", "net")


class DamagedArchive(ValueError):
    """The file cannot be read, or holds what a set of tensors does not need. The message says what."""


@dataclass(frozen=True, slots=True)
class _Name:
    """A class or a function that the file names. It is never looked up."""

    text: str


@dataclass(slots=True, eq=False)
class _Object:
    """Anything that the file would make by a call of ``of``; ``attributes`` are what it would then be filled with."""

    of: str
    attributes: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Storage:
    """Bytes of tensors, by the key that the file keeps them under."""

    key: str
    dtype: str

    @property
    def item_bytes(self) -> int:
        return 2 if self.dtype == _BFLOAT16 else np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, eq=False)
class _Tensor:
    """A view of a storage, not yet made: of older files the bytes come last."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """Where a run of arguments begins."""


def is_torch_zip(archive: zipfile.ZipFile) -> bool:
    """Whether a zip is one that torch writes."""
    return _root(archive) is not None


def is_torchscript(archive: zipfile.ZipFile) -> bool:
    """Whether a zip is a TorchScript archive: a ``data.pkl`` with code beside it."""
    root = _root(archive)
    return root is not None and any(name.startswith(f"{root}code/") for name in archive.namelist())


def is_legacy(data: bytes) -> bool:
    """Whether bytes are a file of torch before 1.6."""
    return data[:1] == b"\x80" and data[2 : 2 + len(LEGACY_MAGIC)] == LEGACY_MAGIC


def read_torch_zip(archive: zipfile.ZipFile, *, max_bytes: int) -> dict[str, Array]:
    """The state dict in a zip of torch's, or of a TorchScript archive that of its module, in the file's order.

    Of a checkpoint, the one inside it ({"state_dict": ...}). Raises DamagedArchive for anything unexpected, also where
    the tensors together are above ``max_bytes``.
    """
    root = _root(archive)
    if root is None:
        raise DamagedArchive("it has no data.pkl")

    def member(name: str, most: int) -> bytes:
        info = archive.getinfo(f"{root}{name}")
        if info.file_size > most:
            raise DamagedArchive(f"its {name} has {info.file_size} bytes, which is more than weights need")
        return archive.read(info)

    def stored(storage: _Storage) -> bytes:
        return member(f"data/{storage.key}", max_bytes)

    def read() -> dict[str, Array]:
        if f"{root}byteorder" in archive.namelist() and member("byteorder", 16) != b"little":
            raise DamagedArchive("it was written on a big-endian machine")
        value = _Walk().value(io.BytesIO(member("data.pkl", _MAX_PICKLE_BYTES)))
        if is_torchscript(archive):
            return _Collector(stored, max_bytes).module(value)
        return _Collector(stored, max_bytes).state_dict(value)

    return _guarded(read)


def read_legacy(data: bytes, *, max_bytes: int) -> dict[str, Array]:
    """As ``read_torch_zip``, of a file of torch before 1.6."""

    def read() -> dict[str, Array]:
        file = io.BytesIO(data)
        _magic, _protocol, system = _Walk().value(file), _Walk().value(file), _Walk().value(file)
        walk = _Walk()
        value = walk.value(file)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise DamagedArchive("it was written on a big-endian machine")
        where = _legacy_places(file, data, walk.storages)
        return _Collector(lambda storage: data[slice(*where[storage.key])], max_bytes).state_dict(value)

    return _guarded(read)


def _legacy_places(file: BinaryIO, data: bytes, storages: Mapping[str, _Storage]) -> dict[str, tuple[int, int]]:
    """Start and stop of each storage's bytes, which follow the list of their keys, each after its count of numbers."""
    keys = _Walk().value(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise DamagedArchive("its list of tensors is not what its tensors need")
    places, position = {}, file.tell()
    for key in keys:
        (count,) = struct.unpack_from("<q", data, position)
        position += 8
        stop = position + count * storages[key].item_bytes
        if count < 0 or stop > len(data):
            raise DamagedArchive("it ends early")
        places[key] = (position, stop)
        position = stop
    return places


def _guarded(read: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    try:
        return read()
    except (AttributeError, IndexError, KeyError, TypeError, OverflowError, struct.error, UnicodeDecodeError) as error:
        raise DamagedArchive(f"it is damaged ({type(error).__name__}: {error!s:.100})") from error


def _root(archive: zipfile.ZipFile) -> str | None:
    """The folder that all of an archive lies in, with its slash."""
    pickles = (name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
    return next((name.removesuffix("data.pkl") for name in pickles), None)


class _Walk:
    """Walks one pickle. ``storages`` are those that it refers to."""

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def value(self, file: BinaryIO) -> object:
        """What the next pickle of the file holds."""
        try:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode.name, argument)
        except DamagedArchive:
            raise
        except ValueError as error:  # what pickletools says of opcodes that it does not know
            raise DamagedArchive(f"it is damaged ({error!s:.100})") from error
        raise DamagedArchive("it ends early")

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        if opcode in ("PROTO", "FRAME"):
            return
        if opcode in _VALUES:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode == "GLOBAL":
            stack.append(_Name(argument))
        elif opcode == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(_Name(f"{module} {name}"))
        elif opcode in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[argument])
        elif opcode == "MARK":
            stack.append(_Mark())
        elif opcode == "EMPTY_DICT":
            stack.append({})
        elif opcode == "EMPTY_LIST":
            stack.append([])
        elif opcode == "EMPTY_TUPLE":
            stack.append(())
        elif opcode == "TUPLE":
            stack.append(tuple(self._above_mark()))
        elif opcode in _TUPLES:
            count = _TUPLES[opcode]
            stack[-count:] = [tuple(stack[-count:])]
        elif opcode in ("APPEND", "APPENDS"):
            items = self._above_mark() if opcode == "APPENDS" else [stack.pop()]
            stack[-1].extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self._above_mark() if opcode == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _set_items(stack[-1], items)
        elif opcode == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif opcode in ("NEWOBJ", "REDUCE"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(_reduced(function, arguments))
        elif opcode == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], _Object) and isinstance(state, dict):
                stack[-1].attributes = state
        else:
            raise DamagedArchive(f"its pickle uses {opcode}, which no set of tensors needs")

    def _above_mark(self) -> list[Any]:
        at = next((i for i in range(len(self._stack) - 1, -1, -1) if isinstance(self._stack[i], _Mark)), None)
        if at is None:
            raise DamagedArchive("its pickle closes what it never opened")
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def _storage(self, description: object) -> _Storage:
        """Of the tuple ("storage", type, key, device, count), which in older files has a view at its end."""
        match description:
            case ("storage", _Name(text=text), str(key), str(), int()) | (
                "storage",
                _Name(text=text),
                str(key),
                str(),
                int(),
                None,
            ):
                kind = text.removeprefix("torch ")
                if kind not in _STORAGES:
                    raise DamagedArchive(f"it stores tensors as {kind:.80}; only plain numbers can be read")
                if not key.isalnum():
                    raise DamagedArchive(f"it keeps a tensor at {key!r:.40}")
                return self.storages.setdefault(key, _Storage(key, _STORAGES[kind]))
        raise DamagedArchive("it refers to something that is no tensor's bytes")


def _set_items(target: object, items: list[Any]) -> None:
    if not isinstance(target, dict):
        raise DamagedArchive("its pickle fills something that is no dictionary")
    # Other keys than these are no names of tensors, and nested ones could take forever to hash.
    target.update((key, value) for key, value in zip(items[::2], items[1::2], strict=True) if type(key) in (str, int))


def _reduced(function: object, arguments: object) -> object:
    """What a call stands for: a tensor, a dictionary, or something that is not looked into."""
    name = function.text if isinstance(function, _Name) else "something that is no name"
    match name, arguments:
        case (
            ("torch._utils _rebuild_tensor_v2" | "torch._utils _rebuild_tensor"),
            (
                _Storage() as storage,
                offset,
                shape,
                strides,
                *_,
            ),
        ):
            (start,) = _whole_numbers((offset,))
            return _Tensor(storage, start, _whole_numbers(shape), _whole_numbers(strides))
        case "torch._utils _rebuild_parameter", (_Tensor() as tensor, *_):
            return tensor
        case "collections OrderedDict", ():
            return {}
        case "collections OrderedDict", ([*pairs],):  # how Python 2 spells one
            return dict(map(_pair, pairs))
    return _Object(name)


def _pair(value: object) -> tuple[str, object]:
    match value:
        case [str(key), item]:
            return key, item
    raise DamagedArchive("its pickle makes a dictionary of something else than names and values")


def _whole_numbers(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(value) is int and 0 <= value < 1 << 40 for value in values):
        raise DamagedArchive("it holds a tensor of impossible shape")
    return values


class _Collector:
    """Makes arrays of tensors, as many as ``max_bytes`` allow."""

    def __init__(self, stored: Callable[[_Storage], bytes], max_bytes: int) -> None:
        self._stored = stored
        self._left_bytes = max_bytes
        self._left_attributes = _MAX_ATTRIBUTES

    def module(self, value: object) -> dict[str, Array]:
        """Parameters and buffers of a TorchScript module, by dotted name."""
        found: dict[str, Array] = {}
        self._descend(value, "", 0, found)
        if not found:
            raise DamagedArchive("it is a TorchScript archive without tensors")
        return found

    def state_dict(self, value: object) -> dict[str, Array]:
        """A dictionary of tensors, or the one inside a checkpoint."""
        for inner in _INNER_NAMES:
            if isinstance(value, dict) and isinstance(value.get(inner), dict):
                value = value[inner]
                break
        if isinstance(value, _Object):
            raise DamagedArchive(_not_data(value))
        if not isinstance(value, dict):
            raise DamagedArchive(f"it holds a {type(value).__name__}, not a state dict")
        found = {}
        for name, item in value.items():
            if isinstance(item, _Object):
                raise DamagedArchive(_not_data(item))
            if isinstance(item, _Tensor):
                found[str(name)] = self._array(item)
        if not found:
            shown = ", ".join([str(name) for name in value][:5])
            raise DamagedArchive(f"it holds no state dict but {shown or 'nothing':.200}")
        return found

    def _descend(self, value: object, name: str, depth: int, found: dict[str, Array]) -> None:
        self._left_attributes -= 1
        if depth > _MAX_DEPTH or self._left_attributes < 0:
            raise DamagedArchive("its modules are nested without end")
        if isinstance(value, _Tensor):
            found[name] = self._array(value)
        elif isinstance(value, _Object):
            for key, inner in value.attributes.items():
                self._descend(inner, f"{name}.{key}" if name else str(key), depth + 1, found)

    def _array(self, tensor: _Tensor) -> Array:
        if len(tensor.shape) != len(tensor.strides):
            raise DamagedArchive(f"it holds a tensor of {len(tensor.shape)} axes with {len(tensor.strides)} strides")
        dtype = np.dtype("<u2" if tensor.storage.dtype == _BFLOAT16 else tensor.storage.dtype)
        self._left_bytes -= math.prod(tensor.shape) * dtype.itemsize
        if self._left_bytes < 0:
            raise DamagedArchive("its tensors are larger than weights are")
        if math.prod(tensor.shape) == 0:
            return np.zeros(tensor.shape, np.float32 if tensor.storage.dtype == _BFLOAT16 else dtype)
        stored = self._stored(tensor.storage)
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
        if (last + 1) * dtype.itemsize > len(stored):
            raise DamagedArchive("it holds a tensor that reaches beyond its bytes")
        view = np.lib.stride_tricks.as_strided(
            np.frombuffer(stored, dtype, offset=tensor.offset * dtype.itemsize, count=last - tensor.offset + 1),
            tensor.shape,
            [step * dtype.itemsize for step in tensor.strides],
            writeable=False,
        )
        if tensor.storage.dtype == _BFLOAT16:
            return (view.astype(np.uint32) << 16).view(np.float32)
        return np.array(view, dtype.newbyteorder("="))


def _not_data(value: _Object) -> str:
    return f"it asks for {value.of.replace(' ', '.'):.100}, which is not data"
