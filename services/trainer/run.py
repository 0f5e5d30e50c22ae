"""The record of a training run: `projects/p/runs/r`, the JSON of TrainingRun with a few keys more.

    lease        who drives it: services.kit.claims; `leaving` in it says that this server ends and the workers shall save and go
    savesAsked   how often a person asked for a checkpoint; the worker acts when it rises
    sequence     number of the last event that is stored (a lower bound)
    request      digest of what CreateRun was given, so that the same call again finds the same run

Two write: the service on behalf of people (state, options, savesAsked) and one worker (progress, and the states that follow from it). The
one thing to get wrong: a worker that was thought dead may still be writing. Its updates go through ``guarded``, which compares the lease's
owner and the number of the attempt inside the update.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import Any

from services.kit.checkpoint_store import CheckpointInfo
from services.kit.errors import WrongState
from services.kit.records import Record, Records
from services.kit.storage import ObjectStore

QUEUED = "STATE_QUEUED"
STARTING = "STATE_STARTING"
RUNNING = "STATE_RUNNING"
PAUSED = "STATE_PAUSED"
STOPPING = "STATE_STOPPING"
STOPPED = "STATE_STOPPED"
COMPLETED = "STATE_COMPLETED"
FAILED = "STATE_FAILED"
ENDED = frozenset({STOPPED, COMPLETED, FAILED})


class Superseded(WrongState):
    """This worker's run was given to another one: end, and write nothing more."""


def guarded(
    records: Records, run: str, *, owner: str, attempt: int, change: Callable[[dict[str, Any]], None]
) -> Record:
    """A worker's update of its run's record. Raises Superseded when the run is not this worker's any more."""

    def fenced(body: dict[str, Any]) -> dict[str, Any]:
        check_fence(body, owner=owner, attempt=attempt)
        change(body)
        body["updateTime"] = now_json()
        return body

    return records.update(run, fenced)


def check_fence(body: dict[str, Any], *, owner: str, attempt: int) -> None:
    """Raises Superseded unless the record says that this attempt, under this lease, trains the run."""
    if body.get("lease", {}).get("owner") != owner or body["attempt"] != attempt:
        raise Superseded(f"{body['name']} is trained by another worker now")


def end_badly(body: dict[str, Any], reason: str, message: str) -> None:
    """Changes a record to FAILED."""
    body["state"] = FAILED
    body["errorReason"], body["errorMessage"] = reason, message
    body.pop("eta", None)


def requeue(body: dict[str, Any]) -> None:
    """Changes a record so that it waits for a driver, as if nothing had failed."""
    body["state"] = QUEUED
    for stale in ("errorReason", "errorMessage"):
        body.pop(stale, None)


def checkpoint_iteration(body: dict[str, Any]) -> int:
    """Iteration of the newest checkpoint that the record names; 0 without one."""
    return int(body.get("checkpoint", {}).get("iteration", 0))


def checkpoint_json(store: ObjectStore, checkpoint: CheckpointInfo) -> dict[str, Any]:
    """The JSON of the message Checkpoint."""
    manifest = checkpoint.manifest
    return {
        "name": checkpoint.name,
        "iteration": str(checkpoint.iteration),
        "manifest": {
            "uri": store.uri(manifest.key),
            "digest": {"sha256": manifest.sha256, "sizeBytes": str(manifest.size_bytes)},
            "mediaType": manifest.media_type,
        },
        "losses": checkpoint.losses,
        "createTime": time_json(checkpoint.create_time_s),
    }


def now_json() -> str:
    """This moment as the JSON of a Timestamp."""
    return time_json(time.time())


def time_json(seconds: float) -> str:
    """Seconds since the epoch as the JSON of a Timestamp, to the millisecond."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration_json(seconds: float) -> str:
    """Seconds as the JSON of a Duration."""
    return f"{max(seconds, 0.0):.3f}s"
