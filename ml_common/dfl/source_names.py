"""What DeepFaceLab's file names say: which frame a face is from, and which of the frame's faces it is.

Easy to get wrong: a face's own file name says nothing once its folder was sorted, because sorting renames. The frame is
read from the source's name, which the metadata keeps; the file's name only adds the index, where it still fits.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Final

from ml_common.facesets import FaceSource

_DIGITS: Final = re.compile(r"[0-9]+")
_INDEX: Final = re.compile(r"_([0-9]{1,3})")
_PICTURES: Final = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dpx", ".exr"})
_MAX_FRAME_NUMBER: Final = 10**12 - 1


def frame_number_of(source_filename: str) -> int | None:
    """The number in a frame's file name: its last run of digits before the extension. None where there is none."""
    runs = _DIGITS.findall(PurePath(source_filename).stem)
    if not runs or int(runs[-1][-20:]) > _MAX_FRAME_NUMBER:
        return None
    return int(runs[-1][-20:])


def face_index_of(file_name: str, source_filename: str) -> int | None:
    """Which of its frame's faces a file holds, if it is still named after the frame: `00012_1.jpg` is face 1."""
    stem, source_stem = PurePath(file_name).stem, PurePath(source_filename).stem
    match = _INDEX.fullmatch(stem[len(source_stem) :]) if source_stem and stem.startswith(source_stem) else None
    return int(match[1]) if match else None


def source_filename_for(source: FaceSource) -> str:
    """The frame's file name that DeepFaceLab is told: the original one, or the number as DeepFaceLab names frames.

    Only a name with a picture's extension is a frame's; DeepFaceLab finds the frame again by the name without it.
    """
    if PurePath(source.original_filename).suffix.lower() in _PICTURES:
        return PurePath(source.original_filename).name
    return f"{source.frame_number:05d}.png"
