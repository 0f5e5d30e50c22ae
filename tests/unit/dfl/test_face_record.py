"""DeepFaceLab's faces become records and come back: exactly where nothing changed, and only there the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ml_common.dfl.face_jpeg import MetadataTooLargeError, metadata_payload, read_face_jpeg, write_face_jpeg
from ml_common.dfl.face_metadata import DflFace, parse_metadata
from ml_common.dfl.face_record import cut_mark_only, dfl_from_record, knows_its_frame, record_from_dfl
from ml_common.dfl.mask_picture import decode_mask, encode_mask
from ml_common.facesets import (
    FaceMask,
    FaceRecord,
    LandmarkOrigin,
    ObjectRef,
    Polygon,
    PolygonKind,
    XSegLabel,
)
from ml_common.geometry import FaceType, alignment_matrix, transform_points

GOLDEN = Path(__file__).parents[2] / "golden" / "dfl_faces"
FACES = sorted(GOLDEN.glob("*.jpg"))
MASK_REF = ObjectRef(uri="file:///mask.png", media_type="image/png")


def face_of(path: Path) -> DflFace:
    return parse_metadata(read_face_jpeg(path.read_bytes()).metadata)


def record_of(face: DflFace, **changes: object) -> FaceRecord:
    values = {"size_px": 128, "frame_number": 7, "face_index": 1, "digest": "0123456789abcdef", **changes}
    return record_from_dfl(face, mask=MASK_REF if face.mask else None, **values)


@pytest.mark.parametrize("path", FACES, ids=lambda path: path.name)
def test_a_face_that_nobody_touched_is_exported_with_its_bytes(path) -> None:
    data = path.read_bytes()
    metadata = read_face_jpeg(data).metadata
    face = parse_metadata(metadata)
    record = FaceRecord.from_json_bytes(record_of(face).to_json_bytes())
    for base in (metadata, None):
        exported = dfl_from_record(record, mask=face.mask, base=base)
        assert metadata_payload(exported) == metadata_payload(metadata)
        assert write_face_jpeg(data, exported) == data


@pytest.mark.parametrize("path", FACES, ids=lambda path: path.name)
def test_records_hold_what_the_file_says(path) -> None:
    face = face_of(path)
    record = record_of(face, clip="projects/p/clips/c", person="anna")
    assert record.face_id == "f000007_1-01234567" and record.person == "anna"
    assert record.source.original_filename == face.source_filename and record.source.clip == "projects/p/clips/c"
    assert (record.source.frame_width, record.source.frame_height) == (0, 0)
    assert record.landmark_origin is LandmarkOrigin.IMPORTED
    np.testing.assert_array_equal(record.crop_landmarks_px, face.landmarks_px_68x2)
    np.testing.assert_array_equal(record.detection_box_px, face.source_box_px)
    assert max(abs(record.pose.pitch_deg), abs(record.pose.yaw_deg), abs(record.pose.roll_deg)) <= 90
    assert (record.label.polygons if record.label else ()) == face.polygons


def test_what_the_base_holds_beyond_a_record_stays() -> None:
    metadata = read_face_jpeg(FACES[0].read_bytes()).metadata
    base = {
        "mine": {"note": 1},
        **metadata,
        "source_rect": metadata["source_rect"][[2, 1, 0, 3]],
        "later": b"x",
        "none": None,
    }
    base["landmarks"] = np.array(base["landmarks"])
    face = parse_metadata(base)
    record = record_of(face)
    exported = dfl_from_record(record, mask=face.mask, base=base)
    assert list(exported) == [key for key in base if key != "none"]
    assert all(exported[key] is base[key] for key in exported)
    label = XSegLabel(polygons=[Polygon(kind=PolygonKind.INCLUDE, points_px=np.array([[0, 0], [9, 0], [0, 9.5]]))])
    exported = dfl_from_record(replace(record, label=label, eyebrows_expand=1.5), mask=face.mask, base=base)
    changed = [key for key in exported if key not in base or exported[key] is not base[key]]
    assert changed == ["seg_ie_polys", "eyebrows_expand_mod"]
    assert parse_metadata(exported).polygons == label.polygons
    unlabelled = dfl_from_record(replace(record, label=None, mask=None), base=base)
    assert set(base) - set(unlabelled) == {"seg_ie_polys", "xseg_mask", "none"}


def test_a_face_that_was_cut_anew_says_so() -> None:
    metadata = read_face_jpeg(FACES[0].read_bytes()).metadata
    record = record_of(parse_metadata(metadata))
    matrix = alignment_matrix(record.frame_landmarks_px, FaceType.HEAD, 256)
    recut = replace(
        record,
        face_type=FaceType.HEAD,
        size_px=256,
        frame_to_face_2x3=matrix,
        crop_landmarks_px=transform_points(record.frame_landmarks_px, matrix),
        label=None,
        mask=None,
    )
    face = parse_metadata(dfl_from_record(recut, base=metadata))
    assert face.face_type is FaceType.HEAD
    np.testing.assert_array_equal(face.landmarks_px_68x2, recut.crop_landmarks_px)
    np.testing.assert_array_equal(face.frame_to_face_2x3, matrix)
    np.testing.assert_array_equal(face.frame_landmarks_px_68x2, record.frame_landmarks_px)
    assert face.source_filename == "src_00000.png"


def test_what_the_file_leaves_out_follows_from_the_rest() -> None:
    face = face_of(FACES[0])
    without_matrix = record_of(replace(face, frame_to_face_2x3=None))
    corners = [(0, 0), (640, 480)]
    ours = transform_points(corners, without_matrix.frame_to_face_2x3)
    assert np.abs(ours - transform_points(corners, face.frame_to_face_2x3)).max() < 5e-3
    without_landmarks = record_of(replace(face, frame_landmarks_px_68x2=None))
    assert np.abs(without_landmarks.frame_landmarks_px - face.frame_landmarks_px_68x2).max() < 1e-3
    alone = replace(face, frame_to_face_2x3=None, frame_landmarks_px_68x2=None)
    assert knows_its_frame(face) and not knows_its_frame(alone)
    record = record_of(alone)
    np.testing.assert_array_equal(record.frame_landmarks_px, face.landmarks_px_68x2)
    np.testing.assert_array_equal(record.frame_to_face_2x3, np.eye(2, 3))
    assert (record.source.frame_width, record.source.frame_height) == (128, 128)


def test_what_was_left_out_stays_left_out_on_the_way_back() -> None:
    metadata = dict(read_face_jpeg(FACES[1].read_bytes()).metadata)
    del metadata["image_to_face_mat"], metadata["source_rect"], metadata["face_type"]
    face = parse_metadata(metadata)
    exported = dfl_from_record(record_of(face), base=metadata)
    assert list(exported) == list(metadata)
    fresh = dfl_from_record(record_of(face))
    assert set(fresh) == {*metadata, "image_to_face_mat", "source_rect", "face_type"}
    box = fresh["source_rect"]
    np.testing.assert_allclose(box[:2], face.frame_landmarks_px_68x2.min(axis=0), atol=0.5)
    np.testing.assert_allclose(box[2:], face.frame_landmarks_px_68x2.max(axis=0), atol=0.5)


def test_our_own_faces_get_a_frame_name_that_deepfacelab_finds() -> None:
    record = record_of(face_of(FACES[1]))
    record = replace(record, source=replace(record.source, original_filename="take.mov_000007"))
    assert dfl_from_record(record)["source_filename"] == "00007.png"


def test_masks_give_way_to_polygons_and_polygons_to_nothing() -> None:
    face = face_of(FACES[0])
    noise = encode_mask(np.random.default_rng(0).integers(0, 256, (256, 256), np.uint8))
    assert len(noise) > 45_000

    def labelled(count: int) -> FaceRecord:
        points = np.random.default_rng(1).uniform(0, 128, (count, 2)).astype(np.float32)
        label = XSegLabel(polygons=[Polygon(kind=PolygonKind.INCLUDE, points_px=points)])
        return replace(record_of(face), label=label)

    roomy = dfl_from_record(labelled(10), mask=noise)
    assert roomy["xseg_mask"].tobytes() == noise
    tight = dfl_from_record(labelled(4000), mask=noise)
    assert len(tight["xseg_mask"]) < len(noise) and decode_mask(tight["xseg_mask"].tobytes()).shape == (256, 256)
    assert len(metadata_payload(tight)) <= 65533
    with pytest.raises(MetadataTooLargeError, match="seg_ie_polys"):
        dfl_from_record(labelled(8000), mask=noise)
    large = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8))[1].tobytes()
    assert len(dfl_from_record(labelled(10), mask=large)["xseg_mask"]) <= 50_000


def test_what_deepfacelab_cannot_hold_is_refused() -> None:
    face = face_of(FACES[0])
    record = record_of(face)
    with pytest.raises(ValueError, match="no face type head_nose"):
        dfl_from_record(replace(record, face_type=FaceType.HEAD_NOSE), mask=face.mask)
    with pytest.raises(ValueError, match="exactly where the record refers to one"):
        dfl_from_record(record)
    with pytest.raises(ValueError, match="exactly where the record refers to one"):
        dfl_from_record(replace(record, mask=None), mask=face.mask)
    with pytest.raises(ValueError, match="PNG or a JPEG"):
        dfl_from_record(replace(record, mask=FaceMask(raster=MASK_REF)), mask=b"text")
    with pytest.raises(ValueError, match="cut the face from it first"):
        record_of(replace(face, face_type=FaceType.MARK_ONLY))


def test_a_marked_frame_becomes_a_face() -> None:
    golden = face_of(FACES[0])
    frame = cv2.GaussianBlur(np.random.default_rng(2).integers(0, 256, (480, 640, 3), np.uint8), (0, 0), 6)
    landmarks = golden.frame_landmarks_px_68x2
    mask = np.zeros((240, 320), np.uint8)
    cv2.fillConvexPoly(mask, np.rint(landmarks[:17] / 2).astype(np.int32), 255)
    marked = replace(
        golden,
        face_type=FaceType.MARK_ONLY,
        landmarks_px_68x2=landmarks,
        frame_to_face_2x3=None,
        polygons=(Polygon(kind=PolygonKind.EXCLUDE, points_px=landmarks[36:42]),),
        mask=encode_mask(mask),
    )
    image, face = cut_mark_only(marked, frame, FaceType.WHOLE_FACE, 128)
    assert image.shape == (128, 128, 3)
    assert np.abs(face.landmarks_px_68x2 - golden.landmarks_px_68x2).max() < 5e-3
    np.testing.assert_array_equal(face.polygons[0].points_px, face.landmarks_px_68x2[36:42])
    inside = decode_mask(face.mask)
    assert inside[tuple(np.rint(face.landmarks_px_68x2[:17].mean(axis=0)[::-1]).astype(int))] == 255
    assert 0.02 < (inside > 127).mean() < 0.6
    record = record_of(face)
    assert record.face_type is FaceType.WHOLE_FACE and record.source.original_filename == "src_00000.png"
    with pytest.raises(ValueError, match="already a crop"):
        cut_mark_only(golden, frame, FaceType.WHOLE_FACE, 128)
