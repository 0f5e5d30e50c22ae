"""Sending footage: a video as one object, a folder of pictures as objects and a manifest that lists them in order."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from understudy.client import Client
from understudy.errors import UnderstudyError
from understudy.transfer import upload
from understudy.v1 import common_pb2

SEQUENCE_MEDIA_TYPE = "application/vnd.understudy.sequence+json"
_PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}
_NUMBERED = re.compile(r"(\d+)(?=\.[^.]+$)")


def upload_media(client: Client, project: str, path: Path) -> common_pb2.ObjectRef:
    """Sends a video file or a folder of numbered pictures, unless the store has it already."""
    if not path.is_dir():
        return upload(
            client,
            project,
            path,
            media_type=_PICTURES.get(path.suffix.lower(), "video/" + (path.suffix[1:].lower() or "unknown")),
        )
    files = sorted(
        file for file in path.iterdir() if file.suffix.lower() in _PICTURES and not file.name.startswith(".")
    )
    if not files:
        raise UnderstudyError(
            f"{path} holds no pictures: {', '.join(_PICTURES)} are read", code="INVALID_ARGUMENT", reason="NO_FRAMES"
        )
    unnumbered = next((file.name for file in files if not _NUMBERED.search(file.name)), None)
    if unnumbered and len(files) > 1:
        raise UnderstudyError(
            f"{path / unnumbered} has no frame number: name the pictures like shot.0001.png",
            code="INVALID_ARGUMENT",
            reason="NOT_MEDIA",
        )
    entries = []
    for file in files:
        reference = upload(client, project, file, media_type=_PICTURES[file.suffix.lower()])
        entries.append({"name": file.name, "uri": reference.uri, "sha256": reference.digest.sha256})
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, f"{path.name}.sequence.json")
        manifest.write_text(json.dumps({"schema": 1, "files": entries}, sort_keys=True))
        return upload(client, project, manifest, media_type=SEQUENCE_MEDIA_TYPE)
