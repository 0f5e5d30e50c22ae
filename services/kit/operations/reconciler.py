"""Finds recorded work that nobody drives, and drives it: after a submission, after a restart, after another server died.

There is one way into work for all three, so the path that a crash takes is the path that every request takes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from services.kit.errors import UnderstudyError
from services.kit.metrics import Metrics

_LOG = logging.getLogger(__name__)
SCAN_EVERY_S = 5.0


class Work(Protocol):
    """A kind of recorded work (operations, training runs)."""

    kind: str

    def candidates(self) -> Iterator[str]:
        """Names of work that has not ended."""
        ...

    def claim(self, name: str) -> bool:
        """Takes the work if nobody drives it."""
        ...

    def drive(self, name: str, stopping: Callable[[], bool]) -> None:
        """Takes claimed work to its end, or returns soon after ``stopping`` turns true."""
        ...


class Reconciler:
    """Scans every few seconds, and at once when poked. Each kind of work has drivers of its own, so that training runs, which last for
    days, never keep operations waiting; ``parallel`` drivers where ``add`` names no other number."""

    def __init__(self, metrics: Metrics, *, parallel: int) -> None:
        self._metrics = metrics
        self._parallel = parallel
        self._works: list[tuple[Work, ThreadPoolExecutor]] = []
        self._driven: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="reconciler", daemon=True)

    def add(self, work: Work, *, parallel: int = 0) -> None:
        """Before ``start``."""
        pool = ThreadPoolExecutor(parallel or self._parallel, thread_name_prefix=f"drive-{work.kind}")
        self._works.append((work, pool))

    def start(self) -> None:
        """Begins scanning."""
        self._thread.start()

    def poke(self) -> None:
        """Something was submitted: look now."""
        self._wake.set()

    def stop(self) -> None:
        """Stops scanning; drivers leave their work for the next process."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        for _, pool in self._works:
            pool.shutdown(wait=True, cancel_futures=True)

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            for work, pool in self._works:
                try:
                    self._scan(work, pool)
                except UnderstudyError as error:
                    _LOG.warning("cannot look for %s now: %s", work.kind, error)
                except Exception:  # noqa: BLE001  without this thread nothing is ever driven again
                    _LOG.exception("looking for %s failed by a mistake of this program", work.kind)
            self._wake.wait(SCAN_EVERY_S)

    def _scan(self, work: Work, pool: ThreadPoolExecutor) -> None:
        for name in work.candidates():
            key = (work.kind, name)
            with self._lock:
                if key in self._driven or self._stopping.is_set():
                    continue
                self._driven.add(key)
            pool.submit(self._drive, work, name)

    def _drive(self, work: Work, name: str) -> None:
        gauge = self._metrics.operations.labels(kind=work.kind)
        gauge.inc()
        try:
            if not self._stopping.is_set() and work.claim(name):
                work.drive(name, self._stopping.is_set)
        except UnderstudyError as error:
            _LOG.warning("cannot drive %s %s now: %s", work.kind, name, error)
        except Exception:  # noqa: BLE001  the edge of a thread: the lease runs out and the work is found again
            _LOG.exception("driving %s %s failed", work.kind, name)
        finally:
            gauge.dec()
            with self._lock:
                self._driven.discard((work.kind, name))
