"""What a call can raise. One class: match on ``reason`` (a word that stays), show ``message`` (a sentence that may change)."""

from __future__ import annotations

from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"
_MAY_COME_BACK = frozenset({"UNAVAILABLE"})


class UnderstudyError(Exception):
    """A refused or failed call, or an operation that failed.

    ``code`` is the gRPC code's name, ``reason`` a name of ErrorReason, ``fields`` maps request fields to what is wrong with them,
    ``request_id`` finds the call in the server's log. ``work`` is set when it was not a call that failed but the long work it began: the
    name of the operation or run.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        reason: str = "",
        fields: dict[str, str] | None = None,
        metadata: dict[str, str] | None = None,
        request_id: str = "",
        work: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.fields = fields or {}
        self.metadata = metadata or {}
        self.request_id = request_id
        self.work = work

    @property
    def retryable(self) -> bool:
        """True when the same call may work in a while (AIP-194: UNAVAILABLE only)."""
        return self.code in _MAY_COME_BACK


def from_rpc_error(error: grpc.RpcError) -> UnderstudyError:
    """Reads the details that the server sent."""
    code: grpc.StatusCode = error.code()
    trailing: Any = error.trailing_metadata()
    details = dict(trailing or ()).get(_DETAILS_KEY)
    if isinstance(details, bytes):
        return from_status(status_pb2.Status.FromString(details))
    return UnderstudyError(error.details() or code.name, code=code.name, reason=code.name)


def from_status(status: status_pb2.Status) -> UnderstudyError:
    """A google.rpc.Status, from a call or from an operation that failed."""
    result = UnderstudyError(status.message, code=_code_name(status.code))
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            result.reason, result.metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            result.fields = {violation.field: violation.description for violation in bad.field_violations}
        elif detail.Is(error_details_pb2.RequestInfo.DESCRIPTOR):
            request = error_details_pb2.RequestInfo()
            detail.Unpack(request)
            result.request_id = request.request_id
    return result


def from_operation(operation: operations_pb2.Operation) -> UnderstudyError:
    """The error that an operation ended with."""
    error = from_status(operation.error)
    error.work = operation.name
    return error


def _code_name(number: int) -> str:
    return next((code.name for code in grpc.StatusCode if code.value[0] == number), "UNKNOWN")
