"""One family of errors: every class arrives at the caller as it left, over the wire and over a process boundary."""

from __future__ import annotations

import inspect
import json

import grpc
import pytest
from google.rpc import error_details_pb2

from services.kit import errors
from services.kit.errors import DOMAIN, InvalidInput, MissingObject, UnderstudyError, from_json
from services.kit.operations.ledger import LeaseLost
from services.kit.status import STATUS_DETAILS_KEY, grpc_code, to_status
from understudy.errors import from_rpc_error, from_status
from understudy.v1 import errors_pb2

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, UnderstudyError)]
METADATA = {"uri": "file:///x/ä", "limit": "7"}


def made(kind: type[UnderstudyError]) -> UnderstudyError:
    return kind("do this instead: ä", metadata=METADATA)


def test_there_is_a_class_for_every_code_a_caller_should_tell_apart() -> None:
    codes = {kind.code for kind in CLASSES}
    unused = {"OK", "UNKNOWN", "OUT_OF_RANGE"}  # AIP-193: prefer the others
    assert codes == {code.name for code in grpc.StatusCode} - unused


@pytest.mark.parametrize("kind", CLASSES)
def test_over_the_wire(kind: type[UnderstudyError]) -> None:
    status = to_status(made(kind), "request-1")
    arrived = from_status(status)
    assert arrived.message == "do this instead: ä"
    assert arrived.code == kind.code == grpc_code(made(kind)).name
    assert arrived.reason == kind.default_reason
    assert arrived.metadata == METADATA
    assert arrived.request_id == "request-1"
    assert arrived.retryable == (kind.code == "UNAVAILABLE")


@pytest.mark.parametrize("kind", CLASSES)
def test_every_detail_once_and_the_domain(kind: type[UnderstudyError]) -> None:
    details = to_status(made(kind), "request-1").details
    types = [detail.type_url for detail in details]
    assert len(types) == len(set(types)), "AIP-193: each type of detail at most once"
    info = error_details_pb2.ErrorInfo()
    assert details[0].Unpack(info)
    assert info.domain == DOMAIN


@pytest.mark.parametrize("kind", CLASSES)
def test_over_a_process_boundary(kind: type[UnderstudyError]) -> None:
    error = kind("m", reason="NO_FACE", metadata=METADATA)
    arrived = from_json(json.loads(json.dumps(error.to_json())))
    assert type(arrived) is kind
    assert (arrived.message, arrived.reason, arrived.metadata) == ("m", "NO_FACE", METADATA)


@pytest.mark.parametrize("kind", CLASSES)
def test_default_reasons_are_names_of_the_api(kind: type[UnderstudyError]) -> None:
    assert f"ERROR_REASON_{kind.default_reason}" in errors_pb2.ErrorReason.keys()  # noqa: SIM118  an enum wrapper


def test_fields_arrive() -> None:
    error = InvalidInput("m", fields={"options.size_px": "64 to 2048", "clip": "must be set"})
    assert from_status(to_status(error, "r")).fields == error.fields
    back = from_json(error.to_json())
    assert isinstance(back, InvalidInput)
    assert back.fields == error.fields


def test_missing_objects_are_preconditions() -> None:
    status = to_status(MissingObject("m", metadata={"uri": "s3://b/k"}), "r")
    failure = error_details_pb2.PreconditionFailure()
    assert any(detail.Unpack(failure) for detail in status.details)
    assert [(violation.type, violation.subject) for violation in failure.violations] == [("MISSING", "s3://b/k")]


def test_classes_of_other_modules_become_what_they_are_a_kind_of() -> None:
    assert type(from_json(LeaseLost("m").to_json())) is errors.WrongState


def test_errors_of_operations_belong_to_no_request() -> None:
    assert from_status(to_status(UnderstudyError("m"))).request_id == ""


class _RpcError(grpc.RpcError):
    def __init__(self, trailing: tuple[tuple[str, bytes], ...]) -> None:
        self._trailing = trailing

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.NOT_FOUND

    def details(self) -> str:
        return "plain text"

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return self._trailing


def test_the_client_reads_details_from_a_call_and_does_without() -> None:
    status = to_status(errors.NotFound("there is none", metadata={"name": "n"}), "r-1")
    arrived = from_rpc_error(_RpcError(((STATUS_DETAILS_KEY, status.SerializeToString()),)))
    assert (arrived.message, arrived.metadata, arrived.request_id) == ("there is none", {"name": "n"}, "r-1")
    bare = from_rpc_error(_RpcError(()))  # from a proxy, or gRPC itself
    assert (bare.message, bare.code) == ("plain text", "NOT_FOUND")
