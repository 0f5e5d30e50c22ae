"""google.longrunning.Operations and OperationWatchService, the same on every server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import empty_pb2

from services.kit import names
from services.kit.context import ServiceContext
from services.kit.operations.convert import ledger_metadata, log_lines, operation, page_size, timestamp
from services.kit.operations.ledger import TERMINAL
from services.kit.records import Record
from understudy.v1 import operation_pb2, operation_pb2_grpc

if TYPE_CHECKING:
    from services.kit.server import Registrar

POLL_S = 0.25
HEARTBEAT_S = 15.0
LONGEST_WAIT_S = 60.0


def register(registrar: Registrar, context: ServiceContext) -> None:
    """Adds both services."""
    operations_pb2_grpc.add_OperationsServicer_to_server(Operations(context), registrar.server)
    registrar.added("google.longrunning.Operations")
    operation_pb2_grpc.add_OperationWatchServiceServicer_to_server(OperationWatch(context), registrar.server)
    registrar.added("understudy.v1.OperationWatchService")


class Operations(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc]
    """See google/longrunning/operations.proto."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._ledger = context.ledger

    async def GetOperation(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """Reads an operation."""
        return operation(await asyncio.to_thread(self._read, request.name))

    async def ListOperations(self, request: Any, _context: Any) -> operations_pb2.ListOperationsResponse:
        """Lists the operations of `projects/p`."""
        names.parse(request.name, "projects")
        records, after = await asyncio.to_thread(
            self._ledger.page, request.name, after=request.page_token, limit=page_size(request.page_size)
        )
        return operations_pb2.ListOperationsResponse(
            operations=[operation(record) for record in records], next_page_token=after
        )

    async def CancelOperation(self, request: Any, _context: Any) -> empty_pb2.Empty:
        """Asks for the end of an operation."""
        names.parse(request.name, "projects", "operations")
        await asyncio.to_thread(self._ledger.request_cancel, request.name)
        self._context.reconciler.poke()
        return empty_pb2.Empty()

    async def DeleteOperation(self, request: Any, _context: Any) -> empty_pb2.Empty:
        """Forgets an ended operation."""
        names.parse(request.name, "projects", "operations")
        await asyncio.to_thread(self._ledger.delete, request.name)
        return empty_pb2.Empty()

    async def WaitOperation(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """Returns when the operation has ended, or after the timeout (at most a minute) with where it stands."""
        wanted = request.timeout.ToSeconds() if request.HasField("timeout") else LONGEST_WAIT_S
        end = time.monotonic() + min(wanted, LONGEST_WAIT_S)
        while True:
            record = await asyncio.to_thread(self._read, request.name)
            if record.body["state"] in TERMINAL or time.monotonic() >= end:
                return operation(record)
            await asyncio.sleep(POLL_S)

    def _read(self, name: str) -> Record:
        names.parse(name, "projects", "operations")
        return self._ledger.get(name)


class OperationWatch(operation_pb2_grpc.OperationWatchServiceServicer):
    """See operation.proto. The sequence is the record's version: any server can take a broken stream up."""

    def __init__(self, context: ServiceContext) -> None:
        self._ledger = context.ledger

    async def WatchOperation(
        self, request: operation_pb2.WatchOperationRequest, _context: Any
    ) -> AsyncIterator[operation_pb2.WatchOperationResponse]:
        """Streams until the operation ends."""
        names.parse(request.name, "projects", "operations")
        seen, state = request.after_sequence, ""
        sent_at = time.monotonic()
        while True:
            record = await asyncio.to_thread(self._ledger.get, request.name)
            if record.version > seen or not state:
                for line, at in log_lines(record, seen):
                    yield operation_pb2.WatchOperationResponse(sequence=record.version, time=timestamp(at), log=line)
                event = operation_pb2.WatchOperationResponse(sequence=record.version, time=timestamp(record.updated_s))
                metadata = ledger_metadata(record)
                if record.body["state"] != state:
                    state = record.body["state"]
                    event.metadata.CopyFrom(metadata)
                else:
                    event.progress.CopyFrom(metadata.progress)
                yield event
                seen, sent_at = record.version, time.monotonic()
            if state in TERMINAL:
                return
            if time.monotonic() - sent_at > HEARTBEAT_S:
                yield operation_pb2.WatchOperationResponse(sequence=seen, heartbeat=timestamp(time.time()))
                sent_at = time.monotonic()
            await asyncio.sleep(POLL_S)
