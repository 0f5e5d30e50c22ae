"""Weights in the store, below ``weights/``: how the workers of a cluster come by what one person added.

What a reader would get wrong: a folder that has a file keeps it, whatever the store has under that name. The store
fills gaps, it does not steer; and it is no more trusted than a disk, so each copy is checked on its way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ml_common import weights as registry
from ml_common.weights import UserWeights, WeightRecord, WeightStatus
from services.kit.errors import AlreadyExists, Corrupt, MissingObject, NotFound
from services.kit.storage.port import ObjectStore
from services.kit.weights import folder as files

PREFIX = "weights/"


def ensure(names: Iterable[str], weights_dir: Path, store: ObjectStore) -> None:
    """Copies registered files that the folder lacks, or has damaged, from the store; nothing where all are there.

    Raises MissingObject with reason MISSING_WEIGHTS, saying what to run, where neither has a file; Corrupt where the
    store's copy is not what its record says; QuotaOrCapacity or Denied where the folder cannot be written; InvalidInput
    for an unknown name.
    """
    for name in names:
        if _is_there(name, weights_dir):
            continue
        with files.writing(weights_dir):
            if not _is_there(name, weights_dir):  # another worker may have copied it meanwhile
                _copy(name, weights_dir, store)


def publish(
    names: Sequence[str], weights_dir: Path, store: ObjectStore, *, replace: bool = False
) -> list[WeightStatus]:
    """Puts files of the folder into the store: the named ones, or all that are there. What the store has is kept.

    Raises MissingObject or Corrupt where a named file is not ok, AlreadyExists where the store has other weights under
    the name and ``replace`` is not set.
    """
    chosen = files.verify(weights_dir, names) if names else [s for s in files.status(weights_dir) if s.state == "ok"]
    if not chosen:
        raise MissingObject(f"there is nothing to publish in {weights_dir}", reason="MISSING_WEIGHTS")
    for found in chosen:
        _put(found, weights_dir, store, replace=replace)
    return chosen


def _is_there(name: str, weights_dir: Path) -> bool:
    return registry.status(files.known(name).name, weights_dir).state == "ok"


def _copy(name: str, weights_dir: Path, store: ObjectStore) -> None:
    item = files.known(name)
    try:
        if not isinstance(item, UserWeights):
            _copy_file(item.file, item.sha256, weights_dir, store)
            return
        record = _stored_record(item, store)
        (weights_dir / item.record_file).unlink(missing_ok=True)
        _copy_file(item.file, record.sha256, weights_dir, store)
        files.put_record(record, item, weights_dir)
    except NotFound as error:
        found = registry.status(name, weights_dir)
        raise MissingObject(
            f"{registry.complaint(found)}. The store has none either: on a cluster, `understudy weights publish {name}` "
            "puts it there for all workers",
            reason="MISSING_WEIGHTS",
            metadata={"weights": name, "uri": store.uri(f"{PREFIX}{item.file}")},
        ) from error


def _copy_file(file: str, sha256: str, weights_dir: Path, store: ObjectStore) -> None:
    key = f"{PREFIX}{file}"
    with store.open(key) as stream:
        files.put_stream(weights_dir / file, stream, sha256, uri=store.uri(key))


def _stored_record(item: UserWeights, store: ObjectStore) -> WeightRecord:
    key = f"{PREFIX}{item.record_file}"
    try:
        record = WeightRecord.from_json_bytes(store.get(key))
    except ValueError as error:
        raise Corrupt(f"{store.uri(key)} is not a weight record: {error}", metadata={"uri": store.uri(key)}) from error
    if record.name != item.name:
        raise Corrupt(f"{store.uri(key)} is the record of {record.name}", metadata={"uri": store.uri(key)})
    return record


def _put(found: WeightStatus, weights_dir: Path, store: ObjectStore, *, replace: bool) -> None:
    item = files.known(found.name)
    key, path = f"{PREFIX}{item.file}", weights_dir / item.file
    if not isinstance(item, UserWeights):
        if not _has(store, key, found.sha256):
            store.put(key, path, sha256=found.sha256)
        return
    record_key = f"{PREFIX}{item.record_file}"
    stored = _record_if_any(item, store)
    if stored is not None and stored.sha256 != found.sha256:
        if not replace:
            raise AlreadyExists(
                f"the store has other weights as {found.name}, from {stored.source_file}: replace them with --replace",
                metadata={"uri": store.uri(key)},
            )
        store.delete(record_key)  # the record comes last, as in the folder
    if not _has(store, key, found.sha256):
        store.put(key, path, sha256=found.sha256)
    store.put(record_key, (weights_dir / item.record_file).read_bytes(), media_type="application/json")


def _record_if_any(item: UserWeights, store: ObjectStore) -> WeightRecord | None:
    try:
        return _stored_record(item, store)
    except NotFound:
        return None


def _has(store: ObjectStore, key: str, sha256: str) -> bool:
    try:
        return store.stat(key).sha256 == sha256
    except NotFound:
        return False
