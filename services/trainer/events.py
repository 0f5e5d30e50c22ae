"""What happened to a run, as numbered events in the store: reports, previews, checkpoints, lines for people.

    <run>/events/00000042.json     a batch; its name is the number of its LAST event

A reader that knows event n lists what comes after the key n, and the first batch it finds holds event n + 1: re-attaching costs one
request. One worker writes, about one batch a second; old batches go, so that a run of months stays a short listing. The one thing to get
wrong: a worker that was replaced may have written a batch of the same numbers. Readers skip numbers that they have seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from services.kit.errors import AlreadyExists, NotFound
from services.kit.operations.plan import canonical_json
from services.kit.storage import ObjectStore

KEPT_BATCHES = 2048
PRUNE_EVERY = 256
READ_BATCHES = 50


class EventLog:
    """The events of one run. Events are the JSON of WatchRunResponse."""

    def __init__(self, store: ObjectStore, run: str) -> None:
        self._store = store
        self._prefix = f"{run}/events/"
        self._appended = 0

    def read(self, after: int) -> list[dict[str, Any]]:
        """Events numbered over ``after``, in order; at most a few hundred, ask again for more."""
        events: list[dict[str, Any]] = []
        for info in self._store.list(self._prefix, after=self._key(after), limit=READ_BATCHES).objects:
            try:
                batch = json.loads(self._store.get(info.key))["events"]
            except NotFound:
                continue  # pruned since it was listed
            events += [event for event in batch if int(event["sequence"]) > after]
            after = max([after, *(int(event["sequence"]) for event in events[-1:])])
        return events

    def last(self, at_least: int = 0) -> int:
        """Number of the newest event, when it is known to be ``at_least`` that."""
        while True:
            page = self._store.list(self._prefix, after=self._key(at_least))
            if not page.objects:
                return at_least
            at_least = int(page.objects[-1].key[len(self._prefix) : -len(".json")])

    def append(self, events: Sequence[dict[str, Any]], after: int) -> int:
        """Stores a batch with the numbers that follow ``after``, or later ones if those are taken; returns the last."""
        while True:
            batch = [{**event, "sequence": str(after + 1 + index)} for index, event in enumerate(events)]
            last = after + len(batch)
            try:
                self._store.put(
                    self._key(last), canonical_json({"events": batch}), media_type="application/json", if_absent=True
                )
                break
            except AlreadyExists:
                after = self.last(after)
        self._appended += 1
        if self._appended % PRUNE_EVERY == 0:
            self._prune()
        return last

    def _prune(self) -> None:
        keys: list[str] = []
        after = ""
        while True:
            page = self._store.list(self._prefix, after=after)
            keys += [info.key for info in page.objects]
            if not page.next_after:
                break
            after = page.next_after
        for key in keys[:-KEPT_BATCHES]:
            self._store.delete(key)

    def _key(self, number: int) -> str:
        return f"{self._prefix}{number:08d}.json"
