"""Faces that change a faceset: rows made by chunks, merged into the revision that is in force when they are ready.

What one would get wrong: that revision need not be the one that the work was planned from. So nothing is overwritten: new rows take the
place of rows *by face id*, or come beside them; whatever someone else did meanwhile stays, and a new row whose place is gone is left out.
Merging the same rows again changes nothing, so a driver that died half-way is followed by one that finishes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from ml_common.facesets import (
    FaceRecord,
    RevisionRow,
    RevisionTable,
    concatenate,
    from_records,
    read_revision,
    write_revision,
)
from services.faces.crops import CutFace
from services.faces.neighbours import LINK_FRAMES, TrackedFace, tracks_of
from services.kit.errors import Conflict
from services.kit.faceset_store import FacesetStore
from services.kit.operations.keys import output_prefix
from services.kit.operations.plan import Chunk, ChunkManifest, ItemFailure, Plan
from services.kit.operations.stage import ChunkOutcome, WorkerEnv

PARQUET = "application/vnd.apache.parquet"
_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class NewFace:
    """A face ready to go into a faceset. ``replaces``: id of the face whose place it takes; empty to come beside the others."""

    cut: CutFace
    replaces: str = ""


@dataclass(frozen=True, slots=True)
class Merged:
    """A revision with new rows in it. ``table`` is None when that changes nothing; ``left_out`` rows whose place someone else took."""

    table: RevisionTable | None
    added: int
    replaced: int
    left_out: int


@dataclass(frozen=True, slots=True)
class Published:
    """The revision in force with the new rows in it."""

    revision: int
    merged: Merged


def store_rows(
    env: WorkerEnv, plan: Plan, chunk: Chunk, faces: Sequence[NewFace], failures: Sequence[ItemFailure], **summary: Any
) -> ChunkOutcome:
    """The outcome of a chunk that made ``faces``; ``summary`` is added to the manifest's."""
    key = f"{output_prefix(plan.action_key)}{chunk.index:06d}.parquet"
    rows = from_records([face.cut.record for face in faces], [face.cut.keys for face in faces])
    env.store.put(key, write_revision(rows), media_type=PARQUET)
    return ChunkOutcome({"rows": key, "replaces": [face.replaces for face in faces], **summary}, tuple(failures))


def joined_rows(env: WorkerEnv, manifests: Sequence[ChunkManifest]) -> tuple[RevisionTable, list[str]]:
    """What all chunks made: rows, and the face that each replaces."""
    rows = concatenate([read_revision(env.store.get(manifest.summary["rows"])) for manifest in manifests])
    return rows, [face for manifest in manifests for face in manifest.summary["replaces"]]


def rows_in_frames(table: RevisionTable, numbers: Sequence[int]) -> list[RevisionRow]:
    """The rows of some frames, in the table's order."""
    chosen = np.isin(table.column("frame_number"), np.asarray(numbers, np.int64))
    return RevisionTable(table.table.filter(pa.array(chosen))).rows()


def records_of(facesets: FacesetStore, faceset: str, rows: Sequence[RevisionRow]) -> list[FaceRecord]:
    """Sidecars of rows, in order."""
    return facesets.faces(faceset, [row.record_key for row in rows])


def publish(
    facesets: FacesetStore,
    faceset: str,
    rows: RevisionTable,
    replaces: Sequence[str],
    *,
    untrash: bool,
    method: str,
    summary: Callable[[Merged], str],
    actor: str,
) -> Published:
    """Merges ``rows`` into the revision in force; see ``merged``. Conflict when others keep changing the faceset."""
    for _ in range(_ATTEMPTS):
        number, table = facesets.table(faceset)
        linked = partial(tracks_around, facesets, faceset, table, rows)
        result = merged(table, rows, replaces, untrash=untrash, linked=linked)
        if result.table is None:
            return Published(number, result)
        try:
            facesets.add_revision(
                faceset, result.table, parent=number, method=method, summary=summary(result), actor=actor
            )
            return Published(number + 1, result)
        except Conflict:
            continue  # someone was faster: merge into what they made
    raise Conflict(f"{faceset} is being changed by others all the time: try again")


def merged(
    table: RevisionTable,
    rows: RevisionTable,
    replaces: Sequence[str],
    *,
    untrash: bool,
    linked: Callable[[Sequence[int]], list[str]],
) -> Merged:
    """``table`` with new rows.

    A row that replaces another keeps its place, its track, its person and, unless ``untrash``, its place in the trash. Other rows come
    after those of their frame (at the end of a faceset that is not in the order of its frames) with the track that ``linked`` names
    for their positions in ``rows``; one whose face index was taken meanwhile is left out.
    """
    place = {face: at for at, face in enumerate(table.column("face_id"))}
    taken = set(zip(table.column("frame_number").tolist(), table.column("face_index").tolist(), strict=True))
    places, additions = dict[int, int](), list[int]()
    before, left_out = {"added": 0, "replaced": 0}, 0
    in_trash = table.column("trashed")
    for at, (face, frame, index, old) in enumerate(
        zip(rows.column("face_id"), rows.column("frame_number"), rows.column("face_index"), replaces, strict=True)
    ):
        if face in place and not (untrash and old == face and in_trash[place[face]]):  # merged before
            before["replaced" if old else "added"] += 1
        elif old in place:
            places[place[old]] = at
        elif old or (int(frame), int(index)) in taken:
            left_out += 1
        else:
            additions.append(at)
    added, replaced = len(additions) + before["added"], len(places) + before["replaced"]
    if not places and not additions:
        return Merged(None, added, replaced, left_out)
    news = [*places.values(), *additions]
    new_rows = RevisionTable(rows.table.take(news))
    olds = list(places)
    for name in ("track_id", "person"):
        kept = table.column(name)[olds].tolist()
        new = linked(additions) if name == "track_id" and additions else new_rows.column(name)[len(olds) :].tolist()
        new_rows = new_rows.replace_column(name, [*kept, *new])
    trashed = [not untrash and bool(flag) for flag in in_trash[olds]]
    new_rows = new_rows.replace_column("trashed", [*trashed, *[False] * len(additions)])
    order = np.arange(len(table))
    order[olds] = len(table) + np.arange(len(olds))
    frames = table.column("frame_number")
    added_frames = new_rows.column("frame_number")[len(olds) :]
    in_order = bool((np.diff(frames) >= 0).all())
    after = np.searchsorted(frames, added_frames, side="right") if in_order else np.full(len(additions), len(table))
    order = np.insert(order, after, len(table) + len(olds) + np.arange(len(additions)))
    everything = pa.concat_tables([table.table, new_rows.table])
    return Merged(RevisionTable(everything.take(order)), added, replaced, left_out)


def tracks_around(
    facesets: FacesetStore, faceset: str, table: RevisionTable, rows: RevisionTable, at: Sequence[int]
) -> list[str]:
    """Tracks of new rows, by the faces around them that are not in the trash."""
    newcomers = RevisionTable(rows.table.take(list(at))).rows()
    near = sorted({row.frame_number + step for row in newcomers for step in range(-LINK_FRAMES, LINK_FRAMES + 1)})
    around = [row for row in rows_in_frames(table.active(), near) if row.track_id]
    records = records_of(facesets, faceset, [*newcomers, *around])
    faces = [
        TrackedFace(record.source.frame_number, record.frame_landmarks_px, track)
        for record, track in zip(records, [*[""] * len(newcomers), *(row.track_id for row in around)], strict=True)
    ]
    return tracks_of(faces[: len(newcomers)], faces[len(newcomers) :], set(table.column("track_id")))
