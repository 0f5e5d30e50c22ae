"""Decoding, finding and storing at the same time: in order, bounded, and nothing is left running."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from services.faces.overlap import DECODED_AHEAD, STORE_THREADS, Frame, batch_frames, overlapped

PICTURE = np.zeros((1, 1, 3), np.uint8)


def frames(count: int, decoded: list[int] | None = None) -> Iterator[Frame]:
    for number in range(count):
        if decoded is not None:
            decoded.append(number)
        yield number, PICTURE


def test_results_come_in_order_and_once() -> None:
    seen = overlapped(frames(23), 5, lambda batch: [n for n, _ in batch], lambda batch, found: found)
    assert list(seen) == [
        (5, [0, 1, 2, 3, 4]),
        (5, [5, 6, 7, 8, 9]),
        (5, [10, 11, 12, 13, 14]),
        (5, [15, 16, 17, 18, 19]),
        (3, [20, 21, 22]),
    ]


def test_the_three_steps_overlap() -> None:
    """Each step of batch n waits until the others are at work on their neighbours: one after another would never end."""
    storing_first, decoded_third = threading.Event(), threading.Event()

    def decode() -> Iterator[Frame]:
        for number in range(3):
            if number == 2:
                decoded_third.set()
            yield number, PICTURE

    def find(batch: list[Frame]) -> int:
        number = batch[0][0]
        if number == 0:
            assert decoded_third.wait(10), "frames are decoded while the first is looked at"
        if number == 1:
            assert storing_first.wait(10), "the first is stored while the second is looked at"
        return number

    def store(batch: list[Frame], found: int) -> int:
        if found == 0:
            storing_first.set()
        return found

    assert [result for _, result in overlapped(decode(), 1, find, store)] == [0, 1, 2]


def test_nobody_runs_ahead() -> None:
    decoded: list[int] = []
    storing = threading.Semaphore(0)

    def store(batch: list[Frame], found: None) -> None:
        storing.acquire(timeout=10)

    stream = overlapped(frames(100, decoded), 2, lambda batch: None, store)
    for _ in range(STORE_THREADS + 1):
        storing.release()
    next(stream)
    # Being stored or waiting for it, being looked at, in the queue, and one batch that the decoder holds.
    assert len(decoded) <= 2 * (STORE_THREADS + 1 + 1 + DECODED_AHEAD + 1)
    for _ in range(100):
        storing.release()
    assert sum(count for count, _ in stream) == 98


@pytest.mark.parametrize("step", ["decode", "find", "store"])
def test_an_error_of_any_step_ends_all_of_them(step: str) -> None:
    before = threading.active_count()

    def decode() -> Iterator[Frame]:
        yield 0, PICTURE
        if step == "decode":
            raise OSError("decode")
        yield 1, PICTURE

    def fail(name: str) -> None:
        if step == name:
            raise OSError(name)

    with pytest.raises(OSError, match=step):
        list(overlapped(decode(), 1, lambda batch: fail("find"), lambda batch, found: fail("store")))
    assert threading.active_count() == before


def test_a_caller_who_stops_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    stream = overlapped(frames(1000), 1, lambda batch: None, lambda batch, found: None)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_large_frames_make_small_batches() -> None:
    assert batch_frames(1920 * 1080 * 3, 32) == 32
    assert batch_frames(16384 * 16384 * 3, 32) == 1
    assert batch_frames(7680 * 4320 * 3, 8) == 2
