"""The port: what every object store of the house can do, and the four small values that it answers with.

The one thing to get wrong: an object is either absent or whole. Nothing in this interface appends, renames or edits; a
key that a manifest names is never written again, and where two writers could meet, both use ``if_absent`` and the loser
goes on from what it finds.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known of one object without reading it.

    ``sha256`` is lower-case hex. It is None, and ``media_type`` is empty, where the answer would cost a request per
    object (every ``list``) or where nobody recorded it (an object that some other program wrote); ``stat`` tells all
    that is recorded. ``modified_s`` is seconds since 1970 by the store's clock.
    """

    key: str
    size_bytes: int
    sha256: str | None
    media_type: str
    modified_s: float


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a listing; ``next_after`` is the cursor of the next page, empty at the end."""

    objects: tuple[ObjectInfo, ...]
    prefixes: tuple[str, ...]
    next_after: str


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """A URL that a tool without credentials may use once or more until it expires.

    Every entry of ``headers`` must be sent exactly as given: it is part of the signature.
    """

    url: str
    method: str
    headers: dict[str, str]
    expires_s: int


class ObjectStore(Protocol):
    """Objects by key. Every method raises only the exceptions of ``services.kit.errors``.

    Common to all methods: ``InvalidInput`` for a key that ``check_key`` refuses, ``NotFound`` where the object must
    exist and does not, ``QuotaOrCapacity`` when the store is full, ``Transient`` when it cannot be reached, ``Denied``
    when it refuses us.
    """

    def put(
        self,
        key: str,
        data: bytes | BinaryIO | Path,
        *,
        media_type: str = "application/octet-stream",
        if_absent: bool = False,
        sha256: str | None = None,
    ) -> ObjectInfo:
        """Store an object whole or not at all; on return it survives a power cut.

        A stream is read from where it stands to its end, in bounded memory. ``sha256`` is what the caller expects: if
        the bytes differ, ``Corrupt`` and nothing is stored. With ``if_absent`` exactly one of any number of writers
        wins, between processes and machines; the others get ``AlreadyExists``. Without it the object is replaced;
        readers see the old or the new.
        """
        ...

    def put_many(self, items: Iterable[tuple[str, bytes, str]]) -> list[ObjectInfo]:
        """Store many small objects, each (key, bytes, media type), at a fraction of the cost of as many ``put``.

        Each object is whole or absent, and all survive a power cut once this returns; when it raises, some may have
        been stored. ``items`` may be a generator: it is drawn in batches. Its keys must all differ: the order of writing is not promised.
        """
        ...

    def get(self, key: str) -> bytes:
        """The whole object, checked against its digest; ``Corrupt`` if it differs."""
        ...

    def read(self, key: str, start: int, length: int) -> bytes:
        """Bytes ``start`` to ``start + length``, fewer at the end, none beyond it. Not checked against the digest."""
        ...

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """A forward-only stream; the read that completes the object raises ``Corrupt`` if the digest differs."""
        ...

    def local_path(self, key: str) -> AbstractContextManager[Path]:
        """A local file with the object's bytes, only to be read, while the context lasts. For PyAV and mmap."""
        ...

    def stat(self, key: str) -> ObjectInfo:
        """Size, digest and type of one object."""
        ...

    def list(self, prefix: str, *, after: str = "", limit: int = 1000, delimiter: str = "") -> ListPage:
        """Objects whose key starts with ``prefix`` (any string), in byte order, strictly after ``after``.

        With ``delimiter="/"`` keys that go on below the next ``/`` are folded into ``prefixes``, which count towards
        ``limit`` and take part in the order. Objects written meanwhile may or may not appear; those that were there
        throughout appear once.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none. A power cut soon after may bring it back."""
        ...

    def sign(
        self, key: str, method: Literal["GET", "PUT"], *, expires_s: int = 900, sha256: str | None = None
    ) -> SignedUrl:
        """A URL to fetch the object, or to create it (never to replace it: a second upload gets 412).

        ``sha256`` of an upload is recorded with the object, and what is read later is checked against it.
        """
        ...

    def uri(self, key: str) -> str:
        """The absolute name of an object, ``file:///...`` or ``s3://bucket/...``, for an ``ObjectRef``."""
        ...

    def key_of(self, uri: str) -> str:
        """The inverse of ``uri``; ``InvalidInput`` for a URI of any other store."""
        ...
