"""Faces between stored rows, sidecars and messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from google.protobuf import json_format

from ml_common.facesets import FaceRecord, RevisionRow
from ml_common.imaging.picture import media_type_of
from services.kit.errors import InvalidInput
from services.kit.storage import ObjectStore
from understudy.v1 import common_pb2, face_pb2, faceset_service_pb2


def full_face(faceset: str, row: RevisionRow, position: int, record: FaceRecord) -> faceset_service_pb2.Face:
    """A face with its whole sidecar; track and person are the revision's, which may have been decided since the face was made."""
    message = record_to_message(record)
    message.track_id, message.person = row.track_id, row.person
    return faceset_service_pb2.Face(
        name=f"{faceset}/faces/{row.face_id}", record=message, trashed=row.trashed, position=position
    )


def basic_face(
    faceset: str, clip: str, row: RevisionRow, position: int, store: ObjectStore
) -> faceset_service_pb2.Face:
    """A face as far as the revision knows it: no object is read."""
    record = face_pb2.FaceRecord(
        schema_version=1,
        face_id=row.face_id,
        source=face_pb2.FaceSource(clip=clip, frame_number=row.frame_number, face_index=row.face_index),
        size_px=row.size_px,
        pose=common_pb2.Pose(pitch_deg=row.pitch_deg, yaw_deg=row.yaw_deg, roll_deg=row.roll_deg),
        sharpness=row.sharpness,
        brightness=row.brightness,
        image=common_pb2.ObjectRef(
            uri=store.uri(row.image_key),
            digest=common_pb2.Digest(sha256=row.image_sha256, size_bytes=row.image_size_bytes),
            media_type=media_type_of(PurePosixPath(row.image_key).suffix),
        ),
        track_id=row.track_id,
        person=row.person,
    )
    return faceset_service_pb2.Face(
        name=f"{faceset}/faces/{row.face_id}", record=record, trashed=row.trashed, position=position
    )


def record_to_message(record: FaceRecord) -> face_pb2.FaceRecord:
    """A sidecar as message: the stored JSON is the message's own."""
    return json_format.ParseDict(record.to_json_dict(), face_pb2.FaceRecord())


def frame_ranges(ranges: Sequence[common_pb2.FrameRange]) -> list[range]:
    """FrameRange messages as Python ranges; InvalidInput for an empty one."""
    result = [range(r.first, r.last + 1, r.step or 1) for r in ranges if (r.step or 1) > 0]
    if len(result) != len(ranges) or not all(result):
        raise InvalidInput(
            "frames holds a range without frames", fields={"frames": "first must not be over last, step not negative"}
        )
    return result
