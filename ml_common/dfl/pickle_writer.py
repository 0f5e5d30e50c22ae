"""Writes pickles that DeepFaceLab loads: protocol 4, byte for byte as CPython and NumPy 1 write the same values.

Easy to get wrong: the running NumPy must not be asked. NumPy 2 names its functions `numpy._core.multiarray`, which the
NumPy 1 of DeepFaceLab does not have, so the names are spelled here.

The same object met twice is written once and recalled, as CPython does; that is why what was read and not changed comes
out with the same bytes. Pinned by tests/unit/dfl/test_pickle_writer.py, against CPython and the golden files.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml_common.dfl.restricted_pickle import PickledValue

_BATCH: Final = 1000
_FRAME_BYTES: Final = 64 * 1024
_SMALLEST_FRAME_BYTES: Final = 4
_MAX_DEPTH: Final = 100
_POINT: Final = struct.Struct(">4sdcdc")
_TUPLES: Final = {1: b"\x85", 2: b"\x86", 3: b"\x87"}


@dataclass(frozen=True, slots=True)
class EnumMember:
    """A member of an enumeration of the reader's program, named by module, class and number."""

    module: str
    class_name: str
    number: int


@dataclass(frozen=True, slots=True)
class _Global:
    module: str
    name: str


@dataclass(frozen=True, slots=True)
class _Format:
    """A number format as NumPy spells it, such as <f4."""

    text: str


_BY_VALUE: Final = (EnumMember, _Global, _Format)
_RECONSTRUCT: Final = _Global("numpy.core.multiarray", "_reconstruct")
_NDARRAY: Final = _Global("numpy", "ndarray")
_DTYPE: Final = _Global("numpy", "dtype")


def dump_pickle(value: PickledValue) -> bytes:
    """The pickle of None, bool, int, float, str, bytes, list, tuple, dict, NumPy numbers and arrays of numbers.

    NumPy scalars are written as Python numbers. ValueError for anything else, and for values nested too deeply.
    """
    parts: list[bytes] = []
    writer = _Writer(parts.append)
    writer.save(value, 0)
    writer.stop()
    return b"".join(parts)


def write_list(write: Callable[[bytes], object], count: int, items: Iterable[PickledValue]) -> None:
    """Writes the pickle of a list of `count` items, which are forgotten one by one: memory does not grow with them.

    Texts alone are remembered, so that equal ones that are the same object are written once. Errors as `dump_pickle`;
    ValueError when there are not `count` items.
    """
    writer = _Writer(write)
    writer.save_items(count, items)
    writer.stop()


def write_dict(write: Callable[[bytes], object], count: int, pairs: Iterable[tuple[str, PickledValue]]) -> None:
    """Writes the pickle of a dictionary of `count` pairs, given one after another; as `write_list`."""
    writer = _Writer(write)
    writer.save_pairs(count, pairs)
    writer.stop()


class _Writer:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._frame = bytearray()
        self._memo: dict[Hashable, int] = {}
        self._memoized = 0
        # Whoever is in the memo by id must stay alive, or its id may come again.
        self._lasting: list[object] = []
        self._passing: list[object] = []
        write(b"\x80\x04")

    def stop(self) -> None:
        self._put(b".")
        self._close_frame()

    def save_items(self, count: int, items: Iterable[PickledValue]) -> None:
        self._put(b"]")
        self._memoize(object())
        self._save_batches(count, ((item,) for item in items), one=b"a", many=b"e", round_batch=False)

    def save_pairs(self, count: int, pairs: Iterable[tuple[str, PickledValue]]) -> None:
        self._put(b"}")
        self._memoize(object())
        self._save_batches(count, pairs, one=b"s", many=b"u", round_batch=True)

    def _save_batches(
        self, count: int, entries: Iterable[tuple[PickledValue, ...]], *, one: bytes, many: bytes, round_batch: bool
    ) -> None:
        given = 0
        for entry in entries:
            if count > 1 and given % _BATCH == 0:
                self._put(b"(")
            for value in entry:
                self.save(value, 1)
            given += 1
            if count > 1 and given % _BATCH == 0:
                self._put(many)
            self._forget()
        if given != count:
            raise ValueError(f"{count} entries were announced for the pickle, {given} came")
        if count == 1:
            self._put(one)
        elif given % _BATCH:
            self._put(many)
        elif round_batch and count:  # CPython closes a dictionary of a round number with an empty batch
            self._put(b"(" + many)

    # Values --------------------------------------------------------------------------------------------------------

    def save(self, value: PickledValue, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError(f"the value nests more than {_MAX_DEPTH} deep; it cannot be pickled")
        if len(self._frame) >= _FRAME_BYTES:
            self._close_frame()
        if isinstance(value, np.generic):
            value = value.item()
        if value is None:
            self._put(b"N")
        elif isinstance(value, bool):
            self._put(b"\x88" if value else b"\x89")
        elif isinstance(value, int):
            self._put(_whole_number(value))
        elif isinstance(value, float):
            self._put(b"G" + struct.pack(">d", value))
        elif (index := self._memo.get(value if isinstance(value, _BY_VALUE) else id(value))) is not None:
            self._recall(index)
        elif isinstance(value, str):
            self._save_counted(value.encode("utf-8", "surrogatepass"), b"\x8c", b"X", b"\x8d", value)
        elif isinstance(value, bytes):
            self._save_counted(value, b"C", b"B", b"\x8e", value)
        elif isinstance(value, list):
            self._save_list(value, depth)
        elif isinstance(value, tuple):
            self._save_tuple(value, depth)
        elif isinstance(value, dict):
            self._save_dict(value, depth)
        elif isinstance(value, np.ndarray):
            self._save_array(value, depth)
        elif isinstance(value, EnumMember):
            self._save_member(value, depth)
        elif isinstance(value, _Global):
            self._save_global(value)
        elif isinstance(value, _Format):
            self._save_format(value, depth)
        else:
            raise ValueError(f"a {type(value).__name__} cannot be pickled for DeepFaceLab; use numbers, text or arrays")

    def _save_counted(self, raw: bytes, short: bytes, medium: bytes, long: bytes, value: PickledValue) -> None:
        if len(raw) < 1 << 8:
            header = short + len(raw).to_bytes(1, "little")
        elif len(raw) < 1 << 32:
            header = medium + len(raw).to_bytes(4, "little")
        else:
            header = long + len(raw).to_bytes(8, "little")
        if len(raw) < _FRAME_BYTES:
            self._put(header + raw)
        else:  # CPython writes large texts and bytes outside of frames
            self._close_frame()
            self._write(header)
            self._write(raw)
        self._memoize(value)

    def _save_list(self, value: list[PickledValue], depth: int) -> None:
        self._put(b"]")
        self._memoize(value)
        if len(value) == 1:
            self.save(value[0], depth + 1)
            self._put(b"a")
            return
        for start in range(0, len(value), _BATCH):
            self._put(b"(")
            for item in value[start : start + _BATCH]:
                if not self._saved_as_point(item):
                    self.save(item, depth + 1)
            self._put(b"e")

    def _saved_as_point(self, item: PickledValue) -> bool:
        """Writes [x, y], of which a face's metadata has more than of anything else, at once where it fits the frame."""
        if type(item) is not list or len(item) != 2 or type(item[0]) is not float or type(item[1]) is not float:
            return False
        if len(self._frame) >= _FRAME_BYTES - _POINT.size or id(item) in self._memo:
            return False
        self._frame += _POINT.pack(b"]\x94(G", item[0], b"G", item[1], b"e")
        self._memo[id(item)] = self._memoized
        self._memoized += 1
        self._passing.append(item)
        return True

    def _save_dict(self, value: dict[PickledValue, PickledValue], depth: int) -> None:
        self._put(b"}")
        self._memoize(value)
        entries = list(value.items())
        if len(entries) == 1:
            self.save(entries[0][0], depth + 1)
            self.save(entries[0][1], depth + 1)
            self._put(b"s")
            return
        # A dictionary of a round number is closed with an empty batch, a list is not.
        for start in range(0, len(entries) + 1 if len(entries) % _BATCH == 0 and entries else len(entries), _BATCH):
            self._put(b"(")
            for key, item in entries[start : start + _BATCH]:
                self.save(key, depth + 1)
                self.save(item, depth + 1)
            self._put(b"u")

    def _save_tuple(self, value: tuple[PickledValue, ...], depth: int) -> None:
        if not value:
            self._put(b")")
            return
        if len(value) > 3:
            self._put(b"(")
        for item in value:
            self.save(item, depth + 1)
        self._put(_TUPLES.get(len(value), b"t"))
        self._memoize(value)

    # What NumPy 1 and `enum` reduce to -----------------------------------------------------------------------------

    def _save_global(self, name: _Global) -> None:
        self.save(name.module, 0)
        self.save(name.name, 0)
        self._put(b"\x93")
        self._memo[name] = self._count()

    def _save_array(self, value: NDArray[np.generic], depth: int) -> None:
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            raise ValueError(f"an array of {value.dtype} cannot be pickled for DeepFaceLab; use plain numbers")
        little = value.astype(value.dtype.newbyteorder("<"), order="K", copy=False)
        column_major = little.flags.f_contiguous and not little.flags.c_contiguous
        raw = little.tobytes("F" if column_major else "C")
        self.save(_RECONSTRUCT, depth)
        no_elements = np.empty(0).shape  # (0,), and a new one each time as NumPy makes it: else it would be recalled
        self.save((_NDARRAY, no_elements, b"b"), depth)
        self._put(b"R")
        self._memoize(value)
        self.save((1, little.shape, _Format(little.dtype.str), column_major, raw), depth)
        self._put(b"b")

    def _save_format(self, dtype: _Format, depth: int) -> None:
        byte_order, code = dtype.text[0], dtype.text[1:]
        self.save(_DTYPE, depth)
        self.save((code, False, True), depth)
        self._put(b"R")
        self._memo[dtype] = self._count()
        self._passing.append(dtype)  # arrays that DeepFaceLab read from different files share no format
        self.save((3, byte_order, None, None, None, -1, -1, 0), depth)
        self._put(b"b")

    def _save_member(self, member: EnumMember, depth: int) -> None:
        self.save(_Global(member.module, member.class_name), depth)
        self.save((member.number,), depth)
        self._put(b"R")
        self._memo[member] = self._count()

    # Memo and frames -----------------------------------------------------------------------------------------------

    def _count(self) -> int:
        self._put(b"\x94")
        self._memoized += 1
        return self._memoized - 1

    def _memoize(self, value: PickledValue) -> None:
        self._memo[id(value)] = self._count()
        lasting = isinstance(value, str) or (isinstance(value, bytes) and len(value) < 2)  # CPython shares these
        (self._lasting if lasting else self._passing).append(value)

    def _forget(self) -> None:
        for value in self._passing:
            del self._memo[value if isinstance(value, _Format) else id(value)]
        self._passing.clear()

    def _recall(self, index: int) -> None:
        self._put(b"h" + index.to_bytes(1, "little") if index < 1 << 8 else b"j" + index.to_bytes(4, "little"))

    def _put(self, data: bytes) -> None:
        self._frame += data

    def _close_frame(self) -> None:
        if len(self._frame) >= _SMALLEST_FRAME_BYTES:
            self._write(b"\x95" + len(self._frame).to_bytes(8, "little"))
        if self._frame:
            self._write(bytes(self._frame))
        self._frame.clear()


def _whole_number(value: int) -> bytes:
    if 0 <= value < 1 << 8:
        return b"K" + value.to_bytes(1, "little")
    if 0 <= value < 1 << 16:
        return b"M" + value.to_bytes(2, "little")
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if value < 0 and len(raw) > 1 and raw[-1] == 0xFF and raw[-2] & 0x80:
        raw = raw[:-1]
    if len(raw) > 255:
        raise ValueError("a whole number of more than 255 bytes cannot be pickled for DeepFaceLab")
    return b"\x8a" + len(raw).to_bytes(1, "little") + raw
