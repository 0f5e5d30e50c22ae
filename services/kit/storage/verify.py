"""A forward-only stream that checks the digest of what passes through it.

The one thing to get wrong: the check must not wait for the read after the last byte, which many consumers never make.
The read that delivers the last byte is the one that raises.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Collection
from typing import BinaryIO, cast

from services.kit.errors import Corrupt

CHUNK_BYTES = 1 << 20


def corrupt(uri: str, detail: str) -> Corrupt:
    """The exception for stored bytes that are not what was recorded of them."""
    return Corrupt(f"the stored object {uri} is damaged: {detail}", metadata={"uri": uri})


def check_digest(found: str, recorded: Collection[str], uri: str) -> None:
    """Raise ``Corrupt`` unless the digest found is among those recorded; an object without a record passes."""
    if recorded and found not in recorded:
        raise corrupt(uri, f"its SHA-256 is {found}, recorded was {' or '.join(sorted(recorded))}")


class _VerifyingRaw(io.RawIOBase):
    def __init__(
        self,
        read: Callable[[int], bytes],
        size_bytes: int,
        digests: Collection[str],
        uri: str,
    ) -> None:
        self._read = read
        self._size_bytes = size_bytes
        self._digests = digests
        self._uri = uri
        self._hash = hashlib.sha256()
        self._seen_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        wanted = min(len(view), self._size_bytes - self._seen_bytes)
        if wanted == 0:
            return 0
        data = self._read(wanted)
        if not data:
            raise corrupt(self._uri, f"it ends after {self._seen_bytes} of {self._size_bytes} bytes")
        self._hash.update(data)
        self._seen_bytes += len(data)
        if self._seen_bytes == self._size_bytes:
            check_digest(self._hash.hexdigest(), self._digests, self._uri)
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(CHUNK_BYTES) or b"", b""))


def verifying_stream(read: Callable[[int], bytes], *, size_bytes: int, digests: Collection[str], uri: str) -> BinaryIO:
    """Wrap ``read(n)`` (up to n bytes, empty at the end) of an object whose SHA-256 is one of ``digests``.

    With no digests only the length is checked.
    """
    raw = _VerifyingRaw(read, size_bytes, digests, uri)
    return cast(BinaryIO, io.BufferedReader(raw, buffer_size=CHUNK_BYTES))
