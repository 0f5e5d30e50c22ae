"""The worker's part of SmoothFaces: the landmarks of every track steadied in time, and the faces cut out again by them.

What one would get wrong: faces that a person placed are anchors. They take part in the filter as they are, so that their neighbours are
drawn towards them, and are themselves never moved. And smoothing never builds on smoothing: a face that was smoothed before is taken as it
was found, from the revision that the earlier smoothing was made from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from ml_common.facesets import FaceRecord, LandmarkOrigin, Producer, RevisionRow
from services.faces.crops import placed_from_record
from services.faces.recut import Again, cut_again, own_options, require_same_footage
from services.faces.rows import Merged, joined_rows, publish, records_of, rows_in_frames, store_rows
from services.kit.faceset_store import FacesetStore
from services.kit.operations.plan import Chunk, ChunkManifest, Plan, chunk_frames
from services.kit.operations.stage import ChunkOutcome, Resources, Response, Stage, WorkerEnv

SMOOTHER = Producer(name="smooth", version="1")
_STILL_PX = 1e-6  # less is rounding


class SmoothStage(Stage):
    """Landmarks steadied along tracks."""

    version = "1"
    resources = Resources(cpus=1)

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage. Looks at the faces of the chunk's frames and of as many around as the filter reaches."""
        params, own = plan.params, set(chunk_frames(chunk))
        radius = params["radius_frames"]
        tracks = _tracks(env, plan, range(min(own) - radius, max(own) + radius + 1), own)
        wanted: dict[int, list[Again]] = defaultdict(list)
        squares, moved = 0.0, set[str]()
        for rows, in_force, found in tracks:
            smoothed = _smoothed(found, radius)
            for row, record, raw, landmarks in zip(rows, in_force, found, smoothed, strict=True):
                moves = np.abs(landmarks - raw.frame_landmarks_px).max() > _STILL_PX
                if row.frame_number not in own or not moves or _is_anchor(record):
                    continue
                squares += float(np.square(landmarks - raw.frame_landmarks_px).sum())
                moved.add(row.face_id)
                placed = replace(
                    placed_from_record(record),
                    landmarks_px_68x2=landmarks,
                    smoother=SMOOTHER,
                    track_id=row.track_id,
                    person=row.person,
                )
                wanted[row.frame_number].append(Again(record, placed, own_options(record, params["options"])))
        faces, failures = cut_again(env, plan, chunk, wanted, report)
        return store_rows(env, plan, chunk, faces, failures, smoothed=len(moved), squares=squares)

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Publishes the faces, if any moved."""
        params = plan.params
        count = sum(manifest.summary["smoothed"] for manifest in manifests)
        squares = sum(manifest.summary["squares"] for manifest in manifests)
        moved_rms_px = float(np.sqrt(squares / (68 * count))) if count else 0.0

        def summary(merged: Merged) -> str:
            text = f"{merged.replaced} faces smoothed over {params['radius_frames']} frames, moved by {moved_rms_px:.2f} px"
            return text + (f"; {merged.left_out} left out, changed by others meanwhile" if merged.left_out else "")

        published = publish(
            FacesetStore(env.store, env.records),
            params["faceset"],
            *joined_rows(env, manifests),
            untrash=False,
            method=params["method"],
            summary=summary,
            actor=actor,
        )
        body: dict[str, Any] = {
            "faceset": params["faceset"],
            "revision": str(published.revision),
            "smoothedCount": str(count),
            "movedRmsPx": moved_rms_px,
        }
        return Response("understudy.v1.SmoothFacesResponse", body)


_Track = tuple[list[RevisionRow], list[FaceRecord], list[FaceRecord]]


def _tracks(env: WorkerEnv, plan: Plan, around: range, own: set[int]) -> list[_Track]:
    """Rows of each track that has a face in ``own`` frames, by frame: as they are in force, and as they were before any smoothing."""
    facesets, faceset = FacesetStore(env.store, env.records), plan.params["faceset"]
    _, table = facesets.table(faceset, plan.params["revision"])
    by_track: dict[str, dict[int, RevisionRow]] = defaultdict(dict)
    for row in rows_in_frames(table.active(), around):
        by_track[row.track_id].setdefault(
            row.frame_number, row
        )  # one face a frame: a second in a track is a person's mistake
    chosen = [rows for _, rows in sorted(by_track.items()) if own & rows.keys()]
    rows = [rows[number] for rows in chosen for number in sorted(rows)]
    in_force = records_of(facesets, faceset, rows)
    require_same_footage(plan, in_force)
    found = _unsmoothed(facesets, plan, in_force)
    ends = np.cumsum([0, *(len(track) for track in chosen)])
    return [(rows[at:end], in_force[at:end], found[at:end]) for at, end in pairwise(ends)]


def _unsmoothed(facesets: FacesetStore, plan: Plan, records: list[FaceRecord]) -> list[FaceRecord]:
    """``records`` with those that were smoothed as they were before: the same face of the same frame in the revision that the smoothing
    was made from."""
    found, faceset = list(records), plan.params["faceset"]
    for revision in plan.params["unsmoothed"]:
        smoothed = {_place(record): at for at, record in enumerate(found) if record.smoother}
        if not smoothed:
            break
        _, table = facesets.table(faceset, revision)
        rows = [
            row
            for row in rows_in_frames(table, [number for number, _ in smoothed])
            if (row.frame_number, row.face_index) in smoothed
        ]
        for record in records_of(facesets, faceset, rows):
            found[smoothed[_place(record)]] = record
    return found


def _place(record: FaceRecord) -> tuple[int, int]:
    return record.source.frame_number, record.source.face_index


def _is_anchor(record: FaceRecord) -> bool:
    return record.landmark_origin is LandmarkOrigin.MANUAL


def _smoothed(records: Sequence[FaceRecord], radius_frames: int) -> np.ndarray:
    """Landmarks [N, 68, 2] of one track."""
    from ml_common.tracking.smooth import smooth_track

    numbers = np.array([record.source.frame_number for record in records], np.int64)
    landmarks = np.stack([record.frame_landmarks_px for record in records])
    return smooth_track(numbers, landmarks, radius_frames=radius_frames)
