"""Sending a faceset that lies in files: a faceset.pak as one object, a folder as objects and a manifest that lists them by name.

What a reader would get wrong: names matter. A face's file is called after its frame, and the folder it lies in is its person; the faces
come in the order of their names. A file without a byte cannot be sent: it stands in the list without an address, and the server says of it
by name that it is missing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from understudy.client import Client
from understudy.errors import UnderstudyError
from understudy.transfer import upload, upload_many
from understudy.v1 import common_pb2

PAK_NAME = "faceset.pak"
MANIFEST_MEDIA_TYPE = "application/json"
_PAK_MEDIA_TYPE = "application/octet-stream"
_PICTURES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".exr": "image/x-exr",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}
_FACE_FILES = {suffix: _PICTURES[suffix] for suffix in (".jpg", ".jpeg", ".png", ".exr")} | {
    ".json": "application/json"
}
_MASKS = (".mask.png", ".mask.jpg")
OnDone = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SentFaceset:
    """What ImportFaceset is given: ``files`` is a pak, ``manifest`` lists a folder's files; one of the two is set."""

    files: list[common_pb2.ObjectRef] = field(default_factory=list)
    manifest: common_pb2.ObjectRef | None = None


def send_faceset(client: Client, project: str, path: Path, on_done: OnDone = lambda done, total: None) -> SentFaceset:
    """Sends a faceset.pak, or a folder: the faceset.pak in it if there is one, as DeepFaceLab does, else its files.

    Of a folder, JPEGs and what an export as `plain` wrote are sent; those in folders below it are of the person whose name the folder
    has. UnderstudyError when there is nothing to send.
    """
    if path.is_dir() and (path / PAK_NAME).is_file():
        path = path / PAK_NAME
    if not path.is_dir():
        return SentFaceset(files=[upload(client, project, path, media_type=_PAK_MEDIA_TYPE)])
    return SentFaceset(manifest=_send_folder(client, project, path, _faceset_files(path), on_done))


def send_edited(
    client: Client, project: str, folder: Path, on_done: OnDone = lambda done, total: None
) -> common_pb2.ObjectRef:
    """Sends the pictures of a folder for RestoreMetadata and returns the manifest. UnderstudyError when it holds none."""
    files = [
        file for file in _listed(folder) if file.suffix.lower() in _PICTURES and not file.name.lower().endswith(_MASKS)
    ]
    return _send_folder(client, project, folder, files, on_done)


def _faceset_files(folder: Path) -> list[Path]:
    return [file for file in _listed(folder) if file.suffix.lower() in _FACE_FILES]


def _listed(folder: Path) -> list[Path]:
    """The files of a folder and of those below it, by name, the folder's own first."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    below = [file for entry in entries if entry.is_dir() for file in sorted(entry.iterdir())]
    return [file for file in [*entries, *below] if file.is_file() and not file.name.startswith(".")]


def _send_folder(
    client: Client, project: str, folder: Path, files: list[Path], on_done: OnDone
) -> common_pb2.ObjectRef:
    if not files:
        raise UnderstudyError(
            f"{folder} holds no files of faces: {', '.join(_PICTURES)} are read",
            code="INVALID_ARGUMENT",
            reason="NO_FACE",
        )
    full = [file for file in files if file.stat().st_size]
    media_types = {**_PICTURES, **_FACE_FILES}
    sent = upload_many(client, project, [(file, media_types[file.suffix.lower()]) for file in full], on_done)
    references = dict(zip(full, sent, strict=True))
    entries = []
    for file in files:
        entry = {"name": file.relative_to(folder).as_posix()}
        if file in references:
            reference = references[file]
            entry |= {"uri": reference.uri, "sha256": reference.digest.sha256}
        entries.append(entry)
    with tempfile.TemporaryDirectory() as scratch:
        manifest = Path(scratch, "files.json")
        manifest.write_text(json.dumps({"schema": 1, "files": entries}, sort_keys=True))
        return upload(client, project, manifest, media_type=MANIFEST_MEDIA_TYPE)
