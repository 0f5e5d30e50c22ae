"""Revisions: bytes and back, determinism, filters, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_common.facesets import (
    SCHEMA,
    FaceKeys,
    FaceMask,
    FaceRecord,
    FaceSource,
    ObjectRef,
    Polygon,
    PolygonKind,
    RevisionRow,
    RevisionTable,
    XSegLabel,
    concatenate,
    face_id,
    from_records,
    read_revision,
    write_revision,
)
from ml_common.geometry import rect_from_landmarks

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): TEXT,
    pa.bool_(): st.booleans(),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float32(): st.floats(width=32, allow_nan=False, allow_infinity=False),
}
ROWS = st.lists(st.fixed_dictionaries({field.name: VALUES[field.type] for field in SCHEMA}), max_size=8).map(
    lambda rows: [{**row, "face_id": f"{i}{row['face_id']}"} for i, row in enumerate(rows)]
)


def table_of(count: int, seed: int = 0) -> RevisionTable:
    """Faces of frames 1001, 1002, ... with every third face in the trash."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for field in SCHEMA:
        if pa.types.is_string(field.type):
            columns[field.name] = [rng.bytes(4).hex() for _ in range(count)]
        elif pa.types.is_boolean(field.type):
            columns[field.name] = rng.random(count) < 0.5
        elif pa.types.is_floating(field.type):
            columns[field.name] = rng.normal(size=count).astype(np.float32)
        else:
            columns[field.name] = rng.integers(0, 1000, count)
    columns["face_id"] = [f"face-{i}" for i in range(count)]
    columns["frame_number"] = np.arange(1001, 1001 + count)
    columns["trashed"] = np.arange(count) % 3 == 0
    return RevisionTable(pa.table(columns, schema=SCHEMA))


def test_columns_are_those_of_a_row() -> None:
    assert SCHEMA.names == [field.name for field in dataclasses.fields(RevisionRow)]
    assert {field.name: str(field.type) for field in SCHEMA} == {
        "face_id": "string",
        "frame_number": "int64",
        "face_index": "int32",
        "trashed": "bool",
        "size_px": "int32",
        "pitch_deg": "float",
        "yaw_deg": "float",
        "roll_deg": "float",
        "sharpness": "float",
        "brightness": "float",
        "detection_score": "float",
        "source_area_px": "float",
        "image_key": "string",
        "image_sha256": "string",
        "image_size_bytes": "int64",
        "record_key": "string",
        "has_mask": "bool",
        "has_label": "bool",
        "person": "string",
        "track_id": "string",
    }


@settings(deadline=None)
@given(ROWS)
def test_bytes_and_back(rows: list[dict[str, Any]]) -> None:
    table = RevisionTable(pa.Table.from_pylist(rows, schema=SCHEMA))
    read = read_revision(write_revision(table))
    assert read == table
    assert [dataclasses.asdict(row) for row in read.rows()] == rows


@pytest.mark.parametrize("cuts", [[3], [1, 2, 3]])
def test_equal_rows_give_equal_bytes_however_they_were_put_together(cuts: list[int]) -> None:
    table = table_of(10)
    bounds = [0, *cuts, len(table)]
    parts = [table.page(start, stop - start) for start, stop in itertools.pairwise(bounds)]
    joined = concatenate(parts)
    assert joined == table
    assert write_revision(joined) == write_revision(table)
    assert write_revision(read_revision(write_revision(table))) == write_revision(table)


def test_row_groups_do_not_follow_the_parts() -> None:
    base = table_of(1000).table
    ids = pa.array([f"face-{i}" for i in range(70_000)])
    large = RevisionTable(pa.concat_tables([base] * 70).set_column(0, SCHEMA.field(0), ids))
    halves = concatenate([large.page(0, 66_000), large.page(66_000, 70_000)])
    assert write_revision(halves) == write_revision(large)
    assert read_revision(write_revision(large)) == large


def test_metadata_lost_on_the_way_is_put_back() -> None:
    table = table_of(3)
    assert write_revision(RevisionTable(table.table.replace_schema_metadata({"a": "b"}))) == write_revision(table)


def test_bytes_follow_the_order() -> None:
    table = table_of(10)
    turned = RevisionTable(table.table.take(pa.array(np.arange(10)[::-1])))
    assert write_revision(turned) != write_revision(table)
    assert read_revision(write_revision(turned)).column("face_id")[0] == "face-9"


def test_manifest_is_compressed_and_says_its_version() -> None:
    file = pq.ParquetFile(pa.BufferReader(write_revision(table_of(10))))
    assert {file.metadata.row_group(0).column(i).compression for i in range(len(SCHEMA))} == {"ZSTD"}
    assert file.schema_arrow.metadata[b"understudy.schema_version"] == b"1"


def test_empty_revision() -> None:
    empty = concatenate([])
    assert len(read_revision(write_revision(empty))) == 0
    assert len(empty.active()) == len(empty.page(0, 5)) == len(empty.frames([range(5)])) == 0
    assert from_records([], []) == empty


def test_active_keeps_the_order() -> None:
    table = table_of(9)
    assert table.active().column("face_id").tolist() == [f"face-{i}" for i in (1, 2, 4, 5, 7, 8)]
    assert len(table) == 9


FRAME_RANGES = st.lists(
    st.builds(range, st.integers(-5, 40), st.integers(-5, 40) | st.just(2**62), st.integers(1, 9)), max_size=4
)


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=20), FRAME_RANGES)
def test_frames_agree_with_membership(frame_numbers: list[int], ranges: list[range]) -> None:
    table = table_of(len(frame_numbers)).table
    position = SCHEMA.get_field_index("frame_number")
    table = table.set_column(position, SCHEMA.field(position), pa.array(frame_numbers, pa.int64()))
    found = RevisionTable(table).frames(ranges).column("face_id").tolist()
    assert found == [f"face-{i}" for i, n in enumerate(frame_numbers) if any(n in frames for frames in ranges)]


def test_frames_that_count_down_are_refused() -> None:
    with pytest.raises(ValueError, match="counts down"):
        table_of(3).frames([range(5, 1, -1)])


def test_pages_cover_the_table_once() -> None:
    table = table_of(10)
    pages = [table.page(start, 4) for start in (0, 4, 8, 12)]
    assert [len(page) for page in pages] == [4, 4, 2, 0]
    assert concatenate(pages) == table
    for start, limit in ((-1, 5), (0, 0)):
        with pytest.raises(ValueError, match="page"):
            table.page(start, limit)


def test_rows_of_records(plain_record: FaceRecord) -> None:
    other = dataclasses.replace(
        plain_record,
        face_id=face_id(7, 2, "f" * 8),
        source=FaceSource(frame_number=7, face_index=2),
        frame_landmarks_px=np.random.default_rng(0).uniform(0, 200, (68, 2)),
        detection_box_px=None,
        image=None,
        mask=FaceMask(raster=ObjectRef(uri="s3://b/m.png")),
        label=XSegLabel(polygons=(Polygon(kind=PolygonKind.INCLUDE, points_px=np.eye(3, 2)),)),
        person="a",
        track_id="t1",
    )
    keys = [FaceKeys(image_key=f"i{i}", record_key=f"r{i}") for i in range(2)]
    first, second = from_records([plain_record, other], keys).rows()
    assert first == RevisionRow(
        face_id="f000123_0-1a2b3c4d",
        frame_number=123,
        face_index=0,
        trashed=False,
        size_px=512,
        pitch_deg=1.0,
        yaw_deg=-2.0,
        roll_deg=0.0,
        sharpness=0.0,
        brightness=0.0,
        detection_score=0.5,
        source_area_px=20_000.0,
        image_key="i0",
        image_sha256="ab" * 32,
        image_size_bytes=2**40,
        record_key="r0",
        has_mask=False,
        has_label=False,
        person="",
        track_id="",
    )
    left, top, right, bottom = rect_from_landmarks(other.frame_landmarks_px)
    assert second.source_area_px == pytest.approx(abs((right - left) * (bottom - top)), rel=1e-6)
    assert (second.image_sha256, second.has_mask, second.has_label) == ("", True, True)
    assert (second.person, second.track_id, second.record_key) == ("a", "t1", "r1")

    unlabelled = dataclasses.replace(plain_record, label=XSegLabel())
    assert not from_records([unlabelled], keys[:1]).rows()[0].has_label
    turned_box = dataclasses.replace(plain_record, detection_box_px=np.array([110.0, 20.0, 10.0, 220.0]))
    assert from_records([turned_box], keys[:1]).rows()[0].source_area_px == 20_000.0
    with pytest.raises(ValueError, match="keys"):
        from_records([plain_record], keys)
    with pytest.raises(ValueError, match="face_id"):
        from_records([plain_record, plain_record], keys)


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def with_column(name: str, values: pa.Array) -> pa.Table:
    table = table_of(3).table
    return table.set_column(SCHEMA.get_field_index(name), pa.field(name, values.type, nullable=False), values)


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (table_of(3).table.replace_schema_metadata(None), "no faceset revision"),
        (table_of(3).table.replace_schema_metadata({**SCHEMA.metadata, b"understudy.format": b"x"}), "no faceset"),
        (table_of(3).table.replace_schema_metadata({**SCHEMA.metadata, b"understudy.schema_version": b"2"}), "'2'"),
        (table_of(3).table.drop_columns("person"), "columns"),
        (with_column("size_px", pa.array([1, 2, 3], pa.int64())), "columns"),
        (with_column("yaw_deg", pa.array([1.0, np.nan, 3.0], pa.float32())), "^yaw_deg"),
        (with_column("face_id", pa.array(["a", "b", "a"])), "^face_id"),
    ],
)
def test_other_tables_are_refused(table: pa.Table, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        read_revision(parquet(table))


def test_nulls_are_refused() -> None:
    table = table_of(3).table
    nulls = pc.if_else(pa.array([True, False, True]), table["person"], None)
    with pytest.raises(ValueError, match=r"^person"):
        RevisionTable(pa.table({**{n: table[n] for n in SCHEMA.names}, "person": nulls}, schema=SCHEMA))


def test_other_bytes_are_refused() -> None:
    data = write_revision(table_of(300))
    for bad in (b"", b"PAR1", b"not parquet at all", data[:-1], data[: len(data) // 2], data[100:]):
        with pytest.raises(ValueError, match="Parquet"):
            read_revision(bad)
