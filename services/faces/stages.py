"""The worker's part of extraction: decode, find faces, cut them out, store them.

Importable without torch: networks are loaded with the first chunk. Rows, trail and sidecars depend on the frames and the options alone, so
that any number of workers gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_common.facesets import FaceRecord, RevisionTable, concatenate, from_records, read_revision, write_revision
from ml_common.imaging import as_bgr_u8
from ml_common.imaging.overlay import draw_face
from ml_common.imaging.picture import PictureError, decode_picture, encode_picture
from ml_common.media.scenes import frame_signature
from services.faces.by_hand import cut_by_hand
from services.faces.crops import CutFace, FaceCutter, pose_of
from services.faces.finders import Finders, kept, placed
from services.faces.look_through import look_through
from services.faces.overlap import Frame
from services.faces.rows import PARQUET
from services.faces.trail import Trail, link_tracks
from services.kit.clips import CorruptFrames
from services.kit.errors import InvalidInput
from services.kit.faceset_store import FacesetStore
from services.kit.operations.keys import output_prefix
from services.kit.operations.plan import Chunk, ChunkManifest, ItemFailure, Plan, canonical_json, chunk_frames
from services.kit.operations.stage import ChunkOutcome, Resources, Response, Stage, WorkerEnv

if TYPE_CHECKING:
    from ml_common.detect import FaceFinder, FoundFace

DEBUG_JPEG_QUALITY = 85


@dataclass(slots=True)
class _Looked:
    """What came of some frames, in order."""

    numbers: list[int] = field(default_factory=list)
    signatures: list[np.ndarray] = field(default_factory=list)
    cuts: list[list[CutFace]] = field(default_factory=list)
    debug: list[dict[str, Any]] = field(default_factory=list)
    failures: list[ItemFailure] = field(default_factory=list)

    def extend(self, other: _Looked) -> None:
        self.numbers += other.numbers
        self.signatures += other.signatures
        self.cuts += other.cuts
        self.debug += other.debug
        self.failures += other.failures


class ExtractStage(Stage):
    """Frames of a clip to faces of a faceset."""

    version = "2"
    resources = Resources(cpus=1, gpus=0.5)

    def __init__(self) -> None:
        self._finders = Finders()

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage. Pictures and sidecars of a batch are stored together, then the chunk's rows and its trail."""
        params = plan.params
        finder = self._finders.get(env, params["options"])
        cutter = FaceCutter(
            env.store,
            faceset=params["faceset"],
            clip=params["clip"],
            clip_file=params["clip_file"],
            options=params["options"],
        )
        looked, corrupt, done = _Looked(), CorruptFrames(), 0

        def store(batch: list[Frame], found: list[list[FoundFace]]) -> _Looked:
            return _stored(env, plan, cutter, finder, batch, found)

        def find(batch: list[Frame]) -> list[list[FoundFace]]:
            return finder.find([image for _, image in batch])

        for count, result in look_through(env, plan, chunk_frames(chunk), corrupt, find, store):
            looked.extend(result)
            done += count
            report(done)
        return _outcome(env, plan, chunk, looked, corrupt.failures)

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Publishes revision 1 with its tracks; InvalidInput NO_FACE when no frame held a face."""
        faceset, params = plan.params["faceset"], plan.params
        frames = sum(manifest.summary["frames"] for manifest in manifests)
        empty = [number for manifest in manifests for number in manifest.summary["empty"]]
        table = _linked(env, manifests)
        if not len(table):
            raise InvalidInput(
                f"no face was found in any of the {frames} frames of {params['clip']}: check that it is the right clip, or lower min_score",
                reason="NO_FACE",
                metadata={"clip": params["clip"]},
            )
        body = {
            "name": faceset,
            "clip": params["clip"],
            "faceType": params["options"]["face_type"],
            "sizePx": params["options"]["size_px"],
            "extraction": params["options"],
            "frameCount": str(frames),
            "actionKey": plan.action_key,
        }
        FacesetStore(env.store, env.records).create(
            faceset,
            body,
            table,
            method="FaceService/ExtractFaceset",
            summary=f"{len(table)} faces of {frames} frames",
            actor=actor,
        )
        response = {
            "faceset": faceset,
            "revision": "1",
            "frameCount": str(frames),
            "faceCount": str(len(table)),
            "framesWithoutFace": [str(number) for number in empty[:1000]],
            "trackCount": str(len(set(table.column("track_id")))),
        }
        if params["debug_overlays"]:
            pictures = [picture for manifest in manifests for picture in manifest.summary["debug"]]
            response["debugManifest"] = put_picture_manifest(env, plan, pictures)
        return Response("understudy.v1.ExtractFacesetResponse", response)

    def answer(self, env: WorkerEnv, question: dict[str, Any]) -> dict[str, Any]:
        """DetectFaces: ``{"keys": [...], "options": {...}}`` to ``{"images": [[face, ...], ...]}``. AlignFace: ``{"align": ...}``, see
        by_hand."""
        if "align" in question:
            return cut_by_hand(env, self._finders, question["align"])
        finder = self._finders.get(env, question["options"])
        images = [_decoded(env, key) for key in question["keys"]]
        return {
            "images": [[_detected(face) for face in kept(faces, question["options"])] for faces in finder.find(images)]
        }


def _stored(
    env: WorkerEnv,
    plan: Plan,
    cutter: FaceCutter,
    finder: FaceFinder,
    batch: list[Frame],
    found: list[list[FoundFace]],
) -> _Looked:
    """Cuts the faces of some frames and stores pictures and sidecars, together with debug pictures where they are wanted."""
    looked, objects = _Looked(), list[tuple[str, bytes, str]]()
    for (number, image), faces in zip(batch, found, strict=True):
        cuts: list[CutFace] = []
        for index, face in enumerate(kept(faces, plan.params["options"])):
            try:
                cuts.append(cutter.cut(number, index, image, placed(finder, face)))
            except ValueError as error:
                looked.failures.append(ItemFailure(f"{number}/{index}", "DEGENERATE_FACE", str(error)))
        looked.numbers.append(number)
        looked.signatures.append(frame_signature(image))
        looked.cuts.append(cuts)
        objects += [item for cut in cuts for item in cut.objects()]
        if plan.params["debug_overlays"]:
            key = f"{output_prefix(plan.action_key)}debug/{number:08d}.jpg"
            objects.append((key, debug_picture(image, [cut.record for cut in cuts]), "image/jpeg"))
            looked.debug.append({"number": number, "key": key})
    env.store.put_many(objects)
    return looked


def debug_picture(image_bgr_HWC: np.ndarray, records: Sequence[FaceRecord]) -> bytes:
    """The frame as JPEG with everything drawn in that is known of its faces."""
    canvas = as_bgr_u8(image_bgr_HWC).copy()
    for record in records:
        draw_face(canvas, record.frame_landmarks_px, record.detection_box_px, record.frame_to_face_2x3, record.size_px)
    return encode_picture(canvas, ".jpg", jpeg_quality=DEBUG_JPEG_QUALITY)


def put_picture_manifest(env: WorkerEnv, plan: Plan, pictures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stores the list of pictures ``{"number", "key"}`` for people and tools, as ExtractFrames lists its own; returns its ObjectRef as
    JSON."""
    entries = []
    for picture in pictures:
        info = env.store.stat(picture["key"])
        name = f"debug_{picture['number']:06d}.jpg"
        entries.append(
            {"name": name, "frame_number": picture["number"], "uri": env.store.uri(info.key), "sha256": info.sha256}
        )
    key = f"{output_prefix(plan.action_key)}pictures.json"
    info = env.store.put(key, canonical_json({"schema": 1, "files": entries}), media_type="application/json")
    return {
        "uri": env.store.uri(key),
        "digest": {"sha256": info.sha256, "sizeBytes": str(info.size_bytes)},
        "mediaType": info.media_type,
    }


def _outcome(env: WorkerEnv, plan: Plan, chunk: Chunk, looked: _Looked, corrupt: Sequence[ItemFailure]) -> ChunkOutcome:
    cuts = [cut for frame in looked.cuts for cut in frame]
    trail = Trail(
        numbers_F=np.array(looked.numbers, np.int64),
        signatures_FS=np.stack(looked.signatures) if looked.signatures else np.zeros((0, 0), np.float32),
        faces_per_frame_F=np.array([len(frame) for frame in looked.cuts], np.int32),
        landmarks_px_K68x2=np.array([cut.record.frame_landmarks_px for cut in cuts]),
    )
    rows_key, trail_key = (f"{output_prefix(plan.action_key)}{chunk.index:06d}.{kind}" for kind in ("parquet", "npz"))
    rows = from_records([cut.record for cut in cuts], [cut.keys for cut in cuts])
    env.store.put(rows_key, write_revision(rows), media_type=PARQUET)
    env.store.put(trail_key, trail.to_bytes(), media_type="application/octet-stream")
    return ChunkOutcome(
        {
            "rows": rows_key,
            "trail": trail_key,
            "frames": len(looked.numbers),
            "faces": len(cuts),
            "empty": [n for n, frame in zip(looked.numbers, looked.cuts, strict=True) if not frame],
            "debug": looked.debug,
        },
        failures=(*corrupt, *looked.failures),
    )


def _linked(env: WorkerEnv, manifests: Sequence[ChunkManifest]) -> RevisionTable:
    """The rows of all chunks with their tracks."""
    table = concatenate([read_revision(env.store.get(manifest.summary["rows"])) for manifest in manifests])
    trails = [Trail.from_bytes(env.store.get(m.summary["trail"])) for m in manifests if m.summary["frames"]]
    return table.replace_column("track_id", link_tracks(trails))


def _detected(face: FoundFace) -> dict[str, Any]:
    pose = pose_of(face.landmarks_px_68x2)
    return {
        "boxPx": [float(value) for value in face.box_px_4],
        "score": face.score,
        "landmarkScore": face.landmark_score,
        "landmarksPx": [float(value) for value in face.landmarks_px_68x2.ravel()],
        "pose": {"pitchDeg": pose.pitch_deg, "yawDeg": pose.yaw_deg, "rollDeg": pose.roll_deg},
    }


def _decoded(env: WorkerEnv, key: str) -> np.ndarray:
    try:
        return decode_picture(env.store.get(key), key)
    except PictureError as error:
        raise InvalidInput(str(error), reason=error.reason) from error
