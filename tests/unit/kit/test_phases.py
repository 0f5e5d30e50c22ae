"""Chunks of a later phase begin when all of the earlier ones are done, also after a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.kit.context import ServiceContext
from services.kit.errors import WrongState
from services.kit.operations.chunk import earlier_manifests
from services.kit.operations.keys import chunk_key
from services.kit.operations.plan import Chunk, Plan, action_key
from tests.support.contexts import context_in, driven, submitted
from tests.support.stages import STAGE, runs_of

PLAN = Plan(
    action_key=action_key("tests/Phases", STAGE, "7", {}),
    stage=STAGE,
    params={},
    chunks=(Chunk(0, 4, {}), Chunk(1, 8, {}, phase=1), Chunk(2, 4, {})),
    unit="frames",
)


@pytest.fixture
def context(tmp_path: Path) -> ServiceContext:
    return context_in(tmp_path)


def _order(context: ServiceContext, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    asked: list[list[int]] = []
    run_chunks = context.executor.run_chunks

    def spy(plan: Plan, chunks: list[Chunk], **more: Any) -> None:
        asked.append([chunk.index for chunk in chunks])
        run_chunks(plan, chunks, **more)

    monkeypatch.setattr(context.executor, "run_chunks", spy)
    return asked


def test_phases_follow_each_other(context: ServiceContext, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _order(context, monkeypatch)
    body = driven(context, submitted(context, PLAN))
    assert (body["state"], body["done_units"]) == ("SUCCEEDED", 16)
    assert asked == [[0, 2], [1]]


def test_only_what_is_missing_is_done_again(context: ServiceContext, monkeypatch: pytest.MonkeyPatch) -> None:
    name = submitted(context, PLAN)
    driven(context, name)
    asked = _order(context, monkeypatch)
    for lost, expected in (((1,), [[1]]), ((0, 1), [[0], [1]])):
        for index in lost:
            context.store.delete(chunk_key(PLAN.action_key, index))
        asked.clear()
        context.records.update(name, lambda body: {**body, "state": "QUEUED", "lease": None})
        driven(context, name)
        assert asked == expected
    assert runs_of(context.store, PLAN) == [2, 3, 1]


def test_a_plan_keeps_its_phases(context: ServiceContext) -> None:
    assert Plan.from_bytes(PLAN.to_bytes()) == PLAN


def test_a_joining_chunk_says_what_is_missing(context: ServiceContext) -> None:
    with pytest.raises(WrongState, match="chunks 0 to 2"):
        earlier_manifests(context.store, PLAN, PLAN.chunks[1])
    driven(context, submitted(context, PLAN))
    assert [manifest.index for manifest in earlier_manifests(context.store, PLAN, PLAN.chunks[1])] == [0, 2]
    assert earlier_manifests(context.store, PLAN, PLAN.chunks[0]) == []
