"""What a pickle is made of before it is a value: names, number formats, empty arrays; and what makes an array of them.

Easy to get wrong: one array's bytes can be named again and again in a few bytes of pickle. Arrays are copies, so their
total is held against the length of the pickle (`ByteBudget`), or a small file could fill the memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_MAX_DIMENSIONS: Final = 32
_MAX_SIZE: Final = 2**48
_SHOWN: Final = 80


class RefusedPickleError(ValueError):
    """The data is damaged, or holds something that this reader does not build. The message says what."""


class Marker:
    """Separates the arguments of an opcode that takes many."""


@dataclass(frozen=True, slots=True)
class Name:
    """Something found by module and name. It can be named in the stream, never called."""

    role: str


@dataclass(frozen=True, slots=True)
class EnumName:
    """The class of an enumeration whose members are read as their numbers."""

    numbers: dict[str, int]


@dataclass(slots=True)
class Dtype:
    """A number format under construction: letter and size first, byte order afterwards."""

    code: str
    byte_order: str = "="

    def finished(self) -> np.dtype[np.generic]:
        return np.dtype(self.byte_order + self.code)


class EmptyArray:
    """An array under construction, and where the memo holds it."""

    def __init__(self) -> None:
        self.memo_indices: list[int] = []


class Makings(tuple[object, ...]):
    """A tuple that holds something unfinished: good as arguments or as a state, never as a value."""


MARK: Final = Marker()
UNFINISHED: Final = (Marker, Name, EnumName, Dtype, EmptyArray, Makings)

_NUMBER_CODES: Final = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})


class ByteBudget:
    """How many bytes of arrays may still be built. CPython writes every array's bytes once, so no true file needs more
    than its own length."""

    def __init__(self, size_bytes: int) -> None:
        self._left = size_bytes

    def take(self, size_bytes: int) -> None:
        self._left -= size_bytes
        if self._left < 0:
            raise RefusedPickleError("the pickle builds more bytes of arrays than it is long")


def number_code(code: str) -> str:
    """`code` if it is the code of a plain number, such as f4."""
    if code not in _NUMBER_CODES:
        raise RefusedPickleError(
            f"the pickle holds an array of dtype {code[:_SHOWN]!r}; only plain numbers can be read"
        )
    return code


def array_of(dtype: Dtype, shape: tuple[object, ...], raw: bytes, *, column_major: bool) -> NDArray[np.generic]:
    """The array: writable, in native byte order, rows first. RefusedPickleError when bytes and shape do not agree."""
    if len(shape) > _MAX_DIMENSIONS:
        raise RefusedPickleError(f"the pickle holds an array of {len(shape)} dimensions")
    sizes: list[int] = []
    for size in shape:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
            raise RefusedPickleError("the pickle holds an array of impossible shape")
        sizes.append(size)
    finished = dtype.finished()
    # The sizes that are not zero must make a possible array too, or NumPy refuses in its own way.
    if math.prod(sizes) * finished.itemsize != len(raw) or math.prod(size or 1 for size in sizes) > _MAX_SIZE:
        raise RefusedPickleError(
            f"the pickle holds {len(raw)} bytes for an array of shape {tuple(sizes)} and {finished}"
        )
    stored = np.frombuffer(raw, dtype=finished).reshape(sizes, order="F" if column_major else "C")
    return stored.astype(finished.newbyteorder("="), order="C", copy=True)


def refuse_unfinished(value: object) -> None:
    """Internal pieces may be arguments; they must never become part of the result."""
    if isinstance(value, UNFINISHED):
        raise RefusedPickleError("the pickle stores the makings of an array instead of an array")


def shown(value: object) -> str:
    """Text from the pickle for a message: never long, never more than text."""
    return value[:_SHOWN] if isinstance(value, str) else f"a {type(value).__name__}"
