"""FaceRecord itself: frozen, comparable, and refusing what cannot be stored by the name of the field."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from ml_common.facesets import FaceRecord
from ml_common.geometry import FaceType


def test_arrays_are_frozen_copies(plain_record: FaceRecord) -> None:
    landmarks = np.ones((68, 2), np.float32)
    record = dataclasses.replace(plain_record, frame_landmarks_px=landmarks)
    landmarks[:] = 7
    assert record.frame_landmarks_px.dtype == np.float64
    assert (record.frame_landmarks_px == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        record.frame_landmarks_px[0, 0] = 3


def test_equality_and_numpy_scalars(plain_record: FaceRecord) -> None:
    same = dataclasses.replace(plain_record, size_px=np.int64(512), detection_score=np.float32(0.5))
    assert same == plain_record
    assert hash(same) == hash(plain_record)
    assert type(same.size_px) is int
    assert dataclasses.replace(plain_record, person="a") != plain_record


BAD_JSON: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    ("schema_version", lambda raw: raw.update(schemaVersion=2)),
    ("schema_version", lambda raw: raw.pop("schemaVersion")),
    ("face_id", lambda raw: raw.update(faceId="f000124_0-1a2b3c4d")),
    ("face_id", lambda raw: raw.pop("faceId")),
    ("source", lambda raw: raw.pop("source")),
    ("source", lambda raw: raw.update(source=[1])),
    ("source.frame_number", lambda raw: raw["source"].update(frameNumber="12a")),
    ("source.frame_number", lambda raw: raw["source"].update(frameNumber=str(2**63))),
    ("source.face_index", lambda raw: raw["source"].update(faceIndex=-1)),
    ("source.clip", lambda raw: raw["source"].update(clip=3)),
    ("source.original_filename", lambda raw: raw["source"].update(originalFilename="\udc80.jpg")),
    ("face_type", lambda raw: raw.update(faceType="FACE_TYPE_CHIN")),
    ("face_type", lambda raw: raw.update(faceType=99)),
    ("face_type", lambda raw: raw.update(faceType="FACE_TYPE_UNSPECIFIED")),
    ("landmark_origin", lambda raw: raw.update(landmarkOrigin="MODEL")),
    ("landmark_origin", lambda raw: raw.pop("landmarkOrigin")),
    ("size_px", lambda raw: raw.pop("sizePx")),
    ("size_px", lambda raw: raw.update(sizePx=True)),
    ("size_px", lambda raw: raw.update(sizePx=256.5)),
    ("frame_landmarks_px", lambda raw: raw["frameLandmarksPx"].pop()),
    ("frame_landmarks_px", lambda raw: raw.update(frameLandmarksPx=raw["frameLandmarksPx"][:-2])),
    ("frame_landmarks_px", lambda raw: raw["frameLandmarksPx"].__setitem__(5, float("nan"))),
    ("crop_landmarks_px", lambda raw: raw["cropLandmarksPx"].__setitem__(5, "Infinity")),
    ("crop_landmarks_px", lambda raw: raw["cropLandmarksPx"].__setitem__(5, None)),
    ("crop_landmarks_px", lambda raw: raw["cropLandmarksPx"].__setitem__(5, 10**400)),
    ("crop_landmarks_px", lambda raw: raw.update(cropLandmarksPx="1,2")),
    ("frame_to_face_2x3", lambda raw: raw["frameToFace2x3"].pop()),
    ("frame_to_face_2x3", lambda raw: raw.update(frameToFace2x3=[1.0, 2.0, 0.0, 2.0, 4.0, 0.0])),
    ("detection_box_px", lambda raw: raw["detectionBoxPx"].pop()),
    ("detection_score", lambda raw: raw.update(detectionScore=1.5)),
    ("detection_score", lambda raw: raw.update(detectionScore="much")),
    ("landmark_score", lambda raw: raw.update(landmarkScore="NaN")),
    ("brightness", lambda raw: raw.update(brightness=-0.1)),
    ("sharpness", lambda raw: raw.update(sharpness=float("inf"))),
    ("pose", lambda raw: raw.pop("pose")),
    ("pose.yaw_deg", lambda raw: raw["pose"].update(yawDeg=float("-inf"))),
    ("image.uri", lambda raw: raw["image"].pop("uri")),
    ("image.sha256", lambda raw: raw["image"]["digest"].update(sha256="AB" * 32)),
    ("image.sha256", lambda raw: raw["image"]["digest"].pop("sha256")),
    ("image.digest.size_bytes", lambda raw: raw["image"]["digest"].update(sizeBytes=[])),
    ("image.size_bytes", lambda raw: raw["image"]["digest"].update(sizeBytes="-1")),
    ("detector.weights_sha256", lambda raw: raw.update(detector={"name": "a", "weightsSha256": "12"})),
    ("detector.name", lambda raw: raw.update(detector={})),
    ("mask.raster", lambda raw: raw.update(mask={})),
    ("label.polygons", lambda raw: raw.update(label={"polygons": {}})),
    ("label.polygons[1].points_px", lambda raw: raw["label"]["polygons"][1]["pointsPx"].pop()),
    ("label.polygons[1].points_px", lambda raw: raw["label"]["polygons"][1].update(pointsPx=[0, 0, 1, 1])),
    ("label.polygons[0].kind", lambda raw: raw["label"]["polygons"][0].update(kind="KIND_MAYBE")),
    ("label.polygons[0].kind", lambda raw: raw["label"]["polygons"][0].pop("kind")),
    ("create_time", lambda raw: raw.update(createTime="2026-01-31")),
    ("create_time", lambda raw: raw.update(createTime="2026-02-31T12:00:00Z")),
    ("create_time", lambda raw: raw.update(createTime="0001-01-01T00:00:00+02:00")),
]


@pytest.mark.parametrize(("path", "spoil"), BAD_JSON)
def test_bad_json_names_the_field(plain_record: FaceRecord, path: str, spoil: Callable[[dict[str, Any]], None]) -> None:
    triangle = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    raw = copy.deepcopy(plain_record.to_json_dict())
    raw["label"] = {"polygons": [{"kind": kind, "pointsPx": [*triangle]} for kind in ("KIND_INCLUDE", "KIND_EXCLUDE")]}
    FaceRecord.from_json_dict(raw)
    spoil(raw)
    with pytest.raises(ValueError) as caught:
        FaceRecord.from_json_dict(raw)
    message = str(caught.value)
    assert message.startswith(path)
    assert message[len(path)] in " ."


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b"{", b"[]", b"1", b"[" * 100_000])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="face record"):
        FaceRecord.from_json_bytes(data)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"face_type": FaceType.MARK_ONLY}, "face_type"),
        ({"face_type": "whole"}, "face_type"),
        ({"landmark_origin": 1}, "landmark_origin"),
        ({"frame_landmarks_px": np.zeros(136)}, "frame_landmarks_px"),
        ({"frame_landmarks_px": "abc"}, "frame_landmarks_px"),
        ({"size_px": 12.0}, "size_px"),
        ({"create_time": datetime(2026, 1, 1)}, "create_time"),
        ({"person": None}, "person"),
    ],
)
def test_bad_arguments_are_named(plain_record: FaceRecord, change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}"):
        dataclasses.replace(plain_record, **change)
