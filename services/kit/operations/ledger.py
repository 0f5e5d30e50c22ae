"""Operation records: what was asked, where it stands, what came of it.

One operation an action key: asking for equal work again joins the running operation, returns the finished one, or takes a failed one up
again. The record's version is the sequence that watchers resume from, so there is no second log to keep in step. Who drives an
operation holds its lease; a lease that ran out, or whose holder on this machine is dead, may be taken.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from services.kit.claims import ActiveNames, Leaseholder
from services.kit.errors import AlreadyExists, Cancelled, InvalidInput, NotFound, UnderstudyError, WrongState
from services.kit.operations.keys import plan_key
from services.kit.operations.plan import Plan
from services.kit.operations.stage import Response
from services.kit.records import Record, Records
from services.kit.storage import ObjectStore
from services.kit.trash import refuse_trashed

TERMINAL = frozenset({"SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED"})
KEPT_LOG_LINES = 50


class LeaseLost(WrongState):
    """This process does not drive the operation any more: another took it over, or it has ended."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One request for long work. ``kind`` begins the operation's id (`extract`); ``target`` is the resource it makes or changes."""

    project: str
    kind: str
    method: str
    target: str
    plan: Plan
    request_id: str
    actor: str
    labels: dict[str, str]
    traceparent: str = ""


class Ledger:
    """Creates, reads and advances operation records."""

    def __init__(self, store: ObjectStore, records: Records, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._records = records
        self._clock = clock
        self._holder = Leaseholder(clock)
        self._active = ActiveNames(store, "active/operations/")

    def submit(self, submission: Submission, *, is_intact: Callable[[], bool] = lambda: True) -> tuple[Record, bool]:
        """Records the work, or finds it recorded. Returns the record and whether it was found done.

        ``is_intact`` says whether the target of a finished operation still exists; if not, the work is done again (its chunks are
        found, so that is quick). The same request_id with other work raises AlreadyExists REQUEST_ID_REUSED; WrongState when the
        project is in the trash.
        """
        refuse_trashed(self._records, submission.project)
        name = f"{submission.project}/operations/{submission.kind}-{submission.plan.action_key[:24]}"
        self._claim_request_id(submission, name)
        with contextlib.suppress(AlreadyExists):  # equal work was planned before; equal keys are equal plans
            self._store.put(
                plan_key(submission.plan.action_key),
                submission.plan.to_bytes(),
                media_type="application/json",
                if_absent=True,
            )
        # The marker goes first: a crash between the two leaves a marker without a record, which the reconciler removes.
        self._active.add(name)
        try:
            # Again, behind the marker: whoever empties the trash looks for markers, so one of the two sees the other.
            refuse_trashed(self._records, submission.project)
        except WrongState:
            self._unmark(name)
            raise
        try:
            record = self._records.create(name, self._new_body(submission))
            self._active.add(name)  # again: a scan before the record was there took the marker for a left-over
            return record, False
        except AlreadyExists:
            pass  # the same work was asked for before: join it
        record = self._records.get(name)
        state = record.body["state"]
        if state in ("SUCCEEDED", "PARTIALLY_SUCCEEDED") and is_intact():
            self._unmark(name)
            return record, True
        if state in TERMINAL:
            record = self._records.update(
                name, _counted(lambda body: _requeued(body, self._clock()) if body["state"] in TERMINAL else None)
            )
            self._active.add(name)
        return record, False

    def asked_before(self, project: str, request_id: str) -> Record | None:
        """The operation that a request id was used for; None when it is new, empty, or was used for something else."""
        if not request_id:
            return None
        key = request_key(project, request_id)
        try:
            return self._records.get(self._store.get(key).decode())
        except (NotFound, InvalidInput):  # the latter: it does not name an operation
            return None

    def get(self, name: str) -> Record:
        """NotFound when there is none."""
        return self._records.get(name)

    def page(self, project: str, *, after: str, limit: int) -> tuple[list[Record], str]:
        """Operations of a project by name."""
        return self._records.list(f"{project}/operations", after=after, limit=limit, nested=False)

    def active(self) -> Iterator[str]:
        """Names of operations that have not ended."""
        return iter(self._active)

    def claim(self, name: str) -> Record | None:
        """Takes the lease of an operation that nobody drives; None when someone does or it has ended."""
        try:
            record = self._records.get(name)
        except NotFound:
            self._unmark(name)
            return None
        if record.body["state"] in TERMINAL:
            self._unmark(name)
            return None
        taken = False

        def change(body: dict[str, Any]) -> dict[str, Any] | None:
            nonlocal taken
            taken = body["state"] not in TERMINAL and self._holder.is_free(body.get("lease"))
            if not taken:
                return None
            body["lease"] = self._holder.lease()
            body["attempt"] += 1
            if body["state"] == "QUEUED":
                body["state"] = "WAITING_FOR_RESOURCES"
            return body

        claimed = self._records.update(name, _counted(change))
        return claimed if taken else None

    def is_driven(self, name: str) -> bool:
        """Whether someone holds the lease of an operation now."""
        return not self._holder.is_free(self._records.get(name).body.get("lease"))

    def advance(self, name: str, change: Callable[[dict[str, Any]], None]) -> Record:
        """Applies a driver's change and renews its lease. Raises LeaseLost when it is not this driver's any more."""

        def guarded(body: dict[str, Any]) -> dict[str, Any]:
            if body["state"] in TERMINAL or not self._holder.holds(body.get("lease")):
                raise LeaseLost(f"{name} is not driven by this process any more")
            change(body)
            body["lease"] = self._holder.lease()
            body["update_time_s"] = self._clock()
            return body

        return self._records.update(name, _counted(guarded))

    def succeed(
        self, name: str, response: Response, failures: list[dict[str, str]], manifest: Mapping[str, Any]
    ) -> None:
        """Ends an operation well."""

        def change(body: dict[str, Any]) -> None:
            body["state"] = "PARTIALLY_SUCCEEDED" if failures else "SUCCEEDED"
            body["response"] = {"message": response.message, "body": response.body}
            body["failed_items"] = failures[:100]
            body["manifest"] = dict(manifest)
            self._end(body)

        self.advance(name, change)
        self._unmark(name)

    def fail(self, name: str, error: UnderstudyError) -> None:
        """Ends an operation badly."""

        def change(body: dict[str, Any]) -> None:
            body["state"] = "FAILED"
            body["error"] = error.to_json()
            self._end(body)

        self.advance(name, change)
        self._unmark(name)

    def cancelled(self, name: str) -> None:
        """Ends an operation that someone asked to end."""

        def change(body: dict[str, Any]) -> None:
            body["state"] = "CANCELLED"
            body["error"] = Cancelled("the operation was cancelled").to_json()
            self._end(body)

        self.advance(name, change)
        self._unmark(name)

    def request_cancel(self, name: str) -> None:
        """Asks the driver to stop; nothing happens to an operation that has ended."""
        self._records.update(
            name, _counted(lambda body: None if body["state"] in TERMINAL else {**body, "state": "CANCELLING"})
        )

    def delete(self, name: str) -> None:
        """Forgets an ended operation; its results stay."""
        if self._records.get(name).body["state"] not in TERMINAL:
            raise WrongState(f"{name} has not ended: cancel it first")
        self._records.delete(name)

    def _unmark(self, name: str) -> None:
        # Looked at again afterwards: a submission that makes or requeues the record at this moment needs its marker. It sets the
        # marker after the record, so one of the two sees the other.
        self._active.remove(name)
        with contextlib.suppress(NotFound):
            if self._records.get(name).body["state"] not in TERMINAL:
                self._active.add(name)

    def _end(self, body: dict[str, Any]) -> None:
        body["end_time_s"] = self._clock()
        body.pop("eta_s", None)

    def _new_body(self, submission: Submission) -> dict[str, Any]:
        return {
            "state": "QUEUED",
            "method": submission.method,
            "target": submission.target,
            "action_key": submission.plan.action_key,
            "unit": submission.plan.unit,
            "total_units": submission.plan.total_units,
            "done_units": 0,
            "rate_per_s": 0.0,
            "chunks_done": 0,
            "chunks_total": len(submission.plan.chunks),
            "create_time_s": self._clock(),
            "attempt": 0,
            "writes": 1,
            "actor": submission.actor,
            "labels": submission.labels,
            "traceparent": submission.traceparent,
            "log": [],
        }

    def _claim_request_id(self, submission: Submission, name: str) -> None:
        if not submission.request_id:
            return
        key = request_key(submission.project, submission.request_id)
        try:
            self._store.put(key, name.encode(), media_type="text/plain", if_absent=True)
        except AlreadyExists:
            known = self._store.get(key).decode()
            if known != name:
                raise AlreadyExists(
                    f"request_id {submission.request_id} was used for other work ({known}): use a new one",
                    reason="REQUEST_ID_REUSED",
                    metadata={"operation": known},
                ) from None


def append_log(body: dict[str, Any], severity: str, text: str) -> None:
    """Adds a line to an operation's log; only the newest are kept. ``write`` is the write of the record that it comes with."""
    body["log"].append({"write": body["writes"] + 1, "severity": severity, "text": text, "time_s": time.time()})
    del body["log"][:-KEPT_LOG_LINES]


def _counted(
    change: Callable[[dict[str, Any]], dict[str, Any] | None],
) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """``change`` that counts the writes of a record, so that a log line knows the version which brought it."""

    def counted(body: dict[str, Any]) -> dict[str, Any] | None:
        changed = change(body)
        return changed and {**changed, "writes": changed["writes"] + 1}

    return counted


def _requeued(body: dict[str, Any], now_s: float) -> dict[str, Any]:
    for stale in ("response", "error", "manifest", "end_time_s", "failed_items", "lease"):
        body.pop(stale, None)
    body["state"] = "QUEUED"
    body["update_time_s"] = now_s
    return body


def request_key(project: str, request_id: str) -> str:
    """Where it is noted what a request id was used for; InvalidInput when it is none."""
    if not (
        8 <= len(request_id) <= 64
        and all(character.isascii() and (character.isalnum() or character == "-") for character in request_id)
    ):
        raise InvalidInput(f"request_id {request_id!r} must be a UUID", fields={"request_id": "must be a UUID"})
    return f"{project}/requests/{request_id}"
