"""Sees a run from wherever it stands to its end: takes the lease, waits for room, starts workers, starts them again when they are lost.

It writes only what nobody else can: QUEUED to STARTING, and the end of a run whose workers are gone without having written one. Killed at
any line, the next driver finds the record, and the newest checkpoint, and goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from services.kit.claims import LEASE_S, ActiveNames, Leaseholder
from services.kit.context import ServiceContext
from services.kit.errors import NotFound, UnderstudyError
from services.kit.logs import bind
from services.trainer.backend import TrainBackend, TrainHandle, TrainJob, open_backend
from services.trainer.run import (
    ENDED,
    PAUSED,
    QUEUED,
    RUNNING,
    STARTING,
    STOPPED,
    STOPPING,
    checkpoint_iteration,
    end_badly,
    now_json,
    requeue,
)

_LOG = logging.getLogger(__name__)
ACTIVE_PREFIX = "active/runs/"
PARALLEL_RUNS = 16
POLL_S = 0.25
LEAVE_WITHIN_S = 12.0


class _LeaseLost(Exception):
    """Another server drives this run now."""


class RunWork:
    """Training runs as work of the reconciler. See reconciler.Work."""

    kind = "run"

    def __init__(self, context: ServiceContext, backend: TrainBackend | None = None) -> None:
        """Without ``backend``, the first run that is driven opens the one that the settings name."""
        self._context = context
        self._records = context.records
        self._active = ActiveNames(context.store, ACTIVE_PREFIX)
        self._holder = Leaseholder()
        self._backend = backend

    def candidates(self) -> Iterator[str]:
        """See Work."""
        return iter(self._active)

    def claim(self, name: str) -> bool:
        """See Work. A run that was paused when its server ended waits for its ResumeRun, one that was stopping has stopped."""
        claimed = False

        def change(body: dict[str, Any]) -> dict[str, Any] | None:
            nonlocal claimed
            claimed = False
            if body["state"] in ENDED or body["state"] == PAUSED or not self._holder.is_free(body.get("lease")):
                return None
            claimed = body["state"] != STOPPING
            body["state"] = QUEUED if claimed else STOPPED
            body["updateTime"] = now_json()
            body.pop("lease", None)
            if claimed:
                body["lease"] = self._holder.lease()
            return body

        try:
            record = self._records.update(name, change)
        except NotFound:
            self._active.remove(name)
            return False
        if record.body["state"] in ENDED:
            self._active.remove(name)
        return claimed

    def drive(self, name: str, stopping: Callable[[], bool]) -> None:
        """See Work."""
        with bind(run=name):
            try:
                while not stopping() and self._drive_once(name, stopping):
                    pass
                self._release(name)
            except _LeaseLost:
                _LOG.warning("another server drives this run now")
            except UnderstudyError as error:
                _LOG.warning("failed: %s", error)
                reason, message = error.reason, error.message
                self._update(name, lambda body: end_badly(body, reason, message))
                self._release(name)

    def _drive_once(self, name: str, stopping: Callable[[], bool]) -> bool:
        """Starts workers once and attends to them; whether there is more to do."""
        body = self._records.get(name).body
        if body["state"] == STOPPING:
            self._update(name, _stopped)
            return False
        if body["state"] in ENDED or body["state"] == PAUSED:
            return False
        workers = int(body.get("workers", 1))
        if not self._wait_for_room(name, workers, stopping):
            return True
        self._update(name, _starting)
        checkpoint_before = checkpoint_iteration(body)
        handle = self._backend_ready().start(TrainJob(name, self._holder.owner, workers))
        self._attend(name, handle, stopping)
        self._settle(name, handle, checkpoint_before, stopping)
        return True

    def _wait_for_room(self, name: str, workers: int, stopping: Callable[[], bool]) -> bool:
        """Waits a while, at most until the lease wants renewing; whether there is room now."""
        self._update(name)
        end_s = time.monotonic() + LEASE_S / 3
        while not stopping() and time.monotonic() < end_s:
            if self._backend_ready().has_room(workers):
                return True
            if self._records.get(name).body["state"] != QUEUED:
                return False
            time.sleep(POLL_S)
        return False

    def _attend(self, name: str, handle: TrainHandle, stopping: Callable[[], bool]) -> None:
        """Keeps the lease while workers work. When this server ends, asks them to save and go, and ends them if they do not."""
        renewed_s = time.monotonic()
        leaving_since_s: float | None = None
        while not handle.wait(POLL_S):
            now_s = time.monotonic()
            if stopping() and leaving_since_s is None:
                leaving_since_s = renewed_s = now_s
                self._update(name, _leaving)
            elif now_s - renewed_s > LEASE_S / 3:
                renewed_s = now_s
                try:
                    self._update(name)
                except _LeaseLost:
                    handle.kill()
                    raise
            if leaving_since_s is not None and now_s - leaving_since_s > LEAVE_WITHIN_S:
                _LOG.warning("the workers did not save in time: they are ended, the newest checkpoint stays")
                handle.kill()
                return

    def _settle(self, name: str, handle: TrainHandle, checkpoint_before: int, stopping: Callable[[], bool]) -> None:
        """Writes the end of workers that could not write it themselves."""
        failure = handle.failure()
        if failure is not None:
            _LOG.warning("the workers are gone: %s: %s", failure.reason, failure.message)

        def change(body: dict[str, Any]) -> None:
            if body["state"] == STOPPING:
                _stopped(body)
            elif body["state"] not in (STARTING, RUNNING):
                return  # they wrote the end themselves, or the run is paused and stays so without them
            elif checkpoint_iteration(body) > checkpoint_before:
                requeue(body)  # it came further than the last time: worth another start
            elif failure is not None:
                end_badly(body, failure.reason, f"{failure.message}; no new checkpoint was reached")
            else:
                end_badly(body, "INTERNAL", "the workers ended without writing how; their log has the details")

        if not stopping():
            self._update(name, change)

    def _release(self, name: str) -> None:
        """Gives the lease back; another driver may begin at once."""

        def change(body: dict[str, Any]) -> None:
            del body["lease"]
            if body["state"] in (STARTING, RUNNING):
                requeue(body)

        record = self._update(name, change)
        if record.body["state"] in ENDED:
            self._active.remove(name)
            if self._records.get(name).body["state"] not in ENDED:  # resumed in this very moment
                self._active.add(name)

    def _update(self, name: str, change: Callable[[dict[str, Any]], None] = lambda body: None) -> Any:
        """A driver's update; renews the lease."""

        def fenced(body: dict[str, Any]) -> dict[str, Any]:
            lease = body.get("lease", {})
            if not self._holder.holds(lease):
                raise _LeaseLost
            body["lease"] = {**lease, **self._holder.lease()}
            before = body["state"]
            change(body)
            if body["state"] != before:
                body["updateTime"] = now_json()
            return body

        return self._records.update(name, fenced)

    def _backend_ready(self) -> TrainBackend:
        if self._backend is None:
            self._backend = open_backend(self._context.settings, self._context.env)
        return self._backend


def _starting(body: dict[str, Any]) -> None:
    if body["state"] == QUEUED:
        body["state"] = STARTING


def _stopped(body: dict[str, Any]) -> None:
    body["state"] = STOPPED
    body.pop("eta", None)


def _leaving(body: dict[str, Any]) -> None:
    body["lease"]["leaving"] = True
