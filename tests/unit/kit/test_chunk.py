"""Running one chunk: the manifest last, twice harmless, the loser of a race takes the winner's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.kit.context import ServiceContext
from services.kit.errors import AlreadyExists, InvalidInput, NotFound, QuotaOrCapacity
from services.kit.operations.chunk import done_indices, find_chunk, load_plan, read_manifests, run_chunk
from services.kit.operations.keys import chunk_key, chunk_prefix, output_prefix, plan_key, result_key
from services.kit.operations.plan import Chunk, ChunkManifest, Plan
from services.kit.operations.stage import ChunkOutcome, WorkerEnv, load_stage, stage_path
from services.kit.storage import ObjectStore
from tests.support.contexts import context_in
from tests.support.stages import STAGE, ScriptedStage, exists, runs_of, scripted_plan


@pytest.fixture
def context(tmp_path: Path) -> ServiceContext:
    return context_in(tmp_path)


def nothing(units: int) -> None:
    """A report that nobody reads."""


def test_the_manifest_is_written_after_every_object(context: ServiceContext) -> None:
    plan = scripted_plan({})
    order: list[str] = []
    real = context.store.put

    def noted(key: str, *args: Any, **kwargs: Any) -> Any:
        order.append(key)
        return real(key, *args, **kwargs)

    context.store.put = noted  # type: ignore[method-assign]
    run_chunk(context.env, ScriptedStage(), plan, plan.chunks[0], nothing)
    assert order[-1] == chunk_key(plan.action_key, 0)
    assert f"{output_prefix(plan.action_key)}000000" in order[:-1]


def test_no_manifest_when_an_object_could_not_be_stored(context: ServiceContext) -> None:
    plan = scripted_plan({})
    real = context.store.put

    def full(key: str, *args: Any, **kwargs: Any) -> Any:
        if key.startswith(output_prefix(plan.action_key)):
            raise QuotaOrCapacity("the disk is full")
        return real(key, *args, **kwargs)

    context.store.put = full  # type: ignore[method-assign]
    with pytest.raises(QuotaOrCapacity):
        run_chunk(context.env, ScriptedStage(), plan, plan.chunks[0], nothing)
    assert not context.store.list(chunk_prefix(plan.action_key)).objects


def test_a_second_run_does_nothing_and_gives_the_same(context: ServiceContext) -> None:
    plan = scripted_plan({}, {"do": "fail_items"})
    for chunk in plan.chunks:
        first = run_chunk(context.env, ScriptedStage(), plan, chunk, nothing)
        again = run_chunk(context.env, ScriptedStage(), plan, chunk, nothing)
        assert again == first
    assert runs_of(context.store, plan) == [1, 1]
    assert read_manifests(context.store, plan)[1].failures[0].reason == "CORRUPT_FRAME"


class _Slow(ScriptedStage):
    """Is overtaken by another worker before it is done."""

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage."""
        run_chunk(env, ScriptedStage(), plan, chunk, report)
        return ChunkOutcome({"output": "mine", "units": 999})


def test_the_loser_takes_the_winners_manifest(context: ServiceContext) -> None:
    plan = scripted_plan({})
    manifest = run_chunk(context.env, _Slow(), plan, plan.chunks[0], nothing)
    assert manifest == read_manifests(context.store, plan)[0]
    assert manifest.summary["units"] == 4


def test_progress_and_time_are_reported(context: ServiceContext) -> None:
    plan = scripted_plan({})
    seen: list[int] = []
    times = iter([10.0, 12.5])
    manifest = run_chunk(context.env, ScriptedStage(), plan, plan.chunks[0], seen.append, lambda: next(times))
    assert seen == [1, 2, 3, 4]
    assert manifest.seconds == 2.5


def test_done_indices_lists_every_manifest(context: ServiceContext, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = scripted_plan(*[{} for _ in range(7)])
    for index in (0, 3, 6):
        context.store.put(chunk_key(plan.action_key, index), ChunkManifest(index, 4, {}).to_bytes())
    context.store.put(result_key(plan.action_key), b"{}")
    context.store.put(f"{output_prefix(plan.action_key)}000001", b"x")
    real = context.store.list
    monkeypatch.setattr(context.store, "list", lambda prefix, **options: real(prefix, **{**options, "limit": 2}))
    assert done_indices(context.store, plan) == {0, 3, 6}


def test_plans_are_found_by_key_and_chunks_by_index(context: ServiceContext) -> None:
    plan = scripted_plan({}, {})
    with pytest.raises(NotFound):
        load_plan(context.store, plan.action_key)
    context.store.put(plan_key(plan.action_key), plan.to_bytes())
    assert load_plan(context.store, plan.action_key) == plan
    assert find_chunk(plan, 1) == plan.chunks[1]
    for index in (-1, 2):
        with pytest.raises(InvalidInput, match="0 to 1"):
            find_chunk(plan, index)


def test_stages_are_found_by_path() -> None:
    assert stage_path(ScriptedStage) == STAGE
    assert type(load_stage(STAGE)) is ScriptedStage


@pytest.mark.parametrize(
    "path",
    [
        "os:system",
        "subprocess:Popen",
        "builtins:exec",
        "ml_common.media:probe",
        "servicesx.stages:X",
        "services:X",
        "services.kit.names:check_id",
        "services.kit.records:Records",
        "tests.support.stages:os",
        "tests.support.stages:absent",
        "services.absent.stages:X",
        "services.kit.operations.stage:Stage",
        "",
        ":",
        "services.",
        "services..kit:X",
    ],
)
def test_a_plan_cannot_name_foreign_code(path: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)stage"):
        load_stage(path)


def test_a_store_where_another_worker_wins_late(context: ServiceContext) -> None:
    """Between the look for the manifest and its writing another worker may finish."""
    plan = scripted_plan({})
    winner = ChunkManifest(0, 4, {"by": "the other"})
    real = context.store.put

    def put(key: str, *args: Any, **kwargs: Any) -> Any:
        if key == chunk_key(plan.action_key, 0) and not exists(context.store, key):
            real(key, winner.to_bytes())
            raise AlreadyExists(key)
        return real(key, *args, **kwargs)

    store: ObjectStore = context.store
    store.put = put  # type: ignore[method-assign]
    assert run_chunk(context.env, ScriptedStage(), plan, plan.chunks[0], nothing) == winner
