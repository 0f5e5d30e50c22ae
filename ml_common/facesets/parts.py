"""The small messages that a face record is made of, field by field as in proto/understudy/v1.

What a reader would get wrong: `ObjectRef` is flat here and its digest is a message of its own in the JSON
(`"digest": {"sha256": ..., "sizeBytes": "123"}`); an empty sha256 means that nobody has read the bytes yet.

Legend: N2 = points (x, y) in pixels, origin at the centre of the top left pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from ml_common.facesets.checks import (
    INT32_MAX,
    INT64_MAX,
    finite_array,
    finite_number,
    plain_text,
    sha256_or_empty,
    whole_number,
)
from ml_common.facesets.proto_json import Json, MessageReader, int64_text, write_message


class PolygonKind(Enum):
    """What the inside of a polygon is; the names follow KIND_ in the JSON."""

    INCLUDE = 1
    EXCLUDE = 2


_POLYGON_KIND_NAMES: dict[PolygonKind | None, str] = {
    None: "KIND_UNSPECIFIED",
    PolygonKind.INCLUDE: "KIND_INCLUDE",
    PolygonKind.EXCLUDE: "KIND_EXCLUDE",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRef:
    """Stored bytes: where they are and what they are. ValueError naming the field for anything else.

    uri: `s3://bucket/key` or `file:///path`. sha256: 64 lower-case hexadecimal digits, or empty when unread.
    size_bytes: 0 or more. media_type: for example `image/jpeg`.
    """

    uri: str
    sha256: str = ""
    size_bytes: int = 0
    media_type: str = ""

    def __post_init__(self) -> None:
        plain_text("uri", self.uri, required=True)
        sha256_or_empty("sha256", self.sha256)
        object.__setattr__(self, "size_bytes", whole_number("size_bytes", self.size_bytes, 0, INT64_MAX))
        if self.size_bytes and not self.sha256:
            raise ValueError("sha256 is missing; a size without a digest names no bytes")
        plain_text("media_type", self.media_type)

    def to_json_dict(self) -> Json:
        """Canonical proto3 JSON of ObjectRef."""
        digest = write_message(sha256=self.sha256, size_bytes=int64_text(self.size_bytes)) if self.sha256 else None
        return write_message(uri=self.uri, digest=digest, media_type=self.media_type)

    @classmethod
    def from_json_dict(cls, raw: Mapping[str, object]) -> ObjectRef:
        """Reads canonical proto3 JSON; ValueError naming the field."""
        reader = MessageReader(raw)
        sha256, size_bytes = reader.message("digest", _read_digest) or ("", 0)
        return cls(uri=reader.text("uri"), sha256=sha256, size_bytes=size_bytes, media_type=reader.text("media_type"))


def _read_digest(raw: Mapping[str, object]) -> tuple[str, int]:
    reader = MessageReader(raw)
    return reader.text("sha256"), reader.integer("size_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Producer:
    """What made something: registry name, version, SHA-256 of its weights (empty when it has none)."""

    name: str
    version: str = ""
    weights_sha256: str = ""

    def __post_init__(self) -> None:
        plain_text("name", self.name, required=True)
        plain_text("version", self.version)
        sha256_or_empty("weights_sha256", self.weights_sha256)

    def to_json_dict(self) -> Json:
        """Canonical proto3 JSON of Producer."""
        return write_message(name=self.name, version=self.version, weights_sha256=self.weights_sha256)

    @classmethod
    def from_json_dict(cls, raw: Mapping[str, object]) -> Producer:
        """Reads canonical proto3 JSON; ValueError naming the field."""
        reader = MessageReader(raw)
        return cls(
            name=reader.text("name"), version=reader.text("version"), weights_sha256=reader.text("weights_sha256")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceSource:
    """Where in the footage a face is.

    clip: resource name, empty for imports. frame_number: as the clip counts. face_index: 0 is the frame's largest face.
    frame_width, frame_height: pixels of the whole frame, 0 when not known (imports).
    """

    frame_number: int
    face_index: int
    clip: str = ""
    original_filename: str = ""
    frame_width: int = 0
    frame_height: int = 0

    def __post_init__(self) -> None:
        plain_text("clip", self.clip)
        plain_text("original_filename", self.original_filename)
        object.__setattr__(self, "frame_number", whole_number("frame_number", self.frame_number, 0, INT64_MAX))
        for field in ("face_index", "frame_width", "frame_height"):
            object.__setattr__(self, field, whole_number(field, getattr(self, field), 0, INT32_MAX))

    def to_json_dict(self) -> Json:
        """Canonical proto3 JSON of FaceSource."""
        return write_message(
            clip=self.clip,
            frame_number=int64_text(self.frame_number),
            face_index=self.face_index,
            original_filename=self.original_filename,
            frame_width=self.frame_width,
            frame_height=self.frame_height,
        )

    @classmethod
    def from_json_dict(cls, raw: Mapping[str, object]) -> FaceSource:
        """Reads canonical proto3 JSON; ValueError naming the field."""
        reader = MessageReader(raw)
        return cls(
            clip=reader.text("clip"),
            frame_number=reader.integer("frame_number"),
            face_index=reader.integer("face_index"),
            original_filename=reader.text("original_filename"),
            frame_width=reader.integer("frame_width"),
            frame_height=reader.integer("frame_height"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Head angles in degrees: positive pitch looks up, positive yaw to the image's left, positive roll is clockwise."""

    pitch_deg: float
    yaw_deg: float
    roll_deg: float

    def __post_init__(self) -> None:
        for field in ("pitch_deg", "yaw_deg", "roll_deg"):
            object.__setattr__(self, field, finite_number(field, getattr(self, field)))

    def to_json_dict(self) -> Json:
        """Canonical proto3 JSON of Pose."""
        return write_message(pitch_deg=self.pitch_deg, yaw_deg=self.yaw_deg, roll_deg=self.roll_deg)

    @classmethod
    def from_json_dict(cls, raw: Mapping[str, object]) -> Pose:
        """Reads canonical proto3 JSON; ValueError naming the field."""
        reader = MessageReader(raw)
        return cls(
            pitch_deg=reader.number("pitch_deg"),
            yaw_deg=reader.number("yaw_deg"),
            roll_deg=reader.number("roll_deg"),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Polygon:
    """A closed polygon drawn by a person. points_px: float64 [N, 2], N at least 3, in pixels of the crop; read-only."""

    kind: PolygonKind
    points_px: NDArray[np.float64]

    def __post_init__(self) -> None:
        if not isinstance(self.kind, PolygonKind):
            raise ValueError(f"kind must be a PolygonKind, not {self.kind!r}")
        points_N2 = finite_array("points_px", self.points_px, (None, 2))
        if len(points_N2) < 3:
            raise ValueError(f"points_px holds {len(points_N2)} points; a polygon needs at least 3")
        object.__setattr__(self, "points_px", points_N2)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Polygon):
            return NotImplemented
        return self.kind is other.kind and np.array_equal(self.points_px, other.points_px)

    def __hash__(self) -> int:
        return hash((self.kind, self.points_px.shape))

    def to_json_dict(self) -> Json:
        """Canonical proto3 JSON of Polygon."""
        return write_message(kind=_POLYGON_KIND_NAMES[self.kind], points_px=self.points_px.ravel().tolist())

    @classmethod
    def from_json_dict(cls, raw: Mapping[str, object]) -> Polygon:
        """Reads canonical proto3 JSON; ValueError naming the field."""
        reader = MessageReader(raw)
        kind = reader.enum("kind", _POLYGON_KIND_NAMES)
        if kind is None:
            raise ValueError("kind is missing; it must be KIND_INCLUDE or KIND_EXCLUDE")
        return cls(kind=kind, points_px=reader.rows("points_px", 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class XSegLabel:
    """What a person drew on one face. Excludes are applied after includes."""

    polygons: tuple[Polygon, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "polygons", tuple(self.polygons))

    def to_json_dict(self) -> Json:
        """Canonical proto3 JSON of XSegLabel."""
        return write_message(polygons=[polygon.to_json_dict() for polygon in self.polygons])

    @classmethod
    def from_json_dict(cls, raw: Mapping[str, object]) -> XSegLabel:
        """Reads canonical proto3 JSON; ValueError naming the field."""
        return cls(polygons=MessageReader(raw).messages("polygons", Polygon.from_json_dict))


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceMask:
    """A predicted or imported mask. raster: one-channel picture of any size, white is face."""

    raster: ObjectRef
    producer: Producer | None = None

    def to_json_dict(self) -> Json:
        """Canonical proto3 JSON of FaceMask."""
        producer = self.producer.to_json_dict() if self.producer else None
        return write_message(raster=self.raster.to_json_dict(), producer=producer)

    @classmethod
    def from_json_dict(cls, raw: Mapping[str, object]) -> FaceMask:
        """Reads canonical proto3 JSON; ValueError naming the field."""
        reader = MessageReader(raw)
        return cls(
            raster=reader.required_message("raster", ObjectRef.from_json_dict),
            producer=reader.message("producer", Producer.from_json_dict),
        )
