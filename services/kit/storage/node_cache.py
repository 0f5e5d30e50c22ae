"""Whole objects as local files, shared by all processes of a node, least recently used out first.

The one thing to get wrong: a file that someone is using must stay under its name (PyAV opens paths more than once).
Users hold a shared ``flock`` on the file itself; eviction takes an exclusive one without waiting, and leaves the file
if it cannot.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from services.kit.errors import QuotaOrCapacity, Transient

LOCK_STRIPES = 256
STALE_TEMPORARY_S = 24 * 3600.0


class NodeCache:
    """A directory of files named by digest, of at most about ``limit_bytes`` (files in use are never evicted)."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes

    @contextmanager
    def file(self, name: str, size_bytes: int, fill: Callable[[BinaryIO], None]) -> Iterator[Path]:
        """The cached file ``name`` of ``size_bytes``; ``fill`` writes it (and checks it) if it is not there.

        One process of the node downloads, the others wait for it.
        """
        path = self._folder / name[:2] / name
        with self.errors():
            descriptor = self._pinned(path, size_bytes)
            if descriptor is None:
                descriptor = self._filled(path, size_bytes, fill)
                self._evict()
            with suppress(PermissionError):  # another user's file: only the order of eviction suffers
                os.utime(path)
        try:
            yield path
        finally:
            os.close(descriptor)

    @contextmanager
    def scratch(self) -> Iterator[BinaryIO]:
        """A nameless temporary file on the cache's disk."""
        with ExitStack() as stack:
            with self.errors():
                self._folder.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(tempfile.TemporaryFile(dir=self._folder))
            yield file

    def _pinned(self, path: Path, size_bytes: int) -> int | None:
        """A descriptor that keeps ``path`` from eviction, or None if it is not there whole."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        status = os.fstat(descriptor)
        if status.st_nlink == 0 or status.st_size != size_bytes:  # evicted between open and lock, or not what it was
            os.close(descriptor)
            return None
        return descriptor

    def _filled(self, path: Path, size_bytes: int, fill: Callable[[BinaryIO], None]) -> int:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(path.name):
            descriptor = self._pinned(path, size_bytes)
            if descriptor is not None:  # another process was faster
                return descriptor
            temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
            try:
                with temporary.open("xb") as file:
                    fill(file)
                # Opened and pinned under its temporary name, so that nobody can evict it in between.
                descriptor = self._pinned(temporary, size_bytes)
                temporary.rename(path)
            finally:
                temporary.unlink(missing_ok=True)
            if descriptor is None:
                raise Transient(f"{path.name} was fetched, but has not the {size_bytes} bytes it should have")
            return descriptor

    def _evict(self) -> None:
        files: list[tuple[float, int, Path]] = []
        for path in self._folder.glob("??/*"):
            with suppress(FileNotFoundError):
                status = path.stat()
                if path.suffix != ".tmp":
                    files.append((status.st_mtime, status.st_size, path))
                elif status.st_mtime < time.time() - STALE_TEMPORARY_S:
                    path.unlink()
        total_bytes = sum(size_bytes for _, size_bytes, _ in files)
        for _, size_bytes, path in sorted(files):
            if total_bytes <= self._limit_bytes:
                break
            if self._evict_one(path):
                total_bytes -= size_bytes

    def _evict_one(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        locks = self._folder / "locks"
        locks.mkdir(exist_ok=True)
        lock = locks / f"{zlib.crc32(name.encode()) % LOCK_STRIPES:02x}"
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn failures of the cache's disk into ``QuotaOrCapacity``."""
        try:
            yield
        except OSError as error:
            raise QuotaOrCapacity(
                f"the node's cache {self._folder} cannot be used: {error}; give another cache_dir or make room"
            ) from error
