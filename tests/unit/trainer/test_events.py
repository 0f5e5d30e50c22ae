"""The event log: numbers without gaps, re-attaching in the middle, two writers, pruning."""

from __future__ import annotations

from typing import Any

import pytest

from services.kit.operations.stage import WorkerEnv
from services.trainer import events
from services.trainer.events import EventLog


def lines(*texts: str) -> list[dict[str, Any]]:
    return [{"log": {"text": text}} for text in texts]


def texts(read: list[dict[str, Any]]) -> list[str]:
    return [event["log"]["text"] for event in read]


def test_events_are_numbered_and_read_from_anywhere(env: WorkerEnv) -> None:
    log = EventLog(env.store, "projects/p/runs/r")
    last = log.append(lines("a", "b", "c"), 0)
    last = log.append(lines("d"), last)
    assert log.append(lines("e", "f"), last) == 6
    assert [int(event["sequence"]) for event in log.read(0)] == [1, 2, 3, 4, 5, 6]
    for after in range(7):
        assert texts(log.read(after)) == list("abcdef")[after:]
    assert log.last() == log.last(4) == 6


def test_a_writer_that_starts_behind_goes_on_behind_the_last(env: WorkerEnv) -> None:
    first, second = EventLog(env.store, "projects/p/runs/r"), EventLog(env.store, "projects/p/runs/r")
    assert first.append(lines("a", "b"), 0) == 2
    assert second.append(lines("c", "d"), 0) == 4
    assert texts(first.read(0)) == list("abcd")


def test_old_batches_go(env: WorkerEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT_BATCHES", 3)
    monkeypatch.setattr(events, "PRUNE_EVERY", 5)
    log, last = EventLog(env.store, "projects/p/runs/r"), 0
    for number in range(10):
        last = log.append(lines(str(number)), last)
    assert texts(log.read(0)) == ["7", "8", "9"]
    assert log.append(lines("next"), last) == 11


def test_a_long_log_is_read_in_parts(env: WorkerEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "READ_BATCHES", 4)
    log, last = EventLog(env.store, "projects/p/runs/r"), 0
    for number in range(10):
        last = log.append(lines(str(number)), last)
    seen, read = 0, []
    while part := log.read(seen):
        read += part
        seen = int(part[-1]["sequence"])
    assert texts(read) == [str(number) for number in range(10)]
