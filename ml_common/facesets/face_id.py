"""Face ids: `f000123_0-1a2b3c4d` is face 0 of frame 123, made by what the digest 1a2b3c4d... stands for.

What a reader would get wrong: frame numbers beyond six digits simply make a longer id, so ids do not sort by frame as
text. Sort by the parsed numbers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ml_common.facesets.checks import whole_number

_FACE_ID = re.compile(r"f([0-9]{6,12})_([0-9]{1,3})-([0-9a-f]{8})")
_HEX_DIGEST = re.compile(r"[0-9a-f]{8,}")


class FaceId(NamedTuple):
    """The parts of a face id."""

    frame_number: int
    face_index: int
    short_digest: str


def face_id(frame_number: int, face_index: int, digest: str) -> str:
    """The id of a face.

    frame_number: 0 to 10^12 - 1, as the clip counts. face_index: 0 to 999, 0 is the frame's largest face.
    digest: at least 8 lower-case hexadecimal digits of what made the face; the first 8 go into the id.
    Raises ValueError naming the argument that is out of range.
    """
    frame_number = whole_number("frame_number", frame_number, 0, 10**12 - 1)
    face_index = whole_number("face_index", face_index, 0, 999)
    if not _HEX_DIGEST.fullmatch(digest):
        raise ValueError(f"digest must be at least 8 lower-case hexadecimal digits, not {digest!r}")
    return f"f{frame_number:06d}_{face_index}-{digest[:8]}"


def parse_face_id(text: str) -> FaceId:
    """The parts of an id made by `face_id`; ValueError for any other text, ids with needless zeros included."""
    match = _FACE_ID.fullmatch(text)
    if match:
        parts = FaceId(int(match[1]), int(match[2]), match[3])
        if face_id(*parts) == text:
            return parts
    raise ValueError(f"face_id {text!r} is not of the form f000123_0-1a2b3c4d (frame number, face index, 8 hex digits)")
