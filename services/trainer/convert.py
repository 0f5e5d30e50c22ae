"""Messages of training to plain values and back.

The one thing to get wrong: a Struct knows no whole numbers. Options that are whole become ints here, on the way in, and stay so.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format, struct_pb2

from services.kit.errors import InvalidInput
from services.kit.records import Record
from services.kit.resources import from_record
from services.trainer.app import RunRequest
from understudy.v1 import training_service_pb2

UPDATABLE = ("options", "target_iteration", "labels")


def request_from_message(run: training_service_pb2.TrainingRun) -> RunRequest:
    """What CreateRun reads of a run."""
    return RunRequest(
        src_faceset=run.src_faceset,
        dst_faceset=run.dst_faceset,
        preset=run.preset,
        options=options_from_struct(run.options),
        target_iteration=checked_target(run.target_iteration),
        workers=run.workers or 1,
        labels=dict(run.labels),
    )


def update_from_message(request: training_service_pb2.UpdateRunRequest) -> dict[str, Any]:
    """Keyword arguments of Runs.update. Without a mask, every field that is set."""
    run = request.run
    paths = set(request.update_mask.paths)
    unknown = sorted(paths - set(UPDATABLE))
    if unknown:
        raise InvalidInput(
            f"update_mask names {', '.join(unknown)}; what can be updated: {', '.join(UPDATABLE)}",
            fields={"update_mask": f"any of {', '.join(UPDATABLE)}"},
        )
    if not paths:
        paths = {path for path in UPDATABLE if getattr(run, path)}
    return {
        "options": options_from_struct(run.options) if "options" in paths else None,
        "target_iteration": checked_target(run.target_iteration) if "target_iteration" in paths else None,
        "labels": dict(run.labels) if "labels" in paths else None,
        "etag": run.etag or None,
    }


def checked_target(value: int) -> int:
    """A target iteration, which is not negative."""
    if value < 0:
        raise InvalidInput(
            f"target_iteration must be 0 or more, not {value}", fields={"run.target_iteration": "0 or more"}
        )
    return value


def options_from_struct(struct: struct_pb2.Struct) -> dict[str, Any]:
    """Options as plain values; whole numbers as int."""
    try:
        values = json_format.MessageToDict(struct)
    except json_format.Error as error:
        raise InvalidInput(
            f"options hold what JSON does not: {error}", fields={"run.options": "NaN or infinity"}
        ) from error
    whole: dict[str, Any] = _whole(values)
    return whole


def run_message(record: Record) -> training_service_pb2.TrainingRun:
    """A run's record as message; what the record holds beside it stays inside."""
    return from_record(record, training_service_pb2.TrainingRun())


def preset_message(preset: dict[str, Any]) -> training_service_pb2.Preset:
    """A preset of Runs.presets as message."""
    return json_format.ParseDict(
        {
            "name": preset["name"],
            "description": preset["description"],
            "options": preset["options"],
            "mutableOptions": preset["mutable_options"],
        },
        training_service_pb2.Preset(),
    )


def checkpoint_message(checkpoint: dict[str, Any]) -> training_service_pb2.Checkpoint:
    """A checkpoint's JSON as message."""
    return json_format.ParseDict(checkpoint, training_service_pb2.Checkpoint())


def event_message(event: dict[str, Any]) -> training_service_pb2.WatchRunResponse:
    """A stored event as message; fields of a newer release are left out."""
    return json_format.ParseDict(event, training_service_pb2.WatchRunResponse(), ignore_unknown_fields=True)


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_whole(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
