"""Metadata in JPEGs of every build: found, replaced, and every other byte left alone."""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from ml_common.dfl.face_jpeg import (
    MetadataTooLargeError,
    metadata_payload,
    read_face_jpeg,
    why_deepfacelab_cannot_open,
    without_metadata,
    write_face_jpeg,
)
from ml_common.dfl.jpeg_segments import APP0, APP15, EOI, SOI, SOS, JpegError, read_structure
from ml_common.dfl.restricted_pickle import RefusedPickleError

GOLDEN = Path(__file__).parents[2] / "golden" / "dfl_faces"
FACES = sorted(GOLDEN.glob("*.jpg"))
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
METADATA = {"face_type": "head", "landmarks": [[1.0, 2.0]] * 68, "image_to_face_mat": np.eye(2, 3)}


def as_json(value: object) -> object:
    if isinstance(value, np.ndarray):
        return {"__ndarray__": value.tolist(), "dtype": str(value.dtype), "shape": list(value.shape)}
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def picture(channels: int = 3) -> np.ndarray:
    drawn = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (48, 64, channels), np.uint8), (0, 0), 2)
    return drawn.reshape(48, 64, channels)


def encoded(*options: int, channels: int = 3) -> bytes:
    return cv2.imencode(".jpg", picture(channels), list(options))[1].tobytes()


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


def with_first(data: bytes, *segments: bytes, drop_app0: bool = False) -> bytes:
    """`data` with segments right behind its start."""
    rest = data[20:] if drop_app0 else data[2:]
    return data[:2] + b"".join(segments) + rest


EXIF = segment(0xE1, b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00")
BUILDS = {
    "baseline": encoded(),
    "progressive": encoded(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart intervals": encoded(cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
    "grey": encoded(channels=1),
    "Exif instead of JFIF": with_first(encoded(), EXIF, drop_app0=True),
    "Exif before JFIF": with_first(encoded(), EXIF),
    "no application segment": with_first(encoded(), drop_app0=True),
    "bytes behind the end": encoded() + b"more\xff\xd9bytes\xff\xda",
    "fill bytes": with_first(encoded(), b"\xff\xff" + EXIF),
    "a comment": with_first(encoded(), segment(0xFE, b"drawn")),
    "another's APP15": with_first(encoded(), segment(APP15, b"Photoshop 3.0")),
    "two metadata": with_first(
        encoded(), segment(APP15, pickle.dumps({"a": 1})), segment(APP15, pickle.dumps({"b": 2}))
    ),
}


@pytest.mark.parametrize("path", FACES, ids=lambda path: path.name)
def test_golden_faces(path) -> None:
    data = path.read_bytes()
    face = read_face_jpeg(data)
    expected = EXPECTED[path.name]
    assert as_json(face.metadata) == expected["raw_dict"]
    assert [face.structure.height_px, face.structure.width_px, face.structure.channels] == expected["shape"]
    assert why_deepfacelab_cannot_open(data) is None


@pytest.mark.parametrize("path", FACES, ids=lambda path: path.name)
def test_golden_faces_are_written_byte_for_byte(path) -> None:
    data = path.read_bytes()
    metadata = read_face_jpeg(data).metadata
    bare = without_metadata(data)
    assert b"face_type" not in bare and read_face_jpeg(bare).metadata is None
    assert write_face_jpeg(bare, metadata) == data
    changed = write_face_jpeg(data, {**metadata, "eyebrows_expand_mod": 2.5})
    assert without_metadata(changed) == bare
    assert write_face_jpeg(changed, metadata) == data


@pytest.mark.parametrize("name", sorted(BUILDS))
def test_every_build_takes_metadata_and_keeps_its_other_bytes(name) -> None:
    data = BUILDS[name]
    before = read_structure(data)
    written = write_face_jpeg(data, METADATA)
    face = read_face_jpeg(written)
    assert as_json(face.metadata) == as_json(METADATA)
    assert (face.structure.width_px, face.structure.height_px) == (64, 48)
    assert face.structure.channels == before.channels == (1 if name == "grey" else 3)
    assert face.structure.trailing_bytes == before.trailing_bytes
    kept = without_metadata(data)
    assert without_metadata(written) == kept and (name == "two metadata" or kept == data)
    markers = [part.marker for part in face.structure.header()]
    ours = next(
        i for i, part in enumerate(face.structure.header()) if written[part.payload : part.payload + 1] == b"\x80"
    )
    assert all(APP0 <= marker <= APP15 for marker in markers[1:ours] if marker != 0xFE)
    assert not any(APP0 <= marker <= APP15 for marker in markers[ours + 1 :])
    flags = cv2.IMREAD_UNCHANGED
    np.testing.assert_array_equal(
        cv2.imdecode(np.frombuffer(written, np.uint8), flags), cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("restart intervals", "restart intervals"),
        ("bytes behind the end", "13 bytes behind its end"),
        ("fill bytes", "fill bytes"),
        ("progressive", None),
        ("grey", None),
        ("Exif instead of JFIF", None),
        ("baseline", None),
    ],
)
def test_what_deepfacelab_itself_could_not_open_is_known(name, reason) -> None:
    found = why_deepfacelab_cannot_open(BUILDS[name])
    assert found is None if reason is None else reason in found
    foreign_app0 = with_first(encoded(), segment(APP0, b"AVI1\x00\x00"), drop_app0=True)
    assert "not JFIF" in why_deepfacelab_cannot_open(foreign_app0)
    extended = encoded().replace(b"\xff\xc0", b"\xff\xc1", 1)
    assert "neither baseline nor progressive" in why_deepfacelab_cannot_open(extended)


def test_metadata_is_the_first_pickle_and_becomes_the_only_one() -> None:
    assert read_face_jpeg(BUILDS["two metadata"]).metadata == {"a": 1}
    assert read_face_jpeg(BUILDS["another's APP15"]).metadata is None
    written = write_face_jpeg(BUILDS["two metadata"], {"c": 3})
    assert [part.marker for part in read_structure(written).segments].count(APP15) == 1
    beside = write_face_jpeg(BUILDS["another's APP15"], {"c": 3})
    assert b"Photoshop 3.0" in beside and read_face_jpeg(beside).metadata == {"c": 3}


def test_another_spelling_of_the_same_metadata_is_left_as_it_is() -> None:
    old = write_face_jpeg(encoded(), {}).replace(
        segment(APP15, metadata_payload({})), segment(APP15, pickle.dumps({"a": [1.5], "b": "x"}, 3))
    )
    assert write_face_jpeg(old, {"a": [1.5], "b": "x", "gone": None}) == old
    assert write_face_jpeg(old, {"a": [1.5], "b": "y"}) != old


def test_hostile_metadata_is_refused_and_can_be_replaced() -> None:
    hostile = with_first(encoded(), segment(APP15, b"\x80\x04cos\nsystem\n\x8c\x02id\x85R."))
    with pytest.raises(RefusedPickleError, match=r"os\.system"):
        read_face_jpeg(hostile)
    assert b"system" not in write_face_jpeg(hostile, METADATA)
    for wrong in ([1], {1: 2}):
        with pytest.raises(RefusedPickleError, match=r"dictionary|text for keys"):
            read_face_jpeg(with_first(encoded(), segment(APP15, pickle.dumps(wrong))))


def test_too_much_metadata_is_refused_with_sizes() -> None:
    polygons = {"polys": [{"type": 1, "pts": np.zeros((8300, 2), np.float32)}]}
    with pytest.raises(
        MetadataTooLargeError, match=r"takes 6\d{4} bytes .* 65533 \(seg_ie_polys 66\d{3}, image_to_face_mat"
    ):
        write_face_jpeg(encoded(), {**METADATA, "seg_ie_polys": polygons})
    fits = {"x": b"y" * (65533 - len(metadata_payload({"x": b"y" * 300})) + 300)}
    assert len(metadata_payload(fits)) == 65533
    assert read_face_jpeg(write_face_jpeg(encoded(), fits)).metadata == fits
    with pytest.raises(MetadataTooLargeError):
        write_face_jpeg(encoded(), {"x": fits["x"] + b"y"})


@pytest.mark.parametrize("name", sorted(BUILDS))
def test_a_file_cut_short_anywhere_is_refused(name) -> None:
    data = BUILDS[name]
    end = len(data) - read_structure(data).trailing_bytes
    for length in [*range(700), *range(700, end, 7), end - 1]:
        with pytest.raises(JpegError):
            read_structure(data[:length])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "does not begin as a JPEG"),
        (b"\x89PNG\r\n\x1a\n", "does not begin as a JPEG"),
        (b"\xff\xd8\xff\xd9", "holds no picture"),
        (b"\xff\xd8" + segment(0xDB, b"x") + b"\x00\x01", "marker is missing at byte 7"),
        (b"\xff\xd8\xff\xe0\x00\x01xxxx\xff\xd9", "impossible length"),
        (b"\xff\xd8" + segment(0xC0, b"\x08\x00"), "too short"),
        (b"\xff\xd8" + segment(0xC0, b"\x08\x00\x00\x00\x10\x03"), "does not say its size"),
    ],
)
def test_damage_is_named(data, why) -> None:
    with pytest.raises(JpegError, match=why):
        read_structure(data)


def test_segments_cover_the_file() -> None:
    for data in BUILDS.values():
        structure = read_structure(data)
        segments = structure.segments
        assert (segments[0].marker, segments[-1].marker) == (SOI, EOI)
        for part, following in itertools.pairwise(segments):
            assert following.start == part.stop or (part.marker == SOS and following.start > part.stop)
        assert segments[-1].stop + structure.trailing_bytes == len(data)
