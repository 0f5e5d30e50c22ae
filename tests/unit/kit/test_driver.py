"""The driver: every end an operation can have, and going on after a crash."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.kit.context import ServiceContext
from services.kit.errors import Transient
from services.kit.operations.convert import operation
from services.kit.operations.keys import chunk_key, result_key
from services.kit.operations.plan import ChunkManifest
from services.kit.operations.stage import load_stage
from tests.support.contexts import Clock, context_in, driven, eventually, submission, submitted
from tests.support.stages import SECRET, STAGE, runs_of, scripted_plan
from understudy.v1 import common_pb2, operation_pb2


@pytest.fixture
def context(tmp_path: Path) -> ServiceContext:
    return context_in(tmp_path)


def metadata(context: ServiceContext, name: str) -> operation_pb2.OperationMetadata:
    """The metadata as a caller sees it."""
    result = operation_pb2.OperationMetadata()
    operation(context.ledger.get(name)).metadata.Unpack(result)
    return result


def test_success(context: ServiceContext) -> None:
    plan = scripted_plan({}, {}, {})
    name = submitted(context, plan)
    body = driven(context, name)
    assert body["state"] == "SUCCEEDED"
    assert (body["done_units"], body["chunks_done"], body["attempt"]) == (12, 3, 1)
    response = common_pb2.Digest()
    operation(context.ledger.get(name)).response.Unpack(response)
    assert (response.sha256, response.size_bytes) == ("0:0,0:1,0:2", 12)
    shown = metadata(context, name)
    assert shown.state == operation_pb2.OPERATION_STATE_SUCCEEDED
    assert shown.manifest.uri == context.store.uri(result_key(plan.action_key))
    assert shown.manifest.digest.sha256 == context.store.stat(result_key(plan.action_key)).sha256
    assert shown.HasField("end_time")
    assert not shown.progress.HasField("eta")
    assert list(context.ledger.active()) == []
    assert runs_of(context.store, plan) == [1, 1, 1]


def test_a_plan_without_chunks_ends(context: ServiceContext) -> None:
    assert driven(context, submitted(context, scripted_plan()))["state"] == "SUCCEEDED"


def test_progress_is_written_while_a_chunk_runs(context: ServiceContext) -> None:
    """Turns the clock instead of waiting for it: a second passes at every look."""
    plan = scripted_plan({}, {})
    name = submitted(context, plan)
    clock = Clock()
    seen: list[tuple[str, int, int]] = []
    real = context.ledger.advance

    def advance(name: str, change: Callable[[dict[str, Any]], None]) -> Any:
        record = real(name, change)
        seen.append((record.body["state"], record.body["done_units"], record.body["chunks_done"]))
        return record

    def ticking() -> float:
        clock.now_s += 1.0
        return clock.now_s

    context.ledger.advance = advance  # type: ignore[method-assign]
    body = driven(context, name, clock=ticking)
    states = [state for state, _, _ in seen]
    units = [done for _, done, _ in seen]
    assert states[0] == "WAITING_FOR_RESOURCES"
    assert "RUNNING" in states
    assert units == sorted(units)
    assert {1, 2, 3} <= set(units), "progress inside the first chunk"
    assert units[-1] == 8
    assert body["rate_per_s"] > 0
    assert "start_time_s" in body


def test_progress_is_not_written_more_than_once_a_second(context: ServiceContext) -> None:
    plan = scripted_plan(*[{} for _ in range(20)])
    name = submitted(context, plan)
    driven(context, name, clock=Clock())
    # Submission, claim, first and last progress, end: the clock stood, so nothing in between.
    assert context.ledger.get(name).version == 5


def test_failed_items_make_a_partial_success(context: ServiceContext) -> None:
    plan = scripted_plan({}, {"do": "fail_items"}, {"do": "fail_items"})
    name = submitted(context, plan)
    body = driven(context, name)
    assert body["state"] == "PARTIALLY_SUCCEEDED"
    shown = metadata(context, name)
    assert [item.name for item in shown.failed_items] == ["frame 1", "frame 2"]
    assert shown.failed_items[0].status.message == "cannot be decoded"
    assert operation(context.ledger.get(name)).HasField("response")


@pytest.mark.parametrize("attempts", [1, 3])
def test_an_error_for_the_caller_fails_the_operation_at_once(tmp_path: Path, attempts: int) -> None:
    context = context_in(tmp_path, **{"execution.attempts": attempts})
    plan = scripted_plan({}, {"do": "refuse"}, {})
    body = driven(context, submitted(context, plan))
    assert body["state"] == "FAILED"
    assert body["error"] == {
        "kind": "InvalidInput",
        "reason": "CORRUPT_FRAME",
        "message": "chunk refused",
        "metadata": {"frame_index": "3"},
        "fields": {"ranges": "bad frame"},
    }
    assert runs_of(context.store, plan) == [1, 1, 0]
    assert list(context.ledger.active()) == []


@pytest.mark.parametrize("script", [{"do": "wrong_state"}, {"do": "missing"}])
def test_a_stage_in_the_wrong_state_fails_too(context: ServiceContext, script: dict[str, Any]) -> None:
    """WrongState is also what a lost lease raises: the two must not be mixed up, or the operation never ends."""
    body = driven(context, submitted(context, scripted_plan(script)))
    assert body["state"] == "FAILED"
    assert body["error"]["reason"] == {"wrong_state": "WRONG_STATE", "missing": "MISSING_WEIGHTS"}[script["do"]]


def test_finishing_in_the_wrong_state_fails_too(context: ServiceContext) -> None:
    body = driven(context, submitted(context, scripted_plan({}, finish="refuse")))
    assert (body["state"], body["error"]["message"]) == ("FAILED", "the stage refuses to finish")


def test_a_mistake_of_ours_fails_without_its_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = context_in(tmp_path, **{"execution.attempts": 2})
    plan = scripted_plan({"do": "raise"})
    name = submitted(context, plan)
    body = driven(context, name)
    assert (body["state"], body["error"]["reason"]) == ("FAILED", "INTERNAL")
    assert runs_of(context.store, plan) == [2]
    # The caller sees the record; the text is in the server's log.
    assert SECRET not in str(body)
    assert SECRET not in str(operation(context.ledger.get(name)))
    assert SECRET in caplog.text


def test_a_mistake_outside_of_chunks_fails_without_its_text(
    context: ServiceContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = scripted_plan({})
    name = submitted(context, plan)
    monkeypatch.setattr(type(load_stage(STAGE)), "finish", lambda *arguments: 1 / 0)
    body = driven(context, name)
    assert (body["state"], body["error"]["reason"]) == ("FAILED", "INTERNAL")
    assert "division" not in str(body)


def test_a_mistake_at_one_try_is_tried_again_and_logged(tmp_path: Path) -> None:
    context = context_in(tmp_path, **{"execution.attempts": 2})
    plan = scripted_plan({"do": "raise_once"}, {"do": "raise_nothing_said"})
    body = driven(context, submitted(context, plan))
    assert body["state"] == "SUCCEEDED"
    assert [line["text"] for line in body["log"]] == [
        "chunk 0 is tried again: RuntimeError",
        "chunk 1 is tried again: RuntimeError",
    ]
    assert runs_of(context.store, plan) == [2, 2]


def test_cancelled_before_it_began(context: ServiceContext) -> None:
    plan = scripted_plan({}, {})
    name = submitted(context, plan)
    context.ledger.request_cancel(name)
    body = driven(context, name)
    assert (body["state"], body["error"]["reason"]) == ("CANCELLED", "CANCELLED")
    assert runs_of(context.store, plan) == [0, 0]
    assert list(context.ledger.active()) == []


def test_cancelled_in_the_middle_of_a_chunk(context: ServiceContext) -> None:
    plan = scripted_plan({}, {"do": "gate", "gate": "gates/never"}, {})
    name = submitted(context, plan)
    thread = threading.Thread(target=lambda: driven(context, name))
    thread.start()
    eventually(lambda: runs_of(context.store, plan)[1], "the second chunk begins")
    context.ledger.request_cancel(name)
    thread.join(timeout=60)
    body = context.ledger.get(name).body
    assert body["state"] == "CANCELLED"
    assert runs_of(context.store, plan) == [1, 1, 0]
    # What was done is kept: the same work asked for again goes on behind it.
    context.store.put("gates/never", b"")
    assert context.ledger.submit(submission(plan))[0].body["state"] == "QUEUED"
    assert driven(context, name)["state"] == "SUCCEEDED"
    assert runs_of(context.store, plan) == [1, 2, 1]


def test_cancelled_after_the_last_chunk(context: ServiceContext) -> None:
    """The wish is seen before anything is published."""
    plan = scripted_plan({}, finish="refuse")
    name = submitted(context, plan)
    real = context.executor.run_chunks

    def then_cancelled(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        context.ledger.request_cancel(name)

    context.executor.run_chunks = then_cancelled  # type: ignore[method-assign]
    assert driven(context, name)["state"] == "CANCELLED"


def test_stopping_leaves_the_work_for_the_next(context: ServiceContext) -> None:
    plan = scripted_plan({}, {}, {})
    name = submitted(context, plan)
    driven(context, name, stopping=lambda: sum(runs_of(context.store, plan)) == 2)
    body = context.ledger.get(name).body
    assert body["state"] in ("WAITING_FOR_RESOURCES", "RUNNING")
    assert "error" not in body
    assert list(context.ledger.active()) == [name]


def test_going_on_runs_only_what_is_missing(context: ServiceContext) -> None:
    plan = scripted_plan({}, {}, {}, {})
    name = submitted(context, plan)
    env = context.env
    for index in (0, 2):
        env.store.put(f"work/{plan.action_key}/out/{index:06d}", f"0:{index}".encode())
        summary = {"output": f"work/{plan.action_key}/out/{index:06d}", "units": 4}
        env.store.put(chunk_key(plan.action_key, index), ChunkManifest(index, 4, summary).to_bytes())
    body = driven(context, name)
    assert body["state"] == "SUCCEEDED"
    assert runs_of(context.store, plan) == [0, 1, 0, 1]
    assert body["response"]["body"] == {"sha256": "0:0,0:1,0:2,0:3", "sizeBytes": "16"}
    assert [line["text"] for line in body["log"]] == ["going on: 2 of 4 chunks were done before"]


def test_killed_after_the_result_was_written(context: ServiceContext) -> None:
    """The last moment: everything is there but the word that it is."""
    plan = scripted_plan({})
    name = submitted(context, plan)
    real = context.ledger.succeed
    context.ledger.succeed = lambda *arguments: (_ for _ in ()).throw(SystemExit)  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        driven(context, name)
    context.ledger.succeed = real  # type: ignore[method-assign]
    context.records.update(name, lambda body: {**body, "lease": None})
    assert driven(context, name)["state"] == "SUCCEEDED"
    assert runs_of(context.store, plan) == [1]


def test_a_driver_that_lost_its_lease_stops_and_writes_nothing(context: ServiceContext) -> None:
    plan = scripted_plan({}, {})
    name = submitted(context, plan)
    real = context.executor.run_chunks

    def then_taken_over(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        context.records.update(name, lambda body: {**body, "lease": {"owner": "other:1:1", "expires_s": 9e9}})

    context.executor.run_chunks = then_taken_over  # type: ignore[method-assign]
    body = driven(context, name)
    assert body["lease"]["owner"] == "other:1:1"
    assert body["state"] not in ("SUCCEEDED", "FAILED")


def test_a_failure_of_a_driver_that_lost_its_lease_is_not_recorded(context: ServiceContext) -> None:
    plan = scripted_plan({})
    name = submitted(context, plan)

    def lost_and_failed(*args: Any, **kwargs: Any) -> None:
        context.records.update(name, lambda body: {**body, "lease": {"owner": "other:1:1", "expires_s": 9e9}})
        raise Transient("the store went away")

    context.executor.run_chunks = lost_and_failed  # type: ignore[method-assign]
    body = driven(context, name)
    assert "error" not in body


def test_metrics_count_chunks_and_units(context: ServiceContext) -> None:
    driven(context, submitted(context, scripted_plan({}, {})))
    registry = context.metrics.registry
    labels = {"stage": "ScriptedStage", "outcome": "done"}
    assert registry.get_sample_value("understudy_chunks_total", labels) == 2
    assert registry.get_sample_value("understudy_units_total", {"stage": "ScriptedStage"}) == 8
