"""The folder store: one directory, no server; what an artist sees in it is plain files under their keys.

How an object comes to be (the one thing to get wrong is this order):

1. the bytes go to a file in ``~tmp`` and are fsynced, as is the side file with digest and media type (see
   ``folder_sidecar``);
2. under the folder's lock, the side file is linked to ``.name~``, then the bytes to ``name``. ``link`` refuses an
   existing name, so create-if-absent is decided by the file system, not by a look beforehand;
3. the folder is fsynced, and the temporary names go.

Killed at any line there is either no object or a whole one; a side file without an object means nothing and is replaced
by the next writer; forgotten files in ``~tmp`` are removed a day later. Replacing an object writes a side file with
both digests, renames the bytes, then drops the old digest, so that whoever reads in between finds his bytes vouched
for.

The root is one file system, local or NFS, with hard links and ``flock``. A key cannot be both an object and a folder of
others (S3 allows that). Names that differ only in case need a file system that tells them apart.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import quote, unquote, urlsplit

from services.kit.errors import (
    AlreadyExists,
    Corrupt,
    Denied,
    InvalidInput,
    NotFound,
    QuotaOrCapacity,
    Transient,
    UnderstudyError,
    WrongState,
)
from services.kit.storage.folder_sidecar import Line, Lines, format_line, read_lines, side_name
from services.kit.storage.folder_walk import walk
from services.kit.storage.keys import (
    check_key,
    check_list,
    check_media_type,
    check_range,
    check_sha256,
    check_sign,
)
from services.kit.storage.port import ListPage, ObjectInfo, SignedUrl
from services.kit.storage.source import chunks_of, mismatch
from services.kit.storage.verify import check_digest, corrupt, verifying_stream

BATCH_OBJECTS = 64
BATCH_BYTES = 32 << 20
FSYNC_THREADS = 8  # concurrent fsyncs share journal commits; measured twice as fast as one after the other
LOCK_STRIPES = 256
STALE_TEMPORARY_S = 24 * 3600.0
READ_ATTEMPTS = 64  # an object replaced faster than this many opens in a row is not read but reported


@dataclass(slots=True)
class _Staged:
    """Bytes in ``~tmp``, written but not yet fsynced."""

    path: str
    descriptor: int
    sha256: str
    size_bytes: int
    modified_s: float


@dataclass(slots=True)
class _Entry:
    key: str
    media_type: str
    staged: _Staged

    @property
    def line(self) -> Line:
        return Line(self.staged.sha256, self.staged.size_bytes, self.media_type)

    @property
    def info(self) -> ObjectInfo:
        staged = self.staged
        return ObjectInfo(self.key, staged.size_bytes, staged.sha256, self.media_type, staged.modified_s)


def _translated(error: OSError, key: str) -> UnderstudyError:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.EISDIR:
            return NotFound(f"there is no object {key!r}", metadata={"key": key})
        case errno.ELOOP:
            return InvalidInput(f"{key!r} leads over a symbolic link; the store follows none", metadata={"key": key})
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG | errno.EMFILE | errno.ENFILE | errno.EMLINK:
            return QuotaOrCapacity(f"the store cannot take {key!r}: {error.strerror}", metadata={"key": key})
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Denied(f"the store's folder does not allow this for {key!r}: {error.strerror}")
        case _:
            return Transient(f"the store's folder failed on {key!r}: {error}")


@contextmanager
def _os_errors(key: str) -> Iterator[None]:
    """Turn what the operating system raises into the family of ``errors``; never put a caller's own code inside."""
    try:
        yield
    except OSError as error:
        raise _translated(error, key) from error


def _fsync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_same_file(path: str, descriptor: int) -> bool:
    try:
        return os.lstat(path).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _hash_file(descriptor: int) -> str:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


class FolderStore:
    """An ``ObjectStore`` in the directory ``root``, which is created if need be."""

    def __init__(self, root: Path) -> None:
        with _os_errors(str(root)):
            root.mkdir(parents=True, exist_ok=True)
            self._root = str(root.resolve())
            self._root_uri = Path(self._root).as_uri()
            self._temporary = f"{self._root}/~tmp"
            self._locks = f"{self._root}/~lock"
            Path(self._temporary).mkdir(exist_ok=True)
            Path(self._locks).mkdir(exist_ok=True)
            self._remove_stale()

    # -- writing -------------------------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: bytes | BinaryIO | Path,
        *,
        media_type: str = "application/octet-stream",
        if_absent: bool = False,
        sha256: str | None = None,
    ) -> ObjectInfo:
        """See ``ObjectStore.put``. Three fsyncs: bytes, side file, folder."""
        path = self._path(key)
        check_media_type(media_type)
        check_sha256(sha256)
        if if_absent and os.path.lexists(path):
            raise self._exists(key)
        entry = _Entry(key, media_type, self._stage(key, data))
        if sha256 is not None and entry.staged.sha256 != sha256:
            self._discard([entry.staged])
            raise mismatch(key, sha256, entry.staged.sha256)
        self._store([entry], if_absent=if_absent)
        return entry.info

    def put_many(self, items: Iterable[tuple[str, bytes, str]]) -> list[ObjectInfo]:
        """See ``ObjectStore.put_many``. The fsyncs of a batch run together; side file and folder cost one each.

        Objects that are there already, with these bytes, are read and left alone: a chunk that runs twice writes nothing.
        """
        infos: list[ObjectInfo] = []
        batch: list[_Entry] = []
        batch_bytes = 0
        left_alone: set[str] = set()
        try:
            for key, data, media_type in items:
                check_media_type(media_type)
                held = self._held(key, data, media_type)
                if held is not None:
                    infos.append(held)
                    left_alone.add(key.rpartition("/")[0])
                    continue
                batch.append(_Entry(key, media_type, self._stage(key, data)))
                infos.append(batch[-1].info)
                batch_bytes += len(data)
                if len(batch) == BATCH_OBJECTS or batch_bytes >= BATCH_BYTES:
                    self._store(batch, if_absent=False)
                    batch, batch_bytes = [], 0
            if batch:
                self._store(batch, if_absent=False)
            for folder in left_alone:  # whoever wrote them may have died before this
                with _os_errors(folder):
                    _fsync_folder(f"{self._root}/{folder}")
        finally:
            self._discard([entry.staged for entry in batch])
        return infos

    def _held(self, key: str, data: bytes, media_type: str) -> ObjectInfo | None:
        """What is known of ``key`` if exactly these bytes, whole, and this type are stored under it."""
        if not os.path.lexists(self._path(key)):
            return None
        try:
            info = self.stat(key)
            same = (
                info.media_type == media_type
                and info.sha256 == hashlib.sha256(data).hexdigest()
                and self.get(key) == data
            )
        except (NotFound, Corrupt):
            return None
        return info if same else None

    def delete(self, key: str) -> None:
        """See ``ObjectStore.delete``. Folders left empty go with the object."""
        path = self._path(key)
        folder = key.rpartition("/")[0]
        with _os_errors(key):
            with self._locked(folder):
                if not Path(path).is_dir():
                    with suppress(NotADirectoryError):
                        # The side file goes last: until then it vouches for whoever opens the object now.
                        Path(path).unlink(missing_ok=True)
                        Path(self._side(key)).unlink(missing_ok=True)
                self._remove_if_empty(folder)
            while "/" in folder:
                folder = folder.rpartition("/")[0]
                with self._locked(folder):
                    if not self._remove_if_empty(folder):
                        break

    def _stage(self, key: str, data: bytes | BinaryIO | Path) -> _Staged:
        path = f"{self._temporary}/{uuid.uuid4().hex}"
        digest, size_bytes = hashlib.sha256(), 0
        with _os_errors(key):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            for chunk in chunks_of(data):
                digest.update(chunk)
                size_bytes += len(chunk)
                with _os_errors(key):
                    rest = memoryview(chunk)
                    while rest:
                        rest = rest[os.write(descriptor, rest) :]
            modified_s = os.fstat(descriptor).st_mtime
        except BaseException:
            self._discard([_Staged(path, descriptor, "", 0, 0.0)])
            raise
        return _Staged(path, descriptor, digest.hexdigest(), size_bytes, modified_s)

    def _discard(self, staged: Iterable[_Staged]) -> None:
        for item in staged:
            if item.descriptor >= 0:
                os.close(item.descriptor)
                item.descriptor = -1
            Path(item.path).unlink(missing_ok=True)

    def _store(self, entries: list[_Entry], *, if_absent: bool) -> None:
        """Make staged entries durable and visible, folder by folder; in any case nothing of them stays in ``~tmp``."""
        folders: dict[str, list[_Entry]] = {}
        for entry in entries:
            folders.setdefault(entry.key.rpartition("/")[0], []).append(entry)
        staged = [entry.staged for entry in entries]
        sides: dict[str, _Staged] = {}
        try:
            for folder, members in folders.items():
                text = "".join(format_line(entry.key.rpartition("/")[2], entry.line) for entry in members)
                sides[folder] = self._stage(members[0].key, text.encode("ascii"))
                staged.append(sides[folder])
            with _os_errors(entries[0].key):
                self._fsync_all([item.descriptor for item in staged])
            for folder, members in folders.items():
                self._publish(folder, members, sides[folder], if_absent=if_absent)
        finally:
            self._discard(staged)

    def _fsync_all(self, descriptors: list[int]) -> None:
        if len(descriptors) <= 2:
            for descriptor in descriptors:
                os.fsync(descriptor)
        else:
            with ThreadPoolExecutor(FSYNC_THREADS) as pool:
                list(pool.map(os.fsync, descriptors))

    def _publish(self, folder: str, entries: list[_Entry], side: _Staged, *, if_absent: bool) -> None:
        with _os_errors(entries[0].key), self._locked(folder):
            changed = self._make_folder(folder, entries[0].key)
            for entry in entries:
                if os.path.lexists(f"{self._root}/{entry.key}"):
                    if if_absent:
                        raise self._exists(entry.key)
                    self._replace(entry, side)
                else:
                    self._create(entry, side)
            for path in [*changed, f"{self._root}/{folder}"]:
                _fsync_folder(path)

    def _create(self, entry: _Entry, side: _Staged) -> None:
        path, side_path = f"{self._root}/{entry.key}", self._side(entry.key)
        # A side file without an object is what a killed writer left; we hold the lock, so nobody is about to use it.
        Path(side_path).unlink(missing_ok=True)
        os.link(side.path, side_path)
        try:
            os.link(entry.staged.path, path)
        except FileExistsError:
            # On NFS the answer to a link that succeeded can get lost, and the repetition then fails: two names tell.
            if Path(entry.staged.path).stat().st_nlink != 2:
                raise self._exists(entry.key) from None

    def _replace(self, entry: _Entry, side: _Staged) -> None:
        path, side_path = f"{self._root}/{entry.key}", self._side(entry.key)
        name = entry.key.rpartition("/")[2]
        descriptor = self._open(path, entry.key, missing=InvalidInput)
        try:
            try:
                recorded = read_lines(Path(side_path), name, self.uri(entry.key))
            except Corrupt:  # a damaged side file must not keep anyone from storing the object anew
                recorded = []
            if not recorded:
                recorded = [Line(_hash_file(descriptor), os.fstat(descriptor).st_size, "")]
        finally:
            os.close(descriptor)
        # What stands there now is vouched for until the new bytes stand there.
        text = "".join(format_line(name, line) for line in [*recorded, entry.line])
        both = self._stage(entry.key, text.encode("ascii"))
        new_side_path = f"{both.path}-new"
        try:
            os.fsync(both.descriptor)
            os.link(side.path, new_side_path)  # while failing still changes nothing
            Path(both.path).rename(side_path)
            Path(entry.staged.path).rename(path)
            Path(new_side_path).rename(side_path)
        finally:
            self._discard([both])
            Path(new_side_path).unlink(missing_ok=True)

    def _make_folder(self, folder: str, key: str) -> list[str]:
        """Create ``folder`` below the root; returns the existing folders whose entries changed."""
        changed: list[str] = []
        path = self._root
        for part in folder.split("/") if folder else []:
            parent, path = path, f"{path}/{part}"
            try:
                Path(path).mkdir()
                changed.append(parent)
            except FileExistsError:
                with suppress(FileNotFoundError):  # removed again meanwhile: then the next step finds that out
                    if not stat.S_ISDIR(os.lstat(path).st_mode):
                        raise self._not_a_folder(key) from None
            except NotADirectoryError:
                raise self._not_a_folder(key) from None
            except FileNotFoundError:  # a deletion took the empty parent away between two steps
                return [*changed, *self._make_folder(folder, key)]
        return changed

    def _remove_if_empty(self, folder: str) -> bool:
        if not folder:
            return False
        try:
            Path(f"{self._root}/{folder}").rmdir()
        except OSError:  # not empty, or not there: either way nothing to do
            return False
        return True

    @contextmanager
    def _locked(self, folder: str) -> Iterator[None]:
        """Exclude other writers of ``folder``, in any process or thread; a process that dies loses its lock."""
        stripe = zlib.crc32(folder.encode()) % LOCK_STRIPES
        descriptor = os.open(f"{self._locks}/{stripe:02x}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _remove_stale(self) -> None:
        oldest_s = time.time() - STALE_TEMPORARY_S
        with os.scandir(self._temporary) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < oldest_s:
                        Path(entry.path).unlink()

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes:
        """See ``ObjectStore.get``."""
        descriptor, lines = self._open_recorded(key)
        with os.fdopen(descriptor, "rb") as file:
            with _os_errors(key):
                data = file.read()
            check_digest(hashlib.sha256(data).hexdigest(), {line.sha256 for line in lines}, self.uri(key))
            return data

    def read(self, key: str, start: int, length: int) -> bytes:
        """See ``ObjectStore.read``."""
        check_range(start, length)
        descriptor = self._open(self._path(key), key)
        with os.fdopen(descriptor, "rb") as file, _os_errors(key):
            file.seek(start)
            return file.read(max(0, min(length, os.fstat(descriptor).st_size - start)))

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """See ``ObjectStore.open``."""
        descriptor, lines = self._open_recorded(key)
        with os.fdopen(descriptor, "rb", buffering=0) as file:

            def read(size_bytes: int) -> bytes:
                with _os_errors(key):
                    return file.read(size_bytes) or b""

            yield verifying_stream(
                read,
                size_bytes=os.fstat(file.fileno()).st_size,
                digests={line.sha256 for line in lines},
                uri=self.uri(key),
            )

    @contextmanager
    def local_path(self, key: str) -> Iterator[Path]:
        """See ``ObjectStore.local_path``. It is the stored file itself; its size is checked, its digest is not."""
        self.stat(key)
        yield Path(self._root, key)

    def stat(self, key: str) -> ObjectInfo:
        """See ``ObjectStore.stat``. Raises ``Corrupt`` if the size is not the recorded one."""
        descriptor, lines = self._open_recorded(key)
        try:
            with _os_errors(key):
                status = os.fstat(descriptor)
                fitting = [line for line in lines if line.size_bytes == status.st_size]
                if len(fitting) > 1:  # a writer died while replacing it; the bytes decide
                    sha256 = _hash_file(descriptor)
                    fitting = [line for line in fitting if line.sha256 == sha256]
        finally:
            os.close(descriptor)
        if lines and not fitting:
            sizes = " or ".join(str(line.size_bytes) for line in lines)
            raise corrupt(self.uri(key), f"it has {status.st_size} bytes, recorded were {sizes}")
        line = fitting[0] if fitting else None
        return ObjectInfo(
            key,
            status.st_size,
            line.sha256 if line else None,
            line.media_type if line else "",
            status.st_mtime,
        )

    def list(self, prefix: str, *, after: str = "", limit: int = 1000, delimiter: str = "") -> ListPage:
        """See ``ObjectStore.list``. Each page reads the folder again, so ask for large pages of large folders."""
        check_list(prefix, after, limit, delimiter)
        self._refuse_links(prefix.rpartition("/")[0], prefix)
        objects: list[ObjectInfo] = []
        prefixes: list[str] = []
        with _os_errors(prefix):
            found = list(islice(walk(self._root, prefix, after, fold=bool(delimiter)), limit + 1))
            for path in found[:limit]:
                if path.endswith("/"):
                    prefixes.append(path)
                    continue
                with suppress(FileNotFoundError, NotADirectoryError):  # deleted meanwhile
                    status = os.lstat(f"{self._root}/{path}")
                    objects.append(ObjectInfo(path, status.st_size, None, "", status.st_mtime))
        return ListPage(tuple(objects), tuple(prefixes), found[limit - 1] if len(found) > limit else "")

    def _open(self, path: str, key: str, *, missing: type[UnderstudyError] = NotFound) -> int:
        """A descriptor of a plain file, never over a link, never waiting for a pipe."""
        with _os_errors(key):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise missing(f"{key!r} is a folder or a special file, not an object", metadata={"key": key})
        return descriptor

    def _open_recorded(self, key: str) -> tuple[int, Lines]:
        """A descriptor and the candidates for *these* bytes, though the object may be replaced at any moment."""
        path = self._path(key)
        name = key.rpartition("/")[2]
        for _ in range(READ_ATTEMPTS):
            descriptor = self._open(path, key)
            try:
                with _os_errors(key):
                    lines = read_lines(Path(self._side(key)), name, self.uri(key))
                    # Still the same file under this name, so the lines just read were written for it (see
                    # ``_replace``).
                    if _is_same_file(path, descriptor):
                        return descriptor, lines
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        raise Transient(f"{key!r} is being replaced faster than it can be read")

    # -- names ---------------------------------------------------------------------------------------------------------

    def sign(
        self, key: str, method: Literal["GET", "PUT"], *, expires_s: int = 900, sha256: str | None = None
    ) -> SignedUrl:
        """See ``ObjectStore.sign``. A ``file:`` URL to read; uploads need a server, so ``WrongState`` for PUT."""
        path = self._path(key)
        check_sign(method, expires_s)
        check_sha256(sha256)
        if method == "PUT":
            raise WrongState(
                "a folder store cannot take uploads by URL; send the file through the service or the console"
            )
        return SignedUrl(Path(path).as_uri(), method, {}, expires_s)

    def uri(self, key: str) -> str:
        """See ``ObjectStore.uri``."""
        return f"{self._root_uri}/{quote(check_key(key))}"

    def key_of(self, uri: str) -> str:
        """See ``ObjectStore.key_of``."""
        parts = urlsplit(uri)
        path = unquote(parts.path)
        if (
            parts.scheme != "file"
            or parts.netloc
            or parts.query
            or parts.fragment
            or not path.startswith(f"{self._root}/")
        ):
            raise InvalidInput(f"{uri!r:.300} is not in this store, which is {self._root_uri}")
        return check_key(path[len(self._root) + 1 :])

    def _path(self, key: str) -> str:
        check_key(key)
        self._refuse_links(key.rpartition("/")[0], key)
        return f"{self._root}/{key}"

    def _side(self, key: str) -> str:
        folder, _, name = key.rpartition("/")
        return f"{self._root}/{folder}/{side_name(name)}" if folder else f"{self._root}/{side_name(name)}"

    def _refuse_links(self, folder: str, key: str) -> None:
        path = f"{self._root}/{folder}" if folder else self._root
        if os.path.realpath(path) != path:
            raise _translated(OSError(errno.ELOOP, "symbolic link"), key)

    def _exists(self, key: str) -> AlreadyExists:
        return AlreadyExists(f"there is an object {key!r} already", metadata={"key": key})

    def _not_a_folder(self, key: str) -> InvalidInput:
        return InvalidInput(
            f"{key!r} cannot be stored in a folder store: a part of its path is an object", metadata={"key": key}
        )
