"""DeepFaceLab's faces as our records and back.

Easy to get wrong: what a record has no field for (unknown keys, the spelling of a value, an unordered rectangle) stays
in the imported JPEG, which keeps its metadata. On export that metadata is the `base`: only what the record says
otherwise is replaced, so a face that nobody touched is exported with the bytes that were imported.

Legend: 68x2 = landmarks (x, y) in pixels, iBUG order; 2x3 = affine matrix, face = M frame.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_common.dfl.face_jpeg import Metadata, metadata_payload
from ml_common.dfl.face_metadata import DflFace, metadata_of, parse_metadata
from ml_common.dfl.jpeg_segments import MAX_PAYLOAD_BYTES
from ml_common.dfl.mask_picture import MAX_MASK_BYTES, decode_mask, fitted_mask
from ml_common.dfl.source_names import source_filename_for
from ml_common.facesets import (
    FaceMask,
    FaceRecord,
    FaceSource,
    LandmarkOrigin,
    ObjectRef,
    Polygon,
    Pose,
    XSegLabel,
    face_id,
)
from ml_common.geometry import (
    FaceType,
    align,
    alignment_matrix,
    invert_affine,
    pose_pitch_yaw_roll,
    transform_points,
)

# What the mask may take beyond its bytes: the array around them, and the opcode that says how long they are.
_MASK_WRAPPING_BYTES = 16


def record_from_dfl(
    face: DflFace,
    *,
    size_px: int,
    frame_number: int,
    face_index: int,
    digest: str,
    clip: str = "",
    person: str = "",
    image: ObjectRef | None = None,
    mask: ObjectRef | None = None,
) -> FaceRecord:
    """The record of an imported face of side `size_px`; sharpness and brightness are left for whoever sees the pixels.

    digest: what made the face, for its id: see `face_id`. clip: the resource name where the frames are known. image,
    mask: where the JPEG and `face.mask` are stored. What the file does not say of the frame follows from what it does:
    the matrix from the landmarks in the frame, or these from the matrix. Without both, the picture itself is taken for
    the frame, of its own size (see `knows_its_frame`).

    ValueError for MARK_ONLY, which is a whole frame (see `cut_mark_only`), and for values that a record cannot hold.
    """
    if face.face_type is FaceType.MARK_ONLY:
        raise ValueError("mark_only is a whole frame with landmarks, not an aligned face; cut the face from it first")
    frame_landmarks, frame_to_face = _framing(face, size_px)
    pitch, yaw, roll = pose_pitch_yaw_roll(face.landmarks_px_68x2, size_px)
    known_side_px = 0 if knows_its_frame(face) else size_px
    return FaceRecord(
        face_id=face_id(frame_number, face_index, digest),
        source=FaceSource(
            clip=clip,
            frame_number=frame_number,
            face_index=face_index,
            original_filename=face.source_filename,
            frame_width=known_side_px,
            frame_height=known_side_px,
        ),
        face_type=face.face_type,
        size_px=size_px,
        frame_landmarks_px=frame_landmarks,
        crop_landmarks_px=face.landmarks_px_68x2,
        frame_to_face_2x3=frame_to_face,
        detection_box_px=face.source_box_px,
        landmark_origin=LandmarkOrigin.IMPORTED,
        pose=Pose(pitch_deg=math.degrees(pitch), yaw_deg=math.degrees(yaw), roll_deg=math.degrees(roll)),
        eyebrows_expand=face.eyebrows_expand,
        image=image,
        mask=FaceMask(raster=mask) if mask else None,
        label=XSegLabel(polygons=face.polygons) if face.polygons else None,
        person=person,
    )


def knows_its_frame(face: DflFace) -> bool:
    """Whether the file says where in its frame the face is; without that it can be trained on but not merged back."""
    return face.frame_landmarks_px_68x2 is not None or face.frame_to_face_2x3 is not None


def dfl_from_record(record: FaceRecord, *, mask: bytes | None = None, base: Metadata | None = None) -> Metadata:
    """The metadata that makes the record's picture a face of DeepFaceLab; write it with `write_face_jpeg`.

    mask: the file (PNG or JPEG, one channel) that `record.mask` refers to; encoded anew, as DeepFaceLab does, where it
    is too large. base: the metadata that the picture was imported with: its keys keep their order and the spelling of
    what is unchanged, and unknown keys stay.

    ValueError for HEAD_NOSE and FRAME_SQUARE, which DeepFaceLab does not have, for a mask that is no picture of one
    channel or that the record does not speak of, and as MetadataTooLargeError when polygons leave no room.
    """
    if (mask is None) != (record.mask is None):
        raise ValueError(f"face {record.face_id}: give the mask's file exactly where the record refers to one")
    face = _face_of(record, mask)
    written = metadata_of(face)
    if base is not None:
        written = _on_base(record, written, face, base)
    if mask is not None:
        room = MAX_PAYLOAD_BYTES - _MASK_WRAPPING_BYTES - len(metadata_payload({**written, "xseg_mask": _pixels(b"")}))
        fitting = fitted_mask(mask, min(MAX_MASK_BYTES, room))
        if fitting != mask:
            written["xseg_mask"] = _pixels(fitting)
    metadata_payload(written)
    return written


def cut_mark_only(
    face: DflFace, image_bgr_HWC: NDArray[np.uint8], face_type: FaceType, size_px: int
) -> tuple[NDArray[np.uint8], DflFace]:
    """The aligned face (uint8 BGR [size, size, 3], and what is known of it) in a MARK_ONLY picture, a whole frame.

    Landmarks and polygons are carried into the crop; the mask, which covers the frame, is cut along and stored as PNG.
    ValueError when the face is of another type, or its landmarks frame nothing.
    """
    if face.face_type is not FaceType.MARK_ONLY:
        raise ValueError(f"the face is already a crop, of type {face.face_type.metadata_name}")
    frame_landmarks = face.landmarks_px_68x2
    frame_to_face = alignment_matrix(frame_landmarks, face_type, size_px)
    return align(image_bgr_HWC, frame_to_face, size_px), replace(
        face,
        face_type=face_type,
        landmarks_px_68x2=transform_points(frame_landmarks, frame_to_face),
        frame_landmarks_px_68x2=frame_landmarks,
        frame_to_face_2x3=frame_to_face,
        polygons=tuple(
            Polygon(kind=polygon.kind, points_px=transform_points(polygon.points_px, frame_to_face))
            for polygon in face.polygons
        ),
        mask=_cut_mask(face.mask, image_bgr_HWC.shape[:2], frame_to_face, size_px),
    )


def _cut_mask(
    mask: bytes | None, frame_shape_HW: tuple[int, ...], frame_to_face: NDArray[np.float64], size_px: int
) -> bytes | None:
    if mask is None:
        return None
    height, width = frame_shape_HW
    full_HW = cv2.resize(decode_mask(mask), (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    return cv2.imencode(".png", align(full_HW, frame_to_face, size_px))[1].tobytes()


def _framing(face: DflFace, size_px: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Landmarks in the frame, and the matrix from frame to face."""
    landmarks, matrix = face.frame_landmarks_px_68x2, face.frame_to_face_2x3
    if matrix is None and landmarks is None:
        return face.landmarks_px_68x2, np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    if matrix is None:
        assert landmarks is not None
        matrix = alignment_matrix(landmarks, face.face_type, size_px)
    if landmarks is None:
        landmarks = transform_points(face.landmarks_px_68x2, invert_affine(matrix))
    return landmarks, matrix


def _face_of(record: FaceRecord, mask: bytes | None) -> DflFace:
    if mask is not None:
        decode_mask(mask)
    box = record.detection_box_px
    if box is None:  # DeepFaceLab sorts by this box and expects one
        box = np.concatenate((record.frame_landmarks_px.min(axis=0), record.frame_landmarks_px.max(axis=0)))
    return DflFace(
        face_type=record.face_type,
        landmarks_px_68x2=record.crop_landmarks_px,
        source_filename=source_filename_for(record.source),
        source_box_px=box,
        frame_landmarks_px_68x2=record.frame_landmarks_px,
        frame_to_face_2x3=record.frame_to_face_2x3,
        eyebrows_expand=record.eyebrows_expand,
        polygons=record.label.polygons if record.label else (),
        mask=mask,
    )


def _on_base(record: FaceRecord, written: Metadata, face: DflFace, base: Metadata) -> Metadata:
    """`base`, with what the record says otherwise. Values are compared as they are understood, not as they are spelled."""
    before = parse_metadata(base)
    before_landmarks, before_matrix = _framing(before, record.size_px)
    unchanged = {
        "face_type": before.face_type is face.face_type,
        "landmarks": _same(before.landmarks_px_68x2, face.landmarks_px_68x2),
        "source_filename": before.source_filename == record.source.original_filename,
        "source_rect": _same(before.source_box_px, record.detection_box_px),
        "source_landmarks": _same(before_landmarks, face.frame_landmarks_px_68x2),
        "image_to_face_mat": _same(before_matrix, face.frame_to_face_2x3),
        "eyebrows_expand_mod": before.eyebrows_expand == face.eyebrows_expand,
        "seg_ie_polys": before.polygons == face.polygons,
        "xseg_mask": before.mask == face.mask,
    }
    result = {key: value for key, value in base.items() if value is not None}
    for key in (key for key, same in unchanged.items() if not same):
        if key in written:
            result[key] = written[key]
        else:
            result.pop(key, None)
    return result


def _same(a: Any, b: Any) -> bool:
    return (a is None) == (b is None) and (a is None or np.array_equal(a, b))


def _pixels(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8).copy()
