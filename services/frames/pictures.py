"""Pictures of a sequence: the manifest that lists them, and which frame each of them is.

What a reader would get wrong: frame numbers are read from file names, and only where all names are alike but for the number; other pictures
are photos, numbered from 0 in the order of their names. ml_common.media.sequence reads folders by the same rule; a test compares the two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from ml_common.media import ClipInfo, probe
from services.kit.clips import SEQUENCE_MEDIA_TYPE, media_errors
from services.kit.errors import Corrupt
from services.kit.operations.plan import canonical_json
from services.kit.operations.stage import WorkerEnv
from services.kit.storage import ObjectInfo, ObjectStore

_NUMBERED = re.compile(r"(.*?)(\d+)\.([^.]+)")


def picture_name(stem: str, number: int, suffix: str) -> str:
    """The file of frame ``number``; ``suffix`` without a dot."""
    return f"{stem}_{number:06d}.{suffix}"


def by_number(entries: Sequence[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """The lines of a manifest with their frame numbers, rising."""
    matches = [_NUMBERED.fullmatch(entry["name"]) for entry in entries]
    kinds = {(match[1], match[3]) for match in matches if match}
    if None not in matches and len(kinds) == 1:
        numbered = {int(match[2]): entry for match, entry in zip(matches, entries, strict=True) if match}
        if len(numbered) == len(entries):
            return sorted(numbered.items())
    return list(enumerate(sorted(entries, key=lambda entry: str(entry["name"]))))


def read_manifest(store: ObjectStore, key: str, frames: Sequence[int]) -> list[tuple[int, dict[str, Any]]]:
    """The pictures of a registered sequence; Corrupt when they are not the ``frames`` that it was registered with."""
    found = by_number(json.loads(store.get(key))["files"])
    if [number for number, _ in found] != list(frames):
        uri = store.uri(key)
        raise Corrupt(f"{uri} does not list the frames that the clip was registered with", metadata={"uri": uri})
    return found


def write_manifest(store: ObjectStore, key: str, entries: Sequence[dict[str, Any]]) -> ObjectInfo:
    """Lists pictures so that a clip can be made of them. The same pictures give the same bytes."""
    body = {"schema": 1, "files": list(entries)}
    return store.put(key, canonical_json(body), media_type=SEQUENCE_MEDIA_TYPE)


def sequence_info(env: WorkerEnv, entries: Sequence[dict[str, Any]], rate: Fraction, name: str) -> ClipInfo:
    """What a clip of these pictures holds. Only one sound picture is opened: all of them may be more than this machine can hold."""
    files = by_number(entries)
    numbers = [number for number, _ in files]
    info = _first_probed(env, [entry for _, entry in files], rate, name)
    present = set(numbers)
    return dataclasses.replace(
        info,
        frame_count=len(numbers),
        first_number=numbers[0],
        missing_numbers=tuple(number for number in range(numbers[0], numbers[-1]) if number not in present),
        duration_s=float((numbers[-1] - numbers[0] + 1) / rate),
    )


def _first_probed(env: WorkerEnv, entries: Sequence[dict[str, Any]], rate: Fraction, name: str) -> ClipInfo:
    """What the first sound picture holds; Corrupt when none is."""
    for entry in entries:
        with (
            contextlib.suppress(Corrupt) if entry is not entries[-1] else contextlib.nullcontext(),
            tempfile.TemporaryDirectory(dir=env.scratch_dir) as folder,
            env.store.local_path(env.store.key_of(entry["uri"])) as path,
            media_errors(name),
        ):
            Path(folder, entry["name"]).symlink_to(path.resolve())
            info = probe(Path(folder), sequence_rate=rate)
            return info if entry is entries[0] else dataclasses.replace(info, timecode=None)
    raise AssertionError("a clip has pictures")
