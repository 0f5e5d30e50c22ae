"""Who drives recorded work: markers that say what has not ended, and leases that say who has it in hand.

A lease lies inside the work's record, so taking it and looking at the state is one update. It may be taken when it ran out, or at once when
its holder was a process of this machine that is dead: a server that is started again after a crash goes on without waiting. The one thing
to get wrong: a holder that was only slow does not know that it lost its lease. Whoever writes for a holder checks ``holds`` inside the same
update.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from services.kit.storage import ObjectStore

LEASE_S = 30.0


class ActiveNames:
    """Names of work that has not ended, as empty objects below ``prefix``: a restart reads these and not the whole history."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    def add(self, name: str) -> None:
        """Adds a name. A marker of ended or missing work does no harm: whoever tries to claim it removes it."""
        self._store.put(self._prefix + name.replace("/", "="), b"", media_type="text/plain")

    def remove(self, name: str) -> None:
        """Removes a name; nothing happens if it is not there."""
        self._store.delete(self._prefix + name.replace("/", "="))

    def __iter__(self) -> Iterator[str]:
        after = ""
        while True:
            page = self._store.list(self._prefix, after=after)
            for info in page.objects:
                yield info.key[len(self._prefix) :].replace("=", "/")
            if not page.next_after:
                return
            after = page.next_after


class Leaseholder:
    """This process as a holder of leases."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{_process_start(os.getpid())}"

    def lease(self) -> dict[str, Any]:
        """A lease of this process from now on, for a record's body."""
        return {"owner": self.owner, "expires_s": self._clock() + LEASE_S}

    def holds(self, lease: Mapping[str, Any] | None) -> bool:
        """Whether a lease is this process', run out or not."""
        return bool(lease) and lease["owner"] == self.owner  # type: ignore[index]

    def is_free(self, lease: Mapping[str, Any] | None) -> bool:
        """Whether a lease may be taken: there is none, it ran out, or its holder on this machine is dead."""
        if not lease or lease["expires_s"] < self._clock():
            return True
        host, pid, started = lease["owner"].rsplit(":", 2)
        return bool(host == socket.gethostname() and _process_start(int(pid)) != started)


def is_alive(pid: int) -> bool:
    """Whether this machine has such a process."""
    return _process_start(pid) != ""


def _process_start(pid: int) -> str:
    """When a process of this machine began, in clock ticks; empty when there is none. Tells a reused pid from the one that held a lease."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter when it ends while it is read
        return "" if Path("/proc").is_dir() else "unknown"
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
