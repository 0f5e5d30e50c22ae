"""The worker's part of extraction: decode, find faces, align, encode, store.

Importable without torch: networks are loaded in ``setup``. Sidecars depend on the frame and the options alone (no clock, no worker
count), so that any number of workers gives the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from queue import Queue
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ml_common.facesets import (
    FACE_TYPE_NAMES,
    FaceKeys,
    FaceRecord,
    FaceSource,
    LandmarkOrigin,
    ObjectRef,
    Pose,
    Producer,
    concatenate,
    face_id,
    from_records,
    read_revision,
    write_revision,
)
from ml_common.geometry import FaceType, align, alignment_matrix, pose_pitch_yaw_roll, transform_points
from ml_common.imaging import as_bgr_u8
from ml_common.masks import hull_mask
from ml_common.weights import MissingWeights
from services.kit.clips import MediaFile, open_clip
from services.kit.errors import InvalidInput, MissingObject
from services.kit.faceset_store import FacesetStore, image_key, record_key
from services.kit.operations.keys import output_prefix
from services.kit.operations.plan import Chunk, ChunkManifest, Plan, chunk_frames
from services.kit.operations.stage import ChunkOutcome, Resources, Response, Stage, WorkerEnv

if TYPE_CHECKING:
    from ml_common.detect import FaceFinder, FoundFace

FRAMES_PER_BATCH = 8
DECODED_AHEAD = 2
_POSE_CROP_PX = 256
_TYPES = {name: face_type for face_type, name in FACE_TYPE_NAMES.items() if face_type is not None}


class ExtractStage(Stage):
    """Frames of a clip to faces of a faceset."""

    version = "1"
    resources = Resources(cpus=1, gpus=0.5)

    def __init__(self) -> None:
        self._finders: dict[float, FaceFinder] = {}

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage. Writes pictures and sidecars of a batch together, then the chunk's rows of the revision."""
        params = plan.params
        finder = self._finder(env, params["options"]["min_score"])
        records: list[FaceRecord] = []
        empty: list[int] = []
        done = 0
        with open_clip(env.store, MediaFile(**params["media"]), params["clip"]) as clip:
            for batch in _decoded_ahead(clip.read(chunk_frames(chunk))):
                found = finder.find([image for _, image in batch])
                made = []
                for (number, image), faces in zip(batch, found, strict=True):
                    kept = _kept(faces, params["options"])
                    made += [_face(env, params, finder, number, image, index, face) for index, face in enumerate(kept)]
                    if not kept:
                        empty.append(number)
                env.store.put_many(
                    [item for record, picture in made for item in _objects(params["faceset"], record, picture)]
                )
                records += [record for record, _ in made]
                done += len(batch)
                report(done)
        keys = [
            FaceKeys(
                image_key=image_key(params["faceset"], r.face_id), record_key=record_key(params["faceset"], r.face_id)
            )
            for r in records
        ]
        rows_key = f"{output_prefix(plan.action_key)}{chunk.index:06d}.parquet"
        env.store.put(
            rows_key, write_revision(from_records(records, keys)), media_type="application/vnd.apache.parquet"
        )
        return ChunkOutcome({"rows": rows_key, "frames": chunk.units, "faces": len(records), "empty": empty})

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Publishes revision 1; InvalidInput NO_FACE when no frame held a face."""
        faceset, params = plan.params["faceset"], plan.params
        faces = sum(manifest.summary["faces"] for manifest in manifests)
        frames = sum(manifest.summary["frames"] for manifest in manifests)
        empty = [number for manifest in manifests for number in manifest.summary["empty"]]
        if not faces:
            raise InvalidInput(
                f"no face was found in any of the {frames} frames of {params['clip']}: check that it is the right clip, or lower min_score",
                reason="NO_FACE",
                metadata={"clip": params["clip"]},
            )
        table = concatenate([read_revision(env.store.get(manifest.summary["rows"])) for manifest in manifests])
        body = {
            "name": faceset,
            "clip": params["clip"],
            "faceType": params["options"]["face_type"],
            "sizePx": params["options"]["size_px"],
            "frameCount": str(frames),
            "actionKey": plan.action_key,
        }
        FacesetStore(env.store, env.records).create(
            faceset,
            body,
            table,
            method="FaceService/ExtractFaceset",
            summary=f"{faces} faces of {frames} frames",
            actor=actor,
        )
        return Response(
            "understudy.v1.ExtractFacesetResponse",
            {
                "faceset": faceset,
                "revision": "1",
                "frameCount": str(frames),
                "faceCount": str(faces),
                "framesWithoutFace": [str(number) for number in empty[:1000]],
            },
        )

    def answer(self, env: WorkerEnv, question: dict[str, Any]) -> dict[str, Any]:
        """DetectFaces: ``{"keys": [...], "options": {...}}`` to ``{"images": [[face, ...], ...]}``."""
        finder = self._finder(env, question["options"]["min_score"])
        images = [_decoded_picture(env, key) for key in question["keys"]]
        return {
            "images": [[_detected(face) for face in _kept(faces, question["options"])] for faces in finder.find(images)]
        }

    def _finder(self, env: WorkerEnv, min_score: float) -> FaceFinder:
        if min_score not in self._finders:
            import torch

            from ml_common.detect import load_default_finder

            try:
                self._finders[min_score] = load_default_finder(
                    env.weights_dir, torch.device(env.device), min_score=min_score
                )
            except MissingWeights as error:
                raise MissingObject(
                    str(error), reason="MISSING_WEIGHTS", metadata={"weights_dir": str(env.weights_dir)}
                ) from error
        return self._finders[min_score]


def _decoded_ahead(frames: Iterator[tuple[int, np.ndarray]]) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Batches of frames, decoded in a thread while the one before is looked at."""
    queue: Queue[list[tuple[int, np.ndarray]] | BaseException | None] = Queue(DECODED_AHEAD)
    wanted = threading.Event()
    wanted.set()

    def decode() -> None:
        try:
            while wanted.is_set() and (batch := list(islice(frames, FRAMES_PER_BATCH))):
                queue.put(batch)
            queue.put(None)
        except BaseException as error:  # noqa: BLE001  carried to the consumer, which raises it
            queue.put(error)

    thread = threading.Thread(target=decode, name="decode", daemon=True)
    thread.start()
    try:
        while (batch := queue.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield batch
    finally:
        wanted.clear()
        while thread.is_alive():
            while not queue.empty():
                queue.get_nowait()
            thread.join(0.05)


def _kept(faces: Sequence[FoundFace], options: dict[str, Any]) -> list[FoundFace]:
    """Largest first, without those that are too small or too many."""
    large = [face for face in faces if min(face.box_px_4[2:] - face.box_px_4[:2]) >= options["min_face_px"]]
    return large[: options["max_faces_per_frame"] or None]


def _face(
    env: WorkerEnv,
    params: dict[str, Any],
    finder: FaceFinder,
    number: int,
    image_bgr_HWC: np.ndarray,
    index: int,
    face: FoundFace,
) -> tuple[FaceRecord, bytes]:
    """The aligned picture as JPEG and everything known about it."""
    options = params["options"]
    face_type, size_px = _TYPES[options["face_type"]], options["size_px"]
    frame_to_face_2x3 = alignment_matrix(face.landmarks_px_68x2, face_type, size_px)
    crop = as_bgr_u8(align(image_bgr_HWC, frame_to_face_2x3, size_px))
    crop_landmarks = transform_points(face.landmarks_px_68x2, frame_to_face_2x3)
    picture = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, options["jpeg_quality"]])[1].tobytes()
    sharpness, brightness = _measures(crop, crop_landmarks)
    digest = hashlib.sha256(picture).hexdigest()
    identifier = face_id(number, index, digest)
    key = image_key(params["faceset"], identifier)
    weights = finder.version
    record = FaceRecord(
        face_id=identifier,
        source=FaceSource(
            clip=params["clip"],
            frame_number=number,
            face_index=index,
            original_filename=f"{params['clip_file'] or params['clip'].rpartition('/')[2]}_{number:06d}",
            frame_width=image_bgr_HWC.shape[1],
            frame_height=image_bgr_HWC.shape[0],
        ),
        face_type=face_type,
        size_px=size_px,
        frame_landmarks_px=face.landmarks_px_68x2,
        crop_landmarks_px=crop_landmarks,
        frame_to_face_2x3=frame_to_face_2x3,
        detection_box_px=np.asarray(face.box_px_4, np.float64),
        detection_score=face.score,
        landmark_score=face.presence,
        detector=Producer(name=options["detector"], version=weights),
        landmarker=Producer(name=options["landmarker"], version=weights),
        landmark_origin=LandmarkOrigin.MODEL,
        pose=_pose(face.landmarks_px_68x2, face_type, size_px),
        sharpness=sharpness,
        brightness=brightness,
        image=ObjectRef(uri=env.store.uri(key), sha256=digest, size_bytes=len(picture), media_type="image/jpeg"),
    )
    return record, picture


def _objects(faceset: str, record: FaceRecord, picture: bytes) -> list[tuple[str, bytes, str]]:
    return [
        (image_key(faceset, record.face_id), picture, "image/jpeg"),
        (record_key(faceset, record.face_id), record.to_json_bytes(), "application/json"),
    ]


def _measures(crop_bgr_SS3: np.ndarray, crop_landmarks: np.ndarray) -> tuple[float, float]:
    """Sharpness (variance of the Laplacian of the luma) and mean luma, both inside the face hull."""
    luma = cv2.cvtColor(crop_bgr_SS3, cv2.COLOR_BGR2GRAY)
    inside = hull_mask(crop_landmarks, *luma.shape) > 0.5
    if not inside.any():
        inside = np.ones_like(inside)  # the face lies outside its crop: judge the whole
    laplacian = cv2.Laplacian(luma, cv2.CV_32F)
    return float(laplacian[inside].var()), float(luma[inside].mean() / 255)


def _pose(frame_landmarks: np.ndarray, face_type: FaceType, size_px: int) -> Pose:
    """Pitch and yaw by fitting the head model; roll by the alignment, since the fit's own is not reliable (geometry.pose)."""
    upright_2x3 = alignment_matrix(frame_landmarks, FaceType.FULL, size_px)
    roll = math.atan2(-upright_2x3[1, 0], upright_2x3[0, 0])
    crop_landmarks = transform_points(frame_landmarks, alignment_matrix(frame_landmarks, face_type, size_px))
    try:
        pitch, yaw, _ = pose_pitch_yaw_roll(crop_landmarks, size_px)
    except ValueError:
        pitch = yaw = 0.0  # no pose fits these points; the landmarks themselves stay
    return Pose(pitch_deg=math.degrees(pitch), yaw_deg=math.degrees(yaw), roll_deg=math.degrees(roll))


def _detected(face: FoundFace) -> dict[str, Any]:
    landmarks = face.landmarks_px_68x2
    pose = _pose(landmarks, FaceType.FULL, _POSE_CROP_PX)
    return {
        "boxPx": [float(value) for value in face.box_px_4],
        "score": face.score,
        "landmarkScore": face.presence,
        "landmarksPx": [float(value) for value in landmarks.ravel()],
        "pose": {"pitchDeg": pose.pitch_deg, "yawDeg": pose.yaw_deg, "rollDeg": pose.roll_deg},
    }


def _decoded_picture(env: WorkerEnv, key: str) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(env.store.get(key), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise InvalidInput(f"{key} is not a picture that can be read: send JPEG or PNG", reason="NOT_MEDIA")
    return image
