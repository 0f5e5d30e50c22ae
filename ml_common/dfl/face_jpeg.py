"""DeepFaceLab's metadata inside a face's JPEG: one APP15 segment that holds a pickled dictionary.

Easy to get wrong: other programs may use APP15 too. The metadata is the first such segment that begins as a pickle does;
segments that do not are left alone. Source: spec: faceset, section 11; pinned by tests/unit/dfl/test_face_jpeg.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ml_common.dfl.jpeg_segments import APP0, APP15, DRI, MAX_PAYLOAD_BYTES, JpegStructure, Segment, read_structure
from ml_common.dfl.pickle_writer import dump_pickle
from ml_common.dfl.restricted_pickle import PickledValue, RefusedPickleError, check_extent, read_pickle

Metadata = dict[str, PickledValue]
"""What DeepFaceLab keeps with a face, under its own keys; see spec: faceset, section 11.2."""

_PICKLE_START: Final = 0x80
_MAX_DEPTH: Final = 16
_MAX_VALUES: Final = 200_000


class MetadataTooLargeError(ValueError):
    """The metadata does not fit into a JPEG segment. The message says which parts are how large."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaceJpeg:
    """What is known of a face's JPEG without decoding it. metadata: None where the file carries none."""

    structure: JpegStructure
    metadata: Metadata | None


def read_face_jpeg(data: bytes) -> FaceJpeg:
    """Structure and metadata of a JPEG. No picture is decoded, and nothing from the file is executed.

    JpegError when the JPEG is damaged or cut short, RefusedPickleError when its metadata is damaged or not data; both
    are ValueErrors.
    """
    structure = read_structure(data)
    held = _metadata_segments(data, structure)
    if not held:
        return FaceJpeg(structure=structure, metadata=None)
    return FaceJpeg(structure=structure, metadata=read_metadata(data[held[0].payload : held[0].stop]))


def read_metadata(payload: bytes) -> Metadata:
    """The dictionary in an APP15 payload. RefusedPickleError when it is damaged, not a dictionary, or not data."""
    value = read_pickle(payload)
    check_extent(value, max_depth=_MAX_DEPTH, max_values=_MAX_VALUES)
    return checked_metadata(value)


def checked_metadata(value: PickledValue) -> Metadata:
    """`value` if it is a dictionary with text for keys; RefusedPickleError otherwise."""
    if not isinstance(value, dict):
        raise RefusedPickleError(f"a face's metadata is a dictionary, this one a {type(value).__name__}")
    for key in value:
        if not isinstance(key, str):
            raise RefusedPickleError(f"a face's metadata has text for keys, not a {type(key).__name__}")
    return value


def write_face_jpeg(data: bytes, metadata: Mapping[str, PickledValue]) -> bytes:
    """The same JPEG with this metadata instead of what it carried; every other byte stays as it is.

    Keys whose value is None are left out, as DeepFaceLab does, and the segment goes where DeepFaceLab puts it: behind
    the last APPn segment. Metadata that says what the file's says already leaves the file as it is, however it is
    spelled there. JpegError for a damaged JPEG; MetadataTooLargeError, naming what takes how much, beyond 65533 bytes;
    ValueError for a value that a pickle for DeepFaceLab cannot hold.
    """
    structure = read_structure(data)
    payload = metadata_payload(metadata)
    held = _metadata_segments(data, structure)
    if len(held) == 1 and _says(data[held[0].payload : held[0].stop], payload):
        return data
    return _with_segment(data, structure, b"\xff\xef" + (len(payload) + 2).to_bytes(2, "big") + payload)


def without_metadata(data: bytes) -> bytes:
    """The same JPEG without DeepFaceLab's metadata; every other byte stays as it is. JpegError for a damaged JPEG."""
    return _with_segment(data, read_structure(data), b"")


def metadata_payload(metadata: Mapping[str, PickledValue]) -> bytes:
    """The APP15 payload. MetadataTooLargeError when it does not fit into a segment."""
    stored = {key: value for key, value in metadata.items() if value is not None}
    payload = dump_pickle(stored)
    if len(payload) > MAX_PAYLOAD_BYTES:
        sizes = sorted(((len(dump_pickle(value)), key) for key, value in stored.items()), reverse=True)
        largest = ", ".join(f"{key} {size}" for size, key in sizes[:3])
        raise MetadataTooLargeError(
            f"the metadata takes {len(payload)} bytes and a JPEG segment holds {MAX_PAYLOAD_BYTES} ({largest}); "
            "draw the polygons with fewer points or use a smaller mask"
        )
    return payload


def why_deepfacelab_cannot_open(data: bytes) -> str | None:
    """Why DeepFaceLab's own reader fails on a sound JPEG, or None. Saving the picture anew as a JPEG mends all of it.

    Its reader knows two kinds of frame, no restart intervals, no APP0 but JFIF, no fill bytes, and nothing behind the
    end (spec: faceset, sections 11.1 and 21). JpegError for a damaged JPEG.
    """
    structure = read_structure(data)
    for segment in structure.segments:
        if segment.marker == DRI:
            return "the JPEG has restart intervals"
        if segment.marker == APP0 and data[segment.payload : segment.payload + 5] != b"JFIF\x00":
            return "the JPEG has an APP0 segment that is not JFIF"
        if data[segment.start + 1] == 0xFF:
            return "the JPEG has fill bytes before a marker"
    if structure.frame_marker not in (0xC0, 0xC2):
        return "the JPEG is neither baseline nor progressive"
    if structure.trailing_bytes:
        return f"the JPEG has {structure.trailing_bytes} bytes behind its end"
    return None


def _says(held_payload: bytes, payload: bytes) -> bool:
    try:
        return dump_pickle(read_metadata(held_payload)) == payload
    except ValueError:  # damaged, or no data: it is to be replaced
        return False


def _metadata_segments(data: bytes, structure: JpegStructure) -> list[Segment]:
    """Those of the header that hold a pickle. More than one is a mistake that some tool made; the first counts."""
    return [
        segment
        for segment in structure.header()
        if segment.marker == APP15 and data[segment.payload : segment.payload + 1] == bytes([_PICKLE_START])
    ]


def _with_segment(data: bytes, structure: JpegStructure, inserted: bytes) -> bytes:
    removed = _metadata_segments(data, structure)
    header = [segment for segment in structure.header() if segment not in removed]
    last_app = max((index for index, segment in enumerate(header) if APP0 <= segment.marker <= APP15), default=0)
    pieces = [data[segment.start : segment.stop] for segment in header]
    pieces.insert(last_app + 1, inserted)
    return b"".join(pieces) + data[structure.header()[-1].stop :]
