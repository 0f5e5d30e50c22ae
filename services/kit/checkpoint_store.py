"""Checkpoints of training runs in the store; written by training, read by training and merging.

    <run>/checkpoints/00000007/<file>          weights, optimizer, state
    <run>/checkpoints/00000007/manifest.json   put-once and last: whoever finds it knows that the checkpoint is whole
    <run>/checkpoints/00000007/kept            its presence says that ``prune`` must leave the checkpoint alone

The number counts saves, not iterations: going back to an old checkpoint and training on makes newer ones, and the highest number is
always the one in force. Files are verified against the manifest when fetched.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from services.kit.errors import AlreadyExists, Corrupt, NotFound
from services.kit.operations.plan import canonical_json
from services.kit.storage import ObjectInfo, ObjectStore

_MANIFEST = "manifest.json"
_KEPT = "kept"


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A published checkpoint. ``name`` is `projects/p/runs/r/checkpoints/00000007`; ``files`` maps file names to SHA-256."""

    name: str
    iteration: int
    losses: dict[str, float]
    files: dict[str, str]
    create_time_s: float
    manifest: ObjectInfo

    @property
    def number(self) -> int:
        """Which save of its run."""
        return int(self.name.rpartition("/")[2])


class CheckpointStore:
    """Publishes, lists and fetches checkpoints."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def publish(self, run: str, directory: Path, *, iteration: int, losses: Mapping[str, float]) -> CheckpointInfo:
        """Stores the files of ``directory`` as the run's next checkpoint. On return it is safe; before, nobody sees it."""
        newest = self.newest(run)
        number = newest.number + 1 if newest else 1
        while True:
            name = f"{run}/checkpoints/{number:08d}"
            files = self._put_files(name, directory)
            if files is None:
                number += 1  # a save that died, or a driver that lost its lease and is still saving; its files stay
                continue
            body = {
                "schema": 1,
                "iteration": iteration,
                "losses": dict(losses),
                "files": files,
                "create_time_s": time.time(),
            }
            try:
                self._store.put(
                    f"{name}/{_MANIFEST}", canonical_json(body), media_type="application/json", if_absent=True
                )
                return self.get(name)
            except AlreadyExists:
                number += 1  # a driver that lost its lease was still saving; its checkpoint stays

    def _put_files(self, name: str, directory: Path) -> dict[str, str] | None:
        """Stores the files; None when someone else's are there. Never over them: their manifest may be written at this moment."""
        files: dict[str, str] = {}
        for path in sorted(directory.iterdir()):
            try:
                files[path.name] = self._store.put(f"{name}/{path.name}", path, if_absent=True).sha256 or ""
            except AlreadyExists:
                return None
        return files

    def get(self, name: str) -> CheckpointInfo:
        """A checkpoint by name; NotFound when there is none, Corrupt when its manifest is not one."""
        key = f"{name}/{_MANIFEST}"
        try:
            body = json.loads(self._store.get(key))
            return CheckpointInfo(
                name,
                int(body["iteration"]),
                body["losses"],
                body["files"],
                float(body["create_time_s"]),
                self._store.stat(key),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(
                f"the manifest of {name} cannot be read: {error}", metadata={"uri": self._store.uri(key)}
            ) from error

    def newest(self, run: str) -> CheckpointInfo | None:
        """The newest checkpoint whose manifest can be read; None when there is none."""
        return next(self.newest_first(run), None)

    def newest_first(self, run: str) -> Iterator[CheckpointInfo]:
        """Checkpoints of a run, newest first; unfinished and unreadable ones are passed over."""
        for name in reversed(self._names(run)):
            try:
                yield self.get(name)
            except (NotFound, Corrupt):
                continue

    def keep(self, name: str) -> None:
        """Has ``prune`` leave a checkpoint alone: a person asked for it, or something was or will be made from it."""
        self._store.put(f"{name}/{_KEPT}", b"", media_type="text/plain")

    def prune(self, run: str, *, newest: int) -> list[str]:
        """Removes the checkpoints of a run but its ``newest`` whole ones and those that are kept. Returns the names of what went."""
        removed = []
        whole = 0
        for name in reversed(self._names(run)):
            keys = [info.key for info in self._store.list(f"{name}/").objects]
            if whole < newest:
                whole += f"{name}/{_MANIFEST}" in keys  # others died half-way, or are being written
            elif f"{name}/{_KEPT}" not in keys:
                # The manifest goes first: whoever still finds it finds the files too, or learns that they are gone.
                for key in sorted(keys, key=lambda key: not key.endswith(_MANIFEST)):
                    self._store.delete(key)
                removed.append(name)
        return removed

    def _names(self, run: str) -> list[str]:
        """All checkpoints of a run, whole or not, oldest first."""
        prefix = f"{run}/checkpoints/"
        names: list[str] = []
        after = ""
        while True:
            page = self._store.list(prefix, after=after, delimiter="/")
            names += [found.rstrip("/") for found in page.prefixes]
            if not page.next_after:
                return names
            after = page.next_after

    def fetch(self, checkpoint: CheckpointInfo, directory: Path) -> Path:
        """Copies the files into ``directory`` (made if absent); Corrupt names the file that is not what the manifest says."""
        directory.mkdir(parents=True, exist_ok=True)
        for file, sha256 in checkpoint.files.items():
            key = f"{checkpoint.name}/{file}"
            data = self._store.get(key)
            if self._store.stat(key).sha256 != sha256:
                raise Corrupt(
                    f"{file} of {checkpoint.name} is not the one its manifest names",
                    metadata={"uri": self._store.uri(key)},
                )
            (directory / file).write_bytes(data)
        return directory
