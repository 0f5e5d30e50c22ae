"""Canonical proto3 JSON without protobuf: the few rules that the stored messages need.

What a reader would get wrong: in proto3 JSON an absent field, `null` and the default are the same thing, 64-bit
integers are strings, and a parser also accepts numbers as strings, enums as numbers and fields by their proto names.

Rules: protobuf.dev/programming-guides/json. Pinned against google.protobuf.json_format in tests/unit/facesets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Json = dict[str, object]
Message = TypeVar("Message")
Member = TypeVar("Member")

_WHOLE = re.compile(r"-?[0-9]{1,20}")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


@cache
def _camel(field: str) -> str:
    first, *rest = field.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def write_message(**fields: object) -> Json:
    """The JSON object of a message; keywords are proto field names. Defaults (None, 0, empty) are left out.

    An empty dict is a message that is present with all defaults, and stays. So does -0.0, which is not the default.
    """
    return {_camel(field): value for field, value in fields.items() if not _is_default(value)}


def _is_default(value: object) -> bool:
    if isinstance(value, float):
        return value == 0.0 and math.copysign(1.0, value) > 0.0
    return value is None or value == 0 or value == "" or value == []


def int64_text(value: int) -> str | None:
    """A 64-bit integer as JSON has it: a string, or None for the default."""
    return str(value) if value else None


def timestamp_text(time: datetime | None) -> str | None:
    """RFC 3339 with 0, 3 or 6 digits of the second's fraction, as Timestamp is written. `time` is in UTC."""
    if time is None:
        return None
    utc = time.replace(tzinfo=None)
    if utc.microsecond == 0:
        precision = "seconds"
    elif utc.microsecond % 1000 == 0:
        precision = "milliseconds"
    else:
        precision = "microseconds"
    return utc.isoformat(timespec=precision) + "Z"


class MessageReader:
    """Typed reads of one JSON object by proto field name. Fields that nobody asks for are ignored.

    Every read raises ValueError beginning with the field's path when the value has the wrong kind.
    """

    def __init__(self, raw: Mapping[str, object]) -> None:
        self._raw = raw

    def _value(self, field: str) -> object:
        value = self._raw.get(_camel(field))
        return self._raw.get(field) if value is None else value

    def text(self, field: str) -> str:
        """A string; empty when absent."""
        value = self._value(field)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise ValueError(f"{field} must be text, not {value!r}")
        return value

    def integer(self, field: str) -> int:
        """A whole number, also as a string or as 3.0; 0 when absent."""
        value = self._value(field)
        if value is None:
            return 0
        if isinstance(value, str) and _WHOLE.fullmatch(value):
            return int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise ValueError(f"{field} must be a whole number, not {value!r}")

    def number(self, field: str) -> float:
        """A float64, also as a string; 0.0 when absent. Not checked for being finite."""
        value = self._value(field)
        return 0.0 if value is None else _number(field, value)

    def numbers(self, field: str) -> NDArray[np.float64]:
        """Repeated double, float64 [N]; [0] when absent. Not checked for being finite."""
        values = self._list(field)
        if not set(map(type, values)) <= {float}:  # the usual case is all floats and needs no look at each one
            values = [_number(field, value) for value in values]
        return np.array(values, dtype=np.float64)

    def rows(self, field: str, columns: int) -> NDArray[np.float64]:
        """Repeated double of row-major rows, float64 [N, columns]."""
        values = self.numbers(field)
        if len(values) % columns:
            raise ValueError(f"{field} holds {len(values)} numbers; the count must be a multiple of {columns}")
        return values.reshape(-1, columns)

    def enum(self, field: str, names: Mapping[Member | None, str]) -> Member | None:
        """A member by name or number. `names` is in the order of the proto numbers, with None for 0, unspecified."""
        value = self._value(field)
        if value is None:
            return None
        for number, (member, name) in enumerate(names.items()):
            if value == name or (type(value) is int and value == number):
                return member
        raise ValueError(f"{field} is {value!r}; it must be one of {', '.join(names.values())}")

    def timestamp(self, field: str) -> datetime | None:
        """RFC 3339 as UTC, None when absent. Digits below the microsecond are dropped."""
        value = self._value(field)
        if value is None:
            return None
        if isinstance(value, str) and _TIMESTAMP.fullmatch(value):
            try:
                return datetime.fromisoformat(value).astimezone(UTC)
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{field} {value!r} is no time that exists: {error}") from error
        raise ValueError(f"{field} must be an RFC 3339 time such as 2026-01-31T12:00:00Z, not {value!r}")

    def message(self, field: str, read: Callable[[Mapping[str, object]], Message]) -> Message | None:
        """A message read by `read`; None when absent."""
        value = self._value(field)
        return None if value is None else _nested(field, value, read)

    def required_message(self, field: str, read: Callable[[Mapping[str, object]], Message]) -> Message:
        """A message read by `read`; ValueError when absent."""
        message = self.message(field, read)
        if message is None:
            raise ValueError(f"{field} is missing")
        return message

    def messages(self, field: str, read: Callable[[Mapping[str, object]], Message]) -> tuple[Message, ...]:
        """Repeated messages, empty when absent."""
        return tuple(_nested(f"{field}[{i}]", value, read) for i, value in enumerate(self._list(field)))

    def _list(self, field: str) -> list[object]:
        value = self._value(field)
        if value is None:
            return []
        if not isinstance(value, list):
            raise ValueError(f"{field} must be a list, not {value!r}")
        return value


def _nested(path: str, value: object, read: Callable[[Mapping[str, object]], Message]) -> Message:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path} must be a JSON object, not {value!r}")
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"{path}.{error}") from error


def _number(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{field} must be a number, not {value!r}")
    try:
        return float(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{field} must be a number that fits a float64, not {value!r}") from error
