"""How much of the head a face crop shows.

What a reader would get wrong: the numeric values are not consecutive. They are the identifiers of the file format that
facesets are exchanged in, and their order carries meaning there (from HEAD on, landmarks are projections of 3D points).
HEAD_NOSE and FRAME_SQUARE are our own: the crops that AVATAR learns from, which a face drives that is not aligned.

Specification: faceset, section 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class _Facts:
    metadata_name: str
    short_code: str | None
    padding: float
    keeps_rotation: bool


class FaceType(Enum):
    """The framing of an aligned face; the value is the identifier used in exchanged metadata."""

    HALF = 0
    MID_FULL = 1
    FULL = 2
    FULL_NO_ALIGN = 3
    WHOLE_FACE = 4
    HEAD = 10
    HEAD_NO_ALIGN = 20
    HEAD_NOSE = 21
    FRAME_SQUARE = 99
    MARK_ONLY = 100

    @property
    def metadata_name(self) -> str:
        """The name written into face metadata, for example `whole_face`."""
        return _FACTS[self].metadata_name

    @property
    def short_code(self) -> str | None:
        """The abbreviation users type (`h`, `mf`, `f`, `wf`, `head`); None for the types that have none."""
        return _FACTS[self].short_code

    @property
    def padding(self) -> float:
        """Room left around the mean face, as a fraction of its side: the crop is 1 + 2 * sqrt(2) * padding as wide."""
        return _FACTS[self].padding

    @property
    def keeps_rotation(self) -> bool:
        """True where the crop is parallel to the frame, so that a tilted head stays tilted."""
        return _FACTS[self].keeps_rotation

    @classmethod
    def from_string(cls, name: str) -> FaceType:
        """The type with this metadata name or short code, whatever its letter case; ValueError for any other text."""
        wanted = name.strip().lower()
        for face_type, facts in _FACTS.items():
            if wanted in (facts.metadata_name, facts.short_code):
                return face_type
        known = ", ".join(facts.metadata_name for facts in _FACTS.values())
        raise ValueError(f"unknown face type {name!r}; use one of: {known} (or h, mf, f, wf, head)")


_FULL_PADDING = 27.0 / 128.0

_FACTS: dict[FaceType, _Facts] = {
    FaceType.HALF: _Facts("half_face", "h", 0.0, False),
    FaceType.MID_FULL: _Facts("midfull_face", "mf", 0.0675, False),
    FaceType.FULL: _Facts("full_face", "f", _FULL_PADDING, False),
    FaceType.FULL_NO_ALIGN: _Facts("full_face_no_align", None, _FULL_PADDING, True),
    FaceType.WHOLE_FACE: _Facts("whole_face", "wf", 0.40, False),
    FaceType.HEAD: _Facts("head", "head", 0.70, False),
    FaceType.HEAD_NO_ALIGN: _Facts("head_no_align", None, 0.70, True),
    FaceType.HEAD_NOSE: _Facts("head_nose", None, 0.70, True),
    FaceType.FRAME_SQUARE: _Facts("frame_square", None, 0.0, True),
    FaceType.MARK_ONLY: _Facts("mark_only", None, 0.0, False),
}
