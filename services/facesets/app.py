"""Facesets themselves, and reading their faces and revisions. What changes a faceset stands in ``edits`` and ``plans``, lists of faces in
``listing``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_common.facesets import FaceRecord, RevisionRow, from_records
from services.facesets.listing import FacePage, Listing, Wish
from services.facesets.plans import STAGE, STAGE_VERSION
from services.kit import names
from services.kit.context import ServiceContext
from services.kit.errors import InvalidInput, NotFound, UnderstudyError, WrongState
from services.kit.faceset_store import FacesetStore
from services.kit.operations.plan import action_key
from services.kit.records import Record
from services.kit.trash import refuse_trashed

CREATE = "FacesetService/CreateFaceset"
STAGE_VERSIONS = {STAGE: STAGE_VERSION}


class Facesets:
    """Facesets as records `projects/p/facesets/f`."""

    def __init__(self, context: ServiceContext) -> None:
        self._records = context.records
        self._facesets = FacesetStore(context.store, context.records)

    def create(self, name: str, fields: Mapping[str, Any], *, create_time: str, actor: str) -> Record:
        """An empty faceset; asked for again with the same fields it is returned, whatever has been done to it since."""
        project = names.project_of(name)
        try:
            self._records.get(project)
            if "clip" in fields:
                self._records.get(fields["clip"])
        except NotFound as error:
            raise NotFound(f"{error.message}: make it first") from None
        refuse_trashed(self._records, project)
        key = action_key(f"understudy.v1.{CREATE}", "", "", {"name": name, **fields})
        if self._facesets.exists(name):
            return self._facesets.made_so(name, key)
        body = {**fields, "name": name, "createTime": create_time, "actionKey": key}
        empty = from_records([], [])
        return self._facesets.create(name, body, empty, method=CREATE, summary="made empty", actor=actor)

    def update(self, name: str, fields: Mapping[str, Any], etag: str) -> Record:
        """Sets fields of a faceset. WrongState when it is in the trash."""

        def change(body: dict[str, Any]) -> dict[str, Any] | None:
            if "deleteTime" in body:
                raise WrongState(f"{name} is in the trash: UndeleteFaceset brings it back")
            return None if {**body, **fields} == body else {**body, **fields}

        return self._records.update(name, change, etag=etag or None)

    def set_deleted(self, name: str, delete_time: str | None, etag: str) -> Record:
        """Into the project's trash, or out of it. Nothing is removed."""

        def change(body: dict[str, Any]) -> dict[str, Any]:
            if (delete_time is None) != ("deleteTime" in body):
                raise WrongState(f"{name} is {'not ' if delete_time is None else 'already '}in the trash")
            if delete_time is None:
                del body["deleteTime"]
            else:
                body["deleteTime"] = delete_time
            return body

        return self._records.update(name, change, etag=etag or None)

    def page(self, project: str, *, after: str, limit: int, show_deleted: bool) -> tuple[list[Record], str]:
        """Facesets of a project by name; a page may be shorter than asked when some are in the trash."""
        records, next_after = self._facesets.page(project, after=after, limit=limit)
        return [record for record in records if show_deleted or "deleteTime" not in record.body], next_after


class Faces:
    """Reads revisions and faces."""

    def __init__(self, context: ServiceContext) -> None:
        self._facesets = FacesetStore(context.store, context.records)
        self._listing = Listing(context.store, self._facesets)

    def page(self, faceset: str, wish: Wish, *, revision: int, token: str, limit: int) -> FacePage:
        """A page of a revision's faces. InvalidInput for a wish that means nothing, or a token of another one."""
        return self._listing.page(faceset, wish, revision=revision, token=token, limit=limit)

    def face(self, faceset: str, face_id: str) -> tuple[RevisionRow, int, FaceRecord]:
        """One face of the revision in force: its row, its position, its sidecar."""
        [(row, position)] = self._rows(faceset, [face_id])
        if row is None:
            raise NotFound(f"{faceset} has no face {face_id}")
        return row, position, self._facesets.faces(faceset, [row.record_key])[0]

    def faces(
        self, faceset: str, face_ids: Sequence[str]
    ) -> list[tuple[RevisionRow, int, FaceRecord] | UnderstudyError]:
        """Faces of the revision in force, in order, or why one cannot be had."""
        rows = self._rows(faceset, face_ids)
        keys = [row.record_key for row, _ in rows if row]
        records = iter(self._facesets.faces_or_errors(faceset, keys))
        found: list[tuple[RevisionRow, int, FaceRecord] | UnderstudyError] = []
        for (row, position), face_id in zip(rows, face_ids, strict=True):
            if row is None:
                found.append(NotFound(f"{faceset} has no face {face_id}"))
                continue
            record = next(records)
            found.append(record if isinstance(record, UnderstudyError) else (row, position, record))
        return found

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
        facts = [self._facesets.revision_facts(faceset, number) for number in range(first, last, -1)]
        return facts, str(last) if last else ""

    def _rows(self, faceset: str, face_ids: Sequence[str]) -> list[tuple[RevisionRow | None, int]]:
        _, table = self._listing.table(faceset)
        positions = table.positions(face_ids)
        there = list(dict.fromkeys(positions[positions >= 0].tolist()))
        rows = dict(zip(there, table.take(there).rows(), strict=True))
        return [(rows.get(position), position) for position in positions.tolist()]
