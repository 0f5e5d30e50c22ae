"""DeepFaceLab's fields: read with their defaults and both forms, written as DeepFaceLab spells them."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ml_common.dfl.face_jpeg import metadata_payload, read_face_jpeg
from ml_common.dfl.face_metadata import KNOWN_KEYS, metadata_of, parse_metadata
from ml_common.dfl.mask_picture import decode_mask, encode_mask, fitted_mask, media_type_of
from ml_common.dfl.source_names import face_index_of, frame_number_of, source_filename_for
from ml_common.facesets import FaceSource, Polygon, PolygonKind
from ml_common.geometry import FaceType, alignment_matrix, transform_points

GOLDEN = Path(__file__).parents[2] / "golden" / "dfl_faces"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
FACES = sorted(GOLDEN.glob("*.jpg"))
POINTS = [[float(n), float(n * n % 97)] for n in range(68)]


def golden_metadata(path: Path) -> dict[str, object]:
    metadata = read_face_jpeg(path.read_bytes()).metadata
    assert metadata is not None
    return metadata


@pytest.mark.parametrize("path", FACES, ids=lambda path: path.name)
def test_golden_faces_are_understood(path) -> None:
    face, expected = parse_metadata(golden_metadata(path)), EXPECTED[path.name]
    assert face.face_type.metadata_name == expected["face_type"]
    assert face.landmarks_px_68x2.tolist() == expected["landmarks"]
    assert face.frame_landmarks_px_68x2.tolist() == expected["source_landmarks"]
    assert face.source_filename == expected["source_filename"]
    assert face.source_box_px.tolist() == expected["source_rect"]["__ndarray__"]
    assert face.frame_to_face_2x3.tolist() == expected["image_to_face_mat"]["__ndarray__"]
    assert face.eyebrows_expand == expected["eyebrows_expand_mod"]
    polygons = expected["seg_ie_polys"]["polys"] if expected["has_seg_ie_polys"] else []
    assert [(polygon.kind.name, polygon.points_px.tolist()) for polygon in face.polygons] == [
        ("INCLUDE" if polygon["type"] else "EXCLUDE", polygon["pts"]["__ndarray__"]) for polygon in polygons
    ]
    assert (face.mask is not None) is expected["has_xseg_mask"]
    assert face.other == {}


@pytest.mark.parametrize("path", FACES, ids=lambda path: path.name)
def test_golden_faces_are_spelled_as_they_were(path) -> None:
    metadata = golden_metadata(path)
    assert metadata_payload(metadata_of(parse_metadata(metadata))) == metadata_payload(metadata)


@pytest.mark.parametrize("path", FACES, ids=lambda path: path.name)
def test_matrices_and_points_follow_our_convention_without_a_shift(path) -> None:
    face = parse_metadata(golden_metadata(path))
    carried = transform_points(face.frame_landmarks_px_68x2, face.frame_to_face_2x3)
    assert np.abs(carried - face.landmarks_px_68x2).max() < 1e-3
    ours = alignment_matrix(face.frame_landmarks_px_68x2, face.face_type, 128)
    corners = [(0, 0), (640, 0), (0, 480), (640, 480)]
    theirs = transform_points(corners, face.frame_to_face_2x3)
    assert np.abs(transform_points(corners, ours) - theirs).max() < 5e-3


@pytest.mark.parametrize("name", ["00000_0", "00002_0"])
def test_golden_masks_decode(name) -> None:
    mask = decode_mask(parse_metadata(golden_metadata(GOLDEN / f"{name}.jpg")).mask)
    with np.load(GOLDEN / f"{name}_xseg.npz") as golden:
        np.testing.assert_array_equal(mask.astype(np.float32) / 255, golden["mask"][..., 0])


def test_defaults_and_unknown_keys() -> None:
    face = parse_metadata({"landmarks": POINTS, "source_rect": None, "relighted": True, "other": [1]})
    assert face.face_type is FaceType.FULL
    assert face.eyebrows_expand == 1.0
    assert face.source_box_px is face.frame_landmarks_px_68x2 is face.frame_to_face_2x3 is face.mask is None
    assert face.polygons == () and face.source_filename == ""
    assert face.other == {"relighted": True, "other": [1]}
    assert list(metadata_of(face)) == ["face_type", "landmarks", "relighted", "other"]


@pytest.mark.parametrize("legacy", [False, True])
def test_polygons_in_both_forms_includes_first(legacy) -> None:
    triangles = [np.array([[n, n], [n, n + 1], [n + 1, n]], np.float32) for n in range(4)]
    kinds = [0, 1, 0, 1]
    if legacy:
        value: object = list(zip(kinds, triangles, strict=True))
    else:
        value = {"polys": [{"type": kind, "pts": points} for kind, points in zip(kinds, triangles, strict=True)]}
    face = parse_metadata({"landmarks": POINTS, "seg_ie_polys": value})
    assert [polygon.points_px[0, 0] for polygon in face.polygons] == [1, 3, 0, 2]
    assert [polygon.kind for polygon in face.polygons] == [PolygonKind.INCLUDE] * 2 + [PolygonKind.EXCLUDE] * 2
    written = metadata_of(replace(face, polygons=face.polygons[::-1]))["seg_ie_polys"]["polys"]
    assert [(entry["type"], entry["pts"][0, 0]) for entry in written] == [(1, 3), (1, 1), (0, 2), (0, 0)]
    assert all(entry["pts"].dtype == np.float32 for entry in written)


def test_polygons_that_are_no_areas_are_dropped() -> None:
    value = {
        "polys": [{"type": 1, "pts": np.zeros((n, 2), np.float32)} for n in (0, 1, 2, 3)] + [{"type": 1, "pts": []}]
    }
    assert [
        len(polygon.points_px) for polygon in parse_metadata({"landmarks": POINTS, "seg_ie_polys": value}).polygons
    ] == [3]
    assert parse_metadata({"landmarks": POINTS, "seg_ie_polys": {"polys": []}}).polygons == ()


def test_rectangles_of_turned_detections_are_put_in_order() -> None:
    face = parse_metadata({"landmarks": np.array(POINTS), "source_rect": [30, 5, 10, 25]})
    assert face.source_box_px.tolist() == [10, 5, 30, 25]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"landmarks": None}, "landmarks are missing"),
        ({"landmarks": POINTS[:67]}, "landmarks has shape"),
        ({"landmarks": [[float("nan"), 0.0]] * 68}, "landmarks holds numbers that are not finite"),
        ({"landmarks": [["x", 0.0]] * 68}, "landmarks does not hold numbers"),
        ({"landmarks": {"a": 1}}, "landmarks does not hold numbers"),
        ({"image_to_face_mat": np.eye(3)}, "image_to_face_mat has shape"),
        ({"source_rect": [1, 2, 3]}, "source_rect has shape"),
        ({"source_landmarks": [1e300, 2] * 68}, "source_landmarks"),
        ({"face_type": "chin"}, "face_type 'chin' is unknown"),
        ({"face_type": "head_nose"}, "face_type 'head_nose' is unknown"),
        ({"face_type": 4}, "face_type is a int"),
        ({"source_filename": b"x"}, "source_filename is a bytes"),
        ({"eyebrows_expand_mod": -1.0}, "eyebrows_expand_mod"),
        ({"eyebrows_expand_mod": [1.0]}, "eyebrows_expand_mod"),
        ({"seg_ie_polys": 5}, "seg_ie_polys is a int"),
        ({"seg_ie_polys": {"polys": [5]}}, "seg_ie_polys holds"),
        ({"seg_ie_polys": [(2, [[0, 0]] * 3)]}, "seg_ie_polys holds"),
        ({"seg_ie_polys": [(1, [[0, 0, 0]] * 3)]}, "seg_ie_polys has shape"),
        ({"xseg_mask": np.zeros(9, np.uint8)}, "xseg_mask cannot be read"),
        ({"xseg_mask": np.zeros(9)}, "xseg_mask is not"),
        ({"xseg_mask": "text"}, "xseg_mask is not"),
    ],
)
def test_values_that_make_no_sense_are_named(change, why) -> None:
    with pytest.raises(ValueError, match=why):
        parse_metadata({"landmarks": POINTS, **change})


def test_our_own_face_types_are_not_written() -> None:
    face = parse_metadata({"landmarks": POINTS})
    for face_type in FaceType:
        if face_type in (FaceType.HEAD_NOSE, FaceType.FRAME_SQUARE):
            with pytest.raises(ValueError, match="DeepFaceLab has no face type"):
                metadata_of(replace(face, face_type=face_type))
        else:
            written = metadata_of(replace(face, face_type=face_type))
            assert parse_metadata(written).face_type is face_type
            assert set(written) <= set(KNOWN_KEYS)


def test_masks_are_png_until_they_are_too_large() -> None:
    smooth = cv2.GaussianBlur(np.pad(np.full((100, 100), 255, np.uint8), 78), (0, 0), 5)
    data = encode_mask(smooth)
    assert media_type_of(data) == "image/png" and len(data) < 50_000
    np.testing.assert_array_equal(decode_mask(data), smooth)
    noisy = np.random.default_rng(0).integers(0, 256, (256, 256), np.uint8)
    data = encode_mask(noisy)
    assert media_type_of(data) == "image/jpeg" and 40_000 < len(data) <= 50_000
    assert fitted_mask(data, 50_000) is data
    smaller = fitted_mask(data, 20_000)
    assert (
        media_type_of(smaller) == "image/jpeg" and len(smaller) <= 20_000 and decode_mask(smaller).shape == (256, 256)
    )
    with pytest.raises(ValueError, match="does not fit into 100 bytes"):
        fitted_mask(data, 100)


def test_masks_of_another_kind_are_refused() -> None:
    def png(image: np.ndarray) -> bytes:
        return cv2.imencode(".png", image)[1].tobytes()

    def with_header(width: int) -> bytes:
        data = png(np.zeros((4, 4), np.uint8))
        header = b"IHDR" + width.to_bytes(4, "big") + data[20:29]
        return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]

    plain = png(np.zeros((4, 4), np.uint8))
    claims_gigabytes = plain[:33] + b"\x7f\xff\xff\xff" + plain[37:]
    for data, why in (
        (png(np.zeros((4, 4, 3), np.uint8)), "one channel"),
        (png(np.zeros((4, 4), np.uint16)), "one channel"),
        (plain[:40], "damaged"),
        (plain[:-1] + b"x", "damaged"),
        (plain[:8] + plain[33:], "damaged"),
        (claims_gigabytes, "damaged"),
        (with_header(50_000), "larger than 4096"),
        (b"\xff\xd8\xff", "cut short"),
        (b"GIF89a", "PNG or a JPEG"),
    ):
        with pytest.raises(ValueError, match=why):
            decode_mask(data)
    for image in (np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4)), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match="must be an array"):
            encode_mask(image)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("src_00012.png", 12),
        ("00012.png", 12),
        ("shot010_0123.exr", 123),
        ("clip.mov_000007.png", 7),
        ("plate.0099.dpx", 99),
        ("portrait.png", None),
        ("", None),
        ("take2.v3.png", 3),
        ("9" * 13 + ".png", None),
        ("0" * 30 + "5.png", 5),
    ],
)
def test_frame_numbers_are_the_last_digits_of_the_name(name, number) -> None:
    assert frame_number_of(name) == number


@pytest.mark.parametrize(
    ("file_name", "source", "index"),
    [
        ("src_00012_1.jpg", "src_00012.png", 1),
        ("00012_0.jpg", "00012.png", 0),
        ("00000.jpg", "src_00012.png", None),
        ("00012_0_2.jpg", "00012.png", None),
        ("00012_0.jpg", "", None),
        ("00012_1234.jpg", "00012.png", None),
    ],
)
def test_face_indices_are_read_where_the_name_was_kept(file_name, source, index) -> None:
    assert face_index_of(file_name, source) == index


def test_source_names_are_frames() -> None:
    def named(name: str) -> str:
        return source_filename_for(FaceSource(frame_number=12, face_index=0, original_filename=name))

    assert named("src_00012.PNG") == "src_00012.PNG"
    assert named("folder/src_00012.exr") == "src_00012.exr"
    assert named("clip.mov_000012") == named("clip.mov") == named("") == "00012.png"


def test_polygons_survive_the_way_there_and_back_exactly() -> None:
    points = np.random.default_rng(3).uniform(0, 256, (7, 2)).astype(np.float32).astype(np.float64)
    face = replace(
        parse_metadata({"landmarks": POINTS}), polygons=(Polygon(kind=PolygonKind.INCLUDE, points_px=points),)
    )
    assert parse_metadata(metadata_of(face)).polygons == face.polygons
