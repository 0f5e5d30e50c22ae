"""Fetching the pictures and files that a server lists (ExtractFrames, ExportFaceset) into a folder.

What a reader would get wrong: a picture that lies there already with the right bytes is not fetched again, so an interrupted call is simply
made again. The list comes from a server: only bare file names pass, in the folder itself or one below it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from understudy.client import Client
from understudy.errors import UnderstudyError
from understudy.transfer import download, fetch, file_digest
from understudy.v1 import common_pb2, transfer_service_pb2

_PER_CALL = 200  # addresses live a quarter of an hour, and so many are fetched long before
_THREADS = 8
_DEEPEST = 2


def fetch_pictures(
    client: Client,
    project: str,
    manifest: common_pb2.ObjectRef,
    folder: Path,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Brings every picture of ``manifest`` into ``folder``, each whole or not at all; how many had to be fetched.

    ``on_done(done, total)`` is called as pictures arrive. UnderstudyError when one arrives damaged or the list is none.
    """
    entries = _entries(client, project, manifest)
    done = fetched = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(entries), _PER_CALL):
            part = entries[start : start + _PER_CALL]
            present = list(pool.map(lambda entry: _is_there(folder / entry["name"], entry["sha256"]), part))
            missing = [entry for entry, there in zip(part, present, strict=True) if not there]
            done += len(part) - len(missing)
            on_done(done, len(entries))
            for _ in pool.map(lambda item: fetch(*item), _signed(client, project, folder, missing)):
                done, fetched = done + 1, fetched + 1
                on_done(done, len(entries))
    return fetched


def _entries(client: Client, project: str, manifest: common_pb2.ObjectRef) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "pictures.json")
        download(client, project, manifest, path)
        entries: list[dict[str, Any]] = json.loads(path.read_bytes())["files"]
    for entry in entries:
        if not _is_safe(entry["name"]):
            raise UnderstudyError(
                f"{manifest.uri} names {entry['name']!r}, which is no file of the folder: nothing was written",
                code="DATA_LOSS",
                reason="CORRUPT_OBJECT",
            )
    return entries


def _is_safe(name: str) -> bool:
    """`00012.png` or `anna/00012.png`, whatever the machine takes for a separator."""
    parts = name.split("/")
    return len(parts) <= _DEEPEST and all(
        part and not part.startswith(".") and PurePath(part).name == PureWindowsPath(part).name == part
        for part in parts
    )


def _signed(
    client: Client, project: str, folder: Path, entries: Sequence[dict[str, Any]]
) -> Iterator[tuple[transfer_service_pb2.SignedUrl, common_pb2.ObjectRef, Path]]:
    if not entries:
        return
    references = [
        common_pb2.ObjectRef(uri=entry["uri"], digest=common_pb2.Digest(sha256=entry["sha256"])) for entry in entries
    ]
    request = transfer_service_pb2.CreateDownloadUrlsRequest(parent=project, objects=references)
    for entry, reference, signed in zip(
        entries, references, client.transfer.CreateDownloadUrls(request).urls, strict=True
    ):
        yield signed, reference, folder / entry["name"]


def _is_there(path: Path, sha256: str) -> bool:
    return path.is_file() and file_digest(path).sha256 == sha256
