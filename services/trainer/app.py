"""Use cases of training on plain values and records. No gRPC here, no torch: every verb is one update of the run's record.

The one thing to get wrong: what a verb may do depends on whether somebody drives the run at this moment. A run without workers is stopped,
or queued again, right in the record; one with workers is asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from services.kit.checkpoint_store import CheckpointStore
from services.kit.claims import ActiveNames, Leaseholder
from services.kit.context import ServiceContext
from services.kit.errors import AlreadyExists, Conflict, InvalidInput, NotFound, WrongState
from services.kit.faceset_store import FacesetStore
from services.kit.operations.plan import canonical_json
from services.kit.records import Record
from services.kit.trash import refuse_trashed
from services.trainer import options as run_options
from services.trainer.driver import ACTIVE_PREFIX
from services.trainer.events import EventLog
from services.trainer.run import (
    COMPLETED,
    ENDED,
    FAILED,
    PAUSED,
    QUEUED,
    RUNNING,
    STOPPED,
    STOPPING,
    checkpoint_json,
    now_json,
    requeue,
)

MOST_WORKERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What CreateRun was given. ``options`` are those that differ from the preset; ``target_iteration`` 0 leaves the preset's."""

    src_faceset: str
    dst_faceset: str
    preset: str
    options: dict[str, Any] = field(default_factory=dict)
    target_iteration: int = 0
    workers: int = 1
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MOST_WORKERS:
            raise InvalidInput(
                f"workers must be 1 to {MOST_WORKERS}, not {self.workers}",
                fields={"run.workers": f"1 to {MOST_WORKERS}"},
            )
        _check_target(self.options, self.target_iteration or None)

    def digest(self) -> str:
        """Equal requests have equal digests."""
        return hashlib.sha256(canonical_json(asdict(self))).hexdigest()


class Runs:
    """Runs as records `projects/p/runs/r`."""

    def __init__(self, context: ServiceContext) -> None:
        self._store = context.store
        self._records = context.records
        self._reconciler = context.reconciler
        self._facesets = FacesetStore(context.store, context.records)
        self._checkpoints = CheckpointStore(context.store)
        self._active = ActiveNames(context.store, ACTIVE_PREFIX)
        self._holder = Leaseholder()

    def create(self, name: str, request: RunRequest) -> Record:
        """A new run, queued. The same request again returns the run as it is now; another one raises AlreadyExists."""
        try:
            return self._same(self._records.get(name), request)
        except NotFound:
            pass  # the usual case: it is made now
        given = dict(request.options)
        if request.target_iteration:
            given["target_iteration"] = request.target_iteration
        options = run_options.complete(request.preset, given)
        if options["batch_size"] < request.workers:
            raise InvalidInput(
                f"batch_size {options['batch_size']} cannot be shared by {request.workers} workers: raise it, or use fewer",
                fields={"run.workers": f"at most batch_size, {options['batch_size']}"},
            )
        now = now_json()
        body = {
            "name": name,
            "srcFaceset": request.src_faceset,
            "dstFaceset": request.dst_faceset,
            "srcRevision": str(self._revision(request.src_faceset, "run.src_faceset")),
            "dstRevision": str(self._revision(request.dst_faceset, "run.dst_faceset")),
            "preset": request.preset,
            "options": options,
            "workers": request.workers,
            "state": QUEUED,
            "iteration": "0",
            "targetIteration": str(options["target_iteration"]),
            "labels": request.labels,
            "createTime": now,
            "updateTime": now,
            "attempt": 0,
            "savesAsked": 0,
            "sequence": 0,
            "request": request.digest(),
        }
        self._active.add(name)
        refuse_trashed(self._records, "/".join(name.split("/")[:2]))
        try:
            record = self._records.create(name, body)
        except AlreadyExists:
            return self._same(self._records.get(name), request)
        self._wake(name)
        return record

    def get(self, name: str) -> Record:
        """NotFound when there is none."""
        return self._records.get(name)

    def page(self, project: str, *, after: str, limit: int) -> tuple[list[Record], str]:
        """Runs of a project by name."""
        return self._records.list(f"{project}/runs", after=after, limit=limit, nested=False)

    def update(
        self,
        name: str,
        *,
        options: Mapping[str, Any] | None,
        target_iteration: int | None,
        labels: Mapping[str, str] | None,
        etag: str | None = None,
    ) -> Record:
        """Changes what is given. WrongState OPTION_LOCKED for what a run that has begun cannot change."""
        changes = dict(options or {})
        _check_target(changes, target_iteration)
        if target_iteration is not None:
            changes["target_iteration"] = target_iteration
        seen = self._records.get(name).body
        begun = seen["attempt"] > 0
        changed = seen["options"]
        if changes:
            changed = run_options.changed(seen["options"], changes, begun=begun)

        def change(body: dict[str, Any]) -> dict[str, Any]:
            if changes and (body["options"] != seen["options"] or (body["attempt"] > 0) != begun):
                raise Conflict(f"{name} was changed at the same time: read it again")
            if changes:
                body["options"], body["targetIteration"] = changed, str(changed["target_iteration"])
            if labels is not None:
                body["labels"] = dict(labels)
            body["updateTime"] = now_json()
            return body

        return self._records.update(name, change, etag=etag)

    def pause(self, name: str) -> Record:
        """RUNNING to PAUSED; the worker saves and holds."""

        def change(body: dict[str, Any]) -> str | None:
            if body["state"] == PAUSED:
                return None
            if body["state"] != RUNNING:
                raise _refused(body, "paused", "only a running one can")
            return PAUSED

        return self._move(name, change)

    def resume(self, name: str) -> Record:
        """Goes on: from a pause where the workers hold, else from the newest checkpoint."""

        def change(body: dict[str, Any]) -> str | None:
            state = body["state"]
            if state == STOPPING:
                raise _refused(body, "resumed", "wait until it has stopped")
            if state == COMPLETED and 0 < int(body["targetIteration"]) <= int(body["iteration"]):
                raise _refused(
                    body, "resumed", f"it has reached its target of {body['targetIteration']} iterations: raise it"
                )
            if state == PAUSED:
                return RUNNING if self._is_driven(body) else QUEUED
            return QUEUED if state in ENDED else None

        self._active.add(name)
        refuse_trashed(self._records, "/".join(name.split("/")[:2]))
        record = self._move(name, change)
        self._wake(name)
        return record

    def stop(self, name: str) -> Record:
        """Saves and ends; at once when no worker has it."""

        def change(body: dict[str, Any]) -> str | None:
            if body["state"] in (STOPPING, STOPPED):
                return None
            if body["state"] in ENDED:
                raise _refused(body, "stopped", "it has ended")
            return STOPPING if self._is_driven(body) else STOPPED

        return self._move(name, change)

    def save(self, name: str) -> Record:
        """Asks for a checkpoint. A paused run has just saved one."""

        def change(body: dict[str, Any]) -> str | None:
            if body["state"] == PAUSED:
                return None
            if body["state"] != RUNNING:
                raise _refused(body, "saved", "only a running one has something to save")
            body["savesAsked"] += 1
            return RUNNING

        return self._move(name, change)

    def checkpoints(self, name: str, *, after: str, limit: int) -> tuple[list[dict[str, Any]], str]:
        """Checkpoints as JSON of the message, newest first, and the name to go on after."""
        self._records.get(name)
        older = (found for found in self._checkpoints.newest_first(name) if not after or found.name < after)
        page = list(islice(older, limit + 1))
        listed = [checkpoint_json(self._store, checkpoint) for checkpoint in page[:limit]]
        return listed, page[limit - 1].name if len(page) > limit else ""

    def events(self, name: str, after: int) -> list[dict[str, Any]]:
        """Stored events of a run numbered over ``after``, as JSON of WatchRunResponse."""
        return EventLog(self._store, name).read(after)

    def presets(self) -> list[dict[str, Any]]:
        """Name, description, options and mutable_options of every preset."""
        return run_options.presets()

    def model(self, name: str) -> Record:
        """A model; NotFound when there is none."""
        return self._records.get(name)

    def models(self, project: str, *, after: str, limit: int) -> tuple[list[Record], str]:
        """Models of a project by name."""
        return self._records.list(f"{project}/models", after=after, limit=limit, nested=False)

    def _same(self, record: Record, request: RunRequest) -> Record:
        if record.body["request"] != request.digest():
            raise AlreadyExists(
                f"{record.name} exists and was asked for with other fields: choose another run id, or update that run",
                metadata={"name": record.name},
            )
        return record

    def _revision(self, faceset: str, field_name: str) -> int:
        """The faceset's revision in force, which holds faces."""
        number, table = self._facesets.table(faceset)
        if not len(table.active()):
            raise InvalidInput(
                f"{faceset} holds no faces (revision {number}): extract faces, or restore some from its trash",
                reason="NO_FACE",
                fields={field_name: "holds no faces"},
            )
        return number

    def _move(self, name: str, change: Callable[[dict[str, Any]], str | None]) -> Record:
        """Changes the state to what ``change`` returns; None leaves the record alone."""

        def moved(body: dict[str, Any]) -> dict[str, Any] | None:
            state = change(body)
            if state is None:
                return None
            if state == QUEUED:
                requeue(body)
            if state == STOPPED:
                body.pop("eta", None)
            body["state"] = state
            body["updateTime"] = now_json()
            return body

        return self._records.update(name, moved)

    def _is_driven(self, body: dict[str, Any]) -> bool:
        return not self._holder.is_free(body.get("lease"))

    def _wake(self, name: str) -> None:
        # Once more after the record is written: a scan in between took the marker for a left-over and removed it.
        self._active.add(name)
        self._reconciler.poke()


def _refused(body: dict[str, Any], verb: str, what_to_do: str) -> WrongState:
    state = body["state"].removeprefix("STATE_")
    reason = f" ({body['errorMessage']})" if body["state"] == FAILED and body.get("errorMessage") else ""
    return WrongState(
        f"{body['name']} is {state}{reason} and cannot be {verb}: {what_to_do}", metadata={"state": state}
    )


def _check_target(options: Mapping[str, Any], target_iteration: int | None) -> None:
    if target_iteration is not None and options.get("target_iteration", target_iteration) != target_iteration:
        raise InvalidInput(
            "target_iteration and options.target_iteration are one thing and differ: give one of them",
            fields={"run.target_iteration": "differs from run.options.target_iteration"},
        )
