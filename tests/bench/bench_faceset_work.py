"""How fast a worker measures a faceset's faces, how its memory grows meanwhile, and how long sorts take as operations over gRPC.

What one would get wrong: the sorts themselves, on columns alone, are timed in bench_curation; here is what the service adds: reading the
index, working out a revision, storing it, and the half second in which operations are taken up and watched.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from ml_common.facesets import FaceRecord, FaceSource, LandmarkOrigin, Pose, RevisionTable, face_id
from ml_common.geometry import FaceType
from ml_common.synthetic import IDENTITIES, FrameState, render
from services import facesets as faceset_service
from services.facesets.measures import MeasuredFace, MeasureIndex, identities, measure_rows
from services.facesets.plans import measure_chunks
from services.facesets.stages import ArrangeStage
from services.kit.faceset_store import FacesetStore
from services.kit.operations.plan import Plan
from services.kit.storage import ObjectStore
from tests.support.contexts import context_in
from tests.support.hosting import hosted
from tests.support.revisions import revision_of, store_revision
from understudy.v1 import faceset_service_pb2

_FACESET = "projects/p/facesets/f"
_SIZE_PX, _PICTURES = 256, 40
_FEW, _MANY, _LARGE = 250, 1_000, 100_000


def _faceset(store: ObjectStore, count: int) -> RevisionTable:
    """``count`` faces that share a few stored pictures of a rendered head with grain."""
    frame = render(next(iter(IDENTITIES.values())), FrameState(face_height=0.6), _SIZE_PX, _SIZE_PX)
    table = revision_of(count, faceset=_FACESET)
    rng = np.random.default_rng(0)
    keys = [f"{_FACESET}/faces/{at}" for at in range(_PICTURES)]
    for at, key in enumerate(keys):
        image = (frame.image_bgr_HWC + rng.normal(0, 4, frame.image_bgr_HWC.shape)).clip(0, 255).astype(np.uint8)
        record = FaceRecord(
            face_id=face_id(at, 0, "0" * 64),
            source=FaceSource(frame_number=at, face_index=0),
            face_type=FaceType.WHOLE_FACE,
            size_px=_SIZE_PX,
            frame_landmarks_px=frame.landmarks_px_68x2,
            crop_landmarks_px=frame.landmarks_px_68x2,
            frame_to_face_2x3=np.eye(2, 3),
            landmark_origin=LandmarkOrigin.MODEL,
            pose=Pose(pitch_deg=0, yaw_deg=0, roll_deg=0),
        )
        store.put(f"{key}.jpg", cv2.imencode(".jpg", image)[1].tobytes())
        store.put(f"{key}.json", record.to_json_bytes())
    places = np.arange(count) % _PICTURES
    table = table.replace_column("image_key", [f"{keys[at]}.jpg" for at in places])
    return table.replace_column("record_key", [f"{keys[at]}.json" for at in places])


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _indexed(count: int) -> tuple[float, float]:
    """Faces a second that one worker measures, from stored pictures to stored measures, and its peak memory in MB afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        context = context_in(Path(folder))
        store_revision(FacesetStore(context.store, context.records), _faceset(context.store, count))
        chunks = measure_chunks(range(count))
        plan = Plan("0" * 64, "", {"faceset": _FACESET, "revision": 1}, chunks, "faces")
        stage = ArrangeStage()
        stage.setup(context.env)
        begin = time.perf_counter()
        for chunk in chunks:
            stage.process_chunk(context.env, plan, chunk, lambda done: None)
        return count / (time.perf_counter() - begin), _peak_mb()


def _sorts_s(count: int) -> dict[str, float]:
    """Seconds of sorts of measured faces, from the call to the response."""
    times = {}
    with tempfile.TemporaryDirectory() as folder, hosted(Path(folder), [faceset_service]) as server:
        store, client = server.context.store, server.client
        table = _faceset(store, count)
        store_revision(FacesetStore(store, server.context.records), table)
        measured, _ = measure_rows(store, table.page(0, _PICTURES).rows(), lambda done: None)
        index, faces = MeasureIndex(store, _FACESET), identities(table.table)
        for chunk in measure_chunks(range(count)):
            [(first, last)] = chunk.data["rows"]
            index.put_part(
                [MeasuredFace(faces[at], "", measured[at % _PICTURES].measures) for at in range(first, last + 1)]
            )
        for method in ("yaw", "hue"):
            request = faceset_service_pb2.SortFacesetRequest(faceset=_FACESET, method=method)
            begin = time.perf_counter()
            client.result(client.facesets.SortFaceset(request), faceset_service_pb2.RevisionResponse())
            times[method] = time.perf_counter() - begin
    return times


def run() -> list[dict[str, object]]:
    """Rows {name, value, unit, baseline, ratio}."""

    def row(name: str, value: float, unit: str) -> dict[str, object]:
        return {"name": f"facesets.{name}", "value": value, "unit": unit, "baseline": None, "ratio": None}

    _, few_mb = _indexed(_FEW)
    per_s, many_mb = _indexed(_MANY)
    sorts_s = _sorts_s(_LARGE)
    return [
        row("index_per_s", per_s, "faces/s"),
        row("index_memory_growth_250_to_1000", many_mb - few_mb, "MB"),
        *(row(f"sort_{method}_100k_operation_s", seconds, "s") for method, seconds in sorts_s.items()),
    ]
