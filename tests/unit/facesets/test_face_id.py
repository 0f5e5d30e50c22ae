"""Face ids: form, parser, refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_common.facesets import FaceId, face_id, parse_face_id


def test_known_ids() -> None:
    assert face_id(123, 0, "1a2b3c4d5e") == "f000123_0-1a2b3c4d"
    assert face_id(12_345_678, 17, "0" * 64) == "f12345678_17-00000000"
    assert parse_face_id("f000123_0-1a2b3c4d") == FaceId(123, 0, "1a2b3c4d")


@given(st.integers(0, 10**12 - 1), st.integers(0, 999), st.binary(min_size=4, max_size=32))
def test_round_trip(frame_number: int, face_index: int, digest: bytes) -> None:
    assert parse_face_id(face_id(frame_number, face_index, digest.hex())) == (
        frame_number,
        face_index,
        digest.hex()[:8],
    )


@pytest.mark.parametrize(
    "text",
    ["", "f123_0-1a2b3c4d", "f0000123_0-1a2b3c4d", "f000123_00-1a2b3c4d", "f000123_0-1A2B3C4D", "f000123_0-1a2b3c4d\n"],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="face_id"):
        parse_face_id(text)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((-1, 0, "1a2b3c4d"), "frame_number"),
        ((10**12, 0, "1a2b3c4d"), "frame_number"),
        ((1, 1000, "1a2b3c4d"), "face_index"),
        ((1, True, "1a2b3c4d"), "face_index"),
        ((1, 0, "1a2b3c4"), "digest"),
        ((1, 0, "1A2B3C4D"), "digest"),
    ],
)
def test_bad_parts_are_named(arguments: tuple[int, int, str], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}"):
        face_id(*arguments)
