"""Operation records: joining, finding, taking up again; leases; and no interleaving that loses work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.kit.claims import LEASE_S
from services.kit.context import ServiceContext
from services.kit.errors import AlreadyExists, InvalidInput, NotFound, UnderstudyError, WrongState
from services.kit.operations.chunk import load_plan
from services.kit.operations.convert import log_lines, operation
from services.kit.operations.ledger import KEPT_LOG_LINES, LeaseLost, Ledger, append_log
from services.kit.operations.stage import Response
from services.kit.records import Records
from services.kit.storage import ObjectStore, open_store
from tests.support.contexts import PROJECT, Clock, context_in, submission
from tests.support.stages import scripted_plan

REPOSITORY = Path(__file__).resolve().parents[3]
DONE = Response("understudy.v1.Digest", {"sizeBytes": "4"})
MANIFEST = {"uri": "file:///r", "sha256": "0" * 64, "size_bytes": 1, "media_type": "application/json"}


@pytest.fixture
def context(tmp_path: Path) -> ServiceContext:
    return context_in(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(context: ServiceContext, clock: Clock) -> Ledger:
    return Ledger(context.store, context.records, clock)


def test_submitting_records_plan_and_operation(context: ServiceContext, ledger: Ledger, clock: Clock) -> None:
    plan = scripted_plan({}, {})
    record, found_done = ledger.submit(submission(plan))
    assert not found_done
    assert record.name == f"{PROJECT}/operations/test-{plan.action_key[:24]}"
    body = record.body
    assert (body["state"], body["total_units"], body["chunks_total"], body["attempt"]) == ("QUEUED", 8, 2, 0)
    assert (body["actor"], body["labels"], body["create_time_s"]) == ("tester", {"shot": "s1"}, clock.now_s)
    assert load_plan(context.store, plan.action_key) == plan
    assert list(ledger.active()) == [record.name]


def test_submitting_twice_joins(ledger: Ledger) -> None:
    plan = scripted_plan({})
    first, _ = ledger.submit(submission(plan))
    ledger.claim(first.name)
    second, found_done = ledger.submit(submission(plan))
    assert (second.name, found_done) == (first.name, False)
    assert second.body["state"] == "WAITING_FOR_RESOURCES"
    assert second.body["attempt"] == 1
    assert len(ledger.page(PROJECT, after="", limit=10)[0]) == 1
    other, _ = ledger.submit(submission(scripted_plan({}, seed=1)))
    assert other.name != first.name


def test_finished_work_is_found_done(ledger: Ledger) -> None:
    plan = scripted_plan({})
    name = ledger.submit(submission(plan))[0].name
    ledger.claim(name)
    ledger.succeed(name, DONE, [], MANIFEST)
    assert list(ledger.active()) == []
    record, found_done = ledger.submit(submission(plan))
    assert found_done
    assert record.body["state"] == "SUCCEEDED"
    assert list(ledger.active()) == []
    shown = operation(record, from_cache=True)
    assert shown.done
    assert shown.response.type_url.endswith("understudy.v1.Digest")


def test_finished_work_whose_target_is_gone_is_done_again(ledger: Ledger) -> None:
    plan = scripted_plan({})
    name = ledger.submit(submission(plan))[0].name
    ledger.claim(name)
    ledger.succeed(name, DONE, [{"name": "1", "reason": "NO_FACE", "message": "m"}], MANIFEST)
    assert ledger.get(name).body["state"] == "PARTIALLY_SUCCEEDED"
    record, found_done = ledger.submit(submission(plan), is_intact=lambda: False)
    assert (record.body["state"], found_done) == ("QUEUED", False)
    assert not {"response", "manifest", "end_time_s", "failed_items", "lease"} & record.body.keys()
    assert list(ledger.active()) == [name]
    assert ledger.claim(name) is not None


@pytest.mark.parametrize("end", ["fail", "cancel"])
def test_failed_and_cancelled_work_is_taken_up_again(ledger: Ledger, end: str) -> None:
    plan = scripted_plan({})
    name = ledger.submit(submission(plan))[0].name
    ledger.claim(name)
    if end == "fail":
        ledger.fail(name, InvalidInput("no", reason="NO_FACE", metadata={"clip": "c"}, fields={"clip": "no faces"}))
    else:
        ledger.cancelled(name)
    ended = operation(ledger.get(name))
    assert ended.done
    assert ended.HasField("error")
    assert ledger.claim(name) is None
    record, found_done = ledger.submit(submission(plan))
    assert (record.body["state"], found_done) == ("QUEUED", False)
    assert "error" not in record.body
    assert list(ledger.active()) == [name]
    assert ledger.claim(name).body["attempt"] == 2  # type: ignore[union-attr]


def test_request_ids(ledger: Ledger) -> None:
    plan, other = scripted_plan({}), scripted_plan({}, seed=1)
    first, _ = ledger.submit(submission(plan, request_id="11111111-aaaa"))
    again, _ = ledger.submit(submission(plan, request_id="11111111-aaaa"))
    assert again.name == first.name
    with pytest.raises(AlreadyExists) as caught:
        ledger.submit(submission(other, request_id="11111111-aaaa"))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert caught.value.metadata == {"operation": first.name}
    with pytest.raises(NotFound):
        ledger.get(f"{PROJECT}/operations/test-{other.action_key[:24]}")
    # Another project has ids of its own.
    ledger.submit(submission(other, request_id="11111111-aaaa", project="projects/q"))
    for wrong in ("short", "../../../../etc", "a" * 65, "with space!!", "ünïcödé-1234"):
        with pytest.raises(InvalidInput):
            ledger.submit(submission(plan, request_id=wrong))


def test_a_live_owner_keeps_its_lease(context: ServiceContext, ledger: Ledger, clock: Clock) -> None:
    name = ledger.submit(submission(scripted_plan({})))[0].name
    other = Ledger(context.store, context.records, clock)
    assert ledger.claim(name) is not None
    assert ledger.is_driven(name)
    assert other.claim(name) is None
    assert ledger.claim(name) is None
    clock.now_s += LEASE_S - 1
    assert other.claim(name) is None
    ledger.advance(name, lambda body: None)  # renews
    clock.now_s += LEASE_S - 1
    assert other.claim(name) is None


def test_a_lease_that_ran_out_is_taken(context: ServiceContext, ledger: Ledger, clock: Clock) -> None:
    name = ledger.submit(submission(scripted_plan({})))[0].name
    ledger.claim(name)
    clock.now_s += LEASE_S + 1
    assert not ledger.is_driven(name)
    taken = Ledger(context.store, context.records, clock).claim(name)
    assert taken is not None
    assert taken.body["attempt"] == 2


CLAIM = """
import sys
from pathlib import Path
from services.kit.operations.ledger import Ledger
from services.kit.records import Records
from services.kit.storage import open_store
store = open_store("folder", root=Path(sys.argv[1]))
print(Ledger(store, Records(store)).claim(sys.argv[2]) is not None, flush=True)
sys.stdin.read()
"""


def claiming_process(root: Path, name: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(root), name],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "True"
    return process


def test_the_lease_of_a_dead_process_is_taken_at_once(context: ServiceContext, tmp_path: Path) -> None:
    name = context.ledger.submit(submission(scripted_plan({})))[0].name
    process = claiming_process(tmp_path / "objects", name)
    try:
        assert context.ledger.claim(name) is None, "its owner lives"
        process.kill()
        # A zombie is dead too: nobody may have waited for it yet.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        claimed = context.ledger.claim(name)
        assert claimed is not None
        assert claimed.body["attempt"] == 2
    finally:
        process.kill()
        process.communicate()


def test_a_process_of_another_host_is_believed_until_its_lease_ends(
    ledger: Ledger, context: ServiceContext, clock: Clock
) -> None:
    name = ledger.submit(submission(scripted_plan({})))[0].name
    ledger.claim(name)

    def moved(body: dict[str, Any]) -> dict[str, Any]:
        body["lease"]["owner"] = "another-host:with:colons:999999:1"
        return body

    context.records.update(name, moved)
    assert ledger.claim(name) is None
    clock.now_s += LEASE_S + 1
    assert ledger.claim(name) is not None


def test_writing_after_losing_the_lease_is_refused(context: ServiceContext, ledger: Ledger) -> None:
    name = ledger.submit(submission(scripted_plan({})))[0].name
    ledger.claim(name)

    def taken_over(body: dict[str, Any]) -> dict[str, Any]:
        body["lease"]["owner"] = "another-host:1:1"
        return body

    context.records.update(name, taken_over)
    before = ledger.get(name)
    for call in (
        lambda: ledger.advance(name, lambda body: body.update(done_units=99)),
        lambda: ledger.succeed(name, DONE, [], MANIFEST),
        lambda: ledger.fail(name, UnderstudyError("x")),
        lambda: ledger.cancelled(name),
    ):
        with pytest.raises(LeaseLost):
            call()
    assert issubclass(LeaseLost, WrongState)
    assert ledger.get(name) == before


def test_writing_after_the_end_is_refused(ledger: Ledger) -> None:
    name = ledger.submit(submission(scripted_plan({})))[0].name
    ledger.claim(name)
    ledger.succeed(name, DONE, [], MANIFEST)
    with pytest.raises(LeaseLost):
        ledger.fail(name, UnderstudyError("x"))
    assert ledger.get(name).body["state"] == "SUCCEEDED"


def test_cancelling(ledger: Ledger) -> None:
    name = ledger.submit(submission(scripted_plan({})))[0].name
    ledger.request_cancel(name)
    assert ledger.get(name).body["state"] == "CANCELLING"
    assert ledger.claim(name) is not None, "a driver has to end it"
    ledger.cancelled(name)
    ended = ledger.get(name)
    ledger.request_cancel(name)
    assert ledger.get(name) == ended
    with pytest.raises(NotFound):
        ledger.request_cancel(f"{PROJECT}/operations/none")


def test_deleting(ledger: Ledger) -> None:
    plan = scripted_plan({})
    name = ledger.submit(submission(plan))[0].name
    with pytest.raises(WrongState, match="cancel it first"):
        ledger.delete(name)
    ledger.claim(name)
    ledger.cancelled(name)
    ledger.delete(name)
    with pytest.raises(NotFound):
        ledger.get(name)
    assert ledger.submit(submission(plan))[0].body["attempt"] == 0


def test_a_marker_without_a_record_is_cleared(ledger: Ledger, context: ServiceContext) -> None:
    """What a crash between marker and record leaves."""
    context.store.put("active/operations/projects=p=operations=gone", b"")
    assert list(ledger.active()) == [f"{PROJECT}/operations/gone"]
    assert ledger.claim(f"{PROJECT}/operations/gone") is None
    assert list(ledger.active()) == []


def test_a_marker_of_ended_work_is_cleared(ledger: Ledger, context: ServiceContext) -> None:
    name = ledger.submit(submission(scripted_plan({})))[0].name
    ledger.claim(name)
    ledger.cancelled(name)
    context.store.put(f"active/operations/{name.replace('/', '=')}", b"")
    assert ledger.claim(name) is None
    assert list(ledger.active()) == []


class _Interrupting:
    """A store that lets another process do something at one moment."""

    def __init__(self, store: ObjectStore, at: str, doing: Any) -> None:
        self._store = store
        self._at, self._doing = at, doing

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            doing = None
            if name == self._at and str(args[0]).startswith("active/"):
                doing, self._doing = self._doing, None
            if doing:
                doing()
            return real(*args, **kwargs)

        return call


def test_a_scan_during_submission_does_not_lose_the_marker(tmp_path: Path) -> None:
    """A scan may look for the record between the marker and the record, and clear the marker after the record was made."""
    store = open_store("folder", root=tmp_path)
    plan = scripted_plan({})
    name = f"{PROJECT}/operations/test-{plan.action_key[:24]}"
    whole = Ledger(store, Records(store))
    scanning = Ledger(_Interrupting(store, "delete", lambda: whole.submit(submission(plan))), Records(store))  # type: ignore[arg-type]
    store.put(f"active/operations/{name.replace('/', '=')}", b"")
    assert scanning.claim(name) is None
    assert list(whole.active()) == [name]
    assert whole.claim(name) is not None


def test_submitting_again_at_the_moment_of_the_end_does_not_lose_the_marker(tmp_path: Path) -> None:
    store = open_store("folder", root=tmp_path)
    plan = scripted_plan({})
    whole = Ledger(store, Records(store))
    ending = Ledger(_Interrupting(store, "delete", lambda: whole.submit(submission(plan))), Records(store))  # type: ignore[arg-type]
    name = whole.submit(submission(plan))[0].name
    ending.claim(name)
    ending.fail(name, UnderstudyError("x"))
    assert whole.get(name).body["state"] == "QUEUED"
    assert list(whole.active()) == [name]


def test_the_log_keeps_the_newest_lines_and_watchers_get_each_once(ledger: Ledger) -> None:
    name = ledger.submit(submission(scripted_plan({})))[0].name
    ledger.claim(name)
    seen, texts = 0, []
    for number in range(KEPT_LOG_LINES + 10):
        record = ledger.advance(name, lambda body, number=number: append_log(body, "INFO", f"line {number}"))  # type: ignore[misc]
        if number % 3 == 0:
            texts += [line.text for line, _ in log_lines(record, seen)]
            seen = record.version
    texts += [line.text for line, _ in log_lines(ledger.get(name), seen)]
    assert texts == [f"line {number}" for number in range(KEPT_LOG_LINES + 10)]
    assert len(ledger.get(name).body["log"]) == KEPT_LOG_LINES
    assert log_lines(ledger.get(name), ledger.get(name).version) == []


def test_log_lines_of_an_operation_that_was_deleted_before(ledger: Ledger) -> None:
    """Versions go on counting when a name is used again; lines must not look older than what a watcher has seen."""
    plan = scripted_plan({})
    for _ in range(2):
        name = ledger.submit(submission(plan))[0].name
        before = ledger.claim(name)
        assert before is not None
        record = ledger.advance(name, lambda body: append_log(body, "WARNING", "tried again"))
        assert [line.text for line, _ in log_lines(record, before.version)] == ["tried again"]
        assert log_lines(record, record.version) == []
        ledger.cancelled(name)
        ledger.delete(name)
