"""Versioned JSON records over put-once objects: how everything that changes (clips, runs, operations) is stored.

Version n of the record ``projects/p/clips/c`` is the object ``records/projects/p/clips/c/@/<9999999999 - n>.json``. The
number counts down so that the newest version is the first of a listing: finding it is one list request for one key,
however long the history. An update reads version n and creates version n + 1 only if it is absent; who loses that race
reads again. So no update is ever lost, and a process may be killed at any line.

The one thing to get wrong: absence proves nothing about old versions. Writers prune history, so a writer that slept
long enough could create a version that had existed and gone, far behind the newest. Two rules close that gap: versions
younger than ``PRUNE_AGE_S`` (by the store's clock) are never pruned, and a writer that took longer than half of that
from reading to writing looks whether the next version names its own as the previous one; if not, it takes its version
back and counts as having lost the race.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from services.kit.errors import AlreadyExists, Conflict, Corrupt, InvalidInput, NotFound, Transient, WrongState
from services.kit.storage import ObjectStore, check_key

SCHEMA = 1
PRUNE_AGE_S = 60.0
LARGEST_VERSION = 9_999_999_999
VERSIONS_SEGMENT = "@"
MEDIA_TYPE = "application/json"
UPDATE_ATTEMPTS = 1000
LONGEST_DELAY_S = 0.1
READ_THREADS = 16


@dataclass(frozen=True, slots=True)
class Record:
    """One version of a record, with an ``etag`` of its own; ``updated_s`` is by the writer's clock, since 1970."""

    name: str
    version: int
    etag: str
    body: dict[str, Any]
    updated_s: float


@dataclass(frozen=True, slots=True)
class _Version:
    """What is stored; a deleted record is a version too, a tombstone."""

    record: Record
    deleted: bool
    previous: str


@dataclass(frozen=True, slots=True)
class _Moment:
    """When something was read: by a clock that never jumps and by one that does not stop while the machine sleeps."""

    monotonic_s: float
    wall_s: float

    @classmethod
    def now(cls) -> _Moment:
        return cls(time.monotonic(), time.time())

    def elapsed_s(self) -> float:
        return max(time.monotonic() - self.monotonic_s, time.time() - self.wall_s)


def _check_name(name: str) -> str:
    check_key(name)
    if VERSIONS_SEGMENT in name.split("/"):
        raise InvalidInput(f"a record's name has no segment '{VERSIONS_SEGMENT}': {name!r}")
    return name


def _dump(name: str, version: int, previous: str, body: Mapping[str, Any], *, deleted: bool) -> tuple[bytes, _Version]:
    """The canonical text of a version (sorted keys, no spaces), and the version as a reader would see it."""
    document = {
        "schema": SCHEMA,
        "name": name,
        "version": version,
        "previous": previous,
        "deleted": deleted,
        "updated_s": time.time(),
        "body": dict(body),
    }
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the body of record {name!r} is not JSON: {error}") from error
    data = text.encode()
    return data, _load(name, data)


def _load(name: str, data: bytes) -> _Version:
    try:
        document = json.loads(data)
        schema = document["schema"]
        if schema != SCHEMA:
            raise WrongState(f"record {name!r} has schema {schema}, this release knows {SCHEMA}; use a newer release")
        version = int(document["version"])
        etag = f"{version}-{hashlib.sha256(data).hexdigest()[:16]}"
        record = Record(name, version, etag, document["body"], float(document["updated_s"]))
        return _Version(record, bool(document["deleted"]), str(document["previous"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"record {name!r} is not what a record looks like: {error!r}") from error


class Records:
    """Records in ``store`` below ``root``; at least ``keep_versions`` of each stay."""

    def __init__(self, store: ObjectStore, root: str = "records", *, keep_versions: int = 16) -> None:
        if keep_versions < 1:
            raise InvalidInput(f"keep_versions must be at least 1, not {keep_versions}")
        self._store = store
        self._root = check_key(root)
        self._keep_versions = keep_versions

    def create(self, name: str, body: Mapping[str, Any]) -> Record:
        """A new record. Raises ``AlreadyExists``; a deleted one may be created again and goes on counting versions."""
        for _ in range(UPDATE_ATTEMPTS):
            read = _Moment.now()
            latest = self._latest(_check_name(name))
            if latest is not None and not latest.deleted:
                break
            created = self._append(name, latest, body, read, deleted=False)
            if created is not None:
                return created.record
        raise AlreadyExists(f"there is a record {name!r} already", metadata={"name": name})

    def get(self, name: str) -> Record:
        """The newest version. Raises ``NotFound``."""
        return self._existing(_check_name(name)).record

    def update(
        self,
        name: str,
        change: Callable[[dict[str, Any]], dict[str, Any] | None],
        *,
        etag: str | None = None,
    ) -> Record:
        """Replace the body by ``change(body)``; it gets a copy and is called again if another writer was faster.

        ``change`` returning None leaves the record as it is. With ``etag`` the record must still be that version:
        ``Conflict`` if not. Raises ``NotFound``.
        """
        for attempt in range(UPDATE_ATTEMPTS):
            read = _Moment.now()
            latest = self._existing(_check_name(name))
            if etag is not None and latest.record.etag != etag:
                raise self._conflict(name)
            body = change(copy.deepcopy(latest.record.body))
            if body is None:
                return latest.record
            updated = self._append(name, latest, body, read, deleted=False)
            if updated is not None:
                return updated.record
            if etag is not None:
                raise self._conflict(name)
            _wait(attempt)
        raise Transient(f"record {name!r} is being changed by too many writers at once")

    def delete(self, name: str) -> None:
        """Write a tombstone. Raises ``NotFound`` if there is no record; it may be created again later."""
        for attempt in range(UPDATE_ATTEMPTS):
            read = _Moment.now()
            latest = self._existing(_check_name(name))
            if self._append(name, latest, {}, read, deleted=True) is not None:
                return
            _wait(attempt)
        raise Transient(f"record {name!r} is being changed by too many writers at once")

    def purge(self, name: str) -> None:
        """Removes all versions of every record below ``name``, and of ``name`` itself all but a tombstone, which has no body.

        Only where nobody writes there any more: a writer that slept could bring back an old version. Killed, it may be run again until
        the tombstone is there; one older version of ``name`` itself may then be left. Raises ``NotFound`` if there is no such record.
        """
        own = self._folder(_check_name(name))
        for key in self._newest_last(f"{self._root}/{name}/"):
            if not key.startswith(own):
                self._store.delete(key)
        for key in self._newest_last(own)[:-1]:
            self._store.delete(key)
        self.delete(name)
        for key in self._newest_last(own)[:-1]:
            self._store.delete(key)

    def _newest_last(self, start: str) -> Sequence[str]:
        """Keys below ``start``, backwards: whoever is killed while deleting them has removed old versions and not the newest."""
        keys: list[str] = []
        after = ""
        while True:
            page = self._store.list(start, after=after)
            keys += [info.key for info in page.objects]
            if not page.next_after:
                return keys[::-1]
            after = page.next_after

    def list(self, prefix: str, *, after: str = "", limit: int = 100, nested: bool = True) -> tuple[list[Record], str]:
        """Records below ``prefix`` (whole segments; "" is all) after the name ``after``, and a cursor, "" at the end.

        With ``nested=False`` only direct children, which costs nothing for what lies below them: ``projects`` lists the
        projects and not each of their clips. The order is that of the names' segments followed by ``@``: stable, but
        not quite alphabetical. A page may be short, or empty, and still have a cursor: deleted records are found out
        late.
        """
        if limit < 1:
            raise InvalidInput(f"limit must be at least 1, not {limit}")
        folder = f"{_check_name(prefix.removesuffix('/'))}/" if prefix else ""
        candidates = self._nested(folder, after) if nested else self._children(folder, after)
        page = list(islice(candidates, limit + 1))  # one more, to know whether there is another page
        with ThreadPoolExecutor(READ_THREADS) as pool:
            versions = list(pool.map(self._read_listed, page[:limit]))
        records = [version.record for version in versions if version is not None and not version.deleted]
        return records, page[limit - 1][0] if len(page) > limit else ""

    # -- versions ------------------------------------------------------------------------------------------------------

    def _folder(self, name: str) -> str:
        return f"{self._root}/{name}/{VERSIONS_SEGMENT}/"

    def _key(self, name: str, version: int) -> str:
        return f"{self._folder(name)}{LARGEST_VERSION - version:010d}.json"

    def _latest(self, name: str) -> _Version | None:
        """The newest version, tombstones included; None if there never was one."""
        folder = self._folder(name)
        while True:
            page = self._store.list(folder, limit=1)
            if not page.objects:
                return None
            try:
                return _load(name, self._store.get(page.objects[0].key))
            except NotFound:  # many newer versions, and pruning, came between the two requests
                continue

    def _existing(self, name: str) -> _Version:
        latest = self._latest(name)
        if latest is None or latest.deleted:
            raise NotFound(f"there is no record {name!r}", metadata={"name": name})
        return latest

    def _append(
        self, name: str, latest: _Version | None, body: Mapping[str, Any], read: _Moment, *, deleted: bool
    ) -> _Version | None:
        """Create the version after ``latest``, which was seen at ``read``; None if someone else has."""
        number, previous = (latest.record.version + 1, latest.record.etag) if latest else (1, "")
        data, version = _dump(name, number, previous, body, deleted=deleted)
        key = self._key(name, number)
        try:
            self._store.put(key, data, media_type=MEDIA_TYPE, if_absent=True)
        except AlreadyExists:
            return None
        if read.elapsed_s() > PRUNE_AGE_S / 2 and self._is_orphan(name, version):
            self._store.delete(key)
            return None
        if number % self._keep_versions == 0:
            self._prune(name)
        return version

    def _is_orphan(self, name: str, mine: _Version) -> bool:
        """Whether there are newer versions than ``mine`` that do not follow on it."""
        latest = self._latest(name)
        if latest is None or latest.record.version <= mine.record.version:
            return False
        try:
            following = _load(name, self._store.get(self._key(name, mine.record.version + 1)))
        except NotFound:  # pruned long ago: it is too young to be pruned if it follows on mine
            return True
        return following.previous != mine.record.etag

    def _prune(self, name: str) -> None:
        folder = self._folder(name)
        # A page is enough: what it does not show, the next pruning will.
        versions = self._store.list(folder).objects
        newest_s = max((info.modified_s for info in versions), default=0.0)
        for info in versions[self._keep_versions :]:
            if newest_s - info.modified_s > PRUNE_AGE_S:
                self._store.delete(info.key)

    # -- listing -------------------------------------------------------------------------------------------------------

    def _nested(self, folder: str, after: str) -> Iterator[tuple[str, str]]:
        """Name and newest key of every record that ever was below ``folder``."""
        start = f"{self._root}/{folder}"
        own_versions = f"{start}{VERSIONS_SEGMENT}/"
        name, cursor = after, self._behind(after) if after else ""
        while True:
            page = self._store.list(start, after=cursor)
            for info in page.objects:
                path, separator, _ = info.key.rpartition(f"/{VERSIONS_SEGMENT}/")
                found = path[len(self._root) + 1 :]
                if separator and found != name and not info.key.startswith(own_versions):
                    name = found
                    yield name, info.key
            if not page.next_after:
                return
            in_the_midst = name and page.next_after.startswith(self._folder(name))
            cursor = self._behind(name) if in_the_midst else page.next_after

    def _children(self, folder: str, after: str) -> Iterator[tuple[str, str]]:
        """Name of everything directly below ``folder``, record or not; the newest key is not known."""
        start = f"{self._root}/{folder}"
        cursor = f"{self._root}/{_check_name(after)}/" if after else ""
        while True:
            page = self._store.list(start, after=cursor, delimiter="/")
            for child in page.prefixes:
                name = child[len(self._root) + 1 : -1]
                if name.rpartition("/")[2] != VERSIONS_SEGMENT:
                    yield name, ""
            if not page.next_after:
                return
            cursor = page.next_after

    def _behind(self, name: str) -> str:
        """The cursor behind all versions of ``name``: "~" sorts after every character of a key."""
        return f"{self._folder(_check_name(name))}~"

    def _read_listed(self, candidate: tuple[str, str]) -> _Version | None:
        name, key = candidate
        if key:
            with suppress(NotFound):  # else pruned since it was listed
                return _load(name, self._store.get(key))
        return self._latest(name)

    def _conflict(self, name: str) -> Conflict:
        return Conflict(f"record {name!r} has changed since it was read; read it again", metadata={"name": name})


def _wait(attempt: int) -> None:
    """Full jitter, so that writers who collided do not collide again."""
    time.sleep(random.uniform(0, min(LONGEST_DELAY_S, 0.001 * 2 ** min(attempt, 10))))
