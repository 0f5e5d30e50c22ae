"""The segments a JPEG is made of, found without decoding it (ITU-T T.81, annex B).

Easy to get wrong: only the picture's data, behind a start of scan, may hold bytes that look like markers. There FF 00 is
a stuffed FF, FF D0 to FF D7 are restarts, and further segments follow each scan of a progressive file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

SOI: Final = 0xD8
EOI: Final = 0xD9
SOS: Final = 0xDA
DRI: Final = 0xDD
APP0: Final = 0xE0
APP15: Final = 0xEF
MAX_PAYLOAD_BYTES: Final = 65533
"""What fits behind the two bytes of a segment's length, which count themselves."""

_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH: Final = frozenset({0x01, SOI, EOI, *range(0xD0, 0xD8)})
_SCAN_END: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class JpegError(ValueError):
    """The bytes are no whole JPEG. The message says what is wrong and where."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: its marker's second byte, and where it lies in the file.

    start: of the marker, fill bytes before it included. payload: behind the length. stop: behind the segment; for a
    start of scan, behind the scan's header.
    """

    marker: int
    start: int
    payload: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegStructure:
    """What lies where in a JPEG.

    segments: in order, from the start of the image to its end; stuffing and restarts are part of no segment.
    width_px, height_px: of the picture as stored, whatever its Exif orientation says. channels: 1 or 3, rarely 4.
    frame_marker: 0xC0 is baseline, 0xC2 progressive.
    trailing_bytes: how many follow the end of the image.
    """

    segments: tuple[Segment, ...]
    width_px: int
    height_px: int
    channels: int
    frame_marker: int
    trailing_bytes: int

    def header(self) -> tuple[Segment, ...]:
        """The segments before the first scan."""
        first_scan = next(index for index, segment in enumerate(self.segments) if segment.marker == SOS)
        return self.segments[:first_scan]


def read_structure(data: bytes) -> JpegStructure:
    """The structure of the JPEG in `data`. JpegError when it is no JPEG, is damaged, or is cut short.

    Any order of segments is read, with or without JFIF, restart intervals and fill bytes; what follows the end of the
    image is counted and otherwise ignored.
    """
    if data[:2] != b"\xff\xd8":
        raise JpegError("the file does not begin as a JPEG")
    segments = [Segment(SOI, 0, 2, 2)]
    frame: tuple[int, int, int, int] | None = None
    while segments[-1].marker != EOI:
        segment = _segment_at(data, segments[-1])
        segments.append(segment)
        if segment.marker in _FRAMES and frame is None:
            frame = _frame(data, segment)
    if frame is None or all(segment.marker != SOS for segment in segments):
        raise JpegError("the JPEG holds no picture")
    width, height, channels, frame_marker = frame
    return JpegStructure(
        segments=tuple(segments),
        width_px=width,
        height_px=height,
        channels=channels,
        frame_marker=frame_marker,
        trailing_bytes=len(data) - segments[-1].stop,
    )


def _segment_at(data: bytes, previous: Segment) -> Segment:
    start = previous.stop
    if previous.marker == SOS:
        scan_end = _SCAN_END.search(data, start)
        if scan_end is None:
            raise JpegError("the JPEG is cut short: the picture's end marker is missing")
        start = scan_end.start()
    position = start
    while data[position : position + 1] == b"\xff":
        position += 1
    if position >= len(data):
        raise JpegError(f"the JPEG is cut short near byte {len(data)}")
    marker = data[position]
    if position == start or marker == 0:
        raise JpegError(f"the JPEG is damaged: a marker is missing at byte {start}")
    if marker in _WITHOUT_LENGTH:
        return Segment(marker, start, position + 1, position + 1)
    size = int.from_bytes(data[position + 1 : position + 3], "big")
    stop = position + 1 + size
    if stop > len(data) or position + 3 > len(data):
        raise JpegError(f"the JPEG is cut short within the segment at byte {start}")
    if size < 2:
        raise JpegError(f"the JPEG is damaged: the segment at byte {start} has an impossible length")
    return Segment(marker, start, position + 3, stop)


def _frame(data: bytes, segment: Segment) -> tuple[int, int, int, int]:
    body = data[segment.payload : segment.stop]
    if len(body) < 6:
        raise JpegError(f"the JPEG is damaged: the frame header at byte {segment.start} is too short")
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    if not width or not height:
        raise JpegError("the JPEG does not say its size in its frame header; save it anew")
    return width, height, body[5], segment.marker
