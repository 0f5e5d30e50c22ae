"""Takes one operation from where it stands to its end. The same function beside a server, in a Ray job and in a test.

It never holds pixels: it lists manifests, hands the missing chunks to an executor, writes progress into the record once a
second, and lets the stage join the results. Killed at any line, the next driver goes on from the manifests.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from services.kit.errors import AlreadyExists, Cancelled, UnderstudyError
from services.kit.execution.executor import Executor
from services.kit.logs import bind
from services.kit.metrics import Metrics
from services.kit.operations.chunk import done_indices, load_plan, read_manifests
from services.kit.operations.keys import chunk_key, result_key
from services.kit.operations.ledger import LeaseLost, Ledger, append_log
from services.kit.operations.plan import ChunkManifest, Plan, canonical_json
from services.kit.operations.stage import WorkerEnv, load_stage

_LOG = logging.getLogger(__name__)
PROGRESS_EVERY_S = 1.0
LOOK_EVERY_S = 3.0  # without progress: renews the lease, and is how long a wish to cancel may go unseen
RATE_WINDOW_S = 60.0


def drive_operation(
    name: str,
    *,
    env: WorkerEnv,
    ledger: Ledger,
    executor: Executor,
    metrics: Metrics,
    stopping: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Drives operation ``name``, whose lease this process holds. Ends with the record in a terminal state, or, when ``stopping``
    turns true, leaves it for the next driver. Never raises for the operation's own failure: that is in the record."""
    with bind(operation=name):
        try:
            try:
                _drive(name, env, ledger, executor, metrics, stopping, clock)
            except _Stopping:
                _LOG.info("left for the next driver")
            except LeaseLost:
                raise
            except Cancelled:
                ledger.cancelled(name)
            except UnderstudyError as error:
                _LOG.warning("failed: %s", error)
                ledger.fail(name, error)
            except Exception:  # noqa: BLE001  the edge of a driver: nothing above it can report
                _LOG.exception("failed by a mistake of this program")
                ledger.fail(
                    name,
                    UnderstudyError(
                        "the work failed by a mistake of this program; its log has the details under this operation's name"
                    ),
                )
        except LeaseLost as error:
            _LOG.warning("stopped driving: %s", error)


class _Stopping(Cancelled):
    """The process is shutting down; an UnderstudyError so that no executor takes it for a failed chunk."""


class _ProgressWriter:
    """Collects progress from executor threads and writes it into the record at most once a second; learns there of a wish to cancel."""

    def __init__(self, name: str, plan: Plan, done: set[int], ledger: Ledger, clock: Callable[[], float]) -> None:
        self._name, self._plan, self._ledger, self._clock = name, plan, ledger, clock
        self._lock = threading.Lock()
        self._units = {chunk.index: chunk.units if chunk.index in done else 0 for chunk in plan.chunks}
        self._done = set(done)
        self._history = [(clock(), sum(self._units.values()))]
        self._log: list[tuple[str, str]] = []
        self._dirty = True
        self._written_at = -math.inf
        self.cancel_wanted = False

    def chunk_progress(self, index: int, units: int) -> None:
        with self._lock:
            if index not in self._done and units > self._units[index]:
                self._units[index] = units
                self._dirty = True

    def chunk_done(self, manifest: ChunkManifest) -> None:
        with self._lock:
            self._units[manifest.index] = manifest.units
            self._done.add(manifest.index)
            self._dirty = True

    def log(self, severity: str, text: str) -> None:
        with self._lock:
            self._log.append((severity, text))
            self._dirty = True

    def write(self, *, force: bool = False) -> None:
        """Updates the record when something is new or the lease needs renewing."""
        now = self._clock()
        with self._lock:
            due = now - self._written_at >= PROGRESS_EVERY_S
            if not force and not (due and (self._dirty or now - self._written_at >= LOOK_EVERY_S)):
                return
            done_units = sum(self._units.values())
            self._history = [point for point in self._history if now - point[0] <= RATE_WINDOW_S] or [(now, done_units)]
            self._history.append((now, done_units))
            since, units_then = self._history[0]
            rate = (done_units - units_then) / (now - since) if now > since else 0.0
            chunks_done, lines, self._log, self._dirty, self._written_at = len(self._done), self._log, [], False, now

        def change(body: dict[str, Any]) -> None:
            if body["state"] == "CANCELLING":
                self.cancel_wanted = True
            elif body["state"] in ("QUEUED", "WAITING_FOR_RESOURCES") and (done_units or chunks_done):
                body["state"] = "RUNNING"
                body.setdefault("start_time_s", time.time())
            body["done_units"], body["chunks_done"], body["rate_per_s"] = done_units, chunks_done, round(rate, 3)
            if rate > 0:
                body["eta_s"] = round((self._plan.total_units - done_units) / rate, 1)
            for severity, text in lines:
                append_log(body, severity, text)

        self._ledger.advance(self._name, change)


def _drive(
    name: str,
    env: WorkerEnv,
    ledger: Ledger,
    executor: Executor,
    metrics: Metrics,
    stopping: Callable[[], bool],
    clock: Callable[[], float],
) -> None:
    record = ledger.get(name)
    plan = load_plan(env.store, record.body["action_key"])
    done = done_indices(env.store, plan)
    missing = [chunk for chunk in plan.chunks if chunk.index not in done]
    progress = _ProgressWriter(name, plan, done, ledger, clock)
    if done and missing:
        progress.log("INFO", f"going on: {len(done)} of {len(plan.chunks)} chunks were done before")
    progress.write(force=True)
    stage_name = plan.stage.rpartition(":")[2]

    def on_done(manifest: ChunkManifest) -> None:
        progress.chunk_done(manifest)
        metrics.chunks.labels(stage=stage_name, outcome="done").inc()
        metrics.units.labels(stage=stage_name).inc(manifest.units)

    def on_retry(index: int, why: str) -> None:
        progress.log("WARNING", f"chunk {index} is tried again: {why}")
        metrics.chunks.labels(stage=stage_name, outcome="retried").inc()

    def check() -> None:
        progress.write()
        if stopping():
            raise _Stopping("this process is shutting down")
        if progress.cancel_wanted:
            raise Cancelled("the operation was cancelled")

    for phase in sorted({chunk.phase for chunk in missing}):
        executor.run_chunks(
            plan,
            [chunk for chunk in missing if chunk.phase == phase],
            on_done=on_done,
            on_progress=progress.chunk_progress,
            on_retry=on_retry,
            check=check,
        )
    progress.write(force=True)
    if progress.cancel_wanted:
        raise Cancelled("the operation was cancelled")
    manifests = read_manifests(env.store, plan)
    response = load_stage(plan.stage).finish(env, plan, manifests, record.body["actor"])
    failures = [
        {"name": failure.name, "reason": failure.reason, "message": failure.message}
        for manifest in manifests
        for failure in manifest.failures
    ]
    info = _write_result(env, plan, failures)
    ledger.succeed(name, response, failures, info)


def _write_result(env: WorkerEnv, plan: Plan, failures: list[dict[str, str]]) -> dict[str, Any]:
    chunks = [
        {"key": info.key, "sha256": info.sha256, "size_bytes": info.size_bytes}
        for info in (env.store.stat(chunk_key(plan.action_key, chunk.index)) for chunk in plan.chunks)
    ]
    key = result_key(plan.action_key)
    try:
        info = env.store.put(
            key,
            canonical_json({"schema": 1, "chunks": chunks, "failures": failures}),
            media_type="application/json",
            if_absent=True,
        )
    except AlreadyExists:
        info = env.store.stat(key)
    return {
        "uri": env.store.uri(key),
        "sha256": info.sha256,
        "size_bytes": info.size_bytes,
        "media_type": "application/json",
    }
