"""Decoding, finding and storing at the same time: a thread decodes, the caller's thread finds, a few threads cut and store.

What one would get wrong: everything between the steps is bounded. Frames are large, and a decoder that ran ahead would fill the memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from queue import Queue
from typing import TypeVar

import numpy as np

Frame = tuple[int, np.ndarray]
Found = TypeVar("Found")
Done = TypeVar("Done")

DECODED_AHEAD = 2
STORE_THREADS = 2
BATCH_BYTES = 256 * 2**20


def batch_frames(frame_bytes: int, most: int) -> int:
    """How many frames of this size go through together: at most ``most``, and no more than 256 MiB of them."""
    return max(1, min(most, BATCH_BYTES // max(1, frame_bytes)))


def overlapped(
    frames: Iterator[Frame],
    per_batch: int,
    find: Callable[[list[Frame]], Found],
    store: Callable[[list[Frame], Found], Done],
) -> Iterator[tuple[int, Done]]:
    """(frames in it, what ``store`` returned) of every batch, in order.

    ``find`` runs in the caller's thread, one batch after another; ``store`` in one of a few threads. Raises what any of the three raises;
    batches whose ``store`` is under way are waited for first, so that nothing writes after the caller has moved on.
    """
    pending: deque[tuple[int, Future[Done]]] = deque()
    with ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="store") as pool:
        for batch in decoded_ahead(frames, per_batch):
            pending.append((len(batch), pool.submit(store, batch, find(batch))))
            while len(pending) > STORE_THREADS or (pending and pending[0][1].done()):
                count, future = pending.popleft()
                yield count, future.result()
        while pending:
            count, future = pending.popleft()
            yield count, future.result()


def decoded_ahead(frames: Iterator[Frame], per_batch: int) -> Iterator[list[Frame]]:
    """Batches of frames, decoded in a thread while the one before is looked at."""
    queue: Queue[list[Frame] | BaseException | None] = Queue(DECODED_AHEAD)
    wanted = threading.Event()
    wanted.set()

    def decode() -> None:
        try:
            while wanted.is_set() and (batch := list(islice(frames, per_batch))):
                queue.put(batch)
            queue.put(None)
        except BaseException as error:  # noqa: BLE001  carried to the consumer, which raises it
            queue.put(error)

    thread = threading.Thread(target=decode, name="decode", daemon=True)
    thread.start()
    try:
        while (batch := queue.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield batch
    finally:
        wanted.clear()
        while thread.is_alive():
            while not queue.empty():
                queue.get_nowait()
            thread.join(0.05)
