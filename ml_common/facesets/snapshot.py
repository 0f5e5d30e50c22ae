"""The index of a snapshot: every face of a revision, in its order, with all that training asks of a sidecar and with where
its picture and its mask lie in shards. One Arrow file, read in place.

What a reader would get wrong: the index holds no picture, and the order of its rows has nothing to do with the order of
pieces in shards. The order is the revision's; a run's identity depends on it.

Legend: N faces of the snapshot.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml_common.facesets.packing import Place
from ml_common.facesets.parts import XSegLabel
from ml_common.facesets.record import FACE_TYPE_NAMES, FaceRecord
from ml_common.geometry import FaceType

_FORMAT_KEY, _FORMAT = b"understudy.format", b"faceset-snapshot"
_VERSION_KEY, _VERSION = b"understudy.schema_version", b"1"
_SHARDS_KEY = b"understudy.shards"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TYPE_OF_NAME = {name: face_type for face_type, name in FACE_TYPE_NAMES.items() if face_type}
_NO_PIECE = b""

ORIGIN_BYTES = 16

FACTS = pa.schema(
    [
        pa.field("face_id", pa.string(), nullable=False),
        pa.field("origin", pa.binary(ORIGIN_BYTES), nullable=False),
        pa.field("face_type", pa.string(), nullable=False),
        pa.field("size_px", pa.int32(), nullable=False),
        pa.field("landmarks_px", pa.list_(pa.float32(), 136), nullable=False),
        pa.field("pitch_deg", pa.float64(), nullable=False),
        pa.field("yaw_deg", pa.float64(), nullable=False),
        pa.field("eyebrows_expand", pa.float64(), nullable=False),
        pa.field("label_json", pa.string(), nullable=False),
        pa.field("person", pa.string(), nullable=False),
        pa.field("track_id", pa.string(), nullable=False),
        pa.field("image_sha256", pa.binary(32), nullable=False),
        pa.field("mask_sha256", pa.binary(), nullable=False),
        pa.field("mask_key", pa.string(), nullable=False),
    ]
)
"""What is known of a face before its pieces have a place. Landmarks are those in the crop; digests are 32 bytes, that of
the mask is empty where there is none."""

_PLACES = pa.schema(
    [
        pa.field(f"{piece}_{column}", column_type, nullable=False)
        for piece in ("image", "mask")
        for column, column_type in (("shard", pa.int32()), ("offset", pa.int64()), ("size_bytes", pa.int64()))
    ]
)
_SCHEMA = pa.schema([*FACTS, *_PLACES])


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRef:
    """A shard that a snapshot reads from: its SHA-256, 64 hexadecimal digits, and its size."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SnapshotFace:
    """One face as training reads it.

    landmarks_px_68x2: float32, in the crop, read-only. pitch_deg, yaw_deg, eyebrows_expand, label, person, track_id: as in
    FaceRecord. image: the picture as it was stored, an encoded JPEG, PNG or EXR; mask: an encoded one-channel picture, or
    None. Both are read-only views of the shard; `bytes` of one makes a copy.
    """

    face_id: str
    face_type: FaceType
    size_px: int
    landmarks_px_68x2: NDArray[np.float32]
    pitch_deg: float
    yaw_deg: float
    eyebrows_expand: float
    label: XSegLabel | None
    person: str
    track_id: str
    image: memoryview
    mask: memoryview | None


class SnapshotIndex:
    """The faces of a snapshot. Columns are NumPy views of the file where they can be; nothing is copied per face.

    yaw_deg_N: float64. landmarks_px_N682: float32 [N, 68, 2], in each crop. shards: what places refer to.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        """ValueError when the columns are not an index's, a value is null or unknown, or a place lies outside of its shard."""
        metadata = batch.schema.metadata or {}
        if metadata.get(_FORMAT_KEY) != _FORMAT:
            raise ValueError("this Arrow file is no index of a faceset snapshot")
        version = metadata.get(_VERSION_KEY, b"").decode(errors="replace")
        if version != _VERSION.decode():
            raise ValueError(f"this snapshot is of version {version}; this release reads {_VERSION.decode()}")
        if not batch.schema.equals(_SCHEMA):
            raise ValueError(f"the columns of a snapshot must be {_SCHEMA.names}; got {batch.schema.names}")
        self._columns = dict(zip(_SCHEMA.names, batch.columns, strict=True))
        for name, column in self._columns.items():
            if column.null_count:
                raise ValueError(f"{name} holds {column.null_count} nulls; every face needs every column")
        self.shards = _read_shards(metadata.get(_SHARDS_KEY, b""))
        self.yaw_deg_N = self._numbers("yaw_deg")
        flat = self._columns["landmarks_px"].flatten().to_numpy(zero_copy_only=True)
        self.landmarks_px_N682: NDArray[np.float32] = flat.reshape(-1, 68, 2)
        self._places = {name: self._numbers(name) for name in _PLACES.names}
        self._check_places()
        unknown = set(self._columns["face_type"].unique().to_pylist()) - _TYPE_OF_NAME.keys()
        if unknown:
            raise ValueError(f"this release knows no face type {', '.join(sorted(unknown))}")

    def __len__(self) -> int:
        return len(self._columns["face_id"])

    def strings(self, name: str) -> list[str]:
        """A column of text (`face_id`, `person`, `track_id`, ...), in order."""
        values: list[str] = self._columns[name].to_pylist()
        return values

    def facts(self) -> pa.Table:
        """The columns FACTS, in order."""
        return pa.table([self._columns[name] for name in FACTS.names], schema=FACTS)

    def place(self, position: int, piece: str) -> tuple[int, int, int] | None:
        """Which shard (a position in `shards`), offset and size of the `image` or the `mask` of a face; None for no mask."""
        shard = int(self._places[f"{piece}_shard"][position])
        if shard < 0:
            return None
        return shard, int(self._places[f"{piece}_offset"][position]), int(self._places[f"{piece}_size_bytes"][position])

    def digest(self, position: int, piece: str) -> bytes:
        """SHA-256 of the `image` or the `mask` of a face, 32 bytes; empty for no mask."""
        digest: bytes = self._columns[f"{piece}_sha256"][position].as_py()
        return digest

    def face(self, position: int, image: memoryview, mask: memoryview | None) -> SnapshotFace:
        """The face at a position, with the pieces that the caller read from its places."""

        def value(name: str) -> Any:
            return self._columns[name][position].as_py()

        label_json = value("label_json")
        return SnapshotFace(
            face_id=value("face_id"),
            face_type=_TYPE_OF_NAME[value("face_type")],
            size_px=value("size_px"),
            landmarks_px_68x2=self.landmarks_px_N682[position],
            pitch_deg=value("pitch_deg"),
            yaw_deg=float(self.yaw_deg_N[position]),
            eyebrows_expand=value("eyebrows_expand"),
            label=XSegLabel.from_json_dict(json.loads(label_json)) if label_json else None,
            person=value("person"),
            track_id=value("track_id"),
            image=image,
            mask=mask,
        )

    def _check_places(self) -> None:
        shard_sizes = np.array([shard.size_bytes for shard in self.shards], np.int64)
        for piece in ("image", "mask"):
            shard, offset, size = (self._places[f"{piece}_{name}"] for name in ("shard", "offset", "size_bytes"))
            there = shard >= 0
            if not there.all() and piece == "image":
                raise ValueError("a face of this snapshot has no picture")
            wrong = (shard >= len(shard_sizes)) | (there & ((offset < 0) | (size < 1)))
            if not wrong.any() and len(shard_sizes):
                wrong = there & (size > shard_sizes[shard] - offset)
            if wrong.any():
                face_id = self._columns["face_id"][int(wrong.argmax())].as_py()
                raise ValueError(f"the {piece} of face {face_id} lies outside of its shard")

    def _numbers(self, name: str) -> NDArray[Any]:
        values: NDArray[Any] = self._columns[name].to_numpy(zero_copy_only=True)
        return values


def origin(image_key: str, record_key: str) -> bytes:
    """What a face's facts come from, as 16 bytes: two faces with one origin have the same picture and the same sidecar,
    because neither is ever rewritten."""
    return hashlib.blake2b(f"{image_key}\n{record_key}".encode(), digest_size=ORIGIN_BYTES).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceFacts:
    """What the index takes from one sidecar. image_sha256, mask_sha256: 32 bytes; those of the mask and mask_key are empty
    where there is none."""

    origin: bytes
    record: FaceRecord
    image_sha256: bytes
    mask_sha256: bytes = b""
    mask_key: str = ""


def facts_table(faces: Iterable[FaceFacts]) -> pa.Table:
    """Rows of FACTS, in this order. person and track_id are the sidecar's; a revision may know better."""
    rows = [_facts_row(face) for face in faces]
    return pa.table({name: [row[name] for row in rows] for name in FACTS.names}, schema=FACTS)


def _facts_row(face: FaceFacts) -> dict[str, Any]:
    record = face.record
    return {
        "face_id": record.face_id,
        "origin": face.origin,
        "face_type": FACE_TYPE_NAMES[record.face_type],
        "size_px": record.size_px,
        "landmarks_px": record.crop_landmarks_px.ravel().astype(np.float32),
        "pitch_deg": record.pose.pitch_deg,
        "yaw_deg": record.pose.yaw_deg,
        "eyebrows_expand": record.eyebrows_expand,
        "label_json": _label_json(record.label),
        "person": record.person,
        "track_id": record.track_id,
        "image_sha256": face.image_sha256,
        "mask_sha256": face.mask_sha256,
        "mask_key": face.mask_key,
    }


def _label_json(label: XSegLabel | None) -> str:
    if label is None:
        return ""
    return json.dumps(label.to_json_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_index(facts: pa.Table, places: Mapping[bytes, Place], shard_sizes: Mapping[str, int]) -> bytes:
    """The index file of the faces of `facts` (columns FACTS), in this order.

    places: of every picture and mask, by digest. shard_sizes: bytes of every shard that a place names, by SHA-256. Equal
    faces in equal places give equal bytes with the same pyarrow release. KeyError when a piece has no place.
    """
    columns = {name: facts[name] for name in FACTS.names}
    found = {
        piece: [places[digest] if digest != _NO_PIECE else None for digest in facts[f"{piece}_sha256"].to_pylist()]
        for piece in ("image", "mask")
    }
    names = sorted({place.shard for places in found.values() for place in places if place})
    position = {name: number for number, name in enumerate(names)}
    for piece, pieces in found.items():
        columns[f"{piece}_shard"] = [position[place.shard] if place else -1 for place in pieces]
        columns[f"{piece}_offset"] = [place.offset if place else 0 for place in pieces]
        columns[f"{piece}_size_bytes"] = [place.size if place else 0 for place in pieces]
    shards = json.dumps([[name, shard_sizes[name]] for name in names], separators=(",", ":"))
    metadata = {_FORMAT_KEY: _FORMAT, _VERSION_KEY: _VERSION, _SHARDS_KEY: shards.encode()}
    table = pa.table(columns, schema=_SCHEMA)
    batch = pa.RecordBatch.from_arrays(
        [column.combine_chunks() for column in table.columns], schema=_SCHEMA.with_metadata(metadata)
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_index(data: pa.Buffer | bytes | memoryview) -> SnapshotIndex:
    """Reads an index where it lies: `data` may be a mapped file and must stay as it is. ValueError when it is damaged or
    something else."""
    try:
        reader = pa.ipc.open_file(pa.py_buffer(data))
        if reader.num_record_batches != 1:
            raise ValueError(f"an index is one record batch, this file holds {reader.num_record_batches}")
        batch = reader.get_batch(0)
        batch.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"an index must be a whole Arrow file: {error}") from error
    return SnapshotIndex(batch)


def _read_shards(text: bytes) -> tuple[ShardRef, ...]:
    try:
        shards = tuple(ShardRef(sha256=sha256, size_bytes=size_bytes) for sha256, size_bytes in json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"the list of shards cannot be read: {error}") from error
    for shard in shards:
        if not (
            isinstance(shard.sha256, str) and _SHA256.fullmatch(shard.sha256) and isinstance(shard.size_bytes, int)
        ):
            raise ValueError(f"{shard} is no shard: a digest of 64 hexadecimal digits and a size")
    return shards
