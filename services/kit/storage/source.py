"""What ``put`` accepts, as chunks.

The one thing to get wrong: errors of the caller's own file or stream are the caller's. They must not be mistaken for
the store's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from services.kit.errors import Corrupt, InvalidInput
from services.kit.storage.verify import CHUNK_BYTES


def open_source(path: Path) -> BinaryIO:
    """Open a file that is to be stored; ``InvalidInput`` if that is not possible."""
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise InvalidInput(f"cannot read the file to store: {error}", metadata={"path": str(path)}) from error


def chunks_of(data: bytes | BinaryIO | Path) -> Iterator[bytes]:
    """The bytes in pieces: at once if they are in memory, else about a MiB at a time."""
    if isinstance(data, Path):
        with open_source(data) as file:
            yield from iter(lambda: file.read(CHUNK_BYTES), b"")
    elif isinstance(data, bytes | bytearray | memoryview):
        yield bytes(data)
    else:
        yield from iter(lambda: data.read(CHUNK_BYTES), b"")


def mismatch(key: str, expected_sha256: str, found_sha256: str) -> Corrupt:
    """The exception for data that is not what the caller announced; nothing was stored."""
    return Corrupt(
        f"the data given for {key!r} has SHA-256 {found_sha256}, announced was {expected_sha256}; nothing was stored",
        metadata={"key": key},
    )
