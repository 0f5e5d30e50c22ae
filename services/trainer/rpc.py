"""TrainingService: validate, convert, call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from services.kit import names
from services.kit.context import ServiceContext
from services.kit.operations.convert import page_size, required, timestamp
from services.kit.records import Record
from services.kit.resources import from_record
from services.trainer.app import Runs
from services.trainer.convert import (
    checkpoint_message,
    event_message,
    preset_message,
    request_from_message,
    run_message,
    update_from_message,
)
from services.trainer.driver import PARALLEL_RUNS, RunWork
from services.trainer.run import ENDED
from understudy.v1 import training_service_pb2, training_service_pb2_grpc

if TYPE_CHECKING:
    from services.kit.server import Registrar

POLL_S = 0.3
HEARTBEAT_S = 15.0


def register(registrar: Registrar, context: ServiceContext) -> None:
    """Adds the service, and its work to the reconciler."""
    training_service_pb2_grpc.add_TrainingServiceServicer_to_server(TrainingRpc(context), registrar.server)
    registrar.added("understudy.v1.TrainingService")
    context.reconciler.add(RunWork(context), parallel=PARALLEL_RUNS)


class TrainingRpc(training_service_pb2_grpc.TrainingServiceServicer):
    """See training_service.proto. Methods that are not here answer UNIMPLEMENTED."""

    def __init__(self, context: ServiceContext) -> None:
        self._runs = Runs(context)

    async def CreateRun(self, request: Any, _context: Any) -> training_service_pb2.TrainingRun:
        """See training_service.proto."""
        names.parse(request.parent, "projects", field="parent")
        name = f"{request.parent}/runs/{names.check_id(request.run_id, 'run_id')}"
        names.parse(request.run.src_faceset, "projects", "facesets", field="run.src_faceset")
        names.parse(request.run.dst_faceset, "projects", "facesets", field="run.dst_faceset")
        required(request.run.preset, "run.preset")
        return run_message(await asyncio.to_thread(self._runs.create, name, request_from_message(request.run)))

    async def GetRun(self, request: Any, _context: Any) -> training_service_pb2.TrainingRun:
        """See training_service.proto."""
        return await self._on_run(self._runs.get, request.name)

    async def ListRuns(self, request: Any, _context: Any) -> training_service_pb2.ListRunsResponse:
        """See training_service.proto."""
        names.parse(request.parent, "projects", field="parent")
        records, after = await asyncio.to_thread(
            self._runs.page, request.parent, after=request.page_token, limit=page_size(request.page_size)
        )
        runs = [run_message(record) for record in records]
        return training_service_pb2.ListRunsResponse(runs=runs, next_page_token=after)

    async def UpdateRun(self, request: Any, _context: Any) -> training_service_pb2.TrainingRun:
        """See training_service.proto."""
        names.parse(request.run.name, "projects", "runs", field="run.name")
        changes = update_from_message(request)
        return run_message(await asyncio.to_thread(lambda: self._runs.update(request.run.name, **changes)))

    async def PauseRun(self, request: Any, _context: Any) -> training_service_pb2.TrainingRun:
        """See training_service.proto."""
        return await self._on_run(self._runs.pause, request.name)

    async def ResumeRun(self, request: Any, _context: Any) -> training_service_pb2.TrainingRun:
        """See training_service.proto."""
        return await self._on_run(self._runs.resume, request.name)

    async def StopRun(self, request: Any, _context: Any) -> training_service_pb2.TrainingRun:
        """See training_service.proto."""
        return await self._on_run(self._runs.stop, request.name)

    async def SaveCheckpoint(self, request: Any, _context: Any) -> training_service_pb2.TrainingRun:
        """See training_service.proto."""
        return await self._on_run(self._runs.save, request.name)

    async def WatchRun(
        self, request: training_service_pb2.WatchRunRequest, _context: Any
    ) -> AsyncIterator[training_service_pb2.WatchRunResponse]:
        """See training_service.proto. It reads the store, so any server can take a broken stream up."""
        names.parse(request.name, "projects", "runs")
        seen, state, sent_at = request.after_sequence, "", time.monotonic()
        while True:
            # The record first: a run that has ended has stored its events before.
            record = await asyncio.to_thread(self._runs.get, request.name)
            if not state:
                yield _run_event(record, seen)
            while events := await asyncio.to_thread(self._runs.events, request.name, seen):
                for event in map(event_message, events):
                    seen, sent_at = event.sequence, time.monotonic()
                    yield event
            if state and record.body["state"] != state:
                sent_at = time.monotonic()
                yield _run_event(record, seen)
            state = record.body["state"]
            if state in ENDED:
                return
            if time.monotonic() - sent_at > HEARTBEAT_S:
                sent_at = time.monotonic()
                yield training_service_pb2.WatchRunResponse(sequence=seen, heartbeat=timestamp(time.time()))
            await asyncio.sleep(POLL_S)

    async def ListCheckpoints(self, request: Any, _context: Any) -> training_service_pb2.ListCheckpointsResponse:
        """See training_service.proto."""
        names.parse(request.parent, "projects", "runs", field="parent")
        checkpoints, after = await asyncio.to_thread(
            self._runs.checkpoints, request.parent, after=request.page_token, limit=page_size(request.page_size)
        )
        messages = [checkpoint_message(checkpoint) for checkpoint in checkpoints]
        return training_service_pb2.ListCheckpointsResponse(checkpoints=messages, next_page_token=after)

    async def ListPresets(self, _request: Any, _context: Any) -> training_service_pb2.ListPresetsResponse:
        """See training_service.proto."""
        presets = await asyncio.to_thread(self._runs.presets)
        return training_service_pb2.ListPresetsResponse(presets=[preset_message(preset) for preset in presets])

    async def GetModel(self, request: Any, _context: Any) -> training_service_pb2.Model:
        """See training_service.proto."""
        names.parse(request.name, "projects", "models")
        return from_record(await asyncio.to_thread(self._runs.model, request.name), training_service_pb2.Model())

    async def ListModels(self, request: Any, _context: Any) -> training_service_pb2.ListModelsResponse:
        """See training_service.proto."""
        names.parse(request.parent, "projects", field="parent")
        records, after = await asyncio.to_thread(
            self._runs.models, request.parent, after=request.page_token, limit=page_size(request.page_size)
        )
        models = [from_record(record, training_service_pb2.Model()) for record in records]
        return training_service_pb2.ListModelsResponse(models=models, next_page_token=after)

    async def _on_run(self, use_case: Callable[[str], Record], name: str) -> training_service_pb2.TrainingRun:
        names.parse(name, "projects", "runs")
        return run_message(await asyncio.to_thread(use_case, name))


def _run_event(record: Record, sequence: int) -> training_service_pb2.WatchRunResponse:
    return training_service_pb2.WatchRunResponse(
        sequence=sequence, time=timestamp(record.updated_s), run=run_message(record)
    )
