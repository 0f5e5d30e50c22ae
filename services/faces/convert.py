"""Extraction requests between messages and plain values."""

from __future__ import annotations

from typing import Any

from services.faces.options import ExtractionOptions
from services.kit.errors import InvalidInput
from understudy.v1 import face_pb2, face_service_pb2


def options_from_message(message: face_service_pb2.ExtractionOptions) -> ExtractionOptions:
    """Options with defaults filled in; InvalidInput names the field."""
    if message.native_size:
        raise InvalidInput("native_size is not served by this release", fields={"options.native_size": "must be false"})
    given: dict[str, Any] = {
        "detector": message.detector,
        "landmarker": message.landmarker,
        "face_type": face_pb2.FaceType.Name(message.face_type) if message.face_type else "",
        "size_px": message.size_px,
        "max_faces_per_frame": message.max_faces_per_frame,
        "min_face_px": message.min_face_px,
        "jpeg_quality": message.jpeg_quality,
    }
    values = {name: value for name, value in given.items() if value}
    if message.HasField("min_score"):
        values["min_score"] = message.min_score
    return ExtractionOptions(**values)
