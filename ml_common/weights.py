"""The registry of weight files: what each is, where it comes from, under which licence, and the bytes it must have.

What a reader would get wrong: nothing here downloads. ``services.kit.weights.fetch`` fills a folder; this module only
finds a file in a folder that it is given and checks it. A weight file is always safetensors; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class MissingWeights(ValueError):
    """A registered weight file is not in the folder, or its bytes are not the registered ones."""


@dataclass(frozen=True, slots=True)
class WeightEntry:
    """One weight file. ``file`` is its name in the weights folder, ``sha256`` the hex digest of its bytes, ``licence``
    an SPDX id.
    """

    name: str
    file: str
    sha256: str
    licence: str
    source: str
    note: str


_WHEEL = "pypi:mediapipe==0.10.21 mediapipe/modules"
_ENTRIES = (
    WeightEntry(
        "blazeface_full_range",
        "blazeface_full_range.safetensors",
        "9eedfdb880bda285c9cd40ce58131779413083084d3746f5e110dd1bbd7d9358",
        "Apache-2.0",
        f"{_WHEEL}/face_detection/face_detection_full_range_sparse.tflite",
        "face boxes and six keypoints, 192 px tiles, faces from 8 to 50 % of a tile",
    ),
    WeightEntry(
        "blazeface_short_range",
        "blazeface_short_range.safetensors",
        "9d670df8283bd0532c482b06da7e62779dd37d3a3bfdae30525d6840270ad71c",
        "Apache-2.0",
        f"{_WHEEL}/face_detection/face_detection_short_range.tflite",
        "face boxes and six keypoints, 128 px tiles, faces from 20 to 100 % of a tile",
    ),
    WeightEntry(
        "face_mesh_468",
        "face_mesh_468.safetensors",
        "ad24ecaaca5c88009163913e41c7a19e656a69b24e0aa676f225ec375c402679",
        "Apache-2.0",
        f"{_WHEEL}/face_landmark/face_landmark.tflite",
        "468 face vertices and presence, 192 px upright crops",
    ),
)


def entries() -> tuple[WeightEntry, ...]:
    """All registered weight files."""
    return _ENTRIES


def entry(name: str) -> WeightEntry:
    """The entry of that name. Raises ValueError listing the known names."""
    for candidate in _ENTRIES:
        if candidate.name == name:
            return candidate
    raise ValueError(f"unknown weights {name!r}; known are {', '.join(e.name for e in _ENTRIES)}")


def locate(name: str, weights_dir: Path) -> Path:
    """The path of a registered file in ``weights_dir``, after its SHA-256 was found right (once per process and file
    state).

    Raises MissingWeights, saying what to run, when the file is absent or altered; ValueError for an unknown name.
    """
    wanted = entry(name)
    path = weights_dir / wanted.file
    if not path.is_file():
        raise MissingWeights(f"{path} is missing; run `understudy weights fetch`")
    stat = path.stat()
    if _sha256(path, stat.st_size, stat.st_mtime_ns) != wanted.sha256:
        raise MissingWeights(f"{path} is damaged or of another version; delete it and run `understudy weights fetch`")
    return path


@lru_cache(maxsize=64)
def _sha256(path: Path, size_bytes: int, mtime_ns: int) -> str:
    # Size and time are part of the key, so a file that was replaced is read again.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU, by name."""
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(path)
    return tensors
