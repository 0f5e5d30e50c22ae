"""A reader of pickled data that can build numbers, text, bytes, containers and NumPy arrays, and nothing else.

DeepFaceLab stores weights, options and facesets as pickles, and unpickling a stranger's file runs a stranger's code.
This is not Python's unpickler with a filter: it is a small machine that knows the opcodes such files use, calls no
object found by name, and refuses everything else by its name. Source: the opcode table in CPython's `pickletools`; what
the files need is in spec: models, section 13.5. Pinned by tests/unit/dfl.

Easy to get wrong: a container may hold an array only once the array is complete. In the stream an array is first
created empty and filled later; whatever is still unfinished when it is put somewhere is refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

PickledValue: TypeAlias = object
"""None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset or a NumPy array of numbers."""


class RefusedPickleError(ValueError):
    """The data is damaged, or holds something that this reader does not build. The message says what."""


class _Marker:
    """Separates the arguments of an opcode that takes many."""


class _Name:
    """Something found by module and name. It can be named in the stream, never called by this machine."""

    def __init__(self, role: str) -> None:
        self.role = role


@dataclass(slots=True)
class _Dtype:
    """A number format under construction: letter and size first, byte order afterwards."""

    code: str
    byte_order: str = "="

    def finished(self) -> np.dtype[np.generic]:
        return np.dtype(self.byte_order + self.code)


class _EmptyArray:
    """An array under construction, and where the memo holds it."""

    def __init__(self) -> None:
        self.memo_indices: list[int] = []


class _Makings(tuple[object, ...]):
    """A tuple that holds something unfinished: good as arguments or as a state, never as a value."""


_MARK: Final = _Marker()
_UNFINISHED: Final = (_Marker, _Name, _Dtype, _EmptyArray, _Makings)

# Everything a file may name. numpy 1 and numpy 2 call the same functions by different module names.
_ROLES: Final = {
    ("numpy.core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy._core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy._core.multiarray", "scalar"): "scalar",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("builtins", "bytes"): "bytes",
    ("__builtin__", "bytes"): "bytes",
}

_NUMBER_CODES: Final = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})


def read_pickle(data: bytes) -> PickledValue:
    """The value stored in `data` (pickle protocols 2 to 4, as CPython writes them).

    NumPy scalars come back as Python numbers. Arrays own their memory, are writable and in native byte order.
    Raises RefusedPickleError for anything else; nothing in the data is ever executed.
    """
    machine = _Machine(data)
    try:
        return machine.run()
    except (IndexError, struct.error) as error:
        raise RefusedPickleError(f"the pickle is damaged or cut short near byte {machine.position}") from error


class _Machine:
    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)
        self.position = 0
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def run(self) -> PickledValue:
        operations = self._operations()
        data = self.data
        while True:
            code = data[self.position]
            self.position += 1
            if code == 0x2E:  # STOP
                value = self.stack.pop()
                _refuse_unfinished(value)
                return value
            operation = operations.get(code)
            if operation is None:
                raise RefusedPickleError(f"the pickle uses the opcode {chr(code)!r}, which no weight file needs")
            operation()

    # Reading -----------------------------------------------------------------------------------------------------

    def _take(self, count: int) -> memoryview:
        start, self.position = self.position, self.position + count
        if self.position > len(self.data):
            raise IndexError(count)
        return self.data[start : self.position]

    def _unsigned(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _signed(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little", signed=True)

    def _text(self, size: int) -> str:
        try:
            return str(self._take(size), "utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise RefusedPickleError("the pickle holds text that is not UTF-8") from error

    def _line(self) -> str:
        start = self.position
        while self.data[self.position] != 0x0A:
            self.position += 1
        self.position += 1
        return str(self.data[start : self.position - 1], "utf-8", "replace")

    # Stack -------------------------------------------------------------------------------------------------------

    def _above_mark(self) -> list[object]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise RefusedPickleError("the pickle is damaged: a mark is missing")

    def _push_tuple(self, items: list[object]) -> None:
        # Noted once, when it is made, so that nothing has to look into nested tuples again.
        unfinished = any(isinstance(item, _UNFINISHED) for item in items)
        self.stack.append(_Makings(items) if unfinished else tuple(items))

    def _top(self, count: int) -> list[object]:
        if count > len(self.stack):
            raise IndexError(count)
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _recall(self, index: int) -> None:
        if index not in self.memo:
            raise RefusedPickleError("the pickle refers to a value that it does not hold")
        self.stack.append(self.memo[index])

    def _memoize(self, index: int) -> None:
        value = self.stack[-1]
        self.memo[index] = value
        if isinstance(value, _EmptyArray):
            value.memo_indices.append(index)

    def _extend_list(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise RefusedPickleError("the pickle appends to something that is not a list")
        for item in items:
            _refuse_unfinished(item)
        target.extend(items)

    def _extend_dict(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise RefusedPickleError("the pickle sets items of something that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            _refuse_unhashable(key)
            _refuse_unfinished(value)
            target[key] = value

    def _extend_set(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise RefusedPickleError("the pickle adds to something that is not a set")
        for item in items:
            _refuse_unhashable(item)
        target.update(items)

    def _push_frozenset(self) -> None:
        items = self._above_mark()
        for item in items:
            _refuse_unhashable(item)
        self.stack.append(frozenset(items))

    # Names, calls and states: the only place where objects are made ------------------------------------------------

    def _push_name(self, module: object, name: object) -> None:
        role = _ROLES.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if role is None:
            raise RefusedPickleError(f"the pickle asks for {module}.{name}, which is not data")
        self.stack.append(_Name(role))

    def _push_stack_name(self) -> None:
        name = self.stack.pop()
        module = self.stack.pop()
        self._push_name(module, name)

    def _call(self) -> None:
        arguments = self.stack.pop()
        target = self.stack.pop()
        match target, arguments:
            case _Name(role="reconstruct"), (_Name(role="ndarray"), (0,), bytes()):
                self.stack.append(_EmptyArray())
            case _Name(role="dtype"), (str(code), int(), int()):
                self.stack.append(_Dtype(_number_code(code)))
            case _Name(role="scalar"), (_Dtype() as dtype, bytes(raw)):
                self.stack.append(_array(dtype, (), raw, column_major=False).item())
            case _Name(role="bytes"), ():  # how protocol 2 spells no bytes
                self.stack.append(b"")
            case _Name(role="encode"), (str(text), "latin1"):  # how protocol 2 spells other bytes
                try:
                    self.stack.append(text.encode("latin1"))
                except UnicodeEncodeError as error:
                    raise RefusedPickleError("the pickle holds bytes that are not Latin-1 text") from error
            case _:
                raise RefusedPickleError("the pickle calls something that is not the making of an array or a number")

    def _set_state(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        match target, state:
            case _Dtype(), (int(), "<" | ">" | "|" | "=" as byte_order, None, None, None, *_):
                target.byte_order = byte_order
            case _EmptyArray(), (int(), tuple(shape), _Dtype() as dtype, bool() | int() as column_major, bytes(raw)):
                array = _array(dtype, shape, raw, column_major=bool(column_major))
                self.stack[-1] = array
                for index in target.memo_indices:
                    if self.memo[index] is target:
                        self.memo[index] = array
            case _:
                raise RefusedPickleError("the pickle gives a state to something that is not an array of numbers")

    def _operations(self) -> dict[int, Callable[[], None]]:
        push = self.stack.append

        def pop() -> None:
            self.stack.pop()

        def append() -> None:
            self._extend_list([self.stack.pop()])

        def set_item() -> None:
            value = self.stack.pop()
            key = self.stack.pop()
            self._extend_dict([key, value])

        by_letter: dict[bytes, Callable[[], None]] = {
            b"\x80": lambda: self._check_protocol(self._unsigned(1)),  # PROTO
            b"\x95": lambda: _discard(self._take(8)),  # FRAME: a hint about reading, no content
            b"\x94": lambda: self._memoize(len(self.memo)),  # MEMOIZE
            b"q": lambda: self._memoize(self._unsigned(1)),  # BINPUT
            b"r": lambda: self._memoize(self._unsigned(4)),  # LONG_BINPUT
            b"h": lambda: self._recall(self._unsigned(1)),  # BINGET
            b"j": lambda: self._recall(self._unsigned(4)),  # LONG_BINGET
            b"(": lambda: push(_MARK),
            b"0": pop,
            b"N": lambda: push(None),
            b"\x88": lambda: push(True),
            b"\x89": lambda: push(False),
            b"J": lambda: push(self._signed(4)),  # BININT
            b"K": lambda: push(self._unsigned(1)),  # BININT1
            b"M": lambda: push(self._unsigned(2)),  # BININT2
            b"\x8a": lambda: push(self._signed(self._unsigned(1))),  # LONG1
            b"G": lambda: push(struct.unpack(">d", self._take(8))[0]),  # BINFLOAT
            b"\x8c": lambda: push(self._text(self._unsigned(1))),  # SHORT_BINUNICODE
            b"X": lambda: push(self._text(self._unsigned(4))),  # BINUNICODE
            b"\x8d": lambda: push(self._text(self._unsigned(8))),  # BINUNICODE8
            b"C": lambda: push(bytes(self._take(self._unsigned(1)))),  # SHORT_BINBYTES
            b"B": lambda: push(bytes(self._take(self._unsigned(4)))),  # BINBYTES
            b"\x8e": lambda: push(bytes(self._take(self._unsigned(8)))),  # BINBYTES8
            b"}": lambda: push({}),
            b"]": lambda: push([]),
            b")": lambda: push(()),
            b"\x8f": lambda: push(set()),  # EMPTY_SET
            b"\x85": lambda: self._push_tuple(self._top(1)),
            b"\x86": lambda: self._push_tuple(self._top(2)),
            b"\x87": lambda: self._push_tuple(self._top(3)),
            b"t": lambda: self._push_tuple(self._above_mark()),
            b"a": append,
            b"e": lambda: self._extend_list(self._above_mark()),
            b"s": set_item,
            b"u": lambda: self._extend_dict(self._above_mark()),
            b"\x90": lambda: self._extend_set(self._above_mark()),  # ADDITEMS
            b"\x91": self._push_frozenset,
            b"c": lambda: self._push_name(self._line(), self._line()),  # GLOBAL
            b"\x93": self._push_stack_name,  # STACK_GLOBAL
            b"R": self._call,  # REDUCE
            b"b": self._set_state,  # BUILD
        }
        return {letter[0]: operation for letter, operation in by_letter.items()}

    def _check_protocol(self, protocol: int) -> None:
        if not 2 <= protocol <= 4:
            raise RefusedPickleError(f"the pickle has protocol {protocol}; protocols 2 to 4 can be read")


def _discard(value: object) -> None:
    del value


def _number_code(code: str) -> str:
    if code not in _NUMBER_CODES:
        raise RefusedPickleError(f"the pickle holds an array of dtype {code!r}; only plain numbers can be read")
    return code


def _array(dtype: _Dtype, shape: tuple[object, ...], raw: bytes, *, column_major: bool) -> NDArray[np.generic]:
    sizes: list[int] = []
    for size in shape:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise RefusedPickleError(f"the pickle holds an array of impossible shape {shape!r}")
        sizes.append(size)
    finished = dtype.finished()
    if math.prod(sizes) * finished.itemsize != len(raw):
        raise RefusedPickleError(f"the pickle holds {len(raw)} bytes for an array of shape {shape!r} and {finished}")
    stored = np.frombuffer(raw, dtype=finished).reshape(sizes, order="F" if column_major else "C")
    return stored.astype(finished.newbyteorder("="), order="C", copy=True)


def _refuse_unfinished(value: object) -> None:
    """Internal pieces may be arguments; they must never become part of the result."""
    if isinstance(value, _UNFINISHED):
        raise RefusedPickleError("the pickle stores the makings of an array instead of an array")


def _refuse_unhashable(value: object) -> None:
    plain = (str, bytes, int, float, bool, type(None))
    if isinstance(value, plain) or (isinstance(value, tuple) and all(isinstance(item, plain) for item in value)):
        return
    raise RefusedPickleError(f"the pickle uses a {type(value).__name__} as a key")
