"""The worker's part of SelectPerson: which tracks show the person of a reference picture, and everything else into the trash.

What one would get wrong: only tracks that were judged are thrown out. Faces that came into the faceset meanwhile, in tracks nobody
compared, stay; and what was in the trash before stays there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ml_common.facesets import RevisionTable
from ml_common.geometry import FaceType, align, alignment_matrix, transform_points
from ml_common.imaging import as_bgr_u8
from ml_common.imaging.picture import decode_picture
from services.faces.rows import records_of
from services.kit.errors import Conflict, InvalidInput
from services.kit.faceset_store import FacesetStore
from services.kit.operations.plan import Chunk, ChunkManifest, Plan
from services.kit.operations.stage import ChunkOutcome, Resources, Response, Stage, WorkerEnv

SHARPEST, FACES_PER_TRACK = 64, 16  # that a track is judged by: those looked at, and of these those compared
_REFERENCE_PX = 256
_MOST_TRACKS = 1000
_ATTEMPTS = 20


class SelectStage(Stage):
    """Tracks that show one person."""

    version = "1"
    resources = Resources(cpus=1)

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage. How alike each of the chunk's tracks is to the reference."""
        from ml_common.tracking.appearance import similarity

        wanted = _reference(env, plan.params["reference"])
        _, table = FacesetStore(env.store, env.records).table(plan.params["faceset"], plan.params["revision"])
        alike: dict[str, float] = {}
        for done, track in enumerate(chunk.data["tracks"], start=1):
            alike[track] = float(similarity(_described(env, plan, table, track), wanted))
            report(done)
        return ChunkOutcome({"similarity": alike})

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Publishes the choice; InvalidInput NO_FACE when no track is alike enough: nothing is thrown out then."""
        from ml_common.tracking.appearance import DEFAULT_MIN_SIMILARITY

        params = plan.params
        facesets = FacesetStore(env.store, env.records)
        _, planned = facesets.table(params["faceset"], params["revision"])
        tracks, counts = np.unique(planned.active().column("track_id").astype(str), return_counts=True)
        alike = {track: value for manifest in manifests for track, value in manifest.summary["similarity"].items()}
        least = DEFAULT_MIN_SIMILARITY if params["min_similarity"] is None else params["min_similarity"]
        keep = {track for track, value in alike.items() if value >= least} or set(params["tracks"])
        if not keep:
            raise InvalidInput(
                f"no track of {params['faceset']} looks like the reference: the nearest reaches {max(alike.values(), default=0):.2f} of "
                f"{least:.2f}; lower min_similarity, take another picture, or name the tracks",
                reason="NO_FACE",
            )
        revision, kept, trashed = _trash(facesets, plan, sorted(set(tracks.tolist()) - keep), keep, actor)
        judged = sorted(
            zip(tracks.tolist(), counts.tolist(), strict=True), key=lambda item: (-alike.get(item[0], 0), item)
        )
        body: dict[str, Any] = {
            "faceset": params["faceset"],
            "revision": str(revision),
            "keptCount": str(kept),
            "trashedCount": str(trashed),
            "tracks": [
                {"trackId": track, "faceCount": str(count), "similarity": alike.get(track, 0.0), "kept": track in keep}
                for track, count in judged[:_MOST_TRACKS]
            ],
        }
        return Response("understudy.v1.SelectPersonResponse", body)


def _trash(
    facesets: FacesetStore, plan: Plan, others: Sequence[str], keep: set[str], actor: str
) -> tuple[int, int, int]:
    """Puts the faces of other tracks into the trash: the revision in force then, faces kept, faces thrown out by this plan."""
    faceset = plan.params["faceset"]
    _, planned = facesets.table(faceset, plan.params["revision"])
    thrown = set(planned.active().table.filter(_in_tracks(planned.active(), others))["face_id"].to_pylist())
    for _ in range(_ATTEMPTS):
        number, table = facesets.table(faceset)
        trashed = table.column("trashed").astype(bool)
        out = ~trashed & _in_tracks(table, others).to_numpy(zero_copy_only=False)
        result = table.replace_column("trashed", trashed | out)
        there = sum(face in thrown for face in result.column("face_id")[result.column("trashed").astype(bool)])
        kept = int(_in_tracks(result.active(), sorted(keep)).to_numpy(zero_copy_only=False).sum())
        if not out.any():
            return number, kept, there
        summary = f"kept {len(keep)} tracks with {kept} faces, {int(out.sum())} faces to the trash"
        try:
            facesets.add_revision(
                faceset, result, parent=number, method=plan.params["method"], summary=summary, actor=actor
            )
            return number + 1, kept, there
        except Conflict:
            continue  # someone was faster: choose among what they left
    raise Conflict(f"{faceset} is being changed by others all the time: try again")


def _in_tracks(table: RevisionTable, tracks: Sequence[str]) -> pa.BooleanArray:
    return pa.array(np.isin(table.column("track_id").astype(str), np.asarray(tracks, str)))


def _described(env: WorkerEnv, plan: Plan, table: RevisionTable, track: str) -> np.ndarray:
    """What the person of a track looks like: of its sharpest faces those that are largest and most frontal."""
    from ml_common.tracking.appearance import choose_faces, describe_face, mean_descriptor

    active = table.active()
    own = np.flatnonzero(active.column("track_id").astype(str) == track)
    sharpest = own[np.argsort(-active.column("sharpness")[own], kind="stable")[:SHARPEST]]
    rows = RevisionTable(active.table.take(sharpest)).rows()
    records = records_of(FacesetStore(env.store, env.records), plan.params["faceset"], rows)
    chosen = choose_faces(np.stack([record.frame_landmarks_px for record in records]), FACES_PER_TRACK)
    described = [describe_face(_picture(env, rows[at].image_key), records[at].crop_landmarks_px) for at in chosen]
    mean: np.ndarray = mean_descriptor(np.stack(described))
    return mean


def _picture(env: WorkerEnv, key: str) -> np.ndarray:
    return as_bgr_u8(decode_picture(env.store.get(key), key))


def _reference(env: WorkerEnv, reference: dict[str, Any]) -> np.ndarray:
    """What the face of the reference picture looks like, framed as the faces of a faceset are."""
    from ml_common.tracking.appearance import describe_face

    landmarks = np.array(reference["landmarks"], np.float64).reshape(68, 2)
    frame_to_face_2x3 = alignment_matrix(landmarks, FaceType.WHOLE_FACE, _REFERENCE_PX)
    crop = align(_picture(env, reference["key"]), frame_to_face_2x3, _REFERENCE_PX)
    described: np.ndarray = describe_face(crop, transform_points(landmarks, frame_to_face_2x3))
    return described
