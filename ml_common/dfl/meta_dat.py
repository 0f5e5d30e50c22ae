"""DeepFaceLab's meta.dat: the metadata of a folder of faces, kept aside while other programs edit the pictures.

Easy to get wrong: the metadata speaks in pixels of the picture as it was. A picture that comes back in another size is
brought to the saved size first (Lanczos, JPEG quality 100), and one that comes back flipped or cropped must not get its
metadata at all: see `edited_picture`. Source: spec: faceset, section 13.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from ml_common.dfl.face_jpeg import Metadata, checked_metadata, write_face_jpeg
from ml_common.dfl.jpeg_segments import read_structure
from ml_common.dfl.pickle_writer import write_dict
from ml_common.dfl.restricted_pickle import PickledValue, RefusedPickleError, check_extent, iterate_pickle

FILE_NAME: Final = "meta.dat"

_MAX_DEPTH: Final = 16
_MAX_VALUES: Final = 200_000
_MAX_SIDE_PX: Final = 65535


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SavedMetadata:
    """What was saved of one file: its name, the size its picture had, its metadata."""

    file_name: str
    width_px: int
    height_px: int
    metadata: Metadata


def read_meta_dat(data: bytes | memoryview) -> Iterator[SavedMetadata]:
    """What a meta.dat holds, one file after another; nothing in it is executed.

    RefusedPickleError, naming the file, at the first damage; the files before it have been given out then.
    """
    last = ""
    try:
        for entry in iterate_pickle(data):
            check_extent(entry, max_depth=_MAX_DEPTH, max_values=_MAX_VALUES)
            saved = _saved(entry)
            last = saved.file_name
            yield saved
    except RefusedPickleError as error:
        where = f"behind {last}" if last else "at its beginning"
        raise RefusedPickleError(f"{FILE_NAME} cannot be read {where}: {error}") from error


def write_meta_dat(path: Path, count: int, files: Iterable[SavedMetadata]) -> None:
    """Writes a meta.dat of `count` files, given one after another; it appears at `path` when it is whole.

    ValueError for a name that repeats, and when there are not `count` files.
    """
    names: set[str] = set()

    def pairs() -> Iterator[tuple[str, PickledValue]]:
        for saved in files:
            if saved.file_name in names:
                raise ValueError(f"the name {saved.file_name} repeats; {FILE_NAME} holds each name once")
            names.add(saved.file_name)
            yield saved.file_name, ((saved.height_px, saved.width_px, 3), saved.metadata)

    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as file:
            write_dict(file.write, count, pairs())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def restored_jpeg(data: bytes, saved: SavedMetadata) -> bytes:
    """The JPEG of an edited picture with the metadata it had; call `check_edited` on the pictures before.

    A picture of another size is brought to the saved one as DeepFaceLab does it (Lanczos, JPEG quality 100); otherwise
    every byte but the metadata stays as it is. ValueError when the JPEG is damaged or cannot be decoded.
    """
    structure = read_structure(data)
    if (structure.width_px, structure.height_px) != (saved.width_px, saved.height_px):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise ValueError(f"{saved.file_name} cannot be decoded; save it anew as a JPEG")
        resized = cv2.resize(image, (saved.width_px, saved.height_px), interpolation=cv2.INTER_LANCZOS4)
        data = cv2.imencode(".jpg", resized, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    return write_face_jpeg(data, saved.metadata)


def _saved(entry: PickledValue) -> SavedMetadata:
    match entry:
        case (str(name), ((int(height), int(width), *_), dict(metadata))):
            if not (0 < height <= _MAX_SIDE_PX and 0 < width <= _MAX_SIDE_PX):
                raise RefusedPickleError(f"{name[:80]} has an impossible size")
            return SavedMetadata(file_name=name, width_px=width, height_px=height, metadata=checked_metadata(metadata))
        case _:
            raise RefusedPickleError("it holds something that is not the metadata of a file")
