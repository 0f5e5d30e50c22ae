"""Small facesets for tests, without detector or footage: drawn faces whose landmarks are known, stored as an extraction does."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np

from ml_common.facesets import FaceKeys, FaceRecord, FaceSource, LandmarkOrigin, ObjectRef, Pose, face_id, from_records
from ml_common.geometry import FaceType, HEAD_MODEL_68x3
from services.kit.faceset_store import FacesetStore, image_key, record_key
from services.kit.records import Records
from services.kit.storage import ObjectStore

SIZE_PX = 96


def store_faceset(
    store: ObjectStore, name: str, *, count: int, skin_bgr: tuple[int, int, int], seed: int, trashed: bool = False
) -> None:
    """A faceset of ``count`` whole-face crops of one drawn person; with ``trashed`` all of them are in the trash."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(count):
        yaw_rad = float(rng.uniform(-0.6, 0.6))
        landmarks = _landmarks(yaw_rad)
        picture = _jpeg(landmarks, np.array(skin_bgr) * rng.uniform(0.8, 1.0))
        digest = hashlib.sha256(picture).hexdigest()
        identifier = face_id(number, 0, digest)
        key = image_key(name, identifier)
        record = FaceRecord(
            face_id=identifier,
            source=FaceSource(clip="", frame_number=number, face_index=0),
            face_type=FaceType.WHOLE_FACE,
            size_px=SIZE_PX,
            frame_landmarks_px=landmarks,
            crop_landmarks_px=landmarks,
            frame_to_face_2x3=np.eye(2, 3),
            landmark_origin=LandmarkOrigin.IMPORTED,
            pose=Pose(pitch_deg=0.0, yaw_deg=float(np.degrees(-yaw_rad)), roll_deg=0.0),
            image=ObjectRef(uri=store.uri(key), sha256=digest, size_bytes=len(picture), media_type="image/jpeg"),
        )
        store.put(key, picture, media_type="image/jpeg")
        store.put(record_key(name, identifier), record.to_json_bytes(), media_type="application/json")
        records.append(record)
    keys = [
        FaceKeys(image_key=image_key(name, record.face_id), record_key=record_key(name, record.face_id))
        for record in records
    ]
    table = from_records(records, keys)
    if trashed:
        table = table.replace_column("trashed", [True] * count)
    body = {"name": name, "faceType": "FACE_TYPE_WHOLE", "sizePx": SIZE_PX}
    FacesetStore(store, Records(store)).create(name, body, table, method="test", summary="drawn", actor="test")


def _landmarks(yaw_rad: float) -> np.ndarray:
    model = np.asarray(HEAD_MODEL_68x3, np.float64)
    points = np.stack([np.cos(yaw_rad) * model[:, 0] + np.sin(yaw_rad) * model[:, 2], model[:, 1]], axis=1)
    scaled = (points - points.mean(0)) / np.ptp(points[:, 1]) * SIZE_PX * 0.5
    return np.asarray(scaled + np.array([SIZE_PX * 0.5, SIZE_PX * 0.55]))


def _jpeg(landmarks: np.ndarray, skin_bgr: np.ndarray) -> bytes:
    image = np.full((SIZE_PX, SIZE_PX, 3), (60, 70, 80), np.uint8)
    parts = ((0, 27, skin_bgr), (36, 42, (250, 250, 250)), (42, 48, (250, 250, 250)), (48, 60, (60, 60, 200)))
    for first, stop, colour in parts:
        hull = cv2.convexHull(landmarks[first:stop].astype(np.int32))
        cv2.fillConvexPoly(image, hull, tuple(int(value) for value in colour))
    return cv2.imencode(".jpg", image)[1].tobytes()
