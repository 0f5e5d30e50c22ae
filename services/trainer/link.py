"""Rank 0's line to the store, on a thread of its own: wishes come in, reports go out, and the training thread never waits for a request.

Only what must be certain is written by the training thread itself: that it runs, that a checkpoint is published, how it ended. The one
thing to get wrong: everything that this thread finds out (a pause, a new option, that the run was given to another worker) is only noted;
the training thread acts on it at its next iteration.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from services.kit.errors import UnderstudyError
from services.kit.operations.stage import WorkerEnv
from services.trainer.events import EventLog
from services.trainer.run import (
    COMPLETED,
    FAILED,
    PAUSED,
    RUNNING,
    STARTING,
    STOPPED,
    STOPPING,
    Superseded,
    check_fence,
    end_badly,
    guarded,
    now_json,
    requeue,
)

_LOG = logging.getLogger(__name__)
LOOK_EVERY_S = 0.5
FLUSH_EVERY_S = 1.0
PROGRESS_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where an attempt begins; rank 0 reads it and shares it, so that all ranks begin alike. ``checkpoint`` is a name, empty for none."""

    run: str
    owner: str
    attempt: int
    src: tuple[str, int]
    dst: tuple[str, int]
    options: dict[str, Any]
    checkpoint: str
    sequence: int
    saves_asked: int


@dataclass(frozen=True, slots=True)
class _Preview:
    iteration: int
    plain_jpeg: bytes
    masked_jpeg: bytes
    time: str


class RunLink:
    """See the module. Use ``open`` as a context manager around the training."""

    def __init__(self, env: WorkerEnv, beginning: Beginning, killed: Callable[[], bool]) -> None:
        self._store, self._records = env.store, env.records
        self._beginning = beginning
        self._killed = killed
        self._log = EventLog(env.store, beginning.run)
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="run-link", daemon=True)
        # Below: shared by both threads, under ``_changed``.
        self._state = STARTING
        self._is_leaving = False
        self._saves_asked = beginning.saves_asked
        self._options = dict(beginning.options)
        self._option_changes: dict[str, Any] = {}
        self._outgoing: list[dict[str, Any] | _Preview] = []
        self._progress: dict[str, Any] = {}
        self._broken: Exception | None = None
        self._flushing = threading.Lock()  # one batch after the other: guards the sequence
        self._sequence = self._log.last(beginning.sequence)
        self._flushed_s = self._written_s = time.monotonic()

    @contextmanager
    def open(self) -> Iterator[RunLink]:
        """Runs the thread; on leaving, what was reported is in the store, unless the store refuses it."""
        self._thread.start()
        try:
            yield self
        finally:
            self._closing.set()
            self._thread.join()

    # -- what the training thread asks -----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises what the link's thread ran into: Superseded, or a mistake of the program."""
        if self._killed():
            raise Superseded(f"{self._beginning.run} was ended from outside")
        with self._changed:
            if self._broken is not None:
                raise self._broken

    @property
    def must_stop(self) -> bool:
        """Whether the run shall save and end: a person wants it, or the server that drives it ends."""
        with self._changed:
            return self._state == STOPPING or self._is_leaving

    @property
    def is_paused(self) -> bool:
        """Whether the run shall hold."""
        with self._changed:
            return self._state == PAUSED and not self._is_leaving

    @property
    def saves_asked(self) -> int:
        """How often a checkpoint was asked for, ever."""
        with self._changed:
            return self._saves_asked

    def take_option_changes(self) -> dict[str, Any]:
        """Options that were changed since the last call."""
        with self._changed:
            changes, self._option_changes = self._option_changes, {}
            return changes

    def hold_while_paused(self) -> None:
        """Returns when the run may go on, or must end."""
        while self.is_paused:
            self.check()
            with self._changed:
                self._changed.wait(LOOK_EVERY_S)

    # -- what the training thread tells ----------------------------------------------------------------------------------

    def emit(self, kind: str, body: dict[str, Any]) -> None:
        """An event, by the name of its field in WatchRunResponse."""
        with self._changed:
            self._outgoing.append({"time": now_json(), kind: body})

    def emit_line(self, severity: str, text: str) -> None:
        """A line for people: INFO or WARNING."""
        self.emit("log", {"severity": f"SEVERITY_{severity}", "text": text})

    def emit_preview(self, iteration: int, plain_jpeg: bytes, masked_jpeg: bytes) -> None:
        """A preview; its pictures are stored by the link's thread."""
        with self._changed:
            self._outgoing.append(_Preview(iteration, plain_jpeg, masked_jpeg, now_json()))

    def progress(self, fields: dict[str, Any]) -> None:
        """Fields of TrainingRun as JSON; written every few seconds."""
        with self._changed:
            self._progress.update(fields)

    def started(self) -> None:
        """The first iteration begins."""

        def change(body: dict[str, Any]) -> None:
            if body["state"] == STARTING:
                body["state"] = RUNNING

        self._write(change)

    def flush(self) -> None:
        """Stores what was told so far; so a run that goes on from the checkpoint made next has no gap in its reports."""
        with self._flushing:
            self._flush()

    def checkpointed(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is published; raises Superseded when it is another worker's run now."""

        def change(body: dict[str, Any]) -> None:
            body["checkpoint"] = checkpoint
            body["iteration"] = checkpoint["iteration"]

        self._write(change)
        self.emit("checkpoint", checkpoint)

    def finish(self, *, reached_target: bool) -> None:
        """The end, after the last checkpoint. Call it after ``open`` was left, so that an ended run has all its events."""

        def change(body: dict[str, Any]) -> None:
            body.update(self._progress)
            body.pop("eta", None)
            body["sequence"] = self._sequence
            if body["state"] == STOPPING:
                body["state"] = STOPPED
            elif reached_target:
                body["state"] = COMPLETED
            elif body["state"] != PAUSED:
                requeue(body)  # this server ends; the next one goes on

        self._write(change)

    def fail(self, reason: str, message: str) -> None:
        """The end by an error, likewise."""

        def change(body: dict[str, Any]) -> None:
            body["sequence"] = self._sequence
            if body["state"] != FAILED:
                end_badly(body, reason, message)

        self._write(change)

    # -- the link's thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.wait(LOOK_EVERY_S):
            # Apart, because a store that is full takes no events but still tells that a person wants the run to stop.
            for step in (self._flush_when_due, self._look):
                try:
                    step(time.monotonic())
                except Superseded as error:
                    self._break(error)
                    return
                except UnderstudyError as error:
                    _LOG.warning("the store cannot be reached now: %s", error)
                except Exception as error:  # noqa: BLE001  the edge of a thread: the training thread raises it
                    self._break(error)
                    return
        try:
            self.flush()
        except UnderstudyError as error:
            _LOG.warning("the last events are lost: %s", error)

    def _flush_when_due(self, now_s: float) -> None:
        if now_s - self._flushed_s >= FLUSH_EVERY_S:
            self._flushed_s = now_s
            self.flush()

    def _look(self, now_s: float) -> None:
        """Reads the record for wishes; writes progress into it when that is due, which reads it too."""
        with self._changed:
            due = now_s - self._written_s >= PROGRESS_EVERY_S and self._progress
            progress = dict(self._progress) if due else {}
        if progress:
            self._written_s = now_s
            self._write(lambda body: body.update(progress, sequence=self._sequence))
            with self._changed:
                if self._progress == progress:
                    self._progress = {}
        else:
            body = self._records.get(self._beginning.run).body
            check_fence(body, owner=self._beginning.owner, attempt=self._beginning.attempt)
            self._take(body)

    def _flush(self) -> None:
        with self._changed:
            outgoing, self._outgoing = self._outgoing, []
        if not outgoing:
            return
        try:
            events = [self._stored(item) if isinstance(item, _Preview) else item for item in outgoing]
            self._sequence = self._log.append(events, self._sequence)
        except UnderstudyError:
            with self._changed:
                self._outgoing = outgoing + self._outgoing
            raise

    def _stored(self, preview: _Preview) -> dict[str, Any]:
        # The attempt is part of the key: a resumed run draws the preview of its checkpoint again, maybe on another machine.
        stem = f"{self._beginning.run}/previews/{preview.iteration:08d}-{self._beginning.attempt}"
        references = {}
        for field, key, jpeg in (
            ("image", f"{stem}.jpg", preview.plain_jpeg),
            ("maskedImage", f"{stem}-masked.jpg", preview.masked_jpeg),
        ):
            info = self._store.put(key, jpeg, media_type="image/jpeg")
            references[field] = {
                "uri": self._store.uri(key),
                "digest": {"sha256": info.sha256, "sizeBytes": str(info.size_bytes)},
                "mediaType": info.media_type,
            }
        return {"time": preview.time, "preview": {"iteration": str(preview.iteration), **references}}

    def _write(self, change: Callable[[dict[str, Any]], None]) -> None:
        begun = self._beginning
        record = guarded(self._records, begun.run, owner=begun.owner, attempt=begun.attempt, change=change)
        self._take(record.body)

    def _take(self, body: dict[str, Any]) -> None:
        with self._changed:
            self._state = body["state"]
            self._is_leaving = bool(body["lease"].get("leaving"))
            self._saves_asked = body.get("savesAsked", 0)
            options = body["options"]
            self._option_changes |= {name: value for name, value in options.items() if self._options.get(name) != value}
            self._options = dict(options)
            self._changed.notify_all()

    def _break(self, error: Exception) -> None:
        with self._changed:
            self._broken = error
            self._changed.notify_all()
