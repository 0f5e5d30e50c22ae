"""Extraction options with their defaults filled in: what goes into a plan and its action key."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from services.kit.errors import InvalidInput

DETECTOR = "blazeface"
LANDMARKER = "facemesh"
FACE_TYPES = (
    "FACE_TYPE_HALF",
    "FACE_TYPE_MID_HALF",
    "FACE_TYPE_FULL",
    "FACE_TYPE_WHOLE",
    "FACE_TYPE_HEAD",
    "FACE_TYPE_FULL_NO_ALIGN",
    "FACE_TYPE_HEAD_NO_ALIGN",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionOptions:
    """See ExtractionOptions in face_service.proto. ``face_type`` by its proto name."""

    detector: str = DETECTOR
    landmarker: str = LANDMARKER
    face_type: str = "FACE_TYPE_WHOLE"
    size_px: int = 512
    max_faces_per_frame: int = 0
    min_face_px: int = 0
    jpeg_quality: int = 90
    min_score: float = 0.5

    def __post_init__(self) -> None:
        _one_of("detector", self.detector, (DETECTOR,))
        _one_of("landmarker", self.landmarker, (LANDMARKER,))
        _one_of("face_type", self.face_type, FACE_TYPES)
        _within("size_px", self.size_px, 64, 2048)
        _within("max_faces_per_frame", self.max_faces_per_frame, 0, 1000)
        _within("min_face_px", self.min_face_px, 0, 16384)
        _within("jpeg_quality", self.jpeg_quality, 1, 100)
        _within("min_score", self.min_score, 0.05, 1)

    def to_json(self) -> dict[str, Any]:
        """For a plan."""
        return asdict(self)


def _one_of(field: str, value: str, known: tuple[str, ...]) -> None:
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
