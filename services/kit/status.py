"""An UnderstudyError as gRPC status with details (AIP-193): always one ErrorInfo, and the detail types that belong to the code."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.kit.errors import DOMAIN, InvalidInput, MissingObject, UnderstudyError

STATUS_DETAILS_KEY = "grpc-status-details-bin"
MAX_TEXT = 500  # characters: errors travel as HTTP/2 headers, and longer ones than 8 KiB in all do not arrive


def to_status(error: UnderstudyError, request_id: str = "") -> status_pb2.Status:
    """The google.rpc.Status that a caller receives. Without ``request_id`` it belongs to no call: the error of an operation."""
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata={name: _short(value) for name, value in error.metadata.items()}
    )
    details: list[Message] = [info]
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    if isinstance(error, InvalidInput) and error.fields:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=field, description=_short(text))
                    for field, text in error.fields.items()
                ]
            )
        )
    if isinstance(error, MissingObject):
        details.append(
            error_details_pb2.PreconditionFailure(
                violations=[
                    error_details_pb2.PreconditionFailure.Violation(
                        type="MISSING", subject=_short(error.metadata.get("uri", "")), description=_short(error.message)
                    )
                ]
            )
        )
    return status_pb2.Status(
        code=code_pb2.Code.Value(error.code),
        message=_short(error.message),
        details=[_packed(detail) for detail in details],
    )


def grpc_code(error: UnderstudyError) -> grpc.StatusCode:
    """The gRPC code of an error."""
    return grpc.StatusCode[error.code]


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
