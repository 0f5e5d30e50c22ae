"""Whether a container file ends where its own structure says it should.

What one would get wrong: a demuxer reads a file that was cut short without a word and simply has fewer packets. The
sizes written in the outermost boxes tell. Formats without such sizes (MPEG-TS, live Matroska) cannot be told and count
as whole.

Sources: ISO/IEC 14496-12 section 4.2 (boxes), RFC 8794 section 4 (EBML sizes), the RIFF structure of AVI with OpenDML.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_ISO_FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"}
_EBML_MAGIC = b"\x1a\x45\xdf\xa3"
_SEGMENT_ID = b"\x18\x53\x80\x67"


def is_cut_short(path: Path) -> bool:
    """True when the outermost boxes of an MP4/MOV, Matroska/WebM or AVI file need more bytes than the file has, or when
    an MP4 lacks the index (``moov``) that its writer adds at the end."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[4:8] in _ISO_FIRST_BOXES:
            return _iso_is_short(file, size_bytes)
        if head[:4] == _EBML_MAGIC:
            return _matroska_is_short(file, size_bytes)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return _avi_is_short(file, size_bytes)
    return False


def _iso_is_short(file: BinaryIO, size_bytes: int) -> bool:
    offset = 0
    kinds = set()
    while offset + 8 <= size_bytes:
        file.seek(offset)
        header = file.read(16)
        box_bytes, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if not kind.isascii():
            break  # trailing bytes that are no box
        if box_bytes == 1 and len(header) == 16:
            box_bytes = int.from_bytes(header[8:16], "big")
        elif box_bytes == 0:
            box_bytes = size_bytes - offset
        if box_bytes < 8:
            break
        kinds.add(kind)
        offset += box_bytes
    return offset > size_bytes or not kinds & {b"moov", b"moof"}


def _matroska_is_short(file: BinaryIO, size_bytes: int) -> bool:
    file.seek(4)
    header_bytes = _ebml_size(file)
    if header_bytes is None:
        return True
    file.seek(header_bytes, 1)
    if file.read(4) != _SEGMENT_ID:
        return file.tell() >= size_bytes
    segment_bytes = _ebml_size(file)
    return segment_bytes is not None and file.tell() + segment_bytes > size_bytes


def _ebml_size(file: BinaryIO) -> int | None:
    """The next EBML element size, None when it is the reserved "unknown" (all ones)."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(length - 1), "big") & ((1 << 7 * length) - 1)
    return None if value == (1 << 7 * length) - 1 else value


def _avi_is_short(file: BinaryIO, size_bytes: int) -> bool:
    offset = 0
    while offset + 12 <= size_bytes:
        file.seek(offset)
        header = file.read(12)
        if header[:4] != b"RIFF":
            break
        offset += 8 + int.from_bytes(header[4:8], "little")
    return offset > size_bytes
