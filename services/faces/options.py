"""Extraction options with their defaults filled in: what goes into a plan and its action key."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from ml_common.detect import DEFAULT_DETECTOR, DEFAULT_LANDMARKER, DETECTORS, LANDMARKERS
from services.kit.errors import InvalidInput

FACE_TYPES = (
    "FACE_TYPE_HALF",
    "FACE_TYPE_MID_HALF",
    "FACE_TYPE_FULL",
    "FACE_TYPE_WHOLE",
    "FACE_TYPE_HEAD",
    "FACE_TYPE_FULL_NO_ALIGN",
    "FACE_TYPE_HEAD_NO_ALIGN",
    "FACE_TYPE_HEAD_NOSE",
    "FACE_TYPE_FRAME_SQUARE",
)
IMAGE_FORMATS = ("IMAGE_FORMAT_JPEG", "IMAGE_FORMAT_LOSSLESS")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionOptions:
    """See ExtractionOptions in face_service.proto. Enums by their proto names; ``min_score`` None is the detector's own."""

    detector: str = DEFAULT_DETECTOR
    landmarker: str = DEFAULT_LANDMARKER
    face_type: str = "FACE_TYPE_WHOLE"
    size_px: int = 512
    native_size: bool = False
    max_faces_per_frame: int = 0
    min_face_px: int = 0
    jpeg_quality: int = 90
    min_score: float | None = None
    image_format: str = "IMAGE_FORMAT_JPEG"

    def __post_init__(self) -> None:
        _one_of("detector", self.detector, DETECTORS)
        _one_of("landmarker", self.landmarker, LANDMARKERS)
        _one_of("face_type", self.face_type, FACE_TYPES)
        _one_of("image_format", self.image_format, IMAGE_FORMATS)
        _within("size_px", self.size_px, 64, 2048)
        _within("max_faces_per_frame", self.max_faces_per_frame, 0, 1000)
        _within("min_face_px", self.min_face_px, 0, 16384)
        _within("jpeg_quality", self.jpeg_quality, 1, 100)
        if not isinstance(self.native_size, bool):
            raise InvalidInput("native_size must be true or false", fields={"options.native_size": "true or false"})
        if self.min_score is not None:
            _within("min_score", self.min_score, 0.05, 0.99)

    def to_json(self) -> dict[str, Any]:
        """For a plan."""
        return asdict(self)


def _one_of(field: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise InvalidInput(
            f"{field} {value!r} is not known: use one of {', '.join(known)}",
            reason="UNKNOWN_NAME",
            fields={f"options.{field}": f"one of {', '.join(known)}"},
        )


def _within(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidInput(
            f"{field} must be {low} to {high}, not {value}", fields={f"options.{field}": f"{low} to {high}"}
        )
