"""The weights folder: its place, the state of its files, and writing to it.

What a reader would get wrong: a file gets its name only when its bytes are on the disk, so a killed or concurrent
writer does no harm; and user weights count from the moment their record is there, which is therefore written last and
removed first.

The folder: ``<name>.safetensors`` is what runs, ``<name>.json`` beside it the record of user weights; in ``source/``
are the originals of fetched weights, for parity checks.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ml_common import weights as registry
from ml_common.weights import FetchedWeights, UserWeights, WeightRecord, WeightStatus
from services.kit.errors import Corrupt, Denied, InvalidInput, MissingObject, NotFound, QuotaOrCapacity, UnderstudyError

_STALE_TEMPORARY_S = 3600
_LOCK_FILE = ".lock"
_COPY_BYTES = 1 << 20


def default_weights_dir() -> Path:
    """``UNDERSTUDY_WEIGHTS_DIR`` where that is set, else ``~/.cache/understudy/weights``."""
    configured = os.environ.get("UNDERSTUDY_WEIGHTS_DIR")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "understudy" / "weights"


def known(name: str) -> FetchedWeights | UserWeights:
    """The registry's entry. Raises InvalidInput with the known names."""
    try:
        return registry.entry(name)
    except ValueError as error:
        raise InvalidInput(str(error), reason="UNKNOWN_NAME", fields={"name": "unknown"}) from error


def status(weights_dir: Path, names: Sequence[str] = ()) -> list[WeightStatus]:
    """The state of the named files, or of all that are registered, by reading them."""
    chosen = [known(name) for name in names] or [*registry.fetched(), *registry.user()]
    return [registry.status(item.name, weights_dir) for item in chosen]


def verify(weights_dir: Path, names: Sequence[str] = ()) -> list[WeightStatus]:
    """The state of the named files, all ok, or of all: then user weights may also be "not added".

    Raises MissingObject or Corrupt for the first that is not as it should be.
    """
    found = status(weights_dir, names)
    for item in found:
        if item.state != "ok" and (names or item.state != "not added"):
            raise problem(item)
    return found


def problem(item: WeightStatus) -> UnderstudyError:
    """The error for a file that is not ok."""
    metadata = {"uri": item.path.absolute().as_uri()}
    if item.state == "damaged":
        return Corrupt(registry.complaint(item), metadata=metadata)
    return MissingObject(registry.complaint(item), reason="MISSING_WEIGHTS", metadata=metadata)


def remove(name: str, weights_dir: Path) -> None:
    """Removes one registered file and what belongs to it. Raises NotFound where nothing of it is there."""
    item = known(name)
    files = [weights_dir / item.file]
    if isinstance(item, UserWeights):
        files.insert(0, weights_dir / item.record_file)
    if not any(path.is_file() for path in files):
        raise NotFound(f"there is no {item.file} in {weights_dir}")
    with writing(weights_dir):
        for path in files:
            path.unlink(missing_ok=True)


@contextmanager
def writing(weights_dir: Path) -> Iterator[None]:
    """Makes the folder and holds it against other writers, of this machine or of another one on the same file system.

    Raises QuotaOrCapacity for a full disk and Denied where nobody may write.
    """
    try:
        weights_dir.mkdir(parents=True, exist_ok=True)
        with (weights_dir / _LOCK_FILE).open("a") as lock:
            if (
                os.name == "posix"
            ):  # where there is no flock, two writers at once may leave a file that says it is damaged
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX)
            _sweep(weights_dir)
            yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise QuotaOrCapacity(
                f"no space left for weights: {error.filename or error}; free some and run again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Denied(
                f"{weights_dir} cannot be written to: set weights_dir (UNDERSTUDY_WEIGHTS_DIR) to a folder that can"
            ) from error
        raise


def put_bytes(path: Path, content: bytes, sha256: str) -> None:
    """A file with bytes that must have this digest. Raises Corrupt, and writes nothing, where they have not."""
    _check(path.name, hashlib.sha256(content).hexdigest(), sha256, path.absolute().as_uri())
    with _becoming(path) as file:
        file.write(content)


def put_stream(path: Path, content: BinaryIO, sha256: str, *, uri: str) -> None:
    """As ``put_bytes``, from a stream; ``uri`` names where that comes from."""
    digest = hashlib.sha256()
    with _becoming(path) as file:
        while chunk := content.read(_COPY_BYTES):
            digest.update(chunk)
            file.write(chunk)
        _check(path.name, digest.hexdigest(), sha256, uri)


def put_record(record: WeightRecord, item: UserWeights, weights_dir: Path) -> None:
    """The record, which makes user weights count."""
    content = record.to_json_bytes()
    put_bytes(weights_dir / item.record_file, content, hashlib.sha256(content).hexdigest())


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(name: str, digest: str, sha256: str, uri: str) -> None:
    if digest != sha256:
        raise Corrupt(f"{name} came out with SHA-256 {digest}, expected {sha256}", metadata={"uri": uri})


@contextmanager
def _becoming(path: Path) -> Iterator[BinaryIO]:
    """A file beside ``path`` that gets its name when all is on the disk: nobody ever sees half a file under it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the rename itself reaches the disk with the folder; other systems have no such call
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _sweep(weights_dir: Path) -> None:
    """Removes what killed writers left behind; young files may belong to one that runs now on a system without flock."""
    for folder in (weights_dir, weights_dir / "source"):
        for leftover in folder.glob(".*.tmp"):
            try:
                if time.time() - leftover.stat().st_mtime > _STALE_TEMPORARY_S:
                    leftover.unlink()
            except FileNotFoundError:
                continue  # a concurrent writer renamed or swept it
