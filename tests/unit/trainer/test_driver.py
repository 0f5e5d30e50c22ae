"""Who may drive a run, and what the driver writes when workers end, or do not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.kit.claims import ActiveNames, Leaseholder
from services.kit.context import ServiceContext
from services.kit.operations.stage import WorkerEnv
from services.trainer import driver
from services.trainer.backend import WORKER_DIED, Failure, TrainHandle, TrainJob
from services.trainer.driver import ACTIVE_PREFIX, RunWork
from services.trainer.run import COMPLETED, FAILED, PAUSED, QUEUED, RUNNING, STARTING, STOPPED, STOPPING

RUN = "projects/p/runs/r"


class FakeHandle:
    """Workers that do ``work`` and are gone when it returns what went wrong."""

    def __init__(self, work: Callable[[FakeHandle], Failure | None]) -> None:
        self.killed = threading.Event()
        self._failure: Failure | None = None

        def run() -> None:
            self._failure = work(self)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def failure(self) -> Failure | None:
        return self._failure

    def kill(self) -> None:
        self.killed.set()
        self._thread.join()


class FakeBackend:
    def __init__(self, *works: Callable[[FakeHandle], Failure | None]) -> None:
        self.works = list(works)
        self.started: list[TrainJob] = []
        self.room = True

    def has_room(self, workers: int) -> bool:
        return self.room

    def start(self, job: TrainJob) -> TrainHandle:
        self.started.append(job)
        return FakeHandle(self.works.pop(0))


@pytest.fixture
def work_on(env: WorkerEnv, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunWork]:
    """work_on(backend): the driver, in a hurry."""
    monkeypatch.setattr(driver, "POLL_S", 0.01)
    monkeypatch.setattr(driver, "LEAVE_WITHIN_S", 0.2)
    settings = SimpleNamespace(execution=SimpleNamespace(attempts=3))
    context = SimpleNamespace(store=env.store, records=env.records, settings=settings, env=env)

    def make(backend: FakeBackend) -> RunWork:
        ActiveNames(env.store, ACTIVE_PREFIX).add(RUN)
        return RunWork(cast(ServiceContext, context), backend)

    return make


def change(env: WorkerEnv, **fields: Any) -> None:
    env.records.update(RUN, lambda body: {**body, **fields})


def body(env: WorkerEnv) -> dict[str, Any]:
    return env.records.get(RUN).body


DEAD = {"owner": f"{Leaseholder().owner.rsplit(':', 2)[0]}:999999:1", "expires_s": time.time() + 1000}
ELSEWHERE = {"owner": "another-host:1:1", "expires_s": time.time() + 1000}


@pytest.mark.parametrize(
    ("state", "lease", "claimed", "then"),
    [
        (QUEUED, None, True, QUEUED),
        (RUNNING, DEAD, True, QUEUED),
        (STARTING, {**ELSEWHERE, "expires_s": 0}, True, QUEUED),
        (RUNNING, ELSEWHERE, False, RUNNING),
        (RUNNING, {**ELSEWHERE, "owner": Leaseholder().owner}, False, RUNNING),
        (PAUSED, DEAD, False, PAUSED),
        (STOPPING, DEAD, False, STOPPED),
        (COMPLETED, None, False, COMPLETED),
    ],
)
def test_a_run_is_claimed_when_nobody_drives_it(
    env: WorkerEnv,
    make_run: Callable[..., dict[str, Any]],
    work_on: Callable[..., RunWork],
    state: str,
    lease: dict[str, Any] | None,
    claimed: bool,
    then: str,
) -> None:
    make_run(state=state, lease=lease)
    work = work_on(FakeBackend())
    assert work.claim(RUN) is claimed
    assert body(env)["state"] == then
    if claimed:
        assert body(env)["lease"]["owner"] == Leaseholder().owner
    assert (RUN in work.candidates()) is (then not in (STOPPED, COMPLETED))


def test_a_marker_without_a_run_is_removed(work_on: Callable[..., RunWork]) -> None:
    work = work_on(FakeBackend())
    assert not work.claim(RUN)
    assert list(work.candidates()) == []


def test_lost_workers_are_started_again_only_when_they_came_further(
    env: WorkerEnv, make_run: Callable[..., dict[str, Any]], work_on: Callable[..., RunWork]
) -> None:
    def saves_and_dies(_handle: FakeHandle) -> Failure:
        change(env, state=RUNNING, checkpoint={"iteration": "10"})
        return WORKER_DIED

    def dies(_handle: FakeHandle) -> Failure:
        return WORKER_DIED

    make_run(state=QUEUED, lease=None)
    backend = FakeBackend(saves_and_dies, dies)
    work = work_on(backend)
    assert work.claim(RUN)
    work.drive(RUN, lambda: False)
    assert len(backend.started) == 2
    assert (body(env)["state"], body(env)["errorReason"]) == (FAILED, "WORKER_LOST")
    assert "lease" not in body(env) and list(work.candidates()) == []


def test_an_end_that_workers_wrote_is_left_alone(
    env: WorkerEnv, make_run: Callable[..., dict[str, Any]], work_on: Callable[..., RunWork]
) -> None:
    make_run(state=QUEUED, lease=None)
    work = work_on(FakeBackend(lambda _handle: change(env, state=COMPLETED)))
    assert work.claim(RUN)
    work.drive(RUN, lambda: False)
    assert body(env)["state"] == COMPLETED and "errorReason" not in body(env)
    assert list(work.candidates()) == []


def test_a_run_without_room_waits_and_can_be_stopped(
    env: WorkerEnv, make_run: Callable[..., dict[str, Any]], work_on: Callable[..., RunWork]
) -> None:
    make_run(state=QUEUED, lease=None)
    backend = FakeBackend()
    backend.room = False
    work = work_on(backend)
    assert work.claim(RUN)
    thread = threading.Thread(target=work.drive, args=(RUN, lambda: False))
    thread.start()
    time.sleep(0.1)
    assert thread.is_alive() and body(env)["state"] == QUEUED and not backend.started
    change(env, state=STOPPING)
    thread.join(10)
    assert body(env)["state"] == STOPPED and not backend.started


def test_a_server_that_ends_asks_its_workers_to_go_and_ends_those_that_do_not(
    env: WorkerEnv, make_run: Callable[..., dict[str, Any]], work_on: Callable[..., RunWork]
) -> None:
    stopping = threading.Event()
    asked = threading.Event()

    def is_deaf(handle: FakeHandle) -> None:
        change(env, state=RUNNING)
        stopping.set()
        while not handle.killed.wait(0.01):
            if body(env)["lease"].get("leaving"):
                asked.set()

    make_run(state=QUEUED, lease=None)
    work = work_on(FakeBackend(is_deaf))
    assert work.claim(RUN)
    work.drive(RUN, stopping.is_set)
    assert asked.is_set()
    assert body(env)["state"] == QUEUED and "lease" not in body(env)
    assert list(work.candidates()) == [RUN]


def test_a_driver_that_lost_its_lease_ends_its_workers_and_writes_nothing(
    env: WorkerEnv,
    make_run: Callable[..., dict[str, Any]],
    work_on: Callable[..., RunWork],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "LEASE_S", 0.1)

    def is_taken_away(handle: FakeHandle) -> None:
        change(env, state=RUNNING, lease=ELSEWHERE)
        assert handle.killed.wait(10)

    make_run(state=QUEUED, lease=None)
    backend = FakeBackend(is_taken_away)
    work = work_on(backend)
    assert work.claim(RUN)
    work.drive(RUN, lambda: False)
    assert body(env)["state"] == RUNNING and body(env)["lease"] == ELSEWHERE
