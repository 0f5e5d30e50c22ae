"""Which of the shards there are serve a snapshot, and what has to be packed anew.

What a reader would get wrong: pieces are not assigned to shards by a hash of the face or by their place in a sorted
row. A hundred new faces would then fall into every shard, and all would be rewritten. Here a shard stays as it is for
as long as most of it is wanted, and what no shard holds goes to new ones: adding faces writes those faces, trashing and
reordering write nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import NamedTuple

from ml_common.facesets.shard import ShardTable

SHARD_BYTES = 32 << 20
"""A shard is closed before it grows beyond this: large enough that a large faceset is a few hundred objects, small
enough to be held in memory while it is made and to be sent in one request."""

WANTED_SHARE = 0.5
"""A shard of which less than this is wanted is not used; what is wanted of it is packed anew."""

SMALL_SHARE = 0.25
MOST_SMALL = 8
"""More than MOST_SMALL shards with less than SMALL_SHARE of a full one are joined: many small additions would otherwise
end as many small objects. So a face is rewritten a few times at most, however often something is added."""


class Place(NamedTuple):
    """Where a piece lies: the shard's name, and bytes from its start."""

    shard: str
    offset: int
    size: int


def find_places(
    wanted: Set[bytes], shards: Mapping[str, ShardTable], shard_bytes: int = SHARD_BYTES
) -> dict[bytes, Place]:
    """Where pieces (SHA-256 digests) already lie, by digest; those that are missing have to be packed.

    Depends on what is wanted and on the shards alone, not on their order. Every piece is in one place, also when several
    shards hold it.
    """
    missing = set(wanted)
    used: dict[str, dict[bytes, Place]] = {}
    held = {name: sum(_sizes_of(table, missing)) for name, table in shards.items()}
    for name in sorted(shards, key=lambda name: (-held[name], name)):
        table = shards[name]
        if sum(_sizes_of(table, missing)) < WANTED_SHARE * sum(table.sizes) or missing.isdisjoint(table.digests):
            continue  # most of it is trash by now, or lies in a fuller shard
        rows = zip(table.digests, table.offsets, table.sizes, strict=True)
        used[name] = {digest: Place(name, offset, size) for digest, offset, size in rows if digest in missing}
        missing -= used[name].keys()
    small = [
        name
        for name, places in used.items()
        if sum(place.size for place in places.values()) < SMALL_SHARE * shard_bytes
    ]
    joined = set(small) if len(small) > MOST_SMALL else set()
    return {digest: place for name, places in used.items() if name not in joined for digest, place in places.items()}


def _sizes_of(table: ShardTable, wanted: Set[bytes]) -> Iterator[int]:
    return (size for digest, size in zip(table.digests, table.sizes, strict=True) if digest in wanted)
