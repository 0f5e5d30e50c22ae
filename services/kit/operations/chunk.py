"""Running one chunk: the function behind every executor and behind `python -m services chunk`.

The manifest is written last. Whoever finds it knows that all objects of the chunk are there; whoever does not, runs the chunk again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from services.kit.errors import AlreadyExists, InvalidInput, NotFound, WrongState
from services.kit.operations.keys import chunk_key, chunk_prefix, plan_key
from services.kit.operations.plan import Chunk, ChunkManifest, Plan
from services.kit.operations.stage import Stage, WorkerEnv
from services.kit.storage import ObjectStore


def run_chunk(
    env: WorkerEnv,
    stage: Stage,
    plan: Plan,
    chunk: Chunk,
    report: Callable[[int], None],
    clock: Callable[[], float] = time.monotonic,
) -> ChunkManifest:
    """Does ``chunk`` unless its manifest is there already, and returns the manifest."""
    key = chunk_key(plan.action_key, chunk.index)
    try:
        return ChunkManifest.from_bytes(env.store.get(key))
    except NotFound:
        pass  # not done yet: that is what this call is for
    started = clock()
    outcome = stage.process_chunk(env, plan, chunk, report)
    manifest = ChunkManifest(
        index=chunk.index,
        units=chunk.units,
        summary=outcome.summary,
        failures=outcome.failures,
        seconds=clock() - started,
    )
    try:
        env.store.put(key, manifest.to_bytes(), media_type="application/json", if_absent=True)
    except AlreadyExists:
        return ChunkManifest.from_bytes(env.store.get(key))  # another worker was first; its manifest is the one
    return manifest


def load_plan(store: ObjectStore, action_key: str) -> Plan:
    """The stored plan of an action; NotFound when nobody asked for it."""
    return Plan.from_bytes(store.get(plan_key(action_key)))


def find_chunk(plan: Plan, index: int) -> Chunk:
    """Chunk ``index`` of a plan; InvalidInput when it has none."""
    if not 0 <= index < len(plan.chunks):
        raise InvalidInput(f"the plan has chunks 0 to {len(plan.chunks) - 1}, not {index}")
    return plan.chunks[index]


def done_indices(store: ObjectStore, plan: Plan) -> set[int]:
    """Indices of the chunks whose manifests exist: one listing, not a question a chunk."""
    prefix = chunk_prefix(plan.action_key)
    done: set[int] = set()
    after = ""
    while True:
        page = store.list(prefix, after=after)
        done.update(int(info.key[len(prefix) : -len(".json")]) for info in page.objects)
        if not page.next_after:
            return done
        after = page.next_after


def earlier_manifests(store: ObjectStore, plan: Plan, chunk: Chunk) -> list[ChunkManifest]:
    """Manifests of the chunks whose phase is before ``chunk``'s, in order; WrongState when one of them is not done."""
    earlier = [other.index for other in plan.chunks if other.phase < chunk.phase]
    try:
        return [ChunkManifest.from_bytes(store.get(chunk_key(plan.action_key, index))) for index in earlier]
    except NotFound:
        raise WrongState(
            f"chunk {chunk.index} joins what chunks {earlier[0]} to {earlier[-1]} make: run all of them first"
        ) from None


def read_manifests(store: ObjectStore, plan: Plan) -> list[ChunkManifest]:
    """All manifests of a finished plan, in order."""
    return [ChunkManifest.from_bytes(store.get(chunk_key(plan.action_key, chunk.index))) for chunk in plan.chunks]
