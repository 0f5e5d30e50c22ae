"""Long work on a faceset: plans as pure functions of the request and of the revision in force, and their submission.

What one would get wrong: measuring faces belongs to whatever needs the measures, so it is the first phase of a sort and no operation of its
own. Its chunks name rows of a revision, which never changes; faces that were measured before are in no chunk, so a second sort has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml_common.curation.duplicates import STRENGTHS
from ml_common.curation.orders import DEFAULT_TARGET_COUNT, ORDERS
from ml_common.facesets import RevisionTable
from services.facesets.arrangement import measured_columns
from services.facesets.measures import VERSION, Identity, MeasureIndex, identities
from services.kit import names
from services.kit.context import ServiceContext
from services.kit.errors import AlreadyExists, Conflict, InvalidInput
from services.kit.faceset_store import FacesetStore
from services.kit.operations.chunk import load_plan
from services.kit.operations.ledger import Submission
from services.kit.operations.plan import Chunk, Plan, action_key
from services.kit.records import Record

SORT = "FacesetService/SortFaceset"
BEST = "FacesetService/SelectBest"
DUPLICATES = "FacesetService/FindDuplicates"
STAGE = "services.facesets.stages:ArrangeStage"
STAGE_VERSION = "1"  # of ArrangeStage, whose module a server does not import; a test compares the two
KINDS = {SORT: "sort", BEST: "best", DUPLICATES: "duplicates"}
FEWEST_FACES, MOST_FACES, CHUNKS = 32, 256, 64  # in a chunk, and how many chunks a faceset of usual size gives
MOST_TARGET = 10_000_000


@dataclass(frozen=True, slots=True)
class State:
    """A faceset as it is now. ``measured``: the faces whose measures are kept; asked for only where they matter."""

    faceset: str
    has_clip: bool
    revision: int
    table: RevisionTable
    table_sha256: str
    measured: frozenset[Identity]


def sort_work(method: str, *, reverse: bool, reference: bool, target_count: int) -> dict[str, Any]:
    """What a SortFaceset does; InvalidInput for an order that there is not."""
    if method not in ORDERS:
        raise InvalidInput(
            f"there is no order {method!r}: use one of {', '.join(ORDERS)}",
            reason="UNKNOWN_NAME",
            fields={"method": f"one of {', '.join(ORDERS)}"},
        )
    if target_count and not ORDERS[method].selects:
        raise InvalidInput(
            f"{method} keeps all faces: leave target_count out", fields={"target_count": f"not with {method}"}
        )
    target = target_count or DEFAULT_TARGET_COUNT
    _within("target_count", target, 1, MOST_TARGET)
    return {"order": method, "reverse": reverse, "reference": reference, "target_count": target}


def best_work(*, target_count: int, faster: bool, reference: bool) -> dict[str, Any]:
    """What a SelectBest does."""
    method = "best-faster" if faster else "best"
    return sort_work(method, reverse=False, reference=reference, target_count=target_count)


def duplicates_work(strength: int) -> dict[str, Any]:
    """What a FindDuplicates does."""
    _within("strength", strength, min(STRENGTHS), max(STRENGTHS))
    return {"strength": strength}


def arrange_plan(state: State, method: str, work: Mapping[str, Any], *, pinned: bool, request: str) -> Plan:
    """The plan of ``work``: faces to be measured, if any, then one chunk that arranges. ``pinned``: the faceset must be at this revision
    still when it is done."""
    active = ~state.table.column("trashed").astype(bool)
    if measured_columns(work, has_clip=state.has_clip):
        new = np.array([face not in state.measured for face in identities(state.table.table)], bool)
        rows = np.flatnonzero(active & new)
    else:
        rows = np.array([], np.int64)
    chunks = measure_chunks(rows)
    count = int(active.sum())
    chunks = (*chunks, Chunk(len(chunks), max(count, 1), {}, phase=1))
    params = {
        "faceset": state.faceset,
        "has_clip": state.has_clip,
        "revision": state.revision,
        "method": method,
        "work": dict(work),
        "pinned": pinned,
        "request": request,
    }
    # Not the chunks: whoever asks for the same while faces are being measured joins that work, whose plan is the stored one.
    inputs = {**params, "measures": VERSION, "table_sha256": state.table_sha256}
    key = action_key(f"understudy.v1.{method}", STAGE, STAGE_VERSION, inputs)
    return Plan(action_key=key, stage=STAGE, params=params, chunks=chunks, unit="faces")


def measure_chunks(rows: Sequence[int] | np.ndarray) -> tuple[Chunk, ...]:
    """Rows to measure, in chunks of 32 to 256: ``data`` is ``{"rows": [[first, last], ...]}``, so that a large faceset is a short plan."""
    per_chunk = min(max(-(-len(rows) // CHUNKS), FEWEST_FACES), MOST_FACES)
    parts = [np.asarray(rows[at : at + per_chunk]) for at in range(0, len(rows), per_chunk)]
    return tuple(Chunk(index, len(part), {"rows": _runs(part)}) for index, part in enumerate(parts))


def chunk_rows(chunk: Chunk) -> list[int]:
    """The rows of a chunk made by ``measure_chunks``."""
    return [row for first, last in chunk.data["rows"] for row in range(first, last + 1)]


class Arrangements:
    """Plans work on facesets and submits it."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._facesets = FacesetStore(context.store, context.records)

    def begin(
        self,
        faceset: str,
        method: str,
        work: Mapping[str, Any],
        *,
        etag: str,
        request_id: str,
        request: str,
        actor: str,
    ) -> tuple[Record, bool]:
        """Records the work and has it driven, or finds the work of the same request. Conflict when ``etag`` is not current."""
        known = self._asked_before(faceset, request_id, request)
        if known:
            return known
        plan = arrange_plan(self._state(faceset, work, etag), method, work, pinned=bool(etag), request=request)
        return self._submit(plan, request_id=request_id, actor=actor)

    def _state(self, faceset: str, work: Mapping[str, Any], etag: str) -> State:
        record = self._facesets.changeable(faceset)
        if etag and record.etag != etag:
            raise Conflict(f"{faceset} has changed since it was read: read it again")
        has_clip = bool(record.body.get("clip"))
        revision, table = self._facesets.table(faceset, int(record.body["revision"]))
        measured = set[Identity]()
        if measured_columns(work, has_clip=has_clip):
            measured = MeasureIndex(self._context.store, faceset).measured()
        table_sha256 = self._facesets.table_sha256(faceset, revision)
        return State(faceset, has_clip, revision, table, table_sha256, frozenset(measured))

    def _asked_before(self, faceset: str, request_id: str, request: str) -> tuple[Record, bool] | None:
        record = self._context.ledger.asked_before(names.project_of(faceset), request_id)
        if record is None:
            return None
        plan = load_plan(self._context.store, record.body["action_key"])
        if plan.params.get("request") != request:
            raise AlreadyExists(
                f"request_id {request_id} was used for other work ({record.name}): use a new one",
                reason="REQUEST_ID_REUSED",
                metadata={"operation": record.name},
            )
        return self._submit(plan, request_id=request_id, actor=record.body["actor"])

    def _submit(self, plan: Plan, *, request_id: str, actor: str) -> tuple[Record, bool]:
        faceset, method = plan.params["faceset"], plan.params["method"]
        submission = Submission(
            project=names.project_of(faceset),
            kind=KINDS[method],
            method=f"understudy.v1.{method}",
            target=faceset,
            plan=plan,
            request_id=request_id,
            actor=actor,
            labels={},
        )
        found = self._context.ledger.submit(submission, is_intact=lambda: self._facesets.exists(faceset))
        self._context.reconciler.poke()
        return found


def _runs(rows: np.ndarray) -> list[list[int]]:
    starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
    stops = np.append(starts[1:], len(rows)) - 1
    return [[int(rows[start]), int(rows[stop])] for start, stop in zip(starts, stops, strict=True)]


def _within(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidInput(f"{field} must be {low} to {high}, not {value}", fields={field: f"{low} to {high}"})
