"""The worker's part of RenderDebug: frames with everything drawn in that the faceset knows of their faces.

What one would get wrong: drawn is what lies in the sidecars of the revision in force, not what a network would find now; a frame without
a face in force is a picture too, since those are what one looks for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ml_common.facesets import FaceRecord
from services.faces.look_through import look_through, nothing
from services.faces.overlap import Frame
from services.faces.recut import require_same_footage
from services.faces.rows import records_of, rows_in_frames
from services.faces.stages import debug_picture, put_picture_manifest
from services.kit.clips import CorruptFrames
from services.kit.faceset_store import FacesetStore
from services.kit.operations.keys import output_prefix
from services.kit.operations.plan import Chunk, ChunkManifest, Plan, chunk_frames
from services.kit.operations.stage import ChunkOutcome, Resources, Response, Stage, WorkerEnv


class DebugStage(Stage):
    """Frames to look at."""

    version = "1"
    resources = Resources(cpus=1)

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage."""
        faces = _faces(env, plan, chunk)
        corrupt, pictures = CorruptFrames(), list[dict[str, object]]()

        def store(batch: list[Frame], _: None) -> list[dict[str, object]]:
            objects = [
                (_key(plan, number), debug_picture(image, faces.get(number, [])), "image/jpeg")
                for number, image in batch
            ]
            env.store.put_many(objects)
            return [{"number": number, "key": _key(plan, number)} for number, _ in batch]

        for _, stored in look_through(env, plan, chunk_frames(chunk), corrupt, nothing, store):
            pictures += stored
            report(len(pictures))
        return ChunkOutcome({"pictures": pictures}, corrupt.failures)

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Lists the pictures."""
        pictures = [picture for manifest in manifests for picture in manifest.summary["pictures"]]
        body = {"manifest": put_picture_manifest(env, plan, pictures), "pictureCount": str(len(pictures))}
        return Response("understudy.v1.RenderDebugResponse", body)


def _faces(env: WorkerEnv, plan: Plan, chunk: Chunk) -> dict[int, list[FaceRecord]]:
    facesets, faceset = FacesetStore(env.store, env.records), plan.params["faceset"]
    _, table = facesets.table(faceset, plan.params["revision"])
    rows = rows_in_frames(table.active(), chunk_frames(chunk))
    records = records_of(facesets, faceset, rows)
    require_same_footage(plan, records)
    faces: dict[int, list[FaceRecord]] = {}
    for record in records:
        faces.setdefault(record.source.frame_number, []).append(record)
    return faces


def _key(plan: Plan, number: int) -> str:
    return f"{output_prefix(plan.action_key)}debug/{number:08d}.jpg"
