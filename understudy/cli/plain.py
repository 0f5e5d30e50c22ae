"""Messages as plain values for JSON and for people.

Names are those of the API (snake_case). Unlike protobuf's own JSON, whole numbers are numbers, durations are seconds, enum values lose
their prefix (`SUCCEEDED`), and fields that can be absent are left out when they are; all others are always there, also when empty.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import any_pb2, descriptor_pool, duration_pb2, json_format, struct_pb2, timestamp_pb2
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

from understudy.errors import from_status
from understudy.v1 import operation_pb2


def plain(message: Message) -> Any:
    """Any message of the API as plain values."""
    if isinstance(message, timestamp_pb2.Timestamp):
        return message.ToJsonString()
    if isinstance(message, duration_pb2.Duration):
        return message.ToMicroseconds() / 1e6
    if isinstance(message, struct_pb2.Struct):
        return _numbers(json_format.MessageToDict(message))
    if isinstance(message, any_pb2.Any):
        return plain(_unpacked(message))
    if isinstance(message, status_pb2.Status):
        error = from_status(message)
        return {"code": error.code, "reason": error.reason, "message": error.message}
    if isinstance(message, operations_pb2.Operation):
        return _operation(message)
    return {
        field.name: _field(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _operation(operation: operations_pb2.Operation) -> dict[str, Any]:
    metadata = operation_pb2.OperationMetadata()
    operation.metadata.Unpack(metadata)
    values = {"name": operation.name, "done": operation.done, **plain(metadata)}
    outcome = operation.WhichOneof("result")
    if outcome:
        values[outcome] = plain(getattr(operation, outcome))
    return values


def _field(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value_field = field.message_type.fields_by_name["value"]
        return {str(key): _single(value_field, item) for key, item in sorted(value.items())}
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        name = field.enum_type.values_by_number[value].name
        prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", field.enum_type.name).upper() + "_"
        return name.removeprefix(prefix)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def _unpacked(packed: any_pb2.Any) -> Message:
    message = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(packed.TypeName()))()
    packed.Unpack(message)
    return message


def _numbers(value: Any) -> Any:
    """A Struct knows floating numbers only: whole ones become whole again."""
    if isinstance(value, dict):
        return {name: _numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
