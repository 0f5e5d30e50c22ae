"""Shards and indices as bytes: what goes in comes out, damage is seen, and a change of few faces leaves most shards alone."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_common.facesets import FaceRecord, Polygon, PolygonKind, XSegLabel
from ml_common.facesets import face_id as make_face_id
from ml_common.facesets.packing import MOST_SMALL, SMALL_SHARE, WANTED_SHARE, Place, find_places
from ml_common.facesets.shard import ALIGNMENT_BYTES, ShardTable, pack_shard, read_shard_table, shard_head_bytes
from ml_common.facesets.snapshot import FaceFacts, facts_table, origin, read_index, write_index

SHARD = "ab" * 32


def digest(piece: bytes) -> bytes:
    return hashlib.sha256(piece).digest()


def shard(*pieces: bytes) -> bytes:
    return pack_shard([digest(piece) for piece in pieces], pieces)


# -- shards ------------------------------------------------------------------------------------------------------------


def test_the_layout_is_as_documented() -> None:
    table = digest(b"abc") + struct.pack("<Q", 3) + digest(b"d" * 70) + struct.pack("<Q", 70)
    expected = b"understudy.shard" + struct.pack("<IIII", 1, 2, zlib.crc32(table), 0) + table
    expected = expected.ljust(128, b"\0") + b"abc".ljust(64, b"\0") + b"d" * 70
    assert shard(b"abc", b"d" * 70) == expected


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20))
@settings(deadline=None, max_examples=50)
def test_pieces_come_out_as_they_went_in(pieces: list[bytes]) -> None:
    data = shard(*pieces)
    table = read_shard_table(data[: shard_head_bytes(data[:32])])
    places = list(zip(table.offsets, table.sizes, strict=True))
    assert [data[offset : offset + size] for offset, size in places] == pieces
    assert list(table.digests) == [digest(piece) for piece in pieces]
    assert all(offset % ALIGNMENT_BYTES == 0 for offset in table.offsets)
    assert table.size_bytes == len(data)


@pytest.mark.parametrize("position", [0, 17, 20, 25, 40, 71])
def test_a_damaged_head_is_seen(position: int) -> None:
    data = bytearray(shard(b"abc"))
    data[position] ^= 1
    with pytest.raises(ValueError, match=r"no shard|version|damaged"):
        read_shard_table(bytes(data))


@pytest.mark.parametrize("length", [0, 10, 32, 60])
def test_a_head_cut_short_is_seen(length: int) -> None:
    with pytest.raises(ValueError, match=r"no shard|cut short"):
        read_shard_table(shard(b"abc")[:length])


# -- which shards serve ------------------------------------------------------------------------------------------------

FULL = 1000


def table_of(*pieces: int, size: int = 10) -> ShardTable:
    """A shard of pieces with these numbers for digests."""
    offsets = tuple(range(0, size * len(pieces), size))
    digests = tuple(piece.to_bytes(32, "big") for piece in pieces)
    return ShardTable(digests, offsets, (size,) * len(pieces), size * len(pieces))


def wanted(*pieces: int) -> set[bytes]:
    return {piece.to_bytes(32, "big") for piece in pieces}


def used(places: dict[bytes, Place]) -> set[str]:
    return {place.shard for place in places.values()}


def test_additions_and_trash_leave_shards_alone() -> None:
    shards = {"a": table_of(*range(100)), "b": table_of(*range(100, 200))}
    before = find_places(wanted(*range(200)), shards, FULL)
    assert used(before) == {"a", "b"} and len(before) == 200
    assert find_places(wanted(*range(205)), shards, FULL) == before
    fewer = wanted(*range(0, 200, 3), *range(100))
    assert find_places(fewer, shards, FULL) == {
        piece: place for piece, place in before.items() if piece in fewer and place.shard == "a"
    }
    most = wanted(*range(50, 200))
    assert find_places(most, shards, FULL) == {piece: place for piece, place in before.items() if piece in most}


def test_a_piece_in_two_shards_is_taken_from_the_fuller_one() -> None:
    shards = {"old": table_of(1, 2, 3), "new": table_of(1, 2, 3, 4, 5)}
    assert used(find_places(wanted(1, 2, 3, 4, 5), shards, FULL)) == {"new"}
    assert used(find_places(wanted(1, 2, 3), shards, FULL)) == {"new"}, (
        "more than half of it is wanted, so either would do"
    )


def test_many_small_shards_are_joined() -> None:
    shards = {f"small-{number}": table_of(number) for number in range(MOST_SMALL)}
    shards["large"] = table_of(*range(100, 200))
    pieces = [*range(MOST_SMALL), *range(100, 200)]
    assert len(used(find_places(wanted(*pieces), shards, FULL))) == MOST_SMALL + 1
    shards["small-more"] = table_of(99)
    assert used(find_places(wanted(*pieces, 99), shards, FULL)) == {"large"}


SHARDS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3), st.sets(st.integers(0, 60), min_size=1), max_size=14
)


@given(shards=SHARDS, pieces=st.sets(st.integers(0, 60)), size=st.integers(1, 60))
@settings(deadline=None)
def test_places_are_right_and_waste_is_bounded(shards: dict[str, set[int]], pieces: set[int], size: int) -> None:
    tables = {name: table_of(*sorted(held), size=size) for name, held in shards.items()}
    places = find_places(wanted(*pieces), tables, FULL)
    assert find_places(wanted(*pieces), dict(reversed(tables.items())), FULL) == places
    held: dict[str, int] = {}
    for piece, place in places.items():
        table = tables[place.shard]
        assert piece in wanted(*pieces)
        assert (piece, place.offset, place.size) in set(zip(table.digests, table.offsets, table.sizes, strict=True))
        held[place.shard] = held.get(place.shard, 0) + place.size
    assert all(held[name] >= WANTED_SHARE * tables[name].size_bytes for name in held)
    assert sum(size < SMALL_SHARE * FULL for size in held.values()) <= MOST_SMALL


# -- the index ---------------------------------------------------------------------------------------------------------


def facts(record: FaceRecord, number: int, *, mask: bytes = b"") -> FaceFacts:
    identifier = make_face_id(number, 0, f"{number:08x}")
    source = replace(record.source, frame_number=number, face_index=0)
    return FaceFacts(
        origin=origin(f"{identifier}.jpg", f"{identifier}.json"),
        record=replace(record, face_id=identifier, source=source, person=f"p{number}", size_px=256 + number),
        image_sha256=number.to_bytes(32, "big"),
        mask_sha256=mask,
        mask_key="masks/m.png" if mask else "",
    )


def index_of(faces: list[FaceFacts]) -> bytes:
    pieces = [piece for face in faces for piece in (face.image_sha256, face.mask_sha256) if piece]
    places = {piece: Place(SHARD, 64 * number, 10) for number, piece in enumerate(pieces, 1)}
    return write_index(facts_table(faces), places, {SHARD: 64 * len(pieces) + 74})


def test_an_index_keeps_order_and_values(plain_record: FaceRecord) -> None:
    triangle = np.array([[0.1, 0.2], [3.0, 4.0], [5.0, 1 / 3]])
    label = XSegLabel(polygons=(Polygon(kind=PolygonKind.EXCLUDE, points_px=triangle),))
    record = replace(plain_record, eyebrows_expand=1.25, label=label, track_id="t")
    faces = [facts(record, 7), facts(plain_record, 3, mask=b"m" * 32), facts(plain_record, 5)]
    index = read_index(index_of(faces))
    assert len(index) == 3
    assert index.strings("face_id") == [face.record.face_id for face in faces]
    assert [index.place(row, "mask") for row in range(3)] == [None, (0, 192, 10), None]
    assert index.place(0, "image") == (0, 64, 10)
    assert (index.digest(1, "image"), index.digest(1, "mask"), index.digest(0, "mask")) == (
        (3).to_bytes(32, "big"),
        b"m" * 32,
        b"",
    )
    first, second = (index.face(row, memoryview(b"i"), None) for row in (0, 1))
    assert (first.face_type, first.size_px, first.person, first.track_id) == (record.face_type, 263, "p7", "t")
    assert (first.yaw_deg, first.pitch_deg, first.eyebrows_expand) == (record.pose.yaw_deg, record.pose.pitch_deg, 1.25)
    assert first.label == label and second.label is None
    assert first.landmarks_px_68x2.dtype == np.float32 and not first.landmarks_px_68x2.flags.writeable
    np.testing.assert_array_equal(first.landmarks_px_68x2, record.crop_landmarks_px.astype(np.float32))
    np.testing.assert_array_equal(index.yaw_deg_N, [record.pose.yaw_deg] * 3)


def test_equal_faces_give_equal_bytes_however_they_were_put_together(plain_record: FaceRecord) -> None:
    faces = [facts(plain_record, number) for number in range(6)]
    data = index_of(faces)
    places = {face.image_sha256: Place(SHARD, 64 * number, 10) for number, face in enumerate(faces, 1)}
    known = read_index(data).facts().slice(1)
    joined = pa.concat_tables([known, facts_table(faces[:1])]).take(pa.array([5, 0, 1, 2, 3, 4]))
    assert write_index(joined, places, {SHARD: 64 * 6 + 74}) == data


def test_an_index_of_no_faces(plain_record: FaceRecord) -> None:
    index = read_index(index_of([]))
    assert len(index) == 0 and index.shards == () and index.facts().num_rows == 0


def test_a_piece_outside_of_its_shard_is_refused(plain_record: FaceRecord) -> None:
    face = facts(plain_record, 1)
    for place, size in ((Place(SHARD, 64, 10), 73), (Place(SHARD, -1, 10), 99), (Place(SHARD, 64, 0), 99)):
        data = write_index(facts_table([face]), {face.image_sha256: place}, {SHARD: size})
        with pytest.raises(ValueError, match=f"image of face {face.record.face_id} lies outside"):
            read_index(data)
    with pytest.raises(KeyError):
        write_index(facts_table([face]), {}, {SHARD: 99})


def test_other_bytes_are_refused(plain_record: FaceRecord) -> None:
    data = index_of([facts(plain_record, 1)])
    for wrong in (b"", b"no index", data[: len(data) // 2]):
        with pytest.raises(ValueError, match="whole Arrow file"):
            read_index(wrong)
    batch = pa.ipc.open_file(data).get_batch(0)
    metadata = batch.schema.metadata
    for changed, message in (
        (batch.replace_schema_metadata({}), "no index of a faceset snapshot"),
        (batch.replace_schema_metadata({**metadata, b"understudy.schema_version": b"2"}), "version 2"),
        (batch.replace_schema_metadata({**metadata, b"understudy.shards": b'[["x", 1]]'}), "is no shard"),
        (batch.replace_schema_metadata({**metadata, b"understudy.shards": b"{"}), "list of shards"),
        (batch.select(batch.schema.names[1:]), "columns of a snapshot"),
        (with_column(batch, "face_type", ["FACE_TYPE_NEW"]), "no face type FACE_TYPE_NEW"),
        (with_column(batch, "person", [None]), "person holds 1 nulls"),
    ):
        with pytest.raises(ValueError, match=message):
            read_index(as_file(changed))


def with_column(batch: pa.RecordBatch, name: str, values: list[Any]) -> pa.RecordBatch:
    arrays = [
        pa.array(values, column.type) if field.name == name else column
        for field, column in zip(batch.schema, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def as_file(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()
