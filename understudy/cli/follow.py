"""Following long work to its end: events as they come, then the result and the exit code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from google.longrunning import operations_pb2
from google.protobuf.message import Message

from understudy.cli.connection import Connection, note
from understudy.cli.failure import DONE, INTERRUPTED, WORK_FAILED
from understudy.cli.options import Options
from understudy.cli.output import show, show_event
from understudy.cli.plain import plain
from understudy.cli.progress import shown
from understudy.client import Client
from understudy.errors import UnderstudyError, from_operation
from understudy.swap import SwapEvent, operation_event, run_event
from understudy.v1 import operation_pb2, training_service_pb2

Run = training_service_pb2.TrainingRun
_OPERATION_EXITS = {
    operation_pb2.OPERATION_STATE_SUCCEEDED: DONE,
    operation_pb2.OPERATION_STATE_CANCELLED: INTERRUPTED,
}


def detach_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--detach`."""
    return click.option("-d", "--detach", is_flag=True, help="Begin the work and end; `watch` shows how it goes.")(
        function
    )


def finish_operation(
    options: Options,
    connection: Connection,
    operation: operations_pb2.Operation,
    response: Message,
    stage: str,
    *,
    detach: bool,
    then: Callable[[Any], dict[str, Any]] = lambda response: {},
) -> None:
    """Follows an operation, shows its response (and what ``then`` adds) and ends the command with the work's exit code."""
    if detach:
        warn_when_alone(options, connection)
        show(options, plain(operation), operation.name)
        return
    ended = followed(options, connection.client, operation, stage)
    connection.client.result(ended, response)
    show(options, {"operation": ended.name, **plain(response), **then(response)})
    end_with(ended)


def followed(
    options: Options, client: Client, operation: operations_pb2.Operation, stage: str
) -> operations_pb2.Operation:
    """Shows progress until the operation has ended, however it ended."""
    if operation.done:
        return operation
    with shown(options) as shower:
        shower(SwapEvent(stage, "begin"))
        for event in client.watch(operation.name):
            step = operation_event(stage, event)
            if step:
                shower(step)
        ended: operations_pb2.Operation = client.operations.GetOperation(
            operations_pb2.GetOperationRequest(name=operation.name)
        )
        shower(SwapEvent(stage, "end", text=_state(ended).lower().replace("_", " ")))
    return ended


def stream_operation(client: Client, name: str) -> operations_pb2.Operation:
    """One JSON line an event until the operation has ended."""
    for event in client.watch(name):
        show_event({"name": name, **plain(event)})
    ended: operations_pb2.Operation = client.operations.GetOperation(operations_pb2.GetOperationRequest(name=name))
    return ended


def end_with(operation: operations_pb2.Operation) -> None:
    """Ends the command with the exit code of an ended operation; what failed in it is listed."""
    if operation.HasField("error"):
        raise from_operation(operation)
    metadata = _metadata(operation)
    for item in metadata.failed_items:
        click.echo(f"failed: {item.name}: {item.status.message}", err=True)
    code = _OPERATION_EXITS.get(metadata.state, WORK_FAILED)
    if code != DONE:
        raise click.exceptions.Exit(code)


def follow_run(options: Options, client: Client, run: Run, *, stream: bool) -> Run:
    """Shows a training run until it ends: JSON lines with ``stream``, else progress. Returns the run as it ended."""
    with shown(options) as shower:
        if not stream:
            shower(SwapEvent("train", "begin"))
        for event in client.watch_run(run.name):
            if event.WhichOneof("event") == "run":
                run = event.run
            if stream:
                show_event({"name": run.name, **plain(event)})
                continue
            step = run_event("train", event, run.target_iteration)
            if step:
                shower(step)
        ended: Run = client.training.GetRun(training_service_pb2.GetRunRequest(name=run.name))
        if not stream:
            state = Run.State.Name(ended.state).removeprefix("STATE_").lower()
            shower(SwapEvent("train", "end", text=f"{state} at iteration {ended.iteration}"))
    return ended


def end_with_run(run: Run) -> None:
    """Ends the command with the exit code of an ended run."""
    if run.state == Run.STATE_FAILED:
        raise UnderstudyError(run.error_message, code="ABORTED", reason=run.error_reason, work=run.name)
    if run.state == Run.STATE_STOPPED:
        raise click.exceptions.Exit(INTERRUPTED)


def warn_when_alone(options: Options, connection: Connection) -> None:
    """Says so when nobody is left to do the work that was begun."""
    if connection.own:
        note(options, "no server stays: the work goes on when one runs (`understudy up`)")


def _metadata(operation: operations_pb2.Operation) -> operation_pb2.OperationMetadata:
    metadata = operation_pb2.OperationMetadata()
    operation.metadata.Unpack(metadata)
    return metadata


def _state(operation: operations_pb2.Operation) -> str:
    return operation_pb2.OperationState.Name(_metadata(operation).state).removeprefix("OPERATION_STATE_")
