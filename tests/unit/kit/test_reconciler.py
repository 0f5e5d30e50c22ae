"""The reconciler: one way into work for submissions, restarts and crashes, and a thread that never dies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.kit.context import build_context
from services.kit.errors import Transient
from services.kit.metrics import Metrics
from services.kit.operations import reconciler as module
from services.kit.operations.reconciler import Reconciler
from tests.support.contexts import eventually, settings_in, submitted
from tests.support.stages import runs_of, scripted_plan


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans often, so that no test waits for the next one."""
    monkeypatch.setattr(module, "SCAN_EVERY_S", 0.02)


class _Work:
    """Work that a test feeds. Everything ends when ``release`` is set."""

    kind = "test"

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.errors: list[Exception] = []
        self.claimed: list[str] = []
        self.driven: list[str] = []
        self.refused: set[str] = set()
        self.release = threading.Event()
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()

    def candidates(self) -> Iterator[str]:
        if self.errors:
            raise self.errors.pop()
        return iter(list(self.names))

    def claim(self, name: str) -> bool:
        self.claimed.append(name)
        return name not in self.refused

    def drive(self, name: str, stopping: Callable[[], bool]) -> None:
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            self.driven.append(name)
        while not self.release.wait(0.01) and not stopping():
            pass
        with self._lock:
            self._now -= 1
            if self.release.is_set():
                self.names.remove(name)
        if name == "bad":
            raise RuntimeError("a mistake")


@pytest.fixture
def reconciler() -> Iterator[Reconciler]:
    made = Reconciler(Metrics(), parallel=2)
    yield made
    made.stop()


def test_everything_is_driven_and_never_twice_at_once(reconciler: Reconciler) -> None:
    work = _Work("a", "b", "c")
    reconciler.add(work)
    reconciler.start()
    eventually(lambda: len(work.driven) == 2, "two are driven")
    work.release.set()
    eventually(lambda: not work.names, "all are done")
    assert sorted(work.driven) == ["a", "b", "c"]
    assert work.most_at_once == 2


def test_what_somebody_else_drives_is_left_alone(reconciler: Reconciler) -> None:
    work = _Work("a", "b")
    work.refused, _ = {"a"}, work.release.set()
    reconciler.add(work)
    reconciler.start()
    eventually(lambda: work.claimed.count("a") > 3, "it is looked at again and again")
    assert set(work.driven) == {"b"}


@pytest.mark.parametrize("error", [Transient("the store is away"), RuntimeError("a mistake"), OSError("disk")])
def test_a_scan_that_fails_is_not_the_last(reconciler: Reconciler, error: Exception) -> None:
    work = _Work("a")
    work.errors = [error, error]
    work.release.set()
    reconciler.add(work)
    reconciler.start()
    eventually(lambda: not work.names, "it is driven after all")


def test_a_drive_that_fails_is_tried_again(reconciler: Reconciler) -> None:
    work = _Work("bad")
    work.release.set()
    reconciler.add(work)
    reconciler.start()
    eventually(lambda: work.driven, "it is driven")
    work.names.append("bad")
    eventually(lambda: len(work.driven) > 1, "it is driven again")


def test_each_kind_of_work_has_drivers_of_its_own(reconciler: Reconciler) -> None:
    long, short = _Work("1", "2", "3", "4", "5"), _Work("a")
    short.release.set()
    reconciler.add(long)
    reconciler.add(short)
    reconciler.start()
    eventually(lambda: not short.names, "the short work is not kept waiting")
    assert len(long.driven) == 2


def test_a_poke_looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCAN_EVERY_S", 3600)
    reconciler, work = Reconciler(Metrics(), parallel=1), _Work()
    work.release.set()
    reconciler.add(work)
    reconciler.start()
    work.names.append("a")
    reconciler.poke()
    eventually(lambda: work.driven, "it is driven")
    reconciler.stop()


def test_stopping_tells_drivers_and_waits_for_them() -> None:
    reconciler, work = Reconciler(Metrics(), parallel=1), _Work("a", "b")
    reconciler.add(work)
    reconciler.start()
    eventually(lambda: work.driven, "it is driven")
    reconciler.stop()
    assert len(work.driven) == 1
    assert sorted(work.names) == ["a", "b"]


def test_stopping_before_starting() -> None:
    Reconciler(Metrics(), parallel=1).stop()


def test_operations_are_taken_to_their_end_also_those_of_an_earlier_process(tmp_path: Path) -> None:
    plan, late = scripted_plan({}, {}), scripted_plan({}, seed=1)
    first = build_context(settings_in(tmp_path))
    name = submitted(first, plan)
    first.close()  # a process that ended before it drove anything
    context = build_context(settings_in(tmp_path))
    context.reconciler.start()
    try:
        eventually(lambda: context.ledger.get(name).body["state"] == "SUCCEEDED", "the first ends")
        later = submitted(context, late)
        eventually(lambda: context.ledger.get(later).body["state"] == "SUCCEEDED", "the second ends")
        assert runs_of(context.store, plan) == [1, 1]
        eventually(lambda: not list(context.ledger.active()), "nothing is left to do")
    finally:
        context.close()
    assert not context.env.scratch_dir.exists()
