"""Operation records as google.longrunning.Operation, and the little conversions that every service shares."""

from __future__ import annotations

import hashlib
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import any_pb2, descriptor_pool, json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from services.kit.errors import InvalidInput, NotFound, UnderstudyError, from_json
from services.kit.records import Record
from services.kit.status import to_status
from services.kit.storage import ObjectInfo, ObjectStore

# Responses are stored as JSON with the name of their message; importing every file makes every name known to every server.
from understudy.v1 import (
    common_pb2,
    face_service_pb2,  # noqa: F401
    faceset_service_pb2,  # noqa: F401
    frame_service_pb2,  # noqa: F401
    merge_service_pb2,  # noqa: F401
    operation_pb2,
    training_service_pb2,  # noqa: F401
    xseg_service_pb2,  # noqa: F401
)

MAX_PAGE_SIZE = 1000
DEFAULT_PAGE_SIZE = 100


def timestamp(seconds: float) -> Timestamp:
    """Seconds since the epoch as Timestamp, to the microsecond."""
    value = Timestamp()
    value.FromMicroseconds(round(seconds * 1e6))
    return value


def duration(seconds: float) -> Duration:
    """Seconds as Duration, to the microsecond."""
    value = Duration()
    value.FromMicroseconds(round(seconds * 1e6))
    return value


def object_ref(store: ObjectStore, info: ObjectInfo) -> common_pb2.ObjectRef:
    """A stored object as reference."""
    return common_pb2.ObjectRef(
        uri=store.uri(info.key),
        digest=common_pb2.Digest(sha256=info.sha256 or "", size_bytes=info.size_bytes),
        media_type=info.media_type,
    )


def page_size(asked: int) -> int:
    """How many items a page holds: the caller's wish, coerced (AIP-158)."""
    if asked < 0:
        raise InvalidInput("page_size must not be negative", fields={"page_size": "must be 0 to 1000"})
    return min(asked or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def ledger_metadata(record: Record) -> operation_pb2.OperationMetadata:
    """A ledger record as OperationMetadata."""
    body = record.body
    metadata = operation_pb2.OperationMetadata(
        state=operation_pb2.OperationState.Value(f"OPERATION_STATE_{body['state']}"),
        method=body["method"],
        target=body["target"],
        create_time=timestamp(body["create_time_s"]),
        progress=_progress(body),
        chunks_done=body["chunks_done"],
        chunks_total=body["chunks_total"],
        failed_items=[
            common_pb2.FailedItem(
                name=item["name"], status=to_status(UnderstudyError(item["message"], reason=item["reason"]))
            )
            for item in body.get("failed_items", [])
        ],
        action_key=body["action_key"],
        from_cache=body.get("from_cache", False),
        attempt=body["attempt"],
        actor=body["actor"],
        labels=body["labels"],
        traceparent=body["traceparent"],
    )
    if "start_time_s" in body:
        metadata.start_time.CopyFrom(timestamp(body["start_time_s"]))
    if "end_time_s" in body:
        metadata.end_time.CopyFrom(timestamp(body["end_time_s"]))
    if "manifest" in body:
        manifest = body["manifest"]
        metadata.manifest.CopyFrom(
            common_pb2.ObjectRef(
                uri=manifest["uri"],
                digest=common_pb2.Digest(sha256=manifest["sha256"], size_bytes=manifest["size_bytes"]),
                media_type=manifest["media_type"],
            )
        )
    return metadata


def operation(record: Record, *, from_cache: bool = False) -> operations_pb2.Operation:
    """A ledger record as Operation."""
    body = {**record.body, "from_cache": from_cache}
    metadata = any_pb2.Any()
    metadata.Pack(ledger_metadata(Record(record.name, record.version, record.etag, body, record.updated_s)))
    result = operations_pb2.Operation(name=record.name, metadata=metadata)
    if "response" in body:
        result.done = True
        message = descriptor_pool.Default().FindMessageTypeByName(body["response"]["message"])
        result.response.Pack(json_format.ParseDict(body["response"]["body"], GetMessageClass(message)()))
    elif "error" in body:
        result.done = True
        result.error.CopyFrom(to_status(from_json(body["error"])))
    return result


def log_lines(record: Record, after: int) -> list[tuple[operation_pb2.LogLine, float]]:
    """Lines of an operation's log that came with versions over ``after``, with their time."""
    written_before = record.version - record.body["writes"]  # over 0 when a deleted operation had the name
    return [
        (
            operation_pb2.LogLine(
                severity=operation_pb2.LogLine.Severity.Value(f"SEVERITY_{line['severity']}"), text=line["text"]
            ),
            line["time_s"],
        )
        for line in record.body["log"]
        if written_before + line["write"] > after
    ]


def request_digest(request: Message) -> str:
    """What a request asks, without its request id, as 64 hex digits."""
    asked = type(request)()
    asked.CopyFrom(request)
    asked.ClearField("request_id")
    return hashlib.sha256(
        f"{asked.DESCRIPTOR.full_name}\n".encode() + asked.SerializeToString(deterministic=True)
    ).hexdigest()


def required(value: str, field: str) -> str:
    """A field that must be set."""
    if not value:
        raise InvalidInput(f"{field} must be set", fields={field: "must be set"})
    return value


def key_of_reference(store: ObjectStore, reference: common_pb2.ObjectRef, field: str) -> str:
    """The key of an object that a request refers to; NotFound when the store does not have it."""
    key = store.key_of(required(reference.uri, f"{field}.uri"))
    info = store.stat(key)
    if (
        reference.HasField("digest")
        and reference.digest.sha256
        and info.sha256
        and reference.digest.sha256 != info.sha256
    ):
        raise NotFound(f"{reference.uri} holds other bytes than the digest in {field} says: fetch its reference again")
    return key


def _progress(body: dict[str, Any]) -> operation_pb2.Progress:
    progress = operation_pb2.Progress(
        done_units=body["done_units"], total_units=body["total_units"], unit=body["unit"], rate_per_s=body["rate_per_s"]
    )
    if "eta_s" in body:
        progress.eta.CopyFrom(duration(body["eta_s"]))
    return progress
