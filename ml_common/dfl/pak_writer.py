"""Writes faceset.pak so that DeepFaceLab loads it.

Easy to get wrong: DeepFaceLab's own writer puts the end of the data as a position in the file; here it is counted from
the start of the data like every other offset, which DeepFaceLab reads as well. Everything else is byte for byte what it
writes for the same faces. Source: spec: faceset, section 12.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ml_common.dfl.face_jpeg import read_face_jpeg
from ml_common.dfl.face_metadata import parse_metadata, polygons_value
from ml_common.dfl.pak import HEADER_BYTES, PAK_VERSION, is_plain_name
from ml_common.dfl.pickle_writer import EnumMember, write_list
from ml_common.dfl.restricted_pickle import PickledValue

_FACE_SAMPLE: Final = EnumMember("samplelib.Sample", "SampleType", 1)


@dataclass(frozen=True, slots=True)
class PakEntry:
    """A face to be packed. name: its file name, ending in .jpg. person: its sub-folder, empty for none."""

    name: str
    person: str = ""


def write_pak(path: Path, entries: Sequence[PakEntry], jpeg_of: Callable[[PakEntry], bytes]) -> None:
    """Writes a pak of these faces, in order of person and name; it appears at `path` when it is whole.

    jpeg_of: the JPEG of a face, with its metadata; called twice for each, first for what it says and then for its bytes,
    so that one face at a time is in memory. ValueError naming the face for a JPEG that is damaged or no face of
    DeepFaceLab, and for names that repeat or cannot be file names.
    """
    ordered = sorted(entries, key=lambda entry: (entry.person, entry.name))
    _check_names(ordered)
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as file:
            _write(file, ordered, jpeg_of)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write(file: BinaryIO, entries: list[PakEntry], jpeg_of: Callable[[PakEntry], bytes]) -> None:
    sizes: list[int] = []

    def configurations() -> Iterator[dict[str, PickledValue]]:
        persons: dict[str, str] = {}  # one object a name, so that the pickle holds it once
        for entry in entries:
            data = jpeg_of(entry)
            sizes.append(len(data))
            person = persons.setdefault(entry.person, entry.person) or None
            try:
                yield _configuration(entry.name, person, data)
            except ValueError as error:
                raise ValueError(f"{_path(entry)} cannot be packed: {error}") from error

    file.write(bytes(HEADER_BYTES))
    write_list(file.write, len(entries), configurations())
    config_bytes = file.tell() - HEADER_BYTES
    offset = 0
    for size in sizes:
        file.write(struct.pack("<Q", offset))
        offset += size
    file.write(struct.pack("<Q", offset))
    for entry, size in zip(entries, sizes, strict=True):
        data = jpeg_of(entry)
        if len(data) != size:
            raise ValueError(f"{_path(entry)} changed while it was being packed; pack again")
        file.write(data)
    file.seek(0)
    file.write(struct.pack("<QQ", PAK_VERSION, config_bytes))


def _configuration(name: str, person: str | None, data: bytes) -> dict[str, PickledValue]:
    jpeg = read_face_jpeg(data)
    if jpeg.metadata is None:
        raise ValueError("the JPEG carries no metadata of DeepFaceLab")
    face = parse_metadata(jpeg.metadata)
    return {
        "sample_type": _FACE_SAMPLE,
        "filename": name,
        "face_type": EnumMember("facelib.FaceType", "FaceType", face.face_type.value),
        "shape": (jpeg.structure.height_px, jpeg.structure.width_px, 3),
        "landmarks": face.landmarks_px_68x2.tolist(),
        "seg_ie_polys": polygons_value(face.polygons),
        "xseg_mask": None,
        "xseg_mask_compressed": jpeg.metadata.get("xseg_mask"),
        "eyebrows_expand_mod": face.eyebrows_expand,
        "source_filename": face.source_filename or None,
        "person_name": person,
    }


def _check_names(entries: list[PakEntry]) -> None:
    for entry, following in itertools.pairwise(entries):
        if entry == following:
            raise ValueError(f"the name {_path(entry)} repeats; a pak holds each name once")
    for entry in entries:
        if not is_plain_name(entry.name) or not (entry.person == "" or is_plain_name(entry.person)):
            raise ValueError(f"{_path(entry)!r} cannot be a file name in a pak")
        if not entry.name.endswith(".jpg"):
            raise ValueError(f"{_path(entry)} must end in .jpg, or DeepFaceLab does not take it for a face")


def _path(entry: PakEntry) -> str:
    return f"{entry.person}/{entry.name}" if entry.person else entry.name
