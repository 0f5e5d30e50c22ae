"""Lossless intermediate video: one file per chunk of frames, read back bit for bit.

What one would get wrong: a segment carries no timing and no colour meaning. Frames come back in the order in which they
were written, with the same numbers in them; when each is shown is known to whoever planned the chunks.

FFV1 version 3 with a checksum per slice, in Matroska: (H, W, 3) uint8 as bgr0, (H, W, 3) uint16 as gbrp16le, (H, W)
masks as gray or gray16le. Shapes: H height, W width, C channels (B, G, R).
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import av.error
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ml_common.media.container import open_input, partial_path, video_stream, worker_threads
from ml_common.media.errors import MediaError
from ml_common.media.structure import is_cut_short

Segment = NDArray[np.uint8 | np.uint16]

_FORMATS = {
    ("uint8", 3): "bgr0",
    ("uint16", 3): "gbrp16le",
    ("uint8", 2): "gray",
    ("uint16", 2): "gray16le",
}
_CLOCK_HZ = 25  # a file must have a clock; nobody reads it
_SLICEABLE_PX = 32
_SLICE_FOOTER_BYTES = 8
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_GBR_OF_BGR = (1, 0, 2)


class SegmentWriter:
    """Writes one segment. The file appears under ``path`` only when ``close`` succeeds; an error inside ``with`` leaves
    nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = partial_path(path)
        self._container = av.open(str(self._partial), mode="w", format="matroska")
        self._stream: VideoStream | None = None
        self._format = ""
        self._shape: tuple[int, ...] = ()
        self._count = 0

    def write(self, image: Segment) -> None:
        """Append ``image_bgr_HWC`` or a ``mask_HW``, uint8 or uint16. ValueError when it is neither, or unlike the
        first one."""
        kind = _FORMATS.get((image.dtype.name, image.ndim))
        if kind is None or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
            raise ValueError(
                "a segment holds (H, W, 3) or (H, W) arrays of uint8 or uint16, "
                f"not {image.shape} {image.dtype}; convert it first"
            )
        if self._stream is None:
            self._start(kind, image.shape)
        if (kind, image.shape) != (self._format, self._shape):
            raise ValueError(
                f"image {self._count} is {image.shape} {image.dtype}, "
                f"the segment's are {self._shape} in {self._format}; "
                "start another segment"
            )
        assert self._stream is not None
        frame = _pack(image, kind)
        frame.pts = self._count
        self._container.mux(self._stream.encode(frame))
        self._count += 1

    def close(self) -> None:
        """Finish the file. ValueError (and no file) when nothing was written."""
        if self._stream is None:
            self.discard()
            raise ValueError(f"segment {self._path.name} got no images; write at least one")
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        except BaseException:
            self.discard()
            raise
        self._partial.replace(self._path)

    def discard(self) -> None:
        """Give up: leave no file behind."""
        with contextlib.suppress(av.error.FFmpegError):  # its end cannot be written to a full disk, and is not wanted
            self._container.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _start(self, kind: str, shape: tuple[int, ...]) -> None:
        slices = "4" if min(shape[:2]) >= _SLICEABLE_PX else "1"
        options = {"level": "3", "slicecrc": "1", "slices": slices, "g": "1", "context": "0"}
        stream = self._container.add_stream("ffv1", rate=_CLOCK_HZ, options=options)
        stream.width, stream.height, stream.pix_fmt = shape[1], shape[0], kind
        stream.thread_count = worker_threads()
        self._stream, self._format, self._shape = stream, kind, shape


def read_segment(path: Path) -> Iterator[Segment]:
    """The arrays of a segment in order, bit for bit as they were written.

    MediaError NOT_MEDIA, TRUNCATED (before anything is given out) or CORRUPT_FRAME, found by the slices' checksums.
    """
    if path.is_file() and is_cut_short(path):
        raise MediaError("TRUNCATED", f"segment {path.name} is cut short; make that chunk again")
    with open_input(path) as container:
        stream = video_stream(container, path.name)
        stored = given = 0
        for packet in container.demux(stream):
            sound = not packet.size or _slices_are_sound(bytes(packet))
            for frame in packet.decode() if sound else stream.decode(None):
                yield _unpack(frame)
                given += 1
            if not sound:
                break
            stored += bool(packet.size)
        else:
            if given == stored > 0:
                return
        raise MediaError(
            "CORRUPT_FRAME",
            f"image {given} of segment {path.name} is damaged; make that chunk again",
            frame_index=given,
        )


def _slices_are_sound(coded: bytes) -> bool:
    """Whether every slice of an FFV1 picture has the remainder 0 (RFC 9043 section 4.9): FFmpeg's decoder patches a
    damaged slice from the picture before it, and tells nobody.

    The CRC there starts at 0 and shifts left; zlib's shifts right, over the same polynomial: hence the reversed bits.
    """
    end = len(coded)
    while end > 0:
        if end < _SLICE_FOOTER_BYTES:
            return False
        start = end - _SLICE_FOOTER_BYTES - int.from_bytes(coded[end - _SLICE_FOOTER_BYTES : end - 5], "big")
        if start < 0 or zlib.crc32(coded[start:end].translate(_REVERSED_BITS), 0xFFFFFFFF) != 0xFFFFFFFF:
            return False
        end = start
    return True


def _pack(image: Segment, kind: str) -> av.VideoFrame:
    height, width = image.shape[:2]
    frame = av.VideoFrame(width, height, kind)
    if kind == "bgr0":
        cv2.cvtColor(image, cv2.COLOR_BGR2BGRA, dst=_plane(frame, 0, np.dtype(np.uint8), 4))
    elif kind == "gbrp16le":
        for plane, channel in enumerate(_GBR_OF_BGR):
            _plane(frame, plane, np.dtype(np.uint16))[:] = image[..., channel]
    else:
        _plane(frame, 0, np.dtype(np.uint8 if kind == "gray" else np.uint16))[:] = image
    return frame


def _unpack(frame: av.VideoFrame) -> Segment:
    kind = frame.format.name
    if kind == "bgr0":
        return np.asarray(cv2.cvtColor(_plane(frame, 0, np.dtype(np.uint8), 4), cv2.COLOR_BGRA2BGR), np.uint8)
    if kind == "gbrp16le":
        planes = [_plane(frame, _GBR_OF_BGR.index(channel), np.dtype(np.uint16)) for channel in range(3)]
        return np.asarray(cv2.merge(planes), np.uint16)
    if kind in ("gray", "gray16le"):
        return _plane(frame, 0, np.dtype(np.uint8 if kind == "gray" else np.uint16)).copy()
    raise MediaError("UNSUPPORTED", f"pixel format {kind} is no segment's; read the file with open_source")


def _plane(frame: av.VideoFrame, number: int, dtype: np.dtype[np.uint8 | np.uint16], channels: int = 1) -> Segment:
    """A writable view on a plane of ``frame``, without the padding of its rows."""
    plane = frame.planes[number]
    shape: tuple[int, ...] = (plane.height, plane.width)
    strides: tuple[int, ...] = (plane.line_size, dtype.itemsize * channels)
    if channels > 1:
        shape, strides = (*shape, channels), (*strides, dtype.itemsize)
    view: Segment = np.ndarray(shape, dtype, buffer=memoryview(plane), strides=strides)
    return view
