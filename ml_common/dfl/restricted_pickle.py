"""A reader of pickled data that can build numbers, text, bytes, containers and NumPy arrays, and nothing else.

DeepFaceLab stores weights, options and facesets as pickles, and unpickling a stranger's file runs a stranger's code.
This is not Python's unpickler with a filter: it is a small machine that knows the opcodes such files use, calls no
object found by name, and refuses everything else by its name. Source: the opcode table in CPython's `pickletools`; what
the files need is in spec: models, section 13.5, and faceset, sections 11 to 13. Pinned by tests/unit/dfl.

Easy to get wrong: a container may hold an array only once the array is complete. In the stream an array is first
created empty and filled later; whatever is still unfinished when it is put somewhere is refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from ml_common.dfl.pickle_recalls import recalled_indices
from ml_common.dfl.pickled_parts import (
    MARK,
    UNFINISHED,
    ByteBudget,
    Dtype,
    EmptyArray,
    EnumName,
    Makings,
    Name,
    RefusedPickleError,
    array_of,
    number_code,
    refuse_unfinished,
    shown,
)

__all__ = ["EnumNumbers", "PickledValue", "RefusedPickleError", "check_extent", "iterate_pickle", "read_pickle"]

PickledValue: TypeAlias = object
"""None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset or a NumPy array of numbers."""

EnumNumbers: TypeAlias = Mapping[tuple[str, str], Mapping[str, int]]
"""Enumerations a file may name: (module, class) to member name to number. Their members are read as those numbers."""

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
# How some Python versions name a member of an enumeration; it is looked up in a table, never called.
_ATTRIBUTE_OF: Final = {("builtins", "getattr"): "getattr", ("__builtin__", "getattr"): "getattr"}

# Keys that are not text can be chosen to collide; with this many that costs a second, not a day.
_MAX_ODD_KEYS: Final = 10_000
_MAX_KEY_LENGTH: Final = 4096
_MAX_STREAMED_OPERATIONS: Final = 8_000_000

_CONTAINERS: Final = frozenset({list, dict, tuple, set, frozenset})

_LINE: Final = re.compile(rb"([^\n]{0,256})\n")

# A run of [x, y] lists as protocols 4, 3 and 2 spell landmarks: most of a face's metadata is such runs.
_POINT_RUNS: Final = {
    0x94: (re.compile(rb"(?:\]\x94\(G.{8}G.{8}e){2,256}", re.DOTALL), 22),
    0x71: (re.compile(rb"(?:\]q.\(G.{8}G.{8}e){2,256}", re.DOTALL), 23),
    0x72: (re.compile(rb"(?:\]r.{4}\(G.{8}G.{8}e){2,256}", re.DOTALL), 26),
}


def read_pickle(data: bytes, *, enums: EnumNumbers | None = None) -> PickledValue:
    """The value stored in `data` (pickle protocols 2 to 4, as CPython writes them).

    NumPy scalars come back as Python numbers, members of `enums` as their numbers. Arrays own their memory, are
    writable and in native byte order. Memory stays in proportion to the length of `data`, but values may be shared:
    walk a stranger's value only after `check_extent`. Raises RefusedPickleError for anything else; nothing in the data
    is ever executed.
    """
    return _Machine(data, enums or {}, None).run()


def iterate_pickle(data: bytes | memoryview, *, enums: EnumNumbers | None = None) -> Iterator[PickledValue]:
    """The items of a pickled list, or the (key, value) pairs of a pickled dictionary, one after another.

    As `read_pickle`, but holds no more than a batch of items at a time (CPython writes batches of 1000), so that lists
    of any length can be read. Raises RefusedPickleError when the data holds something else; the items before it have
    been given out then.
    """
    kept = recalled_indices(memoryview(data))
    yield from _Machine(data, enums or {}, kept).items()


def check_extent(value: PickledValue, *, max_depth: int, max_values: int) -> None:
    """RefusedPickleError when a value nests deeper, or unfolds to more values, than walking it can bear.

    Shared containers count each time they are met, as whoever walks the value meets them. Array elements do not count.
    """
    level: list[Any] = [value]
    met = depth = 0
    while level := [item for item in level if type(item) in _CONTAINERS]:
        depth += 1
        if depth > max_depth:
            raise RefusedPickleError(f"the pickle nests containers more than {max_depth} deep")
        children: list[Any] = []
        for item in level:
            children.extend(item)
            if type(item) is dict:
                children.extend(item.values())
            if met + len(children) > max_values:
                raise RefusedPickleError(f"the pickle unfolds to more than {max_values} values")
        met += len(children)
        level = children


class _Machine:
    """`kept`: the memo entries that are recalled somewhere; the others are not kept. None keeps all."""

    def __init__(self, data: bytes | memoryview, enums: EnumNumbers, kept: frozenset[int] | None) -> None:
        self.data = memoryview(data)
        self.position = 0
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self.memoized = 0
        self.numbering = ""
        self.kept = kept
        self.enums = enums
        self.array_bytes = ByteBudget(len(self.data))
        self.encoded_bytes = ByteBudget(len(self.data))
        self.odd_keys_left = _MAX_ODD_KEYS
        self.operations_left = _MAX_STREAMED_OPERATIONS
        self.ready: list[PickledValue] = []

    def run(self) -> PickledValue:
        operations = self._operations()
        data = self.data
        try:
            while (code := data[self.position]) != 0x2E:  # STOP
                self.position += 1
                operations[code]()
            value = self.stack.pop()
        except (IndexError, struct.error) as error:
            raise self._damaged() from error
        refuse_unfinished(value)
        return value

    def items(self) -> Iterator[PickledValue]:
        operations = self._operations()
        data = self.data
        try:
            while (code := data[self.position]) != 0x2E:
                self.position += 1
                operations[code]()
                self.operations_left -= 1
                if self.operations_left < 0:
                    raise RefusedPickleError("the pickle holds an item of more values than such files have")
                if self.ready:
                    yield from self.ready
                    self.ready.clear()
                    self.operations_left = _MAX_STREAMED_OPERATIONS
            value = self.stack.pop()
        except (IndexError, struct.error) as error:
            raise self._damaged() from error
        if not isinstance(value, (list, dict)) or self.stack:
            raise RefusedPickleError("the pickle is not a list or a dictionary")

    def _damaged(self) -> RefusedPickleError:
        return RefusedPickleError(f"the pickle is damaged or cut short near byte {self.position}")

    # Reading -----------------------------------------------------------------------------------------------------

    def _take(self, count: int) -> memoryview:
        start, stop = self.position, self.position + count
        if stop > len(self.data):
            raise IndexError(count)
        self.position = stop
        return self.data[start:stop]

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
        line = _LINE.match(self.data, self.position)
        if line is None:
            raise RefusedPickleError("the pickle asks for a name that does not end")
        self.position = line.end()
        return str(line[1], "utf-8", "replace")

    # Stack -------------------------------------------------------------------------------------------------------

    def _above_mark(self) -> list[object]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise RefusedPickleError("the pickle is damaged: a mark is missing")

    def _push_tuple(self, items: list[object]) -> None:
        # Noted once, when it is made, so that nothing has to look into nested tuples again.
        unfinished = any(isinstance(item, UNFINISHED) for item in items)
        self.stack.append(Makings(items) if unfinished else tuple(items))

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

    def _memoize_next(self) -> None:
        if self.numbering != "in order":
            self._number_values("in order")
        self._memoize(self.memoized)
        self.memoized += 1

    def _memoize_as(self, index: int) -> None:
        self._number_values("by number")
        self._memoize(index)

    def _number_values(self, way: str) -> None:
        if self.numbering not in ("", way):
            raise RefusedPickleError("the pickle numbers its values in two ways")
        self.numbering = way

    def _memoize(self, index: int) -> None:
        value = self.stack[-1]
        if self.kept is not None and index not in self.kept:
            return
        self.memo[index] = value
        if isinstance(value, EmptyArray):
            value.memo_indices.append(index)

    def _push_list(self) -> None:
        start = self.position - 1
        pattern, stride = _POINT_RUNS.get(self.data[self.position], (None, 0))
        run = pattern.match(self.data, start) if pattern else None
        if run is None:
            self.stack.append([])
            return
        # Each stride ends in G x G y e: two big-endian numbers behind their opcodes, and the opcode that appends them.
        self.position = run.end()
        spelled = np.frombuffer(self.data[start : self.position], np.uint8).reshape(-1, stride)
        numbers = np.concatenate((spelled[:, -18:-10], spelled[:, -9:-1]), axis=1)
        points: list[object] = numbers.view(">f8").tolist()
        self.operations_left -= len(points)
        self._number_values("in order" if stride == 22 else "by number")
        if stride == 22:
            indices: list[int] = list(range(self.memoized, self.memoized + len(points)))
            self.memoized += len(points)
        elif stride == 23:
            indices = spelled[:, 2].tolist()
        else:
            indices = np.ascontiguousarray(spelled[:, 2:6]).view("<u4").ravel().tolist()
        pairs = zip(indices, points, strict=True)
        if self.kept is None:
            self.memo.update(pairs)
        else:
            self.memo.update((index, point) for index, point in pairs if index in self.kept)
        self.stack.extend(points)

    def _extend_list(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise RefusedPickleError("the pickle appends to something that is not a list")
        for item in items:
            refuse_unfinished(item)
        if self.kept is not None and len(self.stack) == 1:
            self.ready = items
        else:
            target.extend(items)

    def _extend_dict(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise RefusedPickleError("the pickle sets items of something that is not a dictionary")
        pairs = list(zip(items[::2], items[1::2], strict=True))
        for key, value in pairs:
            self._check_key(key)
            refuse_unfinished(value)
        if self.kept is not None and len(self.stack) == 1:
            self.ready = list(pairs)
        else:
            target.update(pairs)

    def _extend_set(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise RefusedPickleError("the pickle adds to something that is not a set")
        for item in items:
            self._check_key(item)
        target.update(items)

    def _push_frozenset(self) -> None:
        items = self._above_mark()
        for item in items:
            self._check_key(item)
        self.stack.append(frozenset(items))

    def _check_key(self, value: object) -> None:
        if isinstance(value, (str, bytes)):
            if len(value) > _MAX_KEY_LENGTH:
                raise RefusedPickleError(f"the pickle uses a key of {len(value)} characters")
            return
        plain = (str, bytes, int, float, bool, type(None))
        self.odd_keys_left -= 1 + (len(value) if isinstance(value, tuple) else 0)
        if self.odd_keys_left < 0:
            raise RefusedPickleError(f"the pickle uses more than {_MAX_ODD_KEYS} keys that are not text")
        if isinstance(value, plain) or (isinstance(value, tuple) and all(isinstance(item, plain) for item in value)):
            return
        raise RefusedPickleError(f"the pickle uses a {type(value).__name__} as a key")

    # Names, calls and states: the only place where objects are made ------------------------------------------------

    def _push_name(self, module: object, name: object) -> None:
        if isinstance(module, str) and isinstance(name, str):
            if (module, name) in self.enums:
                self.stack.append(EnumName(dict(self.enums[module, name])))
                return
            role = _ROLES.get((module, name)) or (_ATTRIBUTE_OF.get((module, name)) if self.enums else None)
            if role is not None:
                self.stack.append(Name(role))
                return
        raise RefusedPickleError(f"the pickle asks for {shown(module)}.{shown(name)}, which is not data")

    def _push_stack_name(self) -> None:
        name = self.stack.pop()
        module = self.stack.pop()
        self._push_name(module, name)

    def _call(self) -> None:
        arguments = self.stack.pop()
        target = self.stack.pop()
        match target, arguments:
            case Name(role="reconstruct"), (Name(role="ndarray"), (0,), bytes()):
                self.stack.append(EmptyArray())
            case Name(role="dtype"), (str(code), int(), int()):
                self.stack.append(Dtype(number_code(code)))
            case Name(role="scalar"), (Dtype() as dtype, bytes(raw)):
                self.stack.append(array_of(dtype, (), raw, column_major=False).item())
            case Name(role="bytes"), ():  # how protocol 2 spells no bytes
                self.stack.append(b"")
            case Name(role="encode"), (str(text), "latin1"):  # how protocol 2 spells other bytes
                self.encoded_bytes.take(len(text))
                try:
                    self.stack.append(text.encode("latin1"))
                except UnicodeEncodeError as error:
                    raise RefusedPickleError("the pickle holds bytes that are not Latin-1 text") from error
            case EnumName(numbers=numbers), (int(number),):
                if number not in numbers.values():
                    raise RefusedPickleError("the pickle holds a member of an enumeration that is not known")
                self.stack.append(int(number))
            case Name(role="getattr"), (EnumName(numbers=numbers), str(member)):
                if member not in numbers:
                    raise RefusedPickleError(f"the pickle asks for the member {shown(member)} of an enumeration")
                self.stack.append(numbers[member])
            case _:
                raise RefusedPickleError("the pickle calls something that is not the making of an array or a number")

    def _set_state(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        match target, state:
            case Dtype(), (int(), "<" | ">" | "|" | "=" as byte_order, None, None, None, *_):
                target.byte_order = byte_order
            case EmptyArray(), (int(), tuple(shape), Dtype() as dtype, bool() | int() as column_major, bytes(raw)):
                self.array_bytes.take(len(raw))
                array = array_of(dtype, shape, raw, column_major=bool(column_major))
                self.stack[-1] = array
                for index in target.memo_indices:
                    if self.memo[index] is target:
                        self.memo[index] = array
            case _:
                raise RefusedPickleError("the pickle gives a state to something that is not an array of numbers")

    def _operations(self) -> list[Callable[[], None]]:
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
            b"\x94": self._memoize_next,  # MEMOIZE
            b"q": lambda: self._memoize_as(self._unsigned(1)),  # BINPUT
            b"r": lambda: self._memoize_as(self._unsigned(4)),  # LONG_BINPUT
            b"h": lambda: self._recall(self._unsigned(1)),  # BINGET
            b"j": lambda: self._recall(self._unsigned(4)),  # LONG_BINGET
            b"(": lambda: push(MARK),
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
            b"]": self._push_list,
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
        table = list(_REFUSALS)
        for letter, operation in by_letter.items():
            table[letter[0]] = operation
        return table

    def _check_protocol(self, protocol: int) -> None:
        if not 2 <= protocol <= 4:
            raise RefusedPickleError(f"the pickle has protocol {protocol}; protocols 2 to 4 can be read")


def _refuse_opcode(code: int) -> Callable[[], None]:
    def refuse() -> None:
        raise RefusedPickleError(f"the pickle uses the opcode {chr(code)!r}, which is not for data")

    return refuse


_REFUSALS: Final = [_refuse_opcode(code) for code in range(256)]


def _discard(value: object) -> None:
    del value
