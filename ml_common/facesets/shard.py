"""A shard: many small pieces (pictures, masks) in one immutable run of bytes, so that a faceset is hundreds of objects and
not a hundred thousand.

What a reader would get wrong: a shard belongs to no revision and no face. It says by digest which bytes it holds and
where; which face they are is the business of the index (`snapshot`). So any shard can serve any later snapshot.

Layout, little-endian: 16 bytes `understudy.shard`, uint32 version, uint32 count of pieces, uint32 CRC-32 of the table,
uint32 zero; the table, for each piece 32 bytes SHA-256 and uint64 size; then the pieces as they are, each at the next
multiple of 64 bytes, zeros between. There is nothing after the last one. Equal pieces in equal order give equal bytes.

Legend: N pieces of a shard.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALIGNMENT_BYTES = 64
"""Enough for any array type to be viewed in place."""

HEADER_BYTES = 32
_HEADER = struct.Struct("<16sIIII")
_MAGIC, _VERSION = b"understudy.shard", 1
_ENTRY = np.dtype([("sha256", "V32"), ("size", "<u8")])


@dataclass(frozen=True, slots=True, eq=False)
class ShardTable:
    """What a shard holds. digests: SHA-256 of each piece, 32 bytes. offsets, sizes: of each piece, bytes, counted from the
    start of the shard. size_bytes: of the whole shard."""

    digests: tuple[bytes, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    size_bytes: int


def pack_shard(digests: Sequence[bytes], pieces: Sequence[bytes]) -> bytes:
    """The bytes of a shard with these pieces, in this order; `read_shard_table` finds them again. digests: the SHA-256 of each
    piece, which whoever read the pieces has just checked."""
    sizes_N = np.array([len(piece) for piece in pieces], np.int64)
    entries = np.empty(len(pieces), _ENTRY)
    entries["sha256"] = np.frombuffer(b"".join(digests), entries["sha256"].dtype)
    entries["size"] = sizes_N
    table = entries.tobytes()
    parts: list[bytes] = [_HEADER.pack(_MAGIC, _VERSION, len(pieces), zlib.crc32(table), 0), table]
    written = HEADER_BYTES + len(table)
    for piece, offset in zip(pieces, _offsets(sizes_N).tolist(), strict=True):
        parts += [bytes(offset - written), piece]
        written = offset + len(piece)
    return b"".join(parts)


def shard_head_bytes(header: bytes) -> int:
    """How many of a shard's first bytes `read_shard_table` needs; `header` holds at least the first 32. ValueError when
    they are no shard's, or of another version."""
    if len(header) < HEADER_BYTES or not header.startswith(_MAGIC):
        raise ValueError("these bytes are no shard of a faceset snapshot")
    _, version, count, _, _ = _HEADER.unpack_from(header)
    if version != _VERSION:
        raise ValueError(f"this shard is of version {version}; this release reads {_VERSION}")
    return HEADER_BYTES + int(count) * _ENTRY.itemsize


def read_shard_table(head: bytes) -> ShardTable:
    """The table of a shard from its first `shard_head_bytes` bytes or more. ValueError when it is cut short or damaged.

    Whoever knows how long the shard really is compares that with `size_bytes`: pieces beyond the end are not seen here.
    """
    end = shard_head_bytes(head)
    table = head[HEADER_BYTES:end]
    if len(head) < end or zlib.crc32(table) != _HEADER.unpack_from(head)[3]:
        raise ValueError("the table of this shard is cut short or damaged")
    entries = np.frombuffer(table, _ENTRY)
    sizes_N = entries["size"].astype(np.int64)
    offsets_N = _offsets(sizes_N)
    return ShardTable(
        digests=tuple(entry.tobytes() for entry in entries["sha256"]),
        offsets=tuple(offsets_N.tolist()),
        sizes=tuple(sizes_N.tolist()),
        size_bytes=int(offsets_N[-1] + sizes_N[-1]) if len(sizes_N) else end,
    )


def _offsets(sizes_N: NDArray[np.int64]) -> NDArray[np.int64]:
    first = _aligned(np.array(HEADER_BYTES + len(sizes_N) * _ENTRY.itemsize))
    padded_N = _aligned(sizes_N)
    offsets_N: NDArray[np.int64] = first + np.cumsum(padded_N) - padded_N
    return offsets_N


def _aligned(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    padded: NDArray[np.int64] = -(-sizes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return padded
