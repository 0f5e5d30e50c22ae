"""Measures of a faceset's faces in the store: taken once from each picture, so that every later sort reads columns and no pictures.

    <faceset>/measures/<version>/<digest>.parquet   some faces: MEASURE_COLUMNS, source_name and image_sha256, put-once, named by their ids

What one would get wrong: whether a face was measured is said by its id and the digest of its picture, whatever else is edited, so parts
never grow stale. A face that is in two parts has the same measures in both. Eyebrows that a person raised for training change no measure:
all faces of a faceset are measured alike.
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml_common.curation.columns import SOURCE_NAME
from ml_common.curation.measures import MEASURE_COLUMNS, Measures, measure_face, measures_table
from ml_common.facesets import FaceRecord, RevisionRow
from ml_common.imaging import as_bgr_u8
from ml_common.imaging.picture import PictureError, decode_picture
from services.kit.errors import AlreadyExists, Corrupt, NotFound
from services.kit.operations.plan import ItemFailure
from services.kit.storage import ObjectInfo, ObjectStore

VERSION = MEASURE_COLUMNS.metadata[b"understudy.schema_version"].decode()
PICTURE = "image_sha256"
COLUMNS = MEASURE_COLUMNS.append(pa.field(SOURCE_NAME, pa.string(), nullable=False)).append(
    pa.field(PICTURE, pa.string(), nullable=False)
)
NUMBERS = {
    field.name: field.type
    for field in MEASURE_COLUMNS
    if pa.types.is_floating(field.type) or pa.types.is_signed_integer(field.type)
}
PARQUET = "application/vnd.apache.parquet"
AHEAD = 4  # pictures that are read and decoded before their turn
READ_THREADS = 8
Identity = tuple[str, str]


class MeasureIndex:
    """The measures of one faceset."""

    def __init__(self, store: ObjectStore, faceset: str) -> None:
        self._store = store
        self._prefix = f"{faceset}/measures/{VERSION}/"

    def measured(self) -> set[Identity]:
        """All faces that have been measured."""
        return {face for part in self._read([]) for face in identities(part)}

    def digest(self) -> str:
        """What tells the index from itself with more faces in it."""
        return hashlib.sha256(" ".join(info.key for info in self._parts()).encode()).hexdigest()

    def has_part(self, faces: Sequence[Identity]) -> bool:
        """Whether just these faces were measured together."""
        try:
            self._store.stat(self._key(faces))
        except NotFound:
            return False
        return True

    def put_part(self, measured: Sequence[MeasuredFace]) -> None:
        """Keeps what was measured."""
        table = measures_table([face.identity[0] for face in measured], [face.measures for face in measured])
        for name, texts in (
            (SOURCE_NAME, [face.source_name for face in measured]),
            (PICTURE, [face.identity[1] for face in measured]),
        ):
            table = table.append_column(COLUMNS.field(name), pa.array(texts, pa.string()))
        sink = pa.BufferOutputStream()
        pq.write_table(
            table, sink, compression="zstd", compression_level=3, use_dictionary=False, write_page_checksum=True
        )
        try:
            self._store.put(
                self._key([face.identity for face in measured]),
                sink.getvalue().to_pybytes(),
                media_type=PARQUET,
                if_absent=True,
            )
        except AlreadyExists:
            return  # another operation measured the same faces; ours are the same numbers

    def columns(self, faces: Sequence[Identity], names: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The named columns, one entry a face in the order of ``faces``, and which faces were measured [N]; entries of the others mean
        nothing. Memory is that of the columns asked for and of a few parts."""
        place_of = {face: place for place, face in enumerate(faces)}
        columns = {name: _empty(COLUMNS.field(name).type, len(faces)) for name in names}
        known = np.zeros(len(faces), bool)
        for part in self._read(names):
            places = np.array([place_of.get(face, -1) for face in identities(part)], np.int64)
            here = np.flatnonzero(places >= 0)
            at = places[here]
            known[at] = True
            for name in names:
                columns[name][at] = _values(part[name].combine_chunks())[here]
        return columns, known

    def _read(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """Columns of all parts, part by part, with those that say whose they are."""
        with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="measures") as pool:
            yield from ahead(pool, READ_THREADS, self._parts(), lambda info: self._read_part(info, names))

    def _read_part(self, info: ObjectInfo, names: Sequence[str]) -> pa.Table:
        try:
            file = pq.ParquetFile(_Ranged(self._store, info), page_checksum_verification=True)
            table: pa.Table = file.read(columns=["face_id", PICTURE, *names], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            uri = self._store.uri(info.key)
            raise Corrupt(
                f"{uri} is no table of measures: remove it, and the faces are measured again ({error})",
                metadata={"uri": uri},
            ) from error
        return table.combine_chunks()

    def _parts(self) -> Iterator[ObjectInfo]:
        after = ""
        while True:
            page = self._store.list(self._prefix, after=after)
            yield from page.objects
            if not page.next_after:
                return
            after = page.next_after

    def _key(self, faces: Sequence[Identity]) -> str:
        text = " ".join(f"{face_id}:{picture}" for face_id, picture in sorted(faces))
        return f"{self._prefix}{hashlib.sha256(text.encode()).hexdigest()[:32]}.parquet"


@dataclass(frozen=True, slots=True)
class MeasuredFace:
    """A face with its measures, and the name of the picture that it was cut from."""

    identity: Identity
    source_name: str
    measures: Measures


def identities(table: pa.Table) -> list[Identity]:
    """Whose measures a face's are, for each row of a revision or of a part: its id and the digest of its picture."""
    return list(zip(table["face_id"].to_pylist(), table[PICTURE].to_pylist(), strict=True))


def measure_rows(
    store: ObjectStore, rows: Sequence[RevisionRow], report: Callable[[int], None]
) -> tuple[list[MeasuredFace], list[ItemFailure]]:
    """Measures faces one after the other while the next few pictures are read; at no time are more in memory than that. A face that
    cannot be read or measured is a failure by its id, and the rest goes on."""
    measured: list[MeasuredFace] = []
    failures: list[ItemFailure] = []
    with ThreadPoolExecutor(AHEAD, thread_name_prefix="pictures") as pool:
        pictures = ahead(pool, AHEAD, rows, lambda row: _read_face(store, row))
        for done, (row, face) in enumerate(zip(rows, pictures, strict=True), start=1):
            try:
                if isinstance(face, NotFound | Corrupt | PictureError):
                    raise face
                record, image_bgr_HWC = face
                measures = measure_face(image_bgr_HWC, record.crop_landmarks_px)
                identity = (row.face_id, row.image_sha256)
                measured.append(MeasuredFace(identity, record.source.original_filename, measures))
            except (NotFound, Corrupt, PictureError) as error:
                failures.append(ItemFailure(row.face_id, error.reason, str(error)))
            except ValueError as error:
                failures.append(ItemFailure(row.face_id, "DEGENERATE_FACE", str(error)))
            report(done)
    return measured, failures


def ahead(pool: ThreadPoolExecutor, count: int, items: Any, work: Callable[[Any], Any]) -> Iterator[Any]:
    """What ``work`` makes of items, in order, with ``count`` of them under way: threads without all results in memory."""
    under_way: deque[Future[Any]] = deque()
    for item in items:
        under_way.append(pool.submit(work, item))
        if len(under_way) > count:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def _read_face(
    store: ObjectStore, row: RevisionRow
) -> tuple[FaceRecord, np.ndarray] | NotFound | Corrupt | PictureError:
    try:
        record = FaceRecord.from_json_bytes(store.get(row.record_key))
        return record, as_bgr_u8(decode_picture(store.get(row.image_key), row.image_key))
    except (NotFound, Corrupt, PictureError) as error:
        return error
    except ValueError as error:
        return Corrupt(f"{row.record_key} is not a face record: {error}")


class _Ranged(io.RawIOBase):
    """An object as a file that is read where it is needed: a few columns of a part are a few requests."""

    def __init__(self, store: ObjectStore, info: ObjectInfo) -> None:
        self._store, self._info, self._at = store, info, 0

    def readable(self) -> bool:
        """See io."""
        return True

    def seekable(self) -> bool:
        """See io."""
        return True

    def tell(self) -> int:
        """See io."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See io."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._info.size_bytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """See io."""
        left = max(0, self._info.size_bytes - self._at)
        length = left if size is None or size < 0 else min(size, left)
        data = self._store.read(self._info.key, self._at, length) if length else b""
        self._at += len(data)
        return data


def _empty(kind: pa.DataType, count: int) -> np.ndarray:
    if pa.types.is_fixed_size_list(kind):
        return np.zeros((count, kind.list_size), kind.value_type.to_pandas_dtype())
    if pa.types.is_string(kind) or pa.types.is_fixed_size_binary(kind):
        return np.full(count, "", object)
    return np.zeros(count, kind.to_pandas_dtype())


def _values(column: pa.Array) -> np.ndarray:
    if pa.types.is_fixed_size_list(column.type):
        flat: np.ndarray = column.flatten().to_numpy()
        return flat.reshape(len(column), column.type.list_size)
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    return values
