"""One face out of its frame: the crop, its file, its measures, its sidecar. Every way to a faceset ends here.

Sidecars depend on the frame, the landmarks and the options alone (no clock, no worker count), so that any number of workers gives the
same bytes. What one would get wrong: a face's id names what made it (picture, points, makers), not the picture alone, so two sidecars that
differ never share a key.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml_common.facesets import (
    FACE_TYPE_NAMES,
    FaceKeys,
    FaceRecord,
    FaceSource,
    LandmarkOrigin,
    ObjectRef,
    Polygon,
    Pose,
    Producer,
    XSegLabel,
    face_id,
)
from ml_common.geometry import (
    FaceType,
    align,
    alignment_matrix,
    frame_square_matrix,
    invert_affine,
    pose_pitch_yaw_roll,
    transform_points,
)
from ml_common.imaging import as_bgr_u8
from ml_common.imaging.picture import encode_picture, lossless_suffix, media_type_of
from ml_common.masks import sharpness_and_brightness
from services.kit.faceset_store import image_key, record_key
from services.kit.operations.plan import canonical_json
from services.kit.storage import ObjectStore

_POSE_CROP_PX = 256
_SMALLEST_NATIVE_PX = 64
_LABEL_DECIMALS = 6
_TYPES = {name: face_type for face_type, name in FACE_TYPE_NAMES.items() if face_type is not None}


@dataclass(frozen=True, slots=True)
class Placed:
    """A face in a frame, however it got there. ``landmarks_px_68x2`` in frame pixels; ``box_px_4`` None where nothing was detected.

    What a person decided about a face stays with it when it is cut out again: ``person``, ``eyebrows_expand``, and ``label`` with its
    polygons in *frame* pixels.
    """

    landmarks_px_68x2: np.ndarray
    origin: LandmarkOrigin
    box_px_4: np.ndarray | None = None
    score: float = 0.0
    landmark_score: float = 0.0
    detector: Producer | None = None
    landmarker: Producer | None = None
    smoother: Producer | None = None
    track_id: str = ""
    person: str = ""
    eyebrows_expand: float = 1.0
    label: XSegLabel | None = None


@dataclass(frozen=True, slots=True)
class CutFace:
    """A face ready to be stored."""

    record: FaceRecord
    picture: bytes
    keys: FaceKeys

    def objects(self) -> list[tuple[str, bytes, str]]:
        """Key, bytes and media type of picture and sidecar."""
        assert self.record.image is not None
        return [
            (self.keys.image_key, self.picture, self.record.image.media_type),
            (self.keys.record_key, self.record.to_json_bytes(), "application/json"),
        ]


class FaceCutter:
    """Cuts faces for one faceset. ``options`` as ``ExtractionOptions.to_json``; safe for concurrent threads."""

    def __init__(self, store: ObjectStore, *, faceset: str, clip: str, clip_file: str, options: dict[str, Any]) -> None:
        self._store = store
        self._faceset, self._clip = faceset, clip
        self._file = clip_file or clip.rpartition("/")[2]
        self._options = options
        self._type: FaceType = _TYPES[options["face_type"]]

    def cut(self, number: int, index: int, image_bgr_HWC: np.ndarray, face: Placed) -> CutFace:
        """Face ``index`` of frame ``number``. ValueError when its landmarks frame nothing."""
        landmarks = np.asarray(face.landmarks_px_68x2, np.float64)
        height, width = image_bgr_HWC.shape[:2]
        size_px = self._size_px(landmarks, width, height)
        frame_to_face_2x3 = crop_matrix(landmarks, self._type, size_px, width, height)
        crop = align(image_bgr_HWC, frame_to_face_2x3, size_px)
        shown = as_bgr_u8(crop)
        crop_landmarks = transform_points(landmarks, frame_to_face_2x3)
        suffix = ".jpg" if self._options["image_format"] == "IMAGE_FORMAT_JPEG" else lossless_suffix(crop.dtype)
        picture = encode_picture(
            shown if suffix == ".jpg" else crop, suffix, jpeg_quality=self._options["jpeg_quality"]
        )
        sharpness, brightness = sharpness_and_brightness(shown, crop_landmarks)
        picture_sha256 = hashlib.sha256(picture).hexdigest()
        identifier = face_id(number, index, _maker_digest(picture_sha256, self._options["face_type"], face))
        keys = FaceKeys(
            image_key=image_key(self._faceset, identifier, suffix), record_key=record_key(self._faceset, identifier)
        )
        record = FaceRecord(
            face_id=identifier,
            source=FaceSource(
                clip=self._clip,
                frame_number=number,
                face_index=index,
                original_filename=f"{self._file}_{number:06d}",
                frame_width=width,
                frame_height=height,
            ),
            face_type=self._type,
            size_px=size_px,
            frame_landmarks_px=landmarks,
            crop_landmarks_px=crop_landmarks,
            frame_to_face_2x3=frame_to_face_2x3,
            detection_box_px=None if face.box_px_4 is None else np.asarray(face.box_px_4, np.float64),
            detection_score=face.score,
            landmark_score=face.landmark_score,
            detector=face.detector,
            landmarker=face.landmarker,
            landmark_origin=face.origin,
            smoother=face.smoother,
            track_id=face.track_id,
            person=face.person,
            eyebrows_expand=face.eyebrows_expand,
            label=face.label and _mapped(face.label, frame_to_face_2x3),
            pose=pose_of(landmarks),
            sharpness=sharpness,
            brightness=brightness,
            image=ObjectRef(
                uri=self._store.uri(keys.image_key),
                sha256=picture_sha256,
                size_bytes=len(picture),
                media_type=media_type_of(suffix),
            ),
        )
        return CutFace(record, picture, keys)

    def _size_px(self, landmarks: np.ndarray, width: int, height: int) -> int:
        largest: int = self._options["size_px"]
        if not self._options["native_size"]:
            return largest
        scale = crop_matrix(landmarks, self._type, _POSE_CROP_PX, width, height)[0]
        native = _POSE_CROP_PX / math.hypot(scale[0], scale[1])
        return min(largest, max(_SMALLEST_NATIVE_PX, 2 * math.ceil(native / 2)))


def crop_matrix(landmarks: np.ndarray, face_type: FaceType, size_px: int, width: int, height: int) -> np.ndarray:
    """frame_to_face 2x3 of any face type."""
    if face_type is FaceType.FRAME_SQUARE:
        return frame_square_matrix(width, height, size_px)
    return alignment_matrix(landmarks, face_type, size_px)


def placed_from_record(record: FaceRecord) -> Placed:
    """A stored face as it is placed in its frame, to cut it again.

    Its mask is not part of that: a network's prediction for a crop that is no more, and what it did not see it cannot be made to show.
    """
    return Placed(
        landmarks_px_68x2=record.frame_landmarks_px,
        origin=record.landmark_origin,
        box_px_4=record.detection_box_px,
        score=record.detection_score,
        landmark_score=record.landmark_score,
        detector=record.detector,
        landmarker=record.landmarker,
        smoother=record.smoother,
        track_id=record.track_id,
        person=record.person,
        eyebrows_expand=record.eyebrows_expand,
        label=frame_label(record),
    )


def frame_label(record: FaceRecord) -> XSegLabel | None:
    """What a person drew on a face, in pixels of its frame; rounded so that going to a crop and back changes nothing."""
    if record.label is None:
        return None
    return _mapped(record.label, invert_affine(record.frame_to_face_2x3), decimals=_LABEL_DECIMALS)


def same_face(one: FaceRecord, other: FaceRecord) -> bool:
    """Whether two faces are the same picture with the same points, whatever is said about them beside."""
    assert one.image is not None
    assert other.image is not None
    return (
        one.image.sha256 == other.image.sha256
        and one.face_type is other.face_type
        and one.landmark_origin is other.landmark_origin
        and one.smoother == other.smoother
        and np.array_equal(one.frame_landmarks_px, other.frame_landmarks_px)
        and np.array_equal(one.frame_to_face_2x3, other.frame_to_face_2x3)
    )


def _mapped(label: XSegLabel, matrix_2x3: np.ndarray, *, decimals: int | None = None) -> XSegLabel:
    polygons = []
    for polygon in label.polygons:
        points = transform_points(polygon.points_px, matrix_2x3)
        polygons.append(Polygon(kind=polygon.kind, points_px=points if decimals is None else points.round(decimals)))
    return XSegLabel(polygons=tuple(polygons))


def pose_of(landmarks: np.ndarray) -> Pose:
    """Pitch and yaw by fitting the head model; roll by the alignment, since the fit's own is not reliable (geometry.pose)."""
    upright_2x3 = alignment_matrix(landmarks, FaceType.FULL, _POSE_CROP_PX)
    roll = math.atan2(-upright_2x3[1, 0], upright_2x3[0, 0])
    try:
        pitch, yaw, _ = pose_pitch_yaw_roll(transform_points(landmarks, upright_2x3), _POSE_CROP_PX)
    except ValueError:
        pitch = yaw = 0.0  # no pose fits these points; the landmarks themselves stay
    return Pose(pitch_deg=math.degrees(pitch), yaw_deg=math.degrees(yaw), roll_deg=math.degrees(roll))


def _maker_digest(picture_sha256: str, face_type: str, face: Placed) -> str:
    makers = [maker.to_json_dict() if maker else None for maker in (face.detector, face.landmarker, face.smoother)]
    facts = {
        "picture": picture_sha256,
        "face_type": face_type,
        "landmarks": np.asarray(face.landmarks_px_68x2, np.float64).ravel().tolist(),
        "box": None if face.box_px_4 is None else [float(value) for value in face.box_px_4],
        "scores": [face.score, face.landmark_score],
        "origin": face.origin.name,
        "makers": makers,
        "track": face.track_id,
        "decided": [face.person, face.eyebrows_expand, face.label and face.label.to_json_dict()],
    }
    return hashlib.sha256(canonical_json(facts)).hexdigest()
