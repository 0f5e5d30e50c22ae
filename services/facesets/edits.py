"""Changes of a faceset that are made within a call: the trash, older states, what is known of single faces. Each is one revision.

What one would get wrong: whoever asks without an etag wants *that change*, not the state that they saw plus that change. So who is
overtaken makes the change again on what is there then, and of any number of clients at once every one's change is in the end. With an
etag, and to undo, which means the newest change, being overtaken is an error.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ml_common.facesets import FaceMask, FaceRecord, RevisionTable
from services.facesets.requests import Request, Requests
from services.kit import names
from services.kit.context import ServiceContext
from services.kit.errors import Conflict, InvalidInput, NotFound, WrongState
from services.kit.faceset_store import FacesetStore, changed_record_key
from services.kit.records import Record
from services.kit.trash import refuse_trashed

TRASH = "FacesetService/TrashFaces"
RESTORE = "FacesetService/RestoreFaces"
REVERT = "FacesetService/RevertFaceset"
UPDATE = "FacesetService/BatchUpdateFaces"
ATTEMPTS = 100
LONGEST_PAUSE_S = 0.2
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Change:
    """What a change makes of a revision. ``marks``: see FacesetStore.add_revision."""

    table: RevisionTable
    summary: str
    marks: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Changed:
    """The faceset after a change, and what made the revision that holds it."""

    record: Record
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceUpdate:
    """What to set of one face; None leaves a field as it is. ``mask`` is a tuple, empty to take the mask away."""

    face_id: str
    person: str | None = None
    track_id: str | None = None
    eyebrows_expand: float | None = None
    mask: tuple[FaceMask, ...] | None = None

    @property
    def changes_sidecar(self) -> bool:
        """Whether it sets what the revision does not hold."""
        return self.eyebrows_expand is not None or self.mask is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """How a change is asked for: by whom, under which request, of which state."""

    request: Request
    etag: str
    actor: str


class Edits:
    """Changes facesets."""

    def __init__(self, context: ServiceContext) -> None:
        self._store = context.store
        self._records = context.records
        self._facesets = FacesetStore(context.store, context.records)
        self._requests = Requests(context.store, self._facesets)

    def trash(self, faceset: str, faces: Sequence[str], ask: Ask) -> Changed:
        """Puts faces into the trash."""

        def change(_number: int, table: RevisionTable) -> Change:
            result, count = _with_trashed(faceset, table, faces, True)
            return Change(result, f"{_faces(count)} to the trash")

        return self._changed(faceset, change, TRASH, ask)

    def restore(self, faceset: str, faces: Sequence[str], ask: Ask) -> Changed:
        """Takes faces out of the trash; all of them when none is named."""

        def change(_number: int, table: RevisionTable) -> Change:
            wanted = faces or table.column("face_id")[table.column("trashed").astype(bool)].tolist()
            result, count = _with_trashed(faceset, table, wanted, False)
            return Change(result, f"{_faces(count)} out of the trash")

        return self._changed(faceset, change, RESTORE, ask)

    def revert(self, faceset: str, revision: int, ask: Ask) -> Changed:
        """Makes an old state the one in force; with ``revision`` 0 the one before the latest change."""

        def change(number: int, _table: RevisionTable) -> Change:
            target = revision or self._before(faceset, number)
            if target > number:
                raise NotFound(f"{faceset} has no revision {target}")
            _, table = self._facesets.table(faceset, target)
            marks: dict[str, Any] = {"restored": str(target)}
            if not revision:
                marks["undo"] = True
            return Change(table, f"back to the state of revision {target}", marks)

        return self._changed(faceset, change, REVERT, ask, once=not revision)

    def update(self, faceset: str, updates: Sequence[FaceUpdate], ask: Ask) -> Changed:
        """Sets fields of faces."""

        def change(_number: int, table: RevisionTable) -> Change:
            return Change(self._updated(faceset, table, updates), f"{_faces(len(updates))} updated")

        return self._changed(faceset, change, UPDATE, ask)

    def _changed(
        self,
        faceset: str,
        change: Callable[[int, RevisionTable], Change],
        method: str,
        ask: Ask,
        *,
        once: bool = False,
    ) -> Changed:
        """Makes a revision by ``change`` (number and rows in force to what shall be), or finds that of the same request."""
        refuse_trashed(self._records, names.project_of(faceset))
        revision = int(self._facesets.changeable(faceset).body["revision"])
        claim = self._requests.claim(faceset, ask.request, revision)
        answer = claim.answer
        for attempt in range(ATTEMPTS):
            if answer is not None:
                return self._answered(faceset, answer)
            try:
                answer = self._tried(faceset, change, method, ask)
            except Conflict:
                if ask.etag or once:
                    raise
                # Someone was faster: on what they made. It may have been this very request, sent twice at once.
                time.sleep(random.uniform(0, min(0.005 * 2**attempt, LONGEST_PAUSE_S)))
                if ask.request.maker:
                    answer = self._facesets.made_by(faceset, ask.request.maker, since=claim.since)
        raise Conflict(f"{faceset} is being changed by others all the time: try again")

    def _tried(self, faceset: str, change: Callable[[int, RevisionTable], Change], method: str, ask: Ask) -> int:
        """The revision that a change made, or that was as it wants it; Conflict when someone was faster."""
        record = self._facesets.get(faceset)
        if ask.etag and record.etag != ask.etag:
            raise Conflict(f"{faceset} has changed since it was read: read it again")
        number, table = self._facesets.table(faceset, int(record.body["revision"]))
        made = change(number, table)
        if made.table == table:
            return self._requests.answer(faceset, ask.request, number)
        marks = {**made.marks, "madeBy": ask.request.maker} if ask.request.maker else made.marks
        self._facesets.add_revision(
            faceset,
            made.table,
            parent=number,
            method=method,
            summary=made.summary,
            actor=ask.actor,
            etag=ask.etag or None,
            marks=marks,
        )
        return number + 1

    def _answered(self, faceset: str, number: int) -> Changed:
        return Changed(self._facesets.get(faceset), self._facesets.revision_facts(faceset, number))

    def _before(self, faceset: str, number: int) -> int:
        """The state before the latest change that has not been undone."""
        facts = self._facesets.revision_facts(faceset, number)
        while facts.get("undo"):
            facts = self._facesets.revision_facts(faceset, int(facts["restored"]))
        # Who made it may have died before it was written down: every revision but the first is made from the one before it.
        before = int(facts["number"]) - 1
        if not before:
            raise WrongState(f"{faceset} is as it was made: there is nothing to undo")
        return before

    def _updated(self, faceset: str, table: RevisionTable, updates: Sequence[FaceUpdate]) -> RevisionTable:
        positions = _found(faceset, table, [update.face_id for update in updates])
        for name in ("person", "track_id"):
            values = table.column(name).copy()
            for at, update in zip(positions, updates, strict=True):
                wanted = getattr(update, name)
                values[at] = values[at] if wanted is None else wanted
            table = table.replace_column(name, values)
        deep = [(at, update) for at, update in zip(positions, updates, strict=True) if update.changes_sidecar]
        if not deep:
            return table
        keys, has_mask = table.column("record_key").copy(), table.column("has_mask").copy()
        olds = self._facesets.faces(faceset, [keys[at] for at, _ in deep])
        objects = []
        for (at, update), old in zip(deep, olds, strict=True):
            new = _with_update(old, update)
            if new != old:
                sidecar = new.to_json_bytes()
                keys[at] = changed_record_key(faceset, new.face_id, sidecar)
                objects.append((keys[at], sidecar, "application/json"))
            has_mask[at] = new.mask is not None
        self._store.put_many(objects)
        return table.replace_column("record_key", keys).replace_column("has_mask", has_mask)


def _with_update(record: FaceRecord, update: FaceUpdate) -> FaceRecord:
    fields: dict[str, Any] = {}
    if update.eyebrows_expand is not None:
        fields["eyebrows_expand"] = update.eyebrows_expand
    if update.mask is not None:
        fields["mask"] = update.mask[0] if update.mask else None
    return replace(record, **fields)


def _with_trashed(faceset: str, table: RevisionTable, faces: Sequence[str], trashed: bool) -> tuple[RevisionTable, int]:
    """Some faces in the trash or out of it, and how many of them were not there."""
    before = table.column("trashed").astype(bool)
    after = before.copy()
    after[_found(faceset, table, faces)] = trashed
    return table.replace_column("trashed", after), int((before != after).sum())


def _found(faceset: str, table: RevisionTable, faces: Sequence[str]) -> np.ndarray:
    """Positions of faces; NotFound that names some of those that are not there."""
    positions = table.positions(faces)
    missing = [face for face, at in zip(faces, positions, strict=True) if at < 0]
    if missing:
        shown = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
        raise NotFound(
            f"{faceset} has no face {shown}: nothing was changed", metadata={"faces": ",".join(missing[:100])}
        )
    return positions


def _faces(count: int) -> str:
    return f"{count} face{'' if count == 1 else 's'}"


def require_once(faces: Sequence[str], where: str) -> None:
    """InvalidInput when a face is named twice."""
    if len(set(faces)) != len(faces):
        raise InvalidInput(f"{where} names a face twice", fields={where: "each face once"})
