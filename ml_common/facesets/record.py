"""FaceRecord: everything known about one aligned face, stored beside its image as canonical proto3 JSON.

What a reader would get wrong: a record is checked and frozen when it is made, arrays included, so there is no
half-valid record anywhere; change one with `dataclasses.replace`. A record is complete: source, face type, landmarks,
matrix and pose are always there; what depends on how the face came about (detection, mask, label, image) may be None.

The fields and names are those of message FaceRecord in proto/understudy/v1/face.proto, pinned by tests/unit/facesets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from ml_common.facesets.checks import INT32_MAX, finite_array, finite_number, plain_text, utc_time, whole_number
from ml_common.facesets.face_id import parse_face_id
from ml_common.facesets.parts import FaceMask, FaceSource, ObjectRef, Pose, Producer, XSegLabel
from ml_common.facesets.proto_json import Json, MessageReader, timestamp_text, write_message
from ml_common.geometry import FaceType

SCHEMA_VERSION = 1

FACE_TYPE_NAMES: dict[FaceType | None, str] = {
    None: "FACE_TYPE_UNSPECIFIED",
    FaceType.HALF: "FACE_TYPE_HALF",
    FaceType.MID_FULL: "FACE_TYPE_MID_HALF",
    FaceType.FULL: "FACE_TYPE_FULL",
    FaceType.WHOLE_FACE: "FACE_TYPE_WHOLE",
    FaceType.HEAD: "FACE_TYPE_HEAD",
    FaceType.FULL_NO_ALIGN: "FACE_TYPE_FULL_NO_ALIGN",
    FaceType.HEAD_NO_ALIGN: "FACE_TYPE_HEAD_NO_ALIGN",
    FaceType.HEAD_NOSE: "FACE_TYPE_HEAD_NOSE",
    FaceType.FRAME_SQUARE: "FACE_TYPE_FRAME_SQUARE",
}
"""Proto names in the order of their numbers. MARK_ONLY has none: it is no framing, so no record holds it."""


class LandmarkOrigin(Enum):
    """How a face came to have its landmarks; the names follow LANDMARK_ORIGIN_ in the JSON."""

    MODEL = 1
    MANUAL = 2
    IMPORTED = 3


_LANDMARK_ORIGIN_NAMES: dict[LandmarkOrigin | None, str] = {
    None: "LANDMARK_ORIGIN_UNSPECIFIED",
    LandmarkOrigin.MODEL: "LANDMARK_ORIGIN_MODEL",
    LandmarkOrigin.MANUAL: "LANDMARK_ORIGIN_MANUAL",
    LandmarkOrigin.IMPORTED: "LANDMARK_ORIGIN_IMPORTED",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaceRecord:
    """One aligned face. Raises ValueError beginning with the field's name when a value cannot be stored.

    face_id: `f000123_0-1a2b3c4d`; must agree with the source's frame number and face index.
    face_type: any FaceType but MARK_ONLY. size_px: side of the square crop.
    frame_landmarks_px, crop_landmarks_px: float64 [68, 2], (x, y) in the frame and in the crop, iBUG order.
    frame_to_face_2x3: float64 [2, 3], crop = M (x, y, 1) of the frame; invertible.
    detection_box_px: float64 [4], left, top, right, bottom in the frame; None where nothing was detected (a person or
    another tool placed the face).
    detection_score, landmark_score: 0 to 1. sharpness: variance of the Laplacian of luma on a 0 to 255 scale, 0 or
    more. brightness: mean luma, 0 to 1. eyebrows_expand: 0 or more; 1 is the usual.
    create_time: any aware datetime; kept in UTC, to the microsecond. smoother: what steadied the landmarks in time; None
    where nothing did.
    """

    schema_version: int = SCHEMA_VERSION
    face_id: str
    source: FaceSource
    face_type: FaceType
    size_px: int
    frame_landmarks_px: NDArray[np.float64]
    crop_landmarks_px: NDArray[np.float64]
    frame_to_face_2x3: NDArray[np.float64]
    detection_box_px: NDArray[np.float64] | None = None
    detection_score: float = 0.0
    landmark_score: float = 0.0
    detector: Producer | None = None
    landmarker: Producer | None = None
    landmark_origin: LandmarkOrigin
    pose: Pose
    sharpness: float = 0.0
    brightness: float = 0.0
    eyebrows_expand: float = 1.0
    image: ObjectRef | None = None
    mask: FaceMask | None = None
    label: XSegLabel | None = None
    track_id: str = ""
    person: str = ""
    create_time: datetime | None = None
    smoother: Producer | None = None

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version is {self.schema_version!r}; this release reads and writes only {SCHEMA_VERSION}"
            )
        identity = parse_face_id(self.face_id)
        if (identity.frame_number, identity.face_index) != (self.source.frame_number, self.source.face_index):
            raise ValueError(
                f"face_id {self.face_id} does not agree with source: frame_number {self.source.frame_number}, "
                f"face_index {self.source.face_index}"
            )
        if self.face_type not in FACE_TYPE_NAMES:
            raise ValueError(f"face_type {self.face_type!r} cannot be stored; use a FaceType that frames a crop")
        if not isinstance(self.landmark_origin, LandmarkOrigin):
            raise ValueError(f"landmark_origin must be a LandmarkOrigin, not {self.landmark_origin!r}")
        self._set("size_px", whole_number("size_px", self.size_px, 1, INT32_MAX))
        self._set("frame_landmarks_px", finite_array("frame_landmarks_px", self.frame_landmarks_px, (68, 2)))
        self._set("crop_landmarks_px", finite_array("crop_landmarks_px", self.crop_landmarks_px, (68, 2)))
        self._set("frame_to_face_2x3", finite_array("frame_to_face_2x3", self.frame_to_face_2x3, (2, 3)))
        (a, b, _), (c, d, _) = self.frame_to_face_2x3.tolist()
        if a * d == b * c:
            raise ValueError("frame_to_face_2x3 cannot be inverted, so the face could not be put back into its frame")
        if self.detection_box_px is not None:
            self._set("detection_box_px", finite_array("detection_box_px", self.detection_box_px, (4,)))
        for field in ("detection_score", "landmark_score", "brightness"):
            self._set(field, finite_number(field, getattr(self, field), 0.0, 1.0))
        for field in ("sharpness", "eyebrows_expand"):
            self._set(field, finite_number(field, getattr(self, field), 0.0))
        for field in ("track_id", "person"):
            plain_text(field, getattr(self, field))
        if self.create_time is not None:
            self._set("create_time", utc_time("create_time", self.create_time))

    def _set(self, field: str, value: object) -> None:
        object.__setattr__(self, field, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FaceRecord):
            return NotImplemented
        return self.to_json_dict() == other.to_json_dict()

    def __hash__(self) -> int:
        return hash(self.face_id)

    def to_json_dict(self) -> Json:
        """Canonical proto3 JSON: lowerCamelCase, int64 as strings, enums by name, defaults left out."""
        box = self.detection_box_px
        return write_message(
            schema_version=self.schema_version,
            face_id=self.face_id,
            source=self.source.to_json_dict(),
            face_type=FACE_TYPE_NAMES[self.face_type],
            size_px=self.size_px,
            frame_landmarks_px=self.frame_landmarks_px.ravel().tolist(),
            crop_landmarks_px=self.crop_landmarks_px.ravel().tolist(),
            frame_to_face_2x3=self.frame_to_face_2x3.ravel().tolist(),
            detection_box_px=None if box is None else box.tolist(),
            detection_score=self.detection_score,
            landmark_score=self.landmark_score,
            detector=self.detector.to_json_dict() if self.detector else None,
            landmarker=self.landmarker.to_json_dict() if self.landmarker else None,
            landmark_origin=_LANDMARK_ORIGIN_NAMES[self.landmark_origin],
            pose=self.pose.to_json_dict(),
            sharpness=self.sharpness,
            brightness=self.brightness,
            eyebrows_expand=self.eyebrows_expand,
            image=self.image.to_json_dict() if self.image else None,
            mask=self.mask.to_json_dict() if self.mask else None,
            label=self.label.to_json_dict() if self.label else None,
            track_id=self.track_id,
            person=self.person,
            create_time=timestamp_text(self.create_time),
            smoother=self.smoother.to_json_dict() if self.smoother else None,
        )

    def to_json_bytes(self) -> bytes:
        """The sidecar: compact UTF-8 JSON with sorted keys. Equal records give equal bytes."""
        return json.dumps(
            self.to_json_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()

    @classmethod
    def from_json_dict(cls, raw: Mapping[str, object]) -> FaceRecord:
        """Reads canonical proto3 JSON, ignoring unknown fields; ValueError beginning with the path of a bad field."""
        if not isinstance(raw, Mapping):
            raise ValueError(f"a face record must be a JSON object, not {type(raw).__name__}")
        reader = MessageReader(raw)
        face_type = reader.enum("face_type", FACE_TYPE_NAMES)
        if face_type is None:
            raise ValueError("face_type is missing")
        landmark_origin = reader.enum("landmark_origin", _LANDMARK_ORIGIN_NAMES)
        if landmark_origin is None:
            raise ValueError("landmark_origin is missing")
        box = reader.numbers("detection_box_px")
        return cls(
            schema_version=reader.integer("schema_version"),
            face_id=reader.text("face_id"),
            source=reader.required_message("source", FaceSource.from_json_dict),
            face_type=face_type,
            size_px=reader.integer("size_px"),
            frame_landmarks_px=reader.rows("frame_landmarks_px", 2),
            crop_landmarks_px=reader.rows("crop_landmarks_px", 2),
            frame_to_face_2x3=reader.rows("frame_to_face_2x3", 3),
            detection_box_px=box if box.size else None,
            detection_score=reader.number("detection_score"),
            landmark_score=reader.number("landmark_score"),
            detector=reader.message("detector", Producer.from_json_dict),
            landmarker=reader.message("landmarker", Producer.from_json_dict),
            landmark_origin=landmark_origin,
            pose=reader.required_message("pose", Pose.from_json_dict),
            sharpness=reader.number("sharpness"),
            brightness=reader.number("brightness"),
            eyebrows_expand=reader.number("eyebrows_expand"),
            image=reader.message("image", ObjectRef.from_json_dict),
            mask=reader.message("mask", FaceMask.from_json_dict),
            label=reader.message("label", XSegLabel.from_json_dict),
            track_id=reader.text("track_id"),
            person=reader.text("person"),
            create_time=reader.timestamp("create_time"),
            smoother=reader.message("smoother", Producer.from_json_dict),
        )

    @classmethod
    def from_json_bytes(cls, data: bytes) -> FaceRecord:
        """Reads a sidecar; ValueError when the bytes are no JSON or no face record."""
        try:
            raw = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"a face record must be UTF-8 JSON: {error}") from error
        return cls.from_json_dict(raw)
