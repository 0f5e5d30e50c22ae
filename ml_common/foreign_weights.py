"""Weight files that other projects publish, as arrays by name: recognised by their bytes, never unpickled.

What a reader would get wrong: the name of a file says nothing. ``.npy`` of DeepFaceLab is a pickle and not NumPy's
format, a ``.pth`` may be a zip or a bare pickle, a ``.zip`` may be a TorchScript archive that carries code. Each goes
to a reader that builds numbers and containers and refuses the rest:

| bytes                      | reader                                    |
|----------------------------|-------------------------------------------|
| a pickle                   | ``ml_common.dfl.weight_file``             |
| torch, TorchScript         | ``ml_common.torch_archive``               |
| safetensors                | ``safetensors``                           |
| any other zip (a wheel)    | the weight files in it, each by this table |
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ml_common.dfl.restricted_pickle import RefusedPickleError
from ml_common.dfl.weight_file import read_weight_file
from ml_common.torch_archive import (
    DamagedArchive,
    is_legacy,
    is_torch_zip,
    is_torchscript,
    read_legacy,
    read_torch_zip,
)

Array = np.ndarray[Any, np.dtype[Any]]
Format = Literal["deepfacelab", "torch", "torchscript", "safetensors"]

MAX_BYTES = 1 << 30  # of a file and of what it unpacks to; the largest network we know of takes a quarter

_MAX_MEMBERS, _MAX_INNER = 10_000, 16
_ZIP_ERRORS = (  # what the standard library raises for archives that are cut short or made to trip it
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(NotImplementedError, RuntimeError, OverflowError, ValueError),
)
_WEIGHT_SUFFIXES = (".npy", ".pt", ".pth", ".safetensors")
_OTHER_FILES = (
    (b"\x93NUMPY", "one array in NumPy's own format, not DeepFaceLab's weights"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself (git lfs pull)"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "gzip data: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"GGUF", "a GGUF file"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)


class NotWeights(ValueError):
    """A file is not weights, or not of a form that can be read safely. The message says what it is."""


@dataclass(frozen=True, slots=True, eq=False)
class ForeignWeights:
    """The arrays of one file. ``file`` is its name, or that of the member of a zip."""

    file: str
    format: Format
    arrays: Mapping[str, Array]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape."""
        return {name: tuple(array.shape) for name, array in self.arrays.items()}


def read_foreign(data: bytes, file_name: str) -> list[ForeignWeights]:
    """What a file holds: one set of arrays, or of a zip one per weight file in it.

    Raises NotWeights, naming the file and what it is. Nothing in the data is executed; no more than MAX_BYTES are
    unpacked.
    """
    if len(data) > MAX_BYTES:
        size, most = f"{len(data) / 1e9:.1f} GB", f"{MAX_BYTES / 1e9:.1f} GB"
        raise NotWeights(f"{file_name} has {size}; weight files of up to {most} are read")
    return _read(data, file_name, in_zip=False)


def _read(data: bytes, file_name: str, *, in_zip: bool) -> list[ForeignWeights]:
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return _read_zip(data, archive, file_name, in_zip=in_zip)
        except NotWeights:
            raise
        except _ZIP_ERRORS as error:
            raise NotWeights(f"{file_name} is a damaged or encrypted zip archive: {error}") from error
    if is_legacy(data):
        return [_torch(file_name, "torch", lambda: read_legacy(data, max_bytes=MAX_BYTES))]
    if data[:1] == b"\x80" and data[1:2] <= b"\x05":
        return [ForeignWeights(file_name, "deepfacelab", _read_deepfacelab(data, file_name))]
    if _is_safetensors(data):
        return [ForeignWeights(file_name, "safetensors", _read_safetensors(data, file_name))]
    raise NotWeights(f"{file_name} is not a weight file: it is {_described(data)}")


def _read_zip(data: bytes, archive: zipfile.ZipFile, file_name: str, *, in_zip: bool) -> list[ForeignWeights]:
    members = archive.infolist()
    if len(members) > _MAX_MEMBERS or sum(member.file_size for member in members) > MAX_BYTES:
        raise NotWeights(f"{file_name} unpacks to more than a weight file holds")
    if is_torch_zip(archive):
        kind: Format = "torchscript" if is_torchscript(archive) else "torch"
        return [_torch(file_name, kind, lambda: read_torch_zip(archive, max_bytes=MAX_BYTES))]
    inner = [member for member in members if member.filename.lower().endswith(_WEIGHT_SUFFIXES)]
    if in_zip or not 0 < len(inner) <= _MAX_INNER:
        raise NotWeights(f"{file_name} is a zip archive, but not of weight files")
    return [
        found
        for member in inner
        for found in _read(archive.read(member), f"{file_name}/{Path(member.filename).name}", in_zip=True)
    ]


def _read_deepfacelab(data: bytes, file_name: str) -> dict[str, Array]:
    try:
        return read_weight_file(data)
    except RefusedPickleError as error:
        raise NotWeights(f"{file_name} is a pickle but not a weight file of DeepFaceLab: {error}") from error


def _torch(file_name: str, kind: Format, read: Callable[[], dict[str, Array]]) -> ForeignWeights:
    try:
        return ForeignWeights(file_name, kind, _without_prefix(read()))
    except DamagedArchive as error:
        raise NotWeights(f"{file_name} is a file of torch that cannot be read as weights: {error}") from error


def _read_safetensors(data: bytes, file_name: str) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays: dict[str, Array] = load(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise NotWeights(f"{file_name} is a safetensors file that cannot be read: {error}") from error
    return _without_prefix(arrays)


def _is_safetensors(data: bytes) -> bool:
    return len(data) > 9 and int.from_bytes(data[:8], "little") < len(data) and data[8:9] == b"{"


def _without_prefix(arrays: dict[str, Array]) -> dict[str, Array]:
    """``module.`` in front of every name is what training on several devices leaves there."""
    if not arrays or not all(name.startswith("module.") for name in arrays):
        return arrays
    return {name.removeprefix("module."): array for name, array in arrays.items()}


def _described(data: bytes) -> str:
    if not data:
        return "empty"
    for magic, what in _OTHER_FILES:
        if data.startswith(magic):
            return what
    if data[4:8] == b"TFL3":
        return "a TensorFlow Lite graph"
    if data[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "a web page: the download gave a page in place of the file"
    try:
        data[:512].decode()
    except UnicodeDecodeError:
        return f"of an unknown kind (it begins with {data[:8].hex(' ')})"
    return "text"
