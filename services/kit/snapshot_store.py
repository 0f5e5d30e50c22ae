"""Snapshots of facesets in the store, and reading faces from them at random. Made by `services.kit.snapshot_build`.

    <faceset>/snapshots/shards/<sha256>.shard     pictures and masks, many to an object
    <faceset>/snapshots/index/<sha256>.arrow      the faces of a revision in its order, and where their pieces lie
    <faceset>/snapshots/00000003-<sha256>.json    put-once and last: this index is revision 3; which faces it had to leave out

Shards and indices are named by the digest of their bytes, so several snapshots share what they have in common. What one would get
wrong: a snapshot is derived. The faces and the revision are the truth, and a damaged snapshot is discarded and made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ml_common.facesets import ObjectRef
from ml_common.facesets.snapshot import ShardRef, SnapshotFace, SnapshotIndex, read_index
from services.kit.errors import Corrupt, NotFound, WrongState
from services.kit.operations.plan import ItemFailure, canonical_json
from services.kit.storage import ObjectInfo, ObjectStore

_LOG = logging.getLogger(__name__)

SCHEMA = 1
INDEX_MEDIA_TYPE = "application/vnd.apache.arrow.file"
SHARD_MEDIA_TYPE = "application/octet-stream"
_CHUNK_BYTES = 1 << 20


def shard_key(faceset: str, sha256: str) -> str:
    """Object key of a shard."""
    return f"{faceset}/snapshots/shards/{sha256}.shard"


def index_key(faceset: str, sha256: str) -> str:
    """Object key of an index."""
    return f"{faceset}/snapshots/index/{sha256}.arrow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A snapshot of ``revision``. ``size_bytes`` counts the index and all shards that it reads from; ``failures`` are the faces that
    could not be packed and are not in it."""

    faceset: str
    revision: int
    index: ObjectRef
    face_count: int
    size_bytes: int
    failures: tuple[ItemFailure, ...] = ()

    @property
    def key(self) -> str:
        """Of the object that says that there is this snapshot."""
        return f"{self.faceset}/snapshots/{self.revision:08d}-{self.index.sha256}.json"

    def to_bytes(self) -> bytes:
        """For that object."""
        return canonical_json(
            {
                "schema": SCHEMA,
                "index_size_bytes": self.index.size_bytes,
                "face_count": self.face_count,
                "size_bytes": self.size_bytes,
                "failures": [asdict(failure) for failure in self.failures],
            }
        )


def list_shards(store: ObjectStore, faceset: str) -> list[ObjectInfo]:
    """All shards of a faceset's snapshots, used or not."""
    return list(_listed(store, f"{faceset}/snapshots/shards/"))


def find_snapshot(store: ObjectStore, faceset: str, revision: int) -> Snapshot | None:
    """The snapshot of a revision, the most complete one if there are several; None when nobody made one."""
    return _most_complete(store, faceset, [key for key in _keys(store, faceset) if _revision(key) == revision])


def snapshots_near(store: ObjectStore, faceset: str, revision: int) -> Iterator[Snapshot]:
    """A faceset's snapshots, one a revision: of ``revision`` and those before it, the latest first, then of those after it."""
    keys = _keys(store, faceset)
    for number in sorted(
        {_revision(key) for key in keys}, key=lambda number: (number > revision, abs(number - revision))
    ):
        snapshot = _most_complete(store, faceset, [key for key in keys if _revision(key) == number])
        if snapshot is not None:
            yield snapshot


def open_snapshot(store: ObjectStore, index: ObjectRef) -> SnapshotReader:
    """The faces of a snapshot. Reads the index only; shards are fetched (from another machine: into the node's cache) and mapped when
    a face of theirs is first asked for. NotFound when there is no such index, Corrupt when it is damaged."""
    key = store.key_of(index.uri)
    faceset, separator, _ = key.rpartition("/snapshots/index/")
    if not separator:
        raise WrongState(f"{index.uri} is no index of a snapshot", metadata={"uri": index.uri})
    mapped = _map(store, key, index.size_bytes)
    if hashlib.sha256(mapped).hexdigest() != index.sha256:
        raise Corrupt(f"the index of a snapshot of {faceset} is not what its name says", metadata={"uri": index.uri})
    try:
        return SnapshotReader(store, faceset, read_index(memoryview(mapped)))
    except ValueError as error:
        raise Corrupt(f"the index of a snapshot of {faceset}: {error}", metadata={"uri": index.uri}) from error


class SnapshotReader:
    """Faces by position. Pictures are views of mapped files: what was read lately is in the machine's memory, shared by all processes,
    and nothing is copied. May be used by several threads, and by a process and its forks; mappings end with the last view of them."""

    def __init__(self, store: ObjectStore, faceset: str, index: SnapshotIndex) -> None:
        self.faceset = faceset
        self.index = index
        self._store = store
        self._shards: list[mmap.mmap | None] = [None] * len(index.shards)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> SnapshotFace:
        """One face. Corrupt, naming the face, when its bytes are not what the index says; NotFound when a shard is gone."""
        row = range(len(self.index))[position]
        image = self._piece(row, "image")
        assert image is not None  # the index was checked for it
        return self.index.face(row, image, self._piece(row, "mask"))

    def batch(self, positions: Sequence[int]) -> list[SnapshotFace]:
        """Faces in the order asked for. The disk is told of all of them before the first one is read."""
        rows = [range(len(self.index))[position] for position in positions]
        for row in rows:
            for piece in ("image", "mask"):
                place = self.index.place(row, piece)
                if place is not None:
                    shard, offset, size = place
                    start = offset - offset % mmap.PAGESIZE
                    self._shard(shard).madvise(mmap.MADV_WILLNEED, start, offset + size - start)
        return [self[row] for row in rows]

    def _piece(self, row: int, piece: str) -> memoryview | None:
        place = self.index.place(row, piece)
        if place is None:
            return None
        shard, offset, size = place
        view = memoryview(self._shard(shard))[offset : offset + size]
        if hashlib.sha256(view).digest() != self.index.digest(row, piece):
            face_id = self.index.strings("face_id")[row]
            key = shard_key(self.faceset, self.index.shards[shard].sha256)
            raise Corrupt(
                f"the {piece} of {self.faceset}/faces/{face_id} is damaged in its snapshot",
                metadata={"uri": self._store.uri(key), "name": f"{self.faceset}/faces/{face_id}"},
            )
        return view

    def _shard(self, number: int) -> mmap.mmap:
        # No lock, because a fork could inherit it held: two threads may map a shard twice, and one of the mappings is dropped.
        mapped = self._shards[number]
        if mapped is None:
            shard = self.index.shards[number]
            mapped = _map(self._store, shard_key(self.faceset, shard.sha256), shard.size_bytes)
            self._shards[number] = mapped
        return mapped


def discard_snapshot(store: ObjectStore, snapshot: Snapshot) -> None:
    """Removes the word that there is this snapshot, and of its objects those that are damaged, so that the next build makes them anew.
    Reads all of it. What is sound stays: other snapshots may use it, and so will the next build."""
    store.delete(snapshot.key)
    index = index_key(snapshot.faceset, snapshot.index.sha256)
    try:
        shards: tuple[ShardRef, ...] = read_index(store.get(index)).shards
    except (Corrupt, NotFound, ValueError):
        store.delete(index)
        shards = ()
    for shard in shards:
        key = shard_key(snapshot.faceset, shard.sha256)
        if not _is_sound(store, key, shard.sha256):
            store.delete(key)


def _is_sound(store: ObjectStore, key: str, sha256: str) -> bool:
    digest = hashlib.sha256()
    with suppress(Corrupt, NotFound), store.open(key) as stream:
        for chunk in iter(lambda: stream.read(_CHUNK_BYTES), b""):
            digest.update(chunk)
        return digest.hexdigest() == sha256
    return False


def _map(store: ObjectStore, key: str, size_bytes: int) -> mmap.mmap:
    """A file of the store in memory. The mapping outlives the file's name, so the cache may evict it meanwhile."""
    with store.local_path(key) as path, Path(path).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(mapped) != size_bytes:  # reading beyond the end of a mapped file kills the process
        raise Corrupt(f"{key} has {len(mapped)} bytes, not {size_bytes}", metadata={"uri": store.uri(key)})
    return mapped


def _keys(store: ObjectStore, faceset: str) -> list[str]:
    return [info.key for info in _listed(store, f"{faceset}/snapshots/") if info.key.endswith(".json")]


def _listed(store: ObjectStore, prefix: str) -> Iterator[ObjectInfo]:
    after = ""
    while True:
        page = store.list(prefix, after=after, delimiter="/")
        yield from page.objects
        if not page.next_after:
            return
        after = page.next_after


def _revision(key: str) -> int:
    return int(key.rpartition("/")[2].partition("-")[0])


def _most_complete(store: ObjectStore, faceset: str, keys: Sequence[str]) -> Snapshot | None:
    found = []
    for key in keys:
        try:
            found.append(_read(store, faceset, key))
        except (Corrupt, NotFound) as error:  # damaged, or discarded this moment: without its word there is no snapshot
            _LOG.warning("%s is passed over: %s", key, error.message)
    return min(found, key=lambda snapshot: (len(snapshot.failures), snapshot.index.sha256), default=None)


def _read(store: ObjectStore, faceset: str, key: str) -> Snapshot:
    number, _, name = key.rpartition("/")[2].partition("-")
    sha256 = name.removesuffix(".json")
    try:
        body = json.loads(store.get(key))
        if body["schema"] != SCHEMA:
            raise ValueError(f"it is of schema {body['schema']}, this release reads {SCHEMA}")
        return Snapshot(
            faceset=faceset,
            revision=int(number),
            index=ObjectRef(
                uri=store.uri(index_key(faceset, sha256)),
                sha256=sha256,
                size_bytes=int(body["index_size_bytes"]),
                media_type=INDEX_MEDIA_TYPE,
            ),
            face_count=int(body["face_count"]),
            size_bytes=int(body["size_bytes"]),
            failures=tuple(ItemFailure(**failure) for failure in body["failures"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{key} cannot be read: {error}", metadata={"uri": store.uri(key)}) from error
