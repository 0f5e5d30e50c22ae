"""Sending footage: a video as one object, pictures (a folder or one file) as objects and a manifest that lists them in order.

A clip is named after its file and its bytes unless the caller names it, so adding the same footage twice finds the first.
What a reader would get wrong: pictures keep their file names, because the numbers in them are the clip's frame numbers; holes in the
numbering stay holes.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from understudy.client import Client
from understudy.errors import UnderstudyError
from understudy.transfer import upload
from understudy.v1 import common_pb2, frame_service_pb2

SEQUENCE_MEDIA_TYPE = "application/vnd.understudy.sequence+json"
_PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".dpx": "image/x-dpx",
    ".exr": "image/x-exr",
}
_NUMBERED = re.compile(r"(\d+)(?=\.[^.]+$)")
_PROBE_WITHIN_S = 600.0  # the server reads the whole file once to count its frames


def add_clip(
    client: Client, project: str, path: Path, *, clip_id: str = "", sequence_rate: common_pb2.Rational | None = None
) -> frame_service_pb2.Clip:
    """Sends footage and registers it with ``project`` (`projects/p`).

    ``sequence_rate`` is for pictures; unset means what the headers of DPX and OpenEXR files say, else 25. UnderstudyError as
    ``upload_media``.
    """
    media = upload_media(client, project, path)
    wished = frame_service_pb2.Clip(media=media, display_name=path.name)
    if sequence_rate is not None:
        wished.info.frame_rate.CopyFrom(sequence_rate)
    request = frame_service_pb2.CreateClipRequest(
        parent=project, clip_id=clip_id or f"{slug(path.stem)}-{media.digest.sha256[:8]}", clip=wished
    )
    clip: frame_service_pb2.Clip = client.frames.CreateClip(request, timeout=_PROBE_WITHIN_S)
    return clip


def slug(text: str) -> str:
    """Text as part of a resource id."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:32].strip("-") or "clip"


def upload_media(client: Client, project: str, path: Path) -> common_pb2.ObjectRef:
    """Sends a video file, a folder of numbered pictures or one picture, unless the store has it already.

    UnderstudyError NOT_FOUND, NO_FRAMES for a folder without pictures, NOT_MEDIA for pictures without numbers or with one number
    twice.
    """
    if not path.is_dir() and path.suffix.lower() not in _PICTURES:
        return upload(client, project, path, media_type="video/" + (path.suffix[1:].lower() or "unknown"))
    files = _pictures(path) if path.is_dir() else [path]
    entries = []
    for file in files:
        reference = upload(client, project, file, media_type=_PICTURES[file.suffix.lower()])
        entries.append({"name": file.name, "uri": reference.uri, "sha256": reference.digest.sha256})
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, f"{path.name}.sequence.json")
        manifest.write_text(json.dumps({"schema": 1, "files": entries}, sort_keys=True))
        return upload(client, project, manifest, media_type=SEQUENCE_MEDIA_TYPE)


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a folder by name: one sequence, or photos, each with a number of its own."""
    files = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in _PICTURES and not file.name.startswith(".")
    )
    if not files:
        raise UnderstudyError(
            f"{folder} holds no pictures: {', '.join(_PICTURES)} are read", code="INVALID_ARGUMENT", reason="NO_FRAMES"
        )
    if len(files) == 1:
        return files
    by_number: dict[int, Path] = {}
    for file in files:
        match = _NUMBERED.search(file.name)
        if match is None:
            raise UnderstudyError(
                f"{file} has no frame number: name the pictures like shot.0001.png",
                code="INVALID_ARGUMENT",
                reason="NOT_MEDIA",
            )
        other = by_number.setdefault(int(match[1]), file)
        if other is not file:
            raise UnderstudyError(
                f"{folder} holds {other.name} and {file.name}, which have the same frame number: "
                "give each sequence a folder of its own",
                code="INVALID_ARGUMENT",
                reason="NOT_MEDIA",
            )
    return files
