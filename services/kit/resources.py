"""Resources as records: the canonical proto JSON of a message, and the record's etag put into it on reading."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from services.kit.errors import Corrupt
from services.kit.records import Record

M = TypeVar("M", bound=Message)


def to_body(message: Message) -> dict[str, Any]:
    """What is stored; the etag is the record's own and stays out."""
    body = json_format.MessageToDict(message)
    body.pop("etag", None)
    return body


def from_record(record: Record, message: M) -> M:
    """Fills ``message`` from a record; Corrupt when the record is not of its kind."""
    try:
        json_format.ParseDict(record.body, message, ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise Corrupt(f"the record {record.name} is not a {message.DESCRIPTOR.name}: {error}") from error
    if "etag" in message.DESCRIPTOR.fields_by_name:
        message.etag = record.etag  # type: ignore[attr-defined]
    return message
