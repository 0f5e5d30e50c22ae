"""FaceRecord against google.protobuf: the same fields and the same JSON, both ways, on random records."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_common.facesets import (
    FACE_TYPE_NAMES,
    FaceMask,
    FaceRecord,
    FaceSource,
    LandmarkOrigin,
    ObjectRef,
    Polygon,
    PolygonKind,
    Pose,
    Producer,
    XSegLabel,
    face_id,
)
from ml_common.geometry import FaceType
from understudy.v1 import common_pb2, face_pb2

finite = st.floats(allow_nan=False, allow_infinity=False)
fractions = st.floats(0.0, 1.0)
non_negative = st.floats(0.0, 1e12)
text = st.text(st.characters(codec="utf-8"), max_size=12)
some_text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
int32 = st.integers(0, 2**31 - 1)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
frame_numbers = st.one_of(st.integers(0, 3000), st.integers(0, 10**12 - 1))


def arrays(*shape: int) -> st.SearchStrategy[np.ndarray]:
    """float64 arrays: a few drawn numbers, zeros of both signs among them, repeated to fill the shape."""
    drawn = st.lists(finite, min_size=6, max_size=6)
    return drawn.map(lambda numbers: np.resize(np.array(numbers), shape))


matrices = st.tuples(st.floats(0.01, 100.0), finite, finite).map(
    lambda v: np.array([[v[0], 0.25, v[1]], [-0.25, v[0], v[2]]])
)
object_refs = st.one_of(
    st.builds(ObjectRef, uri=some_text, media_type=text),
    st.builds(ObjectRef, uri=some_text, sha256=digests, size_bytes=st.integers(0, 2**63 - 1), media_type=text),
)
producers = st.builds(Producer, name=some_text, version=text, weights_sha256=st.one_of(st.just(""), digests))
poses = st.builds(Pose, pitch_deg=finite, yaw_deg=finite, roll_deg=finite)
polygons = st.builds(
    Polygon, kind=st.sampled_from(PolygonKind), points_px=st.integers(3, 6).flatmap(lambda n: arrays(n, 2))
)
labels = st.builds(XSegLabel, polygons=st.lists(polygons, max_size=3).map(tuple))
masks = st.builds(FaceMask, raster=object_refs, producer=st.none() | producers)
times = st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.just(UTC))
sources = st.builds(
    FaceSource,
    clip=text,
    frame_number=frame_numbers,
    face_index=st.integers(0, 999),
    original_filename=text,
    frame_width=int32,
    frame_height=int32,
)


@st.composite
def face_records(draw: st.DrawFn) -> FaceRecord:
    """Any record that can be stored."""
    source = draw(sources)
    return FaceRecord(
        face_id=face_id(source.frame_number, source.face_index, draw(digests)),
        source=source,
        face_type=draw(st.sampled_from([face_type for face_type in FACE_TYPE_NAMES if face_type])),
        size_px=draw(st.integers(1, 2**31 - 1)),
        frame_landmarks_px=draw(arrays(68, 2)),
        crop_landmarks_px=draw(arrays(68, 2)),
        frame_to_face_2x3=draw(matrices),
        detection_box_px=draw(st.none() | arrays(4)),
        detection_score=draw(fractions),
        landmark_score=draw(fractions),
        detector=draw(st.none() | producers),
        landmarker=draw(st.none() | producers),
        landmark_origin=draw(st.sampled_from(LandmarkOrigin)),
        pose=draw(poses),
        sharpness=draw(non_negative),
        brightness=draw(fractions),
        eyebrows_expand=draw(non_negative),
        image=draw(st.none() | object_refs),
        mask=draw(st.none() | masks),
        label=draw(st.none() | labels),
        track_id=draw(text),
        person=draw(text),
        create_time=draw(st.none() | times),
    )


PARTS = {
    FaceRecord: face_pb2.FaceRecord,
    FaceSource: face_pb2.FaceSource,
    Producer: face_pb2.Producer,
    Polygon: face_pb2.Polygon,
    XSegLabel: face_pb2.XSegLabel,
    FaceMask: face_pb2.FaceMask,
    Pose: common_pb2.Pose,
}
FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_fields_mirror_the_proto(part: type[Any]) -> None:
    descriptor: Descriptor = PARTS[part].DESCRIPTOR
    assert {field.name for field in dataclasses.fields(part)} == {field.name for field in descriptor.fields}


def test_enum_names_and_numbers_mirror_the_proto() -> None:
    assert list(FACE_TYPE_NAMES.values()) == face_pb2.FaceType.keys()
    assert {f"LANDMARK_ORIGIN_{m.name}": m.value for m in LandmarkOrigin}.items() <= (
        dict(face_pb2.LandmarkOrigin.items()).items()
    )
    assert {f"KIND_{m.name}": m.value for m in PolygonKind}.items() <= dict(face_pb2.Polygon.Kind.items()).items()
    assert set(FaceType) - {FaceType.MARK_ONLY} == set(FACE_TYPE_NAMES) - {None}


@FAST
@given(face_records())
def test_protobuf_reads_and_writes_the_same_json(record: FaceRecord) -> None:
    message = json_format.Parse(record.to_json_bytes(), face_pb2.FaceRecord())
    # As text, so that 1 and 1.0 and 0.0 and -0.0 are told apart.
    ours = json.dumps(record.to_json_dict(), sort_keys=True)
    theirs = json.dumps(json_format.MessageToDict(message), sort_keys=True)
    assert ours == theirs
    assert FaceRecord.from_json_bytes(json_format.MessageToJson(message).encode()) == record


@FAST
@given(face_records())
def test_what_a_record_holds_arrives_in_the_message(record: FaceRecord) -> None:
    message = json_format.ParseDict(record.to_json_dict(), face_pb2.FaceRecord())
    assert message.face_id == record.face_id
    assert message.source.frame_number == record.source.frame_number
    assert list(message.frame_landmarks_px) == record.frame_landmarks_px.ravel().tolist()
    assert list(message.frame_to_face_2x3) == record.frame_to_face_2x3.ravel().tolist()
    assert message.landmark_origin == record.landmark_origin.value
    assert message.pose.yaw_deg == record.pose.yaw_deg
    assert message.HasField("image") == (record.image is not None)
    if record.image is not None:
        assert message.image.digest.sha256 == record.image.sha256
        assert message.image.digest.size_bytes == record.image.size_bytes
    if record.create_time is not None:
        assert message.create_time.ToDatetime(tzinfo=UTC) == record.create_time


@FAST
@given(face_records())
def test_fields_by_proto_name_with_numbers_for_enums_and_unknown_ones_are_read(record: FaceRecord) -> None:
    message = json_format.ParseDict(record.to_json_dict(), face_pb2.FaceRecord())
    raw = json_format.MessageToDict(message, preserving_proto_field_name=True, use_integers_for_enums=True)
    raw["later_field"] = {"a": [1]}
    raw["source"]["laterField"] = None
    read = FaceRecord.from_json_dict(raw)
    assert read == record
    assert read.to_json_bytes() == record.to_json_bytes()


def test_json_is_canonical(plain_record: FaceRecord) -> None:
    raw = plain_record.to_json_dict()
    assert raw["source"] == {
        "clip": "projects/p/clips/c",
        "frameNumber": "123",
        "frameWidth": 640,
        "frameHeight": 360,
    }
    assert raw["faceType"] == "FACE_TYPE_WHOLE"
    assert raw["landmarkOrigin"] == "LANDMARK_ORIGIN_MODEL"
    assert raw["image"] == {
        "uri": "s3://b/k.jpg",
        "digest": {"sha256": "ab" * 32, "sizeBytes": str(2**40)},
        "mediaType": "image/jpeg",
    }
    assert raw["frameToFace2x3"] == [2.0, 0.0, 1.0, 0.0, 2.0, 1.0]
    assert raw.keys().isdisjoint({"mask", "label", "trackId", "person", "createTime", "detector", "landmarkScore"})
    assert plain_record.to_json_bytes().startswith(b'{"cropLandmarksPx":[1.0,3.0,')


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (datetime(2026, 1, 31, 12, tzinfo=UTC), "2026-01-31T12:00:00Z"),
        (datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC), "2026-01-31T12:00:00.250Z"),
        (datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=2))), "2026-01-31T10:00:00.000001Z"),
    ],
)
def test_times_are_utc(plain_record: FaceRecord, time: datetime, text: str) -> None:
    record = dataclasses.replace(plain_record, create_time=time)
    assert record.to_json_dict()["createTime"] == text
    assert FaceRecord.from_json_bytes(record.to_json_bytes()).create_time == time
