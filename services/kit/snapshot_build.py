"""Packs a revision of a faceset into a snapshot: what is in shards already stays there, only the rest is read and written.

Shards first, then the index, then the word that there is a snapshot. Killed at any line, a build leaves whole shards that the next one
finds and uses; two builds at once write the same objects. What one would get wrong: a build never reads a picture that some shard
holds, nor a sidecar that a snapshot of a revision nearby was made from, so adding a hundred faces costs a hundred reads however large
the faceset is. Memory holds the index, the shard being filled and those being stored, however many pictures there are.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import pyarrow as pa

from ml_common.facesets import FaceRecord, ObjectRef, RevisionTable
from ml_common.facesets.packing import SHARD_BYTES, Place, find_places
from ml_common.facesets.shard import ShardTable, pack_shard, read_shard_table, shard_head_bytes
from ml_common.facesets.snapshot import FACTS, FaceFacts, facts_table, origin, read_index, write_index
from services.kit.errors import AlreadyExists, Corrupt, InvalidInput, NotFound, UnderstudyError
from services.kit.faceset_store import FacesetStore
from services.kit.operations.plan import ItemFailure
from services.kit.records import Records
from services.kit.snapshot_store import (
    INDEX_MEDIA_TYPE,
    SHARD_MEDIA_TYPE,
    Snapshot,
    find_snapshot,
    index_key,
    list_shards,
    open_snapshot,
    shard_key,
    snapshots_near,
)
from services.kit.storage import ObjectInfo, ObjectStore

_LOG = logging.getLogger(__name__)

READ_THREADS = 16
READ_AHEAD = 32
STORE_THREADS = 2
FACTS_ROWS = 512
SNAPSHOTS_ASKED = 4
HEAD_BYTES = 64 << 10  # the table of a shard of 1600 pieces; longer ones take a second read

# What is wrong with one face and not with the store.
_FACE_ERRORS = (NotFound, Corrupt, InvalidInput)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def build_snapshot(
    store: ObjectStore,
    records: Records,
    faceset: str,
    revision: int = 0,
    *,
    report: Callable[[int], None] = lambda done: None,
    shard_bytes: int = SHARD_BYTES,
) -> Snapshot:
    """The snapshot of a revision (0: the one in force), made if there is none yet. The faces in the trash are not in it.

    A face whose picture, mask or sidecar is missing or damaged is left out and named in ``failures``; when the snapshot that is there
    has such, they are tried again. ``report`` may raise, to end the work: the next call goes on from there. NotFound when there is no
    such faceset or revision.
    """
    number, table = FacesetStore(store, records).table(faceset, revision)
    known = find_snapshot(store, faceset, number)
    if known is not None and not known.failures:
        report(known.face_count)
        return known
    with (
        ThreadPoolExecutor(READ_THREADS, thread_name_prefix="snapshot-read") as readers,
        ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="snapshot-store") as writers,
    ):
        build = _Build(
            store,
            faceset,
            table.active(),
            readers=readers,
            writers=writers,
            shard_bytes=shard_bytes,
            report=report,
        )
        return build.run(number)


@dataclass(slots=True)
class _Source:
    """Where a piece that no shard holds can be read: pictures of equal bytes may lie under several keys."""

    digest: bytes
    keys: list[str] = field(default_factory=list)


class _Build:
    def __init__(
        self,
        store: ObjectStore,
        faceset: str,
        table: RevisionTable,
        *,
        readers: ThreadPoolExecutor,
        writers: ThreadPoolExecutor,
        shard_bytes: int,
        report: Callable[[int], None],
    ) -> None:
        self._store = store
        self._faceset = faceset
        self._table = table
        self._face_ids, self._image_keys, self._record_keys, self._image_sha256s = (
            table.table[name].to_pylist() for name in ("face_id", "image_key", "record_key", "image_sha256")
        )
        self._readers = readers
        self._writers = writers
        self._shard_bytes = shard_bytes
        self._report = report
        self._shard_sizes: dict[str, int] = {}
        self._damaged_shards: set[str] = set()
        self._errors: dict[str, UnderstudyError] = {}  # by face id

    def run(self, revision: int) -> Snapshot:
        facts = self._facts(revision)
        places = self._places(facts)
        failures = tuple(
            ItemFailure(f"{self._faceset}/faces/{face_id}", self._errors[face_id].reason, self._errors[face_id].message)
            for face_id in self._face_ids
            if face_id in self._errors
        )
        facts = facts.filter(pa.array([name not in self._errors for name in facts["face_id"].to_pylist()], pa.bool_()))
        data = write_index(facts, places, self._shard_sizes)
        sha256 = hashlib.sha256(data).hexdigest()
        key = index_key(self._faceset, sha256)
        self._put_once(key, data, INDEX_MEDIA_TYPE)
        snapshot = Snapshot(
            faceset=self._faceset,
            revision=revision,
            index=ObjectRef(uri=self._store.uri(key), sha256=sha256, size_bytes=len(data), media_type=INDEX_MEDIA_TYPE),
            face_count=facts.num_rows,
            size_bytes=len(data) + sum(shard.size_bytes for shard in read_index(data).shards),
            failures=failures,
        )
        self._put_once(snapshot.key, snapshot.to_bytes(), "application/json")
        self._report(len(self._face_ids))
        return snapshot

    def _put_once(self, key: str, data: bytes, media_type: str) -> None:
        with suppress(AlreadyExists):  # by a build before this one or beside it; keys hold the digest
            self._store.put(key, data, media_type=media_type, if_absent=True)

    # -- what is known of the faces ------------------------------------------------------------------------------------

    def _facts(self, revision: int) -> pa.Table:
        """Rows of FACTS in the revision's order, without the faces whose sidecar could not be read."""
        origins = [origin(*keys) for keys in zip(self._image_keys, self._record_keys, strict=True)]
        tables = self._known_facts(revision, set(origins))
        known = {row_origin for table in tables for row_origin in table["origin"].to_pylist()}
        new = [row for row in range(len(origins)) if origins[row] not in known]
        for start in range(0, len(new), FACTS_ROWS):
            self._report(0)
            read = _ahead(
                self._readers, lambda row: self._read_facts(row, origins[row]), new[start : start + FACTS_ROWS]
            )
            tables.append(facts_table(facts for facts in read if facts is not None))
        facts = pa.concat_tables(tables)
        positions = {known: position for position, known in enumerate(facts["origin"].to_pylist())}
        rows = [row for row in range(len(origins)) if origins[row] in positions]
        facts = facts.take(pa.array([positions[origins[row]] for row in rows], pa.int64()))
        for name in ("person", "track_id"):  # decided about a set of faces, so the revision has the last word
            column = self._table.table[name].take(pa.array(rows, pa.int64()))
            facts = facts.set_column(FACTS.get_field_index(name), FACTS.field(name), column)
        return facts

    def _known_facts(self, revision: int, origins: set[bytes]) -> list[pa.Table]:
        """Rows of FACTS that snapshots of other revisions hold already. A few are asked: the last one may be of little else than trash."""
        tables = [FACTS.empty_table()]
        for snapshot in islice(snapshots_near(self._store, self._faceset, revision), SNAPSHOTS_ASKED):
            try:
                facts = open_snapshot(self._store, snapshot.index).index.facts()
            except (NotFound, Corrupt) as error:
                _LOG.warning("sidecars of %s are read again: %s", self._faceset, error.message)
                continue
            wanted = [known in origins for known in facts["origin"].to_pylist()]
            tables.append(facts.filter(pa.array(wanted, pa.bool_())))
            origins = origins.difference(tables[-1]["origin"].to_pylist())
            if not origins:
                break
        return tables

    def _read_facts(self, row: int, row_origin: bytes) -> FaceFacts | None:
        try:
            record = self._record(self._face_ids[row], self._record_keys[row])
            mask_key = self._store.key_of(record.mask.raster.uri) if record.mask else ""
            return FaceFacts(
                origin=row_origin,
                record=record,
                image_sha256=self._digest(self._image_keys[row], self._image_sha256s[row]),
                mask_sha256=self._digest(mask_key, record.mask.raster.sha256) if record.mask else b"",
                mask_key=mask_key,
            )
        except _FACE_ERRORS as error:
            self._errors[self._face_ids[row]] = error
            return None

    def _record(self, face_id: str, key: str) -> FaceRecord:
        data = self._store.get(key)
        try:
            record = FaceRecord.from_json_bytes(data)
            if record.face_id != face_id:
                raise ValueError(f"it is that of {record.face_id}")
        except ValueError as error:
            raise Corrupt(
                f"{key} is not the record of {face_id}: {error}", metadata={"uri": self._store.uri(key)}
            ) from error
        return record

    def _digest(self, key: str, recorded: str) -> bytes:
        return bytes.fromhex(recorded or self._store.stat(key).sha256 or _sha256(self._store.get(key)))

    # -- pictures and masks --------------------------------------------------------------------------------------------

    def _places(self, facts: pa.Table) -> dict[bytes, Place]:
        """Where every picture and mask lies, after those that no shard held were packed."""
        image_keys = dict(zip(self._face_ids, self._image_keys, strict=True))
        columns = (facts[name].to_pylist() for name in ("face_id", "image_sha256", "mask_sha256", "mask_key"))
        # By face id, so that a build that begins again fills the same shards, and pictures of a shot lie together.
        faces = sorted(zip(*columns, strict=True))
        shards = self._shards()
        self._shard_sizes = {name: table.size_bytes for name, table in shards.items()}
        wanted = {digest for _, image, mask, _ in faces for digest in (image, mask) if digest}
        places = find_places(wanted, shards, self._shard_bytes)
        missing: dict[bytes, _Source] = {}
        for face_id, image, mask, mask_key in faces:
            for digest, key in ((image, image_keys[face_id]), (mask, mask_key)):
                if digest and digest not in places:
                    missing.setdefault(digest, _Source(digest)).keys.append(key)
        errors = self._pack(list(missing.values()), places)
        for face_id, image, mask, _ in faces:
            error = errors.get(image) or errors.get(mask)
            if error is not None:
                self._errors[face_id] = error
        return places

    def _shards(self) -> dict[str, ShardTable]:
        """What the shards that there are hold, by name. Those that are damaged are passed over, and replaced when made again."""
        infos = list_shards(self._store, self._faceset)
        shards: dict[str, ShardTable] = {}
        for info, table in zip(infos, self._readers.map(self._shard_table, infos), strict=True):
            name = info.key.rpartition("/")[2].removesuffix(".shard")
            if table is None:
                self._damaged_shards.add(name)
            else:
                shards[name] = table
        return shards

    def _shard_table(self, info: ObjectInfo) -> ShardTable | None:
        try:
            head = self._store.read(info.key, 0, HEAD_BYTES)
            rest = shard_head_bytes(head) - len(head)
            if rest > 0:
                head += self._store.read(info.key, len(head), rest)
            table = read_shard_table(head)
            if table.size_bytes != info.size_bytes:
                raise ValueError(f"it has {info.size_bytes} bytes, not {table.size_bytes}")
        except (ValueError, NotFound) as error:
            _LOG.warning("%s is packed again: %s", info.key, error)
            return None
        return table

    def _pack(self, missing: Sequence[_Source], places: dict[bytes, Place]) -> dict[bytes, UnderstudyError]:
        """Puts pieces into new shards and their places into ``places``; returns why pieces could not be read, by digest."""
        errors: dict[bytes, UnderstudyError] = {}
        held = len(self._face_ids) * len(places) // (len(places) + len(missing) or 1)
        storing: deque[Future[dict[bytes, Place]]] = deque()
        digests: list[bytes] = []
        pieces: list[bytes] = []
        size_bytes = 0
        for number, piece in enumerate(_ahead(self._readers, self._read_piece, missing)):
            if number % READ_AHEAD == 0:
                self._report(held + (len(self._face_ids) - held) * number // len(missing))
            if isinstance(piece, UnderstudyError):
                errors[missing[number].digest] = piece
                continue
            if pieces and size_bytes + len(piece) > self._shard_bytes:
                if len(storing) == STORE_THREADS:
                    places.update(storing.popleft().result())
                storing.append(self._writers.submit(self._store_shard, digests, pieces))
                digests, pieces, size_bytes = [], [], 0
            digests.append(missing[number].digest)
            pieces.append(piece)
            size_bytes += len(piece)
        if pieces:
            storing.append(self._writers.submit(self._store_shard, digests, pieces))
        for stored in storing:
            places.update(stored.result())
        return errors

    def _read_piece(self, source: _Source) -> bytes | UnderstudyError:
        error: UnderstudyError | None = None
        for key in source.keys:
            try:
                piece = self._store.get(key)
            except _FACE_ERRORS as failure:
                error = failure
                continue
            if piece and hashlib.sha256(piece).digest() == source.digest:
                return piece
            error = Corrupt(
                f"{key} is not the picture that its record names: put it back, or trash the face",
                metadata={"uri": self._store.uri(key)},
            )
        assert error is not None  # a source has a key
        return error

    def _store_shard(self, digests: list[bytes], pieces: list[bytes]) -> dict[bytes, Place]:
        data = pack_shard(digests, pieces)
        name = _sha256(data)
        key = shard_key(self._faceset, name)
        if name in self._damaged_shards:
            self._store.put(key, data, media_type=SHARD_MEDIA_TYPE)
        else:
            self._put_once(key, data, SHARD_MEDIA_TYPE)
        table = read_shard_table(data)
        self._shard_sizes[name] = table.size_bytes
        rows = zip(table.digests, table.offsets, table.sizes, strict=True)
        return {digest: Place(name, offset, size) for digest, offset, size in rows}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _ahead(pool: ThreadPoolExecutor, work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Results in order, READ_AHEAD of them at work or waiting: the memory of all that were read is not needed."""
    pending: deque[Future[_Result]] = deque()
    for item in items:
        if len(pending) == READ_AHEAD:
            yield pending.popleft().result()
        pending.append(pool.submit(work, item))
    while pending:
        yield pending.popleft().result()
