"""The worker's part of curation: measure faces that nobody measured yet, work out an arrangement, publish it as a revision.

Importable without torch, and without need of it: measures are OpenCV's and NumPy's. What one would get wrong: chunks of the first phase
keep their measures with the faceset and not with the operation, so a sort that was cancelled has not measured in vain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2

from ml_common.facesets import RevisionRow, RevisionTable
from services.facesets.arrangement import Arrangement, applied, arranged, by_level
from services.facesets.measures import PARQUET, MeasureIndex, measure_rows
from services.facesets.plans import BEST, DUPLICATES, chunk_rows
from services.kit.errors import Conflict
from services.kit.faceset_store import FacesetStore
from services.kit.operations.keys import output_prefix
from services.kit.operations.plan import Chunk, ChunkManifest, Plan
from services.kit.operations.stage import ChunkOutcome, Resources, Response, Stage, WorkerEnv

ATTEMPTS = 100
LONGEST_PAUSE_S = 0.2
_FIELDS = {  # of the faceset's record and of what made a revision: those that the messages have
    "faceset": (
        "name",
        "displayName",
        "clip",
        "faceType",
        "sizePx",
        "revision",
        "faceCount",
        "trashedCount",
        "frameCount",
        "labels",
        "createTime",
    ),
    "revision": (
        "name",
        "number",
        "parent",
        "method",
        "summary",
        "faceCount",
        "trashedCount",
        "manifest",
        "actor",
        "createTime",
    ),
}


class ArrangeStage(Stage):
    """Faces measured, then put in order, chosen or compared."""

    version = "1"
    resources = Resources(cpus=1)

    def __init__(self) -> None:
        self._read: tuple[str, RevisionTable] | None = None

    def setup(self, env: WorkerEnv) -> None:
        """One worker has one core: OpenCV's own threads would only get in each other's way."""
        cv2.setNumThreads(1)

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage."""
        table = self._table(env, plan)
        index = MeasureIndex(env.store, plan.params["faceset"])
        if chunk.phase == 0:
            return _measured(env, index, table.take(chunk_rows(chunk)).rows(), report)
        arrangement = arranged(table, index, plan.params["work"], has_clip=plan.params["has_clip"])
        key = f"{output_prefix(plan.action_key)}arrangement.parquet"
        env.store.put(key, arrangement.to_bytes(), media_type=PARQUET)
        return ChunkOutcome({"arrangement": key})

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Publishes the arrangement on what is in force; Conflict when the request was for one state only and that is gone."""
        arrangement = Arrangement.from_bytes(env.store.get(manifests[-1].summary["arrangement"]))
        facesets, faceset = FacesetStore(env.store, env.records), plan.params["faceset"]
        failed = sum(len(manifest.failures) for manifest in manifests)
        number = _published(facesets, plan, arrangement, failed, actor)
        record = facesets.get(faceset)
        return Response(
            "understudy.v1.RevisionResponse",
            {
                "faceset": {**of_message("faceset", record.body), "etag": record.etag},
                "revision": of_message("revision", facesets.revision_facts(faceset, number)),
            },
        )

    def _table(self, env: WorkerEnv, plan: Plan) -> RevisionTable:
        """The revision that the plan was made from, read once for all chunks of an operation."""
        read = self._read
        if read is None or read[0] != plan.action_key:
            facesets = FacesetStore(env.store, env.records)
            read = plan.action_key, facesets.table(plan.params["faceset"], plan.params["revision"])[1]
            self._read = read
        return read[1]


def _measured(
    env: WorkerEnv, index: MeasureIndex, rows: Sequence[RevisionRow], report: Callable[[int], None]
) -> ChunkOutcome:
    if index.has_part([(row.face_id, row.image_sha256) for row in rows]):
        return ChunkOutcome({"measured": 0})
    measured, failures = measure_rows(env.store, rows, report)
    if measured:
        index.put_part(measured)
    return ChunkOutcome({"measured": len(measured)}, tuple(failures))


def _published(facesets: FacesetStore, plan: Plan, arrangement: Arrangement, failed: int, actor: str) -> int:
    """The revision that holds the arrangement: made now, made by a driver that died since, or the one in force if it is so already."""
    faceset, planned, maker = plan.params["faceset"], plan.params["revision"], f"work:{plan.action_key}"
    for attempt in range(ATTEMPTS):
        made = facesets.made_by(faceset, maker, since=planned)
        if made is not None:
            return made
        number, table = facesets.table(faceset)
        if plan.params["pinned"] and number != planned:
            raise Conflict(f"{faceset} is at revision {number}, this work was asked for at {planned}: read it again")
        result = applied(table, arrangement)
        if result == table:
            return number
        try:
            facesets.add_revision(
                faceset,
                result,
                parent=number,
                method=plan.params["method"],
                summary=_summary(plan.params, arrangement, table, result, failed),
                actor=actor,
                marks={"madeBy": maker},
            )
        except Conflict:
            time.sleep(min(0.005 * 2**attempt, LONGEST_PAUSE_S))  # someone was faster: on what they made
            continue
        return number + 1
    raise Conflict(f"{faceset} is being changed by others all the time: try again")


def _summary(
    params: dict[str, Any], arrangement: Arrangement, before: RevisionTable, after: RevisionTable, failed: int
) -> str:
    kept = len(after.active())
    out = len(before.active()) - kept
    if params["method"] == DUPLICATES:
        text = f"{out} duplicates to the trash ({by_level(arrangement)}), {kept} faces stay"
    elif params["method"] == BEST:
        text = f"kept the best {kept} faces, {out} to the trash ({arrangement.how})"
    else:
        text = f"sorted by {params['work']['order']} ({arrangement.how})" + (f", {out} to the trash" if out else "")
    return text + (f"; {failed} could not be measured and stand at the end" if failed else "")


def of_message(kind: str, stored: dict[str, Any]) -> dict[str, Any]:
    """The fields of a stored `faceset` or `revision` that its message has."""
    return {name: stored[name] for name in _FIELDS[kind] if name in stored}
