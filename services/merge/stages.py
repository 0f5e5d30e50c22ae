"""The worker's part of merging and encoding. Importable without torch.

A merge chunk is one lossless segment (FFV1) and one matte, so frames are in order and exactly once by construction. Frames without a face
go through untouched, bit for bit. Encoding is one chunk: it reads segments in order and never holds more than a frame.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ml_common.facesets import FaceRecord
from ml_common.geometry import FaceType
from ml_common.media import ColorTags, EncodeSettings, SegmentWriter, encode_video, read_segment
from ml_common.merging import MergeFace, MergeSettings, Prediction, merge_frame, network_crops
from services.kit.checkpoint_store import CheckpointStore
from services.kit.clips import MediaFile, media_errors, media_path, open_clip
from services.kit.errors import Corrupt
from services.kit.faceset_store import FacesetStore
from services.kit.operations.keys import output_prefix
from services.kit.operations.plan import Chunk, ChunkManifest, Plan, canonical_json, chunk_frames
from services.kit.operations.stage import ChunkOutcome, Resources, Response, Stage, WorkerEnv
from services.kit.storage import ObjectInfo

if TYPE_CHECKING:
    from ml_common.nets import SwapModel

FRAMES_PER_BATCH = 8
MODELS_KEPT = 2
AI_NOTICE = "This picture is AI-modified: a face was replaced by Understudy."
SEGMENT_MEDIA_TYPE = "video/x-matroska"


class MergeStage(Stage):
    """Frames and their faces to merged, lossless segments."""

    version = "1"
    resources = Resources(cpus=1, gpus=0.5)

    def __init__(self) -> None:
        self._models: OrderedDict[str, SwapModel] = OrderedDict()

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage."""
        params = plan.params
        numbers = chunk_frames(chunk)
        faces_by_frame = _faces_by_frame(env, params, numbers)
        model = self._model(env, params["checkpoint"])
        face_type = FaceType.from_string(model.config.face_type)  # the model's framing, however the faceset was cut
        rules = [
            (
                frozenset(rule["frames"]) if rule["frames"] is not None else None,
                MergeSettings.from_dict(rule["settings"]),
            )
            for rule in params["settings"]
        ]
        merged_faces = 0
        with (
            tempfile.TemporaryDirectory(dir=env.scratch_dir) as folder,
            open_clip(env.store, MediaFile(**params["media"]), params["clip"]) as clip,
        ):
            picture_path, mask_path = Path(folder, "picture.mkv"), Path(folder, "mask.mkv")
            with SegmentWriter(picture_path) as pictures, SegmentWriter(mask_path) as masks:
                done = 0
                for batch in _batches(clip.read(numbers), FRAMES_PER_BATCH):
                    predictions = _predicted(model, batch, faces_by_frame, face_type, env.device)
                    for number, image in batch:
                        faces = [
                            MergeFace(record.frame_landmarks_px, prediction)
                            for record, prediction in predictions[number]
                        ]
                        result = merge_frame(image, faces, face_type, _settings_of(number, rules))
                        assert result.image_bgr_HWC.dtype != np.float32, (
                            "float footage is refused when the merge is planned"
                        )
                        pictures.write(cast("np.ndarray", result.image_bgr_HWC))
                        masks.write((result.mask_HW * 255 + 0.5).astype(np.uint8))
                        merged_faces += len(faces)
                    done += len(batch)
                    report(done)
            prefix = f"{output_prefix(plan.action_key)}{chunk.index:06d}"
            picture = env.store.put(f"{prefix}.mkv", picture_path, media_type=SEGMENT_MEDIA_TYPE)
            mask = env.store.put(f"{prefix}.mask.mkv", mask_path, media_type=SEGMENT_MEDIA_TYPE)
        without = sum(1 for number in numbers if not faces_by_frame.get(number))
        return ChunkOutcome(
            {
                "first": numbers[0],
                "last": numbers[-1],
                "picture": _named(picture),
                "mask": _named(mask),
                "faces": merged_faces,
                "without_face": without,
            }
        )

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Writes the list of segments."""
        frames = [number for chunk in plan.chunks for number in chunk_frames(chunk)]
        body = {
            "schema": 1,
            "session": plan.params["session"],
            "clip": plan.params["clip"],
            "media": plan.params["media"],
            "frame_count": len(frames),
            "segments": [
                {"units": manifest.units, "frames": chunk.data["frames"], **manifest.summary}
                for chunk, manifest in zip(plan.chunks, manifests, strict=True)
            ],
        }
        info = env.store.put(
            f"{output_prefix(plan.action_key)}segments.json", canonical_json(body), media_type="application/json"
        )
        return Response(
            "understudy.v1.MergeFramesResponse",
            {
                "manifest": _reference(env, info),
                "frameCount": str(len(frames)),
                "framesWithoutFace": str(sum(manifest.summary["without_face"] for manifest in manifests)),
                "checkpoint": plan.params["checkpoint"],
            },
        )

    def _model(self, env: WorkerEnv, checkpoint: str) -> SwapModel:
        if checkpoint in self._models:
            self._models.move_to_end(checkpoint)
            return self._models[checkpoint]
        import torch

        from ml_common.training.checkpoint import CorruptCheckpoint, load_model

        checkpoints = CheckpointStore(env.store)
        with tempfile.TemporaryDirectory(dir=env.scratch_dir) as folder:
            try:
                model, _ = load_model(
                    checkpoints.fetch(checkpoints.get(checkpoint), Path(folder)), torch.device(env.device)
                )
            except CorruptCheckpoint as error:
                raise Corrupt(f"{checkpoint}: {error}", metadata={"uri": env.store.uri(checkpoint)}) from error
        self._models[checkpoint] = model
        while len(self._models) > MODELS_KEPT:
            self._models.popitem(last=False)
        return model


class EncodeStage(Stage):
    """Merged segments to one film with the clip's sound, rate and colour tags."""

    version = "1"
    resources = Resources(cpus=1)

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage."""
        params = plan.params
        kind = "mask" if params["mask"] else "picture"
        with (
            tempfile.TemporaryDirectory(dir=env.scratch_dir) as folder,
            media_path(env.store, MediaFile(**params["media"])) as source,
            open_clip(env.store, MediaFile(**params["media"]), params["clip"]) as clip,
        ):
            numbers = [
                number
                for segment in params["segments"]
                for number in chunk_frames(Chunk(0, 0, {"frames": segment["frames"]}))
            ]
            # Sound belongs to consecutive frames only: a selection with holes is a silent film at the clip's rate.
            whole = [clip.index(number) for number in numbers] == list(
                range(clip.index(numbers[0]), clip.index(numbers[0]) + len(numbers))
            )
            path = Path(folder, "film.mp4")
            with media_errors(params["clip"]):
                info = encode_video(
                    path,
                    _segment_frames(env, params["segments"], kind),
                    rate=clip.info.rate,
                    times_s=[clip.time_s(number) for number in numbers] if whole else None,
                    color=clip.info.color if kind == "picture" else ColorTags(),
                    settings=EncodeSettings(**params["settings"]),
                    audio_from=source if whole and clip.info.audio and kind == "picture" else None,
                    metadata={"comment": AI_NOTICE, "ai_modified": "true", "software": "Understudy"},
                    timecode=clip.info.timecode,
                    pixel_aspect=clip.info.pixel_aspect,
                    on_frame=lambda index: report(index + 1) if index % 8 == 7 else None,
                )
            film = env.store.put(f"{output_prefix(plan.action_key)}film.mp4", path, media_type="video/mp4")
        return ChunkOutcome({"film": _named(film), "frames": info.frame_count, "duration_s": info.duration_s})

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Names the film."""
        summary = manifests[0].summary
        info = env.store.stat(summary["film"]["key"])
        return Response(
            "understudy.v1.EncodeVideoResponse",
            {"video": _reference(env, info), "frameCount": str(summary["frames"]), "durationS": summary["duration_s"]},
        )


def _faces_by_frame(env: WorkerEnv, params: dict[str, Any], numbers: Sequence[int]) -> dict[int, list[FaceRecord]]:
    """The faces of a chunk's frames, largest first as extraction numbered them."""
    facesets = FacesetStore(env.store, env.records)
    _, table = facesets.table(params["faceset"], params["faceset_revision"])
    rows = table.active().frames([range(numbers[0], numbers[-1] + 1)]).rows()
    rows.sort(key=lambda row: (row.frame_number, row.face_index))
    records = facesets.faces(params["faceset"], [row.record_key for row in rows])
    found: dict[int, list[FaceRecord]] = {}
    for row, record in zip(rows, records, strict=True):
        found.setdefault(row.frame_number, []).append(record)
    return found


def _predicted(
    model: SwapModel,
    batch: Sequence[tuple[int, np.ndarray]],
    faces: dict[int, list[FaceRecord]],
    face_type: FaceType,
    device: str,
) -> dict[int, list[tuple[FaceRecord, Prediction]]]:
    """The model's outputs for every face of a batch of frames, in one forward pass."""
    import torch

    wanted = [(number, image, record) for number, image in batch for record in faces.get(number, [])]
    result: dict[int, list[tuple[FaceRecord, Prediction]]] = {number: [] for number, _ in batch}
    if not wanted:
        return result
    crops_NRR3 = network_crops(
        [image for _, image, _ in wanted],
        [record.frame_landmarks_px for _, _, record in wanted],
        face_type,
        model.config.resolution,
    )
    with torch.inference_mode():
        batch_NCHW = torch.from_numpy(crops_NRR3).permute(0, 3, 1, 2).to(device)
        image, mask, dst_mask = (tensor.float().permute(0, 2, 3, 1).cpu().numpy() for tensor in model.swap(batch_NCHW))
    for index, (number, _, record) in enumerate(wanted):
        result[number].append((record, Prediction(image[index], mask[index, ..., 0], dst_mask[index, ..., 0])))
    return result


def _settings_of(number: int, rules: Sequence[tuple[frozenset[int] | None, MergeSettings]]) -> MergeSettings:
    """The last rule that covers the frame."""
    for frames, settings in reversed(rules):
        if frames is None or number in frames:
            return settings
    return MergeSettings()


def _segment_frames(env: WorkerEnv, segments: Sequence[dict[str, Any]], kind: str) -> Iterator[np.ndarray]:
    """Frames of all segments in order; Corrupt when one does not hold what its manifest says."""
    for segment in segments:
        key = segment[kind]["key"]
        count = 0
        with env.store.local_path(key) as path, media_errors(key):
            for image in read_segment(path):
                yield np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
                count += 1
        if count != segment["units"]:
            raise Corrupt(
                f"the segment {key} holds {count} frames, not {segment['units']}", metadata={"uri": env.store.uri(key)}
            )


def _batches(frames: Iterator[tuple[int, np.ndarray]], size: int) -> Iterator[list[tuple[int, np.ndarray]]]:
    batch: list[tuple[int, np.ndarray]] = []
    for item in frames:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _named(info: ObjectInfo) -> dict[str, Any]:
    return {"key": info.key, "sha256": info.sha256, "size_bytes": info.size_bytes}


def _reference(env: WorkerEnv, info: ObjectInfo) -> dict[str, Any]:
    return {
        "uri": env.store.uri(info.key),
        "digest": {"sha256": info.sha256, "sizeBytes": str(info.size_bytes)},
        "mediaType": info.media_type,
    }
