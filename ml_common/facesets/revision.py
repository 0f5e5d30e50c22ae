"""A revision: which faces a faceset holds, in which order and with which flags, as one Parquet object.

What a reader would get wrong: row order IS the faceset's order, so filters keep it and nothing here sorts. Trashed
faces stay in the table as rows with their flag set; `active()` leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ml_common.facesets.record import FaceRecord
from ml_common.geometry import rect_from_landmarks

_FORMAT_KEY, _FORMAT = b"understudy.format", b"faceset-revision"
_VERSION_KEY, _VERSION = b"understudy.schema_version", b"1"

# A fixed size, so that equal rows give equal bytes however a table was put together.
_ROW_GROUP_ROWS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRow:
    """One face in a revision: what a grid of thumbnails, a sort or a filter needs without reading the sidecar.

    Angles in degrees as in Pose; sharpness, brightness and detection_score as in FaceRecord, rounded to float32.
    source_area_px: square pixels of the face in its frame (of the detection box; of the full-face square of the
    landmarks where nothing was detected). image_key, record_key: object keys of picture and sidecar. image_sha256 is
    empty and image_size_bytes 0 where the record names no picture. person, track_id: empty when not known.
    """

    face_id: str
    frame_number: int
    face_index: int
    trashed: bool
    size_px: int
    pitch_deg: float
    yaw_deg: float
    roll_deg: float
    sharpness: float
    brightness: float
    detection_score: float
    source_area_px: float
    image_key: str
    image_sha256: str
    image_size_bytes: int
    record_key: str
    has_mask: bool
    has_label: bool
    person: str
    track_id: str


_ARROW_TYPES = {"str": pa.string(), "bool": pa.bool_(), "float": pa.float32(), "int": pa.int32()}
_WIDE = ("frame_number", "image_size_bytes")

SCHEMA = pa.schema(
    [
        pa.field(field.name, pa.int64() if field.name in _WIDE else _ARROW_TYPES[str(field.type)], nullable=False)
        for field in fields(RevisionRow)
    ],
    metadata={_FORMAT_KEY: _FORMAT, _VERSION_KEY: _VERSION},
)
"""Columns of the manifest, in the order of RevisionRow: frame_number and image_size_bytes int64, other whole numbers
int32, fractions float32. Nothing is nullable."""

_FLOAT_COLUMNS = [field.name for field in SCHEMA if pa.types.is_float32(field.type)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceKeys:
    """Where one face lies in the store: the keys of its picture and of its sidecar."""

    image_key: str
    record_key: str


@dataclass(frozen=True, slots=True, eq=False)
class RevisionTable:
    """The rows of a revision. ValueError when the columns are not SCHEMA's, a value is null or not finite, or a face_id
    comes twice. `table` is immutable; a change makes another RevisionTable.
    """

    table: pa.Table

    def __post_init__(self) -> None:
        if not self.table.schema.equals(SCHEMA):
            raise ValueError(f"the columns of a revision must be {_columns(SCHEMA)}; got {_columns(self.table.schema)}")
        # Arrow's own operations may drop or add metadata, and what is written has to depend on the rows alone.
        object.__setattr__(self, "table", self.table.replace_schema_metadata(SCHEMA.metadata))
        for name, column in zip(SCHEMA.names, self.table.columns, strict=True):
            if column.null_count:
                raise ValueError(f"{name} holds {column.null_count} nulls; every face needs every column")
        for name in _FLOAT_COLUMNS:
            if not np.isfinite(self.column(name)).all():
                raise ValueError(f"{name} holds NaN or infinity; every number must be finite")
        if pc.count_distinct(self.table["face_id"]).as_py() != len(self):
            raise ValueError("face_id holds the same face twice; a revision names each face once")

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RevisionTable):
            return NotImplemented
        return bool(self.table.equals(other.table))

    __hash__ = None  # type: ignore[assignment]  # a hundred thousand rows are no dictionary key

    def column(self, name: str) -> NDArray[Any]:
        """One column as NumPy, [rows]: int64, int32, float32, bool, or object holding str. KeyError when unknown."""
        values: NDArray[Any] = self.table[name].to_numpy()
        return values

    def rows(self) -> list[RevisionRow]:
        """All rows as Python objects; meant for a page, not for a whole faceset."""
        return [RevisionRow(**row) for row in self.table.to_pylist()]

    def replace_column(self, name: str, values: Sequence[Any] | NDArray[Any]) -> RevisionTable:
        """The same faces with other values in one column. KeyError when unknown, ValueError for another length."""
        if name not in SCHEMA.names:
            raise KeyError(name)
        if len(values) != len(self):
            raise ValueError(f"{name} needs {len(self)} values, one a face, got {len(values)}")
        index = SCHEMA.get_field_index(name)
        column = pa.array(values, type=SCHEMA.field(index).type)
        return RevisionTable(self.table.set_column(index, SCHEMA.field(index), column))

    def take(self, positions: Sequence[int] | NDArray[np.integer[Any]]) -> RevisionTable:
        """The rows at `positions`, in that order. ValueError when one comes twice."""
        return RevisionTable(self.table.take(pa.array(positions, pa.int64())))

    def positions(self, face_ids: Sequence[str]) -> NDArray[np.int64]:
        """Where each face lies, counted from 0; -1 for one that is not in this revision."""
        found = pc.index_in(pa.array(face_ids, pa.string()), value_set=self.table["face_id"].combine_chunks())
        at: NDArray[np.int64] = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        return at

    def active(self) -> RevisionTable:
        """The faces that are not in the trash."""
        return RevisionTable(self.table.filter(pc.invert(self.table["trashed"])))

    def frames(self, ranges: Sequence[range]) -> RevisionTable:
        """The faces whose frame number is in any of `ranges`; none when `ranges` is empty.

        A range is Python's, so frames 1001 to 1100 inclusive by two are `range(1001, 1101, 2)`. ValueError for a range
        that counts down.
        """
        frame_numbers, row_frame = np.unique(self.column("frame_number"), return_inverse=True)
        wanted = np.zeros(len(frame_numbers), dtype=bool)
        for frames in ranges:
            if frames.step < 1:
                raise ValueError(f"{frames!r} counts down; frame ranges go from the first frame to the last")
            # Through the sorted numbers, because a request may name thousands of ranges and a range billions of frames.
            if frames:
                start, stop = np.searchsorted(frame_numbers, [frames[0], frames[-1] + 1])
                wanted[start:stop] |= frame_numbers[start:stop] % frames.step == frames[0] % frames.step
        return RevisionTable(self.table.filter(pa.array(wanted[row_frame])))

    def page(self, start: int, limit: int) -> RevisionTable:
        """At most `limit` rows from position `start` on, counted from 0; empty beyond the end."""
        if start < 0 or limit < 1:
            raise ValueError(f"a page starts at 0 or later and holds at least 1 row, not start={start}, limit={limit}")
        return RevisionTable(self.table.slice(start, limit))


def from_records(records: Sequence[FaceRecord], keys: Sequence[FaceKeys]) -> RevisionTable:
    """The first revision of a faceset: one row a record, in this order, nothing in the trash. ValueError when the
    lengths differ or a face comes twice."""
    if len(records) != len(keys):
        raise ValueError(f"{len(records)} records need as many keys, got {len(keys)}")
    rows = [_row(record, place) for record, place in zip(records, keys, strict=True)]
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    return RevisionTable(pa.table(columns, schema=SCHEMA))


def _row(record: FaceRecord, keys: FaceKeys) -> RevisionRow:
    return RevisionRow(
        face_id=record.face_id,
        frame_number=record.source.frame_number,
        face_index=record.source.face_index,
        trashed=False,
        size_px=record.size_px,
        pitch_deg=record.pose.pitch_deg,
        yaw_deg=record.pose.yaw_deg,
        roll_deg=record.pose.roll_deg,
        sharpness=record.sharpness,
        brightness=record.brightness,
        detection_score=record.detection_score,
        source_area_px=_source_area_px(record),
        image_key=keys.image_key,
        image_sha256=record.image.sha256 if record.image else "",
        image_size_bytes=record.image.size_bytes if record.image else 0,
        record_key=keys.record_key,
        has_mask=record.mask is not None,
        has_label=record.label is not None and bool(record.label.polygons),
        person=record.person,
        track_id=record.track_id,
    )


def _source_area_px(record: FaceRecord) -> float:
    if record.detection_box_px is None:
        left, top, right, bottom = rect_from_landmarks(record.frame_landmarks_px)
    else:
        left, top, right, bottom = record.detection_box_px.tolist()
    # Boxes of imported faces may be un-ordered (specification: faceset, section 21); only their area counts.
    return abs((right - left) * (bottom - top))


def concatenate(tables: Sequence[RevisionTable]) -> RevisionTable:
    """The rows of all tables, one after the other: chunks of an extraction become one faceset. ValueError when a face
    is in two of them."""
    return RevisionTable(pa.concat_tables([SCHEMA.empty_table(), *(part.table for part in tables)]))


def write_revision(table: RevisionTable) -> bytes:
    """The manifest: Parquet with zstd. Equal rows give equal bytes with the same pyarrow release."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.table.combine_chunks(),
        sink,
        row_group_size=_ROW_GROUP_ROWS,
        compression="zstd",
        compression_level=3,
        # Every other text is different in each row, and a dictionary of it would only be built to be thrown away.
        use_dictionary=["person", "track_id"],
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_revision(data: bytes) -> RevisionTable:
    """Reads a manifest; ValueError when the bytes are no Parquet, another kind of table or another schema version."""
    try:
        table = pq.read_table(pa.BufferReader(data), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"a faceset revision must be a whole Parquet file: {error}") from error
    metadata = table.schema.metadata or {}
    if metadata.get(_FORMAT_KEY) != _FORMAT:
        raise ValueError("this Parquet file is no faceset revision; give the manifest that a revision names")
    version = metadata.get(_VERSION_KEY, b"").decode(errors="replace")
    if version != _VERSION.decode():
        raise ValueError(f"schema_version is {version!r}; this release reads and writes only {_VERSION.decode()}")
    return RevisionTable(table)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}{' or null' if field.nullable else ''}" for field in schema)
