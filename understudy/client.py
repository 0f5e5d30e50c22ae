"""A connection to Understudy's services: the generated stubs with a token, deadlines, retries and one exception.

    with connect("127.0.0.1:50051", token=...) as client:
        clip = client.frames.GetClip(frame_service_pb2.GetClipRequest(name="projects/p/clips/src"))

Every stub method takes its request message and an optional ``timeout`` in seconds. Errors come as ``understudy.UnderstudyError``.
Importing this module needs neither torch nor Ray.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from understudy.errors import UnderstudyError, from_operation, from_rpc_error
from understudy.v1 import (
    face_service_pb2_grpc,
    faceset_service_pb2_grpc,
    frame_service_pb2_grpc,
    merge_service_pb2_grpc,
    operation_pb2,
    operation_pb2_grpc,
    project_service_pb2_grpc,
    rights_service_pb2_grpc,
    training_service_pb2,
    training_service_pb2_grpc,
    transfer_service_pb2_grpc,
    xseg_service_pb2_grpc,
)

DEADLINE_S = 60.0
_WAIT_POLL_S = 30
_MOST_BREAKS = 5
# AIP-194: only UNAVAILABLE is tried again by itself.
_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "3s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)


class _Stub:
    """A generated stub whose methods carry token and deadline and raise UnderstudyError."""

    def __init__(self, stub: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._stub = stub
        self._metadata = metadata

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, name)
        streams = isinstance(method, grpc.UnaryStreamMultiCallable)

        def call(request: Message, timeout: float | None = None) -> Any:
            if streams:
                return _errors_translated(method(request, timeout=timeout, metadata=self._metadata))
            try:
                return method(request, timeout=DEADLINE_S if timeout is None else timeout, metadata=self._metadata)
            except grpc.RpcError as error:
                raise from_rpc_error(error) from None

        return call


def _errors_translated(stream: Any) -> Iterator[Any]:
    try:
        yield from stream
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None
    finally:
        stream.cancel()


def _resumed(open_stream: Callable[[int], Iterator[Any]]) -> Iterator[Any]:
    after, failures = 0, 0
    while True:
        try:
            for event in open_stream(after):
                after, failures = event.sequence, 0
                yield event
            return
        except UnderstudyError as error:
            failures += 1
            if not error.retryable or failures > _MOST_BREAKS:
                raise
            time.sleep(min(0.2 * 2**failures, 5))


class Client:
    """Stubs of every service over one channel. Use as a context manager, or ``close`` it."""

    def __init__(self, address: str, *, token: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        options = [("grpc.service_config", _SERVICE_CONFIG)]
        self._channel = (
            grpc.secure_channel(address, credentials, options)
            if credentials
            else grpc.insecure_channel(address, options)
        )
        metadata = (("authorization", f"Bearer {token}"),)

        def stub(stub_class: Any) -> Any:
            return _Stub(stub_class(self._channel), metadata)

        self.address = address
        self.projects = stub(project_service_pb2_grpc.ProjectServiceStub)
        self.frames = stub(frame_service_pb2_grpc.FrameServiceStub)
        self.faces = stub(face_service_pb2_grpc.FaceServiceStub)
        self.facesets = stub(faceset_service_pb2_grpc.FacesetServiceStub)
        self.rights = stub(rights_service_pb2_grpc.RightsServiceStub)
        self.xseg = stub(xseg_service_pb2_grpc.XSegServiceStub)
        self.training = stub(training_service_pb2_grpc.TrainingServiceStub)
        self.merge = stub(merge_service_pb2_grpc.MergeServiceStub)
        self.transfer = stub(transfer_service_pb2_grpc.TransferServiceStub)
        self.operations = stub(operations_pb2_grpc.OperationsStub)
        self.watches = stub(operation_pb2_grpc.OperationWatchServiceStub)

    def close(self) -> None:
        """Ends the connection; work goes on."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def watch(self, operation: str) -> Iterator[operation_pb2.WatchOperationResponse]:
        """Events of an operation until it ends. A broken stream is taken up where it broke."""
        return _resumed(
            lambda after: self.watches.WatchOperation(
                operation_pb2.WatchOperationRequest(name=operation, after_sequence=after)
            )
        )

    def watch_run(self, run: str) -> Iterator[training_service_pb2.WatchRunResponse]:
        """Events of a training run until it ends. A broken stream is taken up where it broke."""
        return _resumed(
            lambda after: self.training.WatchRun(training_service_pb2.WatchRunRequest(name=run, after_sequence=after))
        )

    def result(self, operation: operations_pb2.Operation, response: Message) -> Any:
        """Waits for an operation and unpacks its response into ``response``; UnderstudyError when it failed or was cancelled."""
        while not operation.done:
            operation = self.operations.WaitOperation(
                operations_pb2.WaitOperationRequest(name=operation.name, timeout=Duration(seconds=_WAIT_POLL_S)),
                timeout=_WAIT_POLL_S + 10,
            )
        if operation.HasField("error"):
            raise from_operation(operation)
        operation.response.Unpack(response)
        return response


def connect(
    address: str, *, token: str | None = None, token_file: Path | None = None, tls_ca: Path | None = None
) -> Client:
    """Connects to `host:port`. Give the token, or the file it lies in (made by the server at its first start)."""
    if token is None:
        if token_file is None:
            raise ValueError("connect needs token or token_file")
        token = token_file.read_text().strip()
    credentials = grpc.ssl_channel_credentials(tls_ca.read_bytes()) if tls_ca else None
    return Client(address, token=token, credentials=credentials)
