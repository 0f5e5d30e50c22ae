"""Reading facesets: pages of a revision, single faces, the list of revisions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ml_common.facesets import FaceRecord, RevisionRow, RevisionTable
from services.kit.context import ServiceContext
from services.kit.errors import InvalidInput, NotFound
from services.kit.faceset_store import FacesetStore
from services.kit.operations.plan import canonical_json


@dataclass(frozen=True, slots=True)
class FacePage:
    """A page of a revision. ``positions`` are those in the whole revision, ``next_token`` is empty at the end."""

    revision: int
    rows: list[RevisionRow]
    positions: list[int]
    next_token: str
    total: int


class Faces:
    """Reads revisions and faces."""

    def __init__(self, context: ServiceContext) -> None:
        self._facesets = FacesetStore(context.store, context.records)

    def page(
        self, faceset: str, *, revision: int, ranges: Sequence[range], show_trashed: bool, token: str, limit: int
    ) -> FacePage:
        """A page of a revision's faces in its order. InvalidInput for a token of another revision or filter."""
        filter_digest = hashlib.sha256(
            canonical_json([[r.start, r.stop, r.step] for r in ranges] + [show_trashed])
        ).hexdigest()[:8]
        start = 0
        if token:
            revision, start = _read_token(token, filter_digest, revision)
        number, table = self._facesets.table(faceset, revision)
        positions = _matching(table, ranges, show_trashed)
        wanted = positions[start : start + limit]
        stop = start + len(wanted)
        rows = RevisionTable(table.table.take(wanted)).rows()
        next_token = f"{number}.{filter_digest}.{stop}" if stop < len(positions) else ""
        return FacePage(number, rows, [int(position) for position in wanted], next_token, len(positions))

    def face(self, faceset: str, face_id: str) -> tuple[RevisionRow, int, FaceRecord]:
        """One face of the revision in force: its row, its position, its sidecar."""
        _, table = self._facesets.table(faceset)
        position = pc.index(table.table["face_id"], face_id).as_py()
        if position < 0:
            raise NotFound(f"{faceset} has no face {face_id}")
        row = table.page(position, 1).rows()[0]
        return row, position, self._facesets.faces(faceset, [row.record_key])[0]

    def records(self, faceset: str, rows: Sequence[RevisionRow]) -> list[FaceRecord]:
        """The sidecars of rows, in order."""
        return self._facesets.faces(faceset, [row.record_key for row in rows])

    def revisions(self, faceset: str, *, token: str, limit: int) -> tuple[list[dict[str, Any]], str]:
        """Facts of revisions, newest first."""
        newest = int(self._facesets.get(faceset).body["revision"])
        if token and not (token.isdigit() and 1 <= int(token) <= newest):
            raise InvalidInput("page_token is not from this list", fields={"page_token": "unknown"})
        first = int(token) if token else newest
        last = max(first - limit, 0)
        return [self._facesets.revision_facts(faceset, number) for number in range(first, last, -1)], str(
            last
        ) if last else ""


def _matching(table: RevisionTable, ranges: Sequence[range], show_trashed: bool) -> np.ndarray:
    """Positions of the rows that a list shows, rising."""
    wanted = np.ones(len(table), bool) if show_trashed else ~table.column("trashed").astype(bool)
    if ranges:
        frames = table.column("frame_number").astype(np.int64)
        in_range = np.zeros(len(table), bool)
        for frame_range in ranges:
            in_range |= (
                (frames >= frame_range.start)
                & (frames < frame_range.stop)
                & ((frames - frame_range.start) % frame_range.step == 0)
            )
        wanted &= in_range
    return np.flatnonzero(wanted)


def _read_token(token: str, filter_digest: str, revision: int) -> tuple[int, int]:
    parts = token.split(".")
    if len(parts) != 3 or not parts[0].isdigit() or not parts[2].isdigit():
        raise InvalidInput("page_token is not from this list", fields={"page_token": "unknown"})
    if parts[1] != filter_digest or revision not in (0, int(parts[0])):
        raise InvalidInput(
            "page_token belongs to another revision or filter: start again without it",
            fields={"page_token": "changed filter"},
        )
    return int(parts[0]), int(parts[2])
