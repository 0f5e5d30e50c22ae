"""Facesets in the store: the record `projects/p/facesets/f`, its revisions, its faces. Used by every service that reads or makes one.

    <faceset>/faces/<face_id>.jpg      the aligned picture, immutable (.png or .exr where it is kept lossless)
    <faceset>/faces/<face_id>.json     its sidecar (FaceRecord), put-once
    <faceset>/faces/<face_id>.<digest>.json   the sidecar after a change, put-once; a revision's row says which one holds
    <faceset>/revisions/00000001.parquet   which faces, in which order, with which flags, put-once
    <faceset>/revisions/00000001.json      what made that revision, put-once; written after the table

A revision is made by creating the next number if it is absent. Whoever loses that race has worked from an old state and gets
Conflict. The record only points at the revision in force, so a crash between the two leaves a revision that nobody sees yet and that
the same call finds again.

What made a revision may carry marks of its maker (``madeBy``: which request or work; ``restored``, ``undo``: which state was brought
back), by which a repeated request finds what it has made. A faceset with a ``deleteTime`` is in the project's trash: it is read as
before, and changes are refused.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ml_common.facesets import FaceRecord, RevisionTable, read_revision, write_revision
from services.kit.errors import AlreadyExists, Conflict, Corrupt, NotFound, UnderstudyError, WrongState
from services.kit.operations.plan import canonical_json
from services.kit.records import Record, Records
from services.kit.storage import ObjectInfo, ObjectStore

READ_THREADS = 16


def image_key(faceset: str, face_id: str, suffix: str = ".jpg") -> str:
    """Object key of a face's picture."""
    return f"{faceset}/faces/{face_id}{suffix}"


def record_key(faceset: str, face_id: str) -> str:
    """Object key of a face's sidecar."""
    return f"{faceset}/faces/{face_id}.json"


def changed_record_key(faceset: str, face_id: str, sidecar: bytes) -> str:
    """Object key of a face's sidecar after a change: named by its bytes, so that equal changes meet."""
    return f"{faceset}/faces/{face_id}.{hashlib.sha256(sidecar).hexdigest()[:16]}.json"


class FacesetStore:
    """Reads facesets and adds revisions to them."""

    def __init__(self, store: ObjectStore, records: Records) -> None:
        self._store = store
        self._records = records

    def get(self, faceset: str) -> Record:
        """The faceset's record; NotFound when there is none."""
        return self._records.get(faceset)

    def changeable(self, faceset: str) -> Record:
        """The faceset's record; NotFound when there is none, WrongState when it is in the trash."""
        record = self.get(faceset)
        _refuse_deleted(record)
        return record

    def page(self, project: str, *, after: str, limit: int) -> tuple[list[Record], str]:
        """Facesets of a project by name."""
        return self._records.list(f"{project}/facesets", after=after, limit=limit, nested=False)

    def exists(self, faceset: str) -> bool:
        """Whether there is such a faceset."""
        try:
            self._records.get(faceset)
        except NotFound:
            return False
        return True

    def create(
        self, faceset: str, body: dict[str, Any], table: RevisionTable, *, method: str, summary: str, actor: str
    ) -> Record:
        """Makes a faceset with its first revision. Creating the same faceset again (same `actionKey` in the body) returns it."""
        self._put_revision(faceset, 1, table, parent=0, method=method, summary=summary, actor=actor)
        try:
            return self._records.create(faceset, {**body, **_counts(table), "revision": "1"})
        except AlreadyExists:
            return self.made_so(faceset, body.get("actionKey"))

    def made_so(self, faceset: str, action_key: str | None) -> Record:
        """A faceset that exists, if the same action made it; AlreadyExists when it was another, WrongState when it is in the trash."""
        record = self._records.get(faceset)
        if record.body.get("actionKey") != action_key:
            raise AlreadyExists(f"{faceset} exists and was made differently: choose another faceset id")
        _refuse_deleted(record)
        return record

    def add_revision(
        self,
        faceset: str,
        table: RevisionTable,
        *,
        parent: int,
        method: str,
        summary: str,
        actor: str,
        etag: str | None = None,
        marks: Mapping[str, Any] | None = None,
    ) -> Record:
        """Makes a new state the one in force. Conflict when ``parent`` is not the revision in force any more, WrongState when the faceset
        is in the trash. ``marks`` (see above) are kept with what made it."""
        record = self.changeable(faceset)
        current, number = int(record.body["revision"]), parent + 1
        if current != parent:
            raise Conflict(f"{faceset} is at revision {current}, this change was made from {parent}: read it again")
        if etag is not None and record.etag != etag:
            raise Conflict(f"{faceset} has changed since it was read: read it again")
        try:
            self._put_revision(
                faceset, number, table, parent=parent, method=method, summary=summary, actor=actor, marks=marks
            )
        except Conflict:
            # Whoever made the revision may have died before the record pointed at it; without this nobody could go on.
            self._put_in_force(faceset, number, self.table(faceset, number)[1])
            raise
        return self._put_in_force(faceset, number, table)

    def made_by(self, faceset: str, maker: str, *, since: int) -> int | None:
        """The first revision after ``since`` whose ``madeBy`` is ``maker``, down to the one in force; None when there is none."""
        for number in range(since + 1, int(self.get(faceset).body["revision"]) + 1):
            if self.revision_facts(faceset, number).get("madeBy") == maker:
                return number
        return None

    def _put_in_force(self, faceset: str, number: int, table: RevisionTable) -> Record:
        def change(body: dict[str, Any]) -> dict[str, Any] | None:
            if int(body["revision"]) >= number:
                return None
            return {**body, **_counts(table), "revision": str(number)}

        return self._records.update(faceset, change)

    def set_fields(self, faceset: str, fields: Mapping[str, Any]) -> Record:
        """Sets fields of the record beside those that follow from its revision; nothing happens where they are so already."""
        return self._records.update(faceset, lambda body: None if {**body, **fields} == body else {**body, **fields})

    def table(self, faceset: str, revision: int = 0) -> tuple[int, RevisionTable]:
        """A revision's number and rows; 0 for the one in force."""
        number = revision or int(self.get(faceset).body["revision"])
        try:
            data = self._store.get(_table_key(faceset, number))
        except NotFound:
            raise NotFound(f"{faceset} has no revision {number}") from None
        try:
            return number, read_revision(data)
        except ValueError as error:
            raise Corrupt(
                f"revision {number} of {faceset}: {error}",
                metadata={"uri": self._store.uri(_table_key(faceset, number))},
            ) from error

    def table_sha256(self, faceset: str, number: int) -> str:
        """Digest of a revision's table: what tells it from one of the same number, should the faceset be made anew. NotFound when there is
        no such revision."""
        try:
            info = self._store.stat(_table_key(faceset, number))
        except NotFound:
            raise NotFound(f"{faceset} has no revision {number}") from None
        return info.sha256 or hashlib.sha256(self._store.get(info.key)).hexdigest()

    def revision_facts(self, faceset: str, number: int) -> dict[str, Any]:
        """What made a revision: canonical JSON of FacesetRevision."""
        try:
            facts: dict[str, Any] = json.loads(self._store.get(_facts_key(faceset, number)))
            return facts
        except NotFound:
            # Its maker died between the table and the facts: what the table says is all there is.
            info = self._store.stat(_table_key(faceset, number))
            return self._facts(faceset, number, self.table(faceset, number)[1], info)

    def faces(self, faceset: str, record_keys: Sequence[str]) -> list[FaceRecord]:
        """Sidecars by key, in order; the first that cannot be read is raised."""
        found = self.faces_or_errors(faceset, record_keys)
        return [_not_error(face) for face in found]

    def faces_or_errors(self, faceset: str, record_keys: Sequence[str]) -> list[FaceRecord | UnderstudyError]:
        """Sidecars by key, in order, or why one cannot be read; a few at a time, since each is a request."""

        def read(key: str) -> FaceRecord | UnderstudyError:
            try:
                return self._read_face(faceset, key)
            except (NotFound, Corrupt) as error:
                return error

        if len(record_keys) < 2:
            return [read(key) for key in record_keys]
        with ThreadPoolExecutor(min(READ_THREADS, len(record_keys)), thread_name_prefix="sidecars") as pool:
            return list(pool.map(read, record_keys))

    def _read_face(self, faceset: str, key: str) -> FaceRecord:
        try:
            return FaceRecord.from_json_bytes(self._store.get(key))
        except ValueError as error:
            raise Corrupt(
                f"{key} of {faceset} is not a face record: {error}", metadata={"uri": self._store.uri(key)}
            ) from error

    def _put_revision(
        self,
        faceset: str,
        number: int,
        table: RevisionTable,
        *,
        parent: int,
        method: str,
        summary: str,
        actor: str,
        marks: Mapping[str, Any] | None = None,
    ) -> None:
        data = write_revision(table)
        key = _table_key(faceset, number)
        try:
            info = self._store.put(key, data, media_type="application/vnd.apache.parquet", if_absent=True)
        except AlreadyExists:
            if self._store.get(key) != data:
                raise Conflict(f"{faceset} got another revision {number} meanwhile: read it again") from None
            info = self._store.stat(key)  # this very change, begun before a crash
        facts = {
            **self._facts(faceset, number, table, info),
            "parent": str(parent),
            "method": method,
            "summary": summary,
            "actor": actor,
            "createTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **(marks or {}),
        }
        try:
            self._store.put(
                _facts_key(faceset, number), canonical_json(facts), media_type="application/json", if_absent=True
            )
        except AlreadyExists:  # written before a crash, or by someone who made the same change
            if self.revision_facts(faceset, number).get("madeBy") != facts.get("madeBy"):
                raise Conflict(f"{faceset} got an equal revision {number} meanwhile: read it again") from None

    def _facts(self, faceset: str, number: int, table: RevisionTable, info: ObjectInfo) -> dict[str, Any]:
        return {
            "name": f"{faceset}/revisions/{number}",
            "number": str(number),
            **_counts(table),
            "manifest": {
                "uri": self._store.uri(info.key),
                "digest": {"sha256": info.sha256, "sizeBytes": str(info.size_bytes)},
                "mediaType": info.media_type,
            },
        }


def _not_error(face: FaceRecord | UnderstudyError) -> FaceRecord:
    if isinstance(face, UnderstudyError):
        raise face
    return face


def _refuse_deleted(record: Record) -> None:
    if "deleteTime" in record.body:
        raise WrongState(
            f"{record.name} is in the trash: UndeleteFaceset brings it back", metadata={"name": record.name}
        )


def _counts(table: RevisionTable) -> dict[str, str]:
    trashed = int(table.column("trashed").sum())
    return {"faceCount": str(len(table) - trashed), "trashedCount": str(trashed)}


def _table_key(faceset: str, number: int) -> str:
    return f"{faceset}/revisions/{number:08d}.parquet"


def _facts_key(faceset: str, number: int) -> str:
    return f"{faceset}/revisions/{number:08d}.json"
