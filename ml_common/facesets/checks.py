"""Checks of single values: what a record holds is plain, finite and in range, or ValueError begins with its name.

What a reader would get wrong: the checks also convert. NumPy scalars become Python numbers and arrays become read-only
float64 copies, so that a record cannot change after it was checked.
"""

from __future__ import annotations

import math
import operator
import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

_SHA256 = re.compile(r"[0-9a-f]{64}")


def whole_number(field: str, value: Any, low: int, high: int) -> int:
    """`value` as int if it is a whole number from `low` to `high`, both included."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{field} must be a whole number, not {value!r}") from None
    if isinstance(value, bool) or not low <= number <= high:
        raise ValueError(f"{field} is {value!r}; it must be a whole number from {low} to {high}")
    return number


def finite_number(field: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as float if it is a finite number from `low` to `high`, both included."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{field} must be a number that fits a float64, not {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{field} is {number}; it must be finite")
    if not low <= number <= high:
        raise ValueError(f"{field} is {number}; it must be from {low} to {high}")
    return number


def finite_array(field: str, values: ArrayLike, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    """`values` as a read-only float64 copy if they are finite and have this shape; None stands for any length."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{field} must hold numbers that fit a float64") from None
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("N" if length is None else str(length) for length in shape)
        raise ValueError(f"{field} must have shape [{wanted}], got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{field} holds NaN or infinity; every number must be finite")
    array.setflags(write=False)
    return array


def utc_time(field: str, value: Any) -> datetime:
    """`value` in UTC if it is a datetime that knows its zone."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ValueError(f"{field} must be a datetime with a time zone, not {value!r}")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{field} {value!r} lies outside the years 1 to 9999 in UTC") from None


def plain_text(field: str, value: Any, *, required: bool = False) -> str:
    """`value` if it is text that UTF-8 can hold, and not empty where it is required."""
    if not isinstance(value, str):
        raise ValueError(f"{field} must be text, not {value!r}")
    if required and not value:
        raise ValueError(f"{field} is missing; it must not be empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{field} {value!r} cannot be written as UTF-8; decode the name with its right encoding"
        ) from None
    return value


def sha256_or_empty(field: str, value: Any) -> str:
    """`value` if it is 64 lower-case hexadecimal digits or empty."""
    if value and not (isinstance(value, str) and _SHA256.fullmatch(value)):
        raise ValueError(f"{field} must be 64 lower-case hexadecimal digits or empty, not {value!r}")
    return plain_text(field, value)
