"""Frames of a video file by number, exact: frame i is the i-th frame shown.

What one would get wrong: a decoder goes on after damage, with later pictures built from a patched one, or with one
picture fewer. Here a frame is handed out only when all that was decoded before it came out sound; the first one of
which that cannot be said raises CORRUPT_FRAME, and numbers never shift. Damage therefore costs all frames up to the
next keyframe; a reader that goes on (``on_corrupt``) is told each of them.

Shapes: H height, W width, C channels (B, G, R).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import av.error
import cv2
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.video.stream import VideoStream

from ml_common.media.color import BgrReader, Image, tags_of
from ml_common.media.container import open_input, time_base_of, video_stream
from ml_common.media.errors import MediaError
from ml_common.media.hardware import open_on_device
from ml_common.media.index import FrameIndex, Scan, decode, scan
from ml_common.media.info import AudioInfo, ClipInfo

# How a decoded picture becomes the shown one: (mirror left to right first, clockwise quarter turns), by the signs of
# the display matrix's linear part (a, b, c, d), x' = a x + c y, y' = b x + d y, y downwards (ISO/IEC 14496-12 section
# 6.2.2).
_ORIENTATIONS = {
    (1, 0, 0, 1): (False, 0),
    (0, 1, -1, 0): (False, 1),
    (-1, 0, 0, -1): (False, 2),
    (0, -1, 1, 0): (False, 3),
    (-1, 0, 0, 1): (True, 0),
    (0, -1, -1, 0): (True, 1),
    (1, 0, 0, -1): (True, 2),
    (0, 1, 1, 0): (True, 3),
}
_STANDARD_RATES = [Fraction(n) for n in (24, 25, 30, 48, 50, 60, 100, 120)] + [
    Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)
]
_CV_TURNS = {1: cv2.ROTATE_90_CLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_COUNTERCLOCKWISE}


def probe_video(path: Path) -> ClipInfo:
    """What is in the video file ``path``. Reads all its packets; errors as ``scan``."""
    return _describe(path, scan(path))


class VideoSource:
    """A video file as a ``FrameSource``. Reading in order never seeks; not for use from several threads at once."""

    def __init__(self, path: Path, hardware: str | None = None) -> None:
        found = scan(path)
        self.info: ClipInfo = _describe(path, found)
        self._path = path
        self._hardware = hardware
        self._index: FrameIndex = found.index
        self._stored_size_px = (found.first.width, found.first.height)
        self._mirrored, self._turns = _orientation(found.first)
        self._reader = BgrReader(found.first.format.name, self.info.color, found.first.height)
        self._container: InputContainer | None = None
        self._stream: VideoStream
        self._run: Iterator[tuple[int, av.VideoFrame]] | None = None
        self._next = 0  # the frame that _run gives next
        self._at_start = True
        self._open()
        if hardware is not None:
            self._check_device(found.first.pts, hardware)

    def __len__(self) -> int:
        return len(self._index)

    def frame(self, index: int) -> Image:
        """Frame ``index`` as ``image_bgr_HWC``: uint8, or uint16 (white 65535) for sources over 8 bits, or float32 for
        float ones.

        IndexError outside 0 to ``len(self) - 1``. MediaError CORRUPT_FRAME where it cannot be decoded soundly.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self._path.name} has frames 0 to {len(self) - 1}, not {index}")
        return self._image(index, self._decoded(index))

    def frames(
        self, start: int, stop: int, *, on_corrupt: Callable[[MediaError], None] | None = None
    ) -> Iterator[tuple[int, Image]]:
        """(number, frame) for ``start`` up to but without ``stop``, in order; as ``frame``.

        With ``on_corrupt``, frames that damage has lost are handed to it one by one as CORRUPT_FRAME instead of
        raising: the damaged one and those that are built from it, up to the next keyframe, where reading goes on.
        """
        index = start
        while index < stop:
            try:
                image_bgr_HWC = self.frame(index)
            except MediaError as error:
                if on_corrupt is None or error.reason != "CORRUPT_FRAME" or error.frame_index is None:
                    raise
                resume = min(stop, self._sound_again(max(index, error.frame_index)))
                for lost in range(index, resume):
                    on_corrupt(self._lost(lost, error))
                index = resume
                continue
            yield index, image_bgr_HWC
            index += 1

    def time_s(self, index: int) -> float:
        """When frame ``index`` is shown, in seconds on the file's own timeline (which its audio shares)."""
        return float(self._index.times_s[index])

    def close(self) -> None:
        """Let the file go. Frames can no longer be read."""
        self._run = None
        if self._container is not None:
            self._container.close()
            self._container = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        if self._hardware is None:
            self._container = open_input(self._path)
            self._stream = video_stream(self._container, self._path.name)
        else:
            self._container = open_on_device(self._path, self._hardware)
            self._stream = video_stream(self._container, self._path.name)
            self._stream.thread_count = 1  # the device decodes; threads here would only hold more of its surfaces

    def _check_device(self, first_stamp: int | None, hardware: str) -> None:
        """A device that takes the codec may not take this kind of it (4:2:2, 10 bit): it has to give the first frame."""
        assert self._container is not None
        frames = decode(self._container, self._stream, counted=False)
        if next((frame.pts for frame in frames), None) != first_stamp:
            self.close()
            raise MediaError(
                "UNSUPPORTED",
                f"{hardware} does not decode {self.info.codec} {self.info.pixel_format} as in {self._path.name}; "
                "decode it without hardware",
            )
        self.close()
        self._open()

    def _sound_again(self, damaged: int) -> int:
        """The next frame at which decoding can start anew; the number of frames where there is none."""
        later = self._index.key_before(damaged) + 1
        return self._index.key_frames[later] if later < len(self._index.key_frames) else len(self)

    def _lost(self, index: int, cause: MediaError) -> MediaError:
        """What to say of frame ``index``, lost through ``cause``."""
        if index == cause.frame_index:
            text = f"frame {index} of {self._path.name} is damaged; get a sound copy"
        else:
            text = (
                f"frame {index} of {self._path.name} is lost with frame {cause.frame_index}, which is damaged and "
                "which it is built from; get a sound copy"
            )
        return MediaError("CORRUPT_FRAME", text, frame_index=index)

    def _image(self, index: int, frame: av.VideoFrame) -> Image:
        if (frame.width, frame.height) != self._stored_size_px:
            raise MediaError(
                "UNSUPPORTED",
                f"{self._path.name} changes its size to {frame.width}x{frame.height} at frame {index}; cut it there",
                frame_index=index,
            )
        image_bgr_HWC = self._reader.read(frame)
        if self._mirrored:
            image_bgr_HWC = np.asarray(cv2.flip(image_bgr_HWC, 1))
        if self._turns:
            image_bgr_HWC = np.asarray(cv2.rotate(image_bgr_HWC, _CV_TURNS[self._turns]))
        return image_bgr_HWC

    def _decoded(self, index: int) -> av.VideoFrame:
        key = self._index.key_before(index)
        if self._run is not None and self._next <= index and self._index.key_frames[key] <= self._next:
            return self._forward(self._run, index)
        step = 1
        while True:
            try:
                return self._forward(self._begin(key), index)
            except MediaError as error:
                # A keyframe at which this decoder does not start (a gradual refresh): begin at an earlier one, up to
                # the first.
                if key == 0 or error.frame_index is None or error.frame_index > self._index.key_frames[key]:
                    raise
                key = max(0, key - step)
                step *= 2

    def _forward(self, run: Iterator[tuple[int, av.VideoFrame]], index: int) -> av.VideoFrame:
        try:
            for number, frame in run:
                self._next = number + 1
                if number == index:
                    return frame
        except MediaError:
            self._run = None
            raise
        raise AssertionError("a run ends with the last frame or with an error")

    def _begin(self, key: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """A new run of frames from the keyframe at position ``key``."""
        if self._container is None:
            raise ValueError(f"{self._path.name} was closed; open it again")
        if not (self._at_start and key == 0):
            self._seek(key)
        self._at_start = False
        if self._stream.codec_context.reorder_depth < self._index.reorder_depth:
            # Forgotten on a seek by decoders that learn it from the stream; they would then drop frames that come late.
            self._stream.codec_context.reorder_depth = self._index.reorder_depth
        self._next = self._index.key_frames[key]
        self._run = self._sound_frames(self._next)
        return self._run

    def _seek(self, key: int) -> None:
        if key > 0:
            assert self._container is not None
            self._container.seek(self._index.key_seek[key], stream=self._stream)
            return
        # Not every format can seek to its start (negative stamps, raw streams); opening it anew always leads there.
        self.close()
        self._open()

    def _sound_frames(self, first: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames from number ``first`` on, each held back until everything decoded before it came out sound."""
        index = self._index
        assert self._container is not None
        held: dict[int, av.VideoFrame] = {}
        expected = upcoming = first  # the number that comes out of the decoder next; that is handed out next
        damaged = None
        for frame in decode(self._container, self._stream, counted=index.counted):
            number = index.frame_of_stamp.get(frame.pts, -1) if frame.pts is not None else -1
            if number < expected:
                continue  # a picture before the keyframe that shares its group, or one that an edit list hides
            if number > expected or frame.is_corrupt or number in index.suspect:
                damaged = self._first_decoded(expected, max(number, expected + 1))
                break
            held[number] = frame
            expected += 1
            while upcoming in held and index.horizon[upcoming] < expected:
                yield upcoming, held.pop(upcoming)
                upcoming += 1
        if damaged is None and expected < len(index):
            damaged = self._first_decoded(expected, len(index))
        while upcoming in held and (damaged is None or index.decode_rank[upcoming] < index.decode_rank[damaged]):
            yield upcoming, held.pop(upcoming)
            upcoming += 1
        if damaged is not None:
            later = self._sound_again(damaged)
            rest = f"decoding can go on at frame {later}" if later < len(index) else "nothing after it can be trusted"
            raise MediaError(
                "CORRUPT_FRAME",
                f"frame {damaged} of {self._path.name} is damaged, so frame {upcoming} cannot be given; {rest}; "
                "get a sound copy, or cut around it",
                frame_index=damaged,
            )

    def _first_decoded(self, start: int, stop: int) -> int:
        """The frame from ``start`` up to ``stop`` that is decoded first: where several are missing, the others miss
        because of it."""
        return start + int(np.argmin(self._index.decode_rank[start:stop]))


def _orientation(frame: av.VideoFrame) -> tuple[bool, int]:
    """(mirrored, clockwise quarter turns) that bring the decoded picture upright."""
    side_data: Iterable[SideData] = frame.side_data  # type: ignore[assignment] # PyAV's stub describes another class
    for data in side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = struct.unpack("=9i", memoryview(data))[:5]
            scale = max(abs(value) for value in (a, b, c, d)) or 1
            signs = tuple(round(value / scale) for value in (a, b, c, d))
            straight = all(abs(value / scale - sign) < 1e-3 for value, sign in zip((a, b, c, d), signs, strict=True))
            if not straight or signs not in _ORIENTATIONS:
                raise MediaError(
                    "UNSUPPORTED", "the clip's display matrix is no multiple of 90 degrees; convert the clip first"
                )
            return _ORIENTATIONS[signs]
    return False, 0


def _describe(path: Path, found: Scan) -> ClipInfo:
    first, index = found.first, found.index
    color = tags_of(first)
    reader = BgrReader(first.format.name, color, first.height)
    _, turns = _orientation(first)
    with open_input(path) as container:
        stream = video_stream(container, path.name)
        nominal = [rate for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
        rate, variable = _rate(found, nominal, time_base_of(stream))
        timecode = _timecode(container)
        pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
        audio = tuple(
            AudioInfo(
                stream_index=track.index,
                codec=track.codec_context.name if track.codec_context else "unknown",
                sample_rate_hz=track.codec_context.sample_rate if track.codec_context else 0,
                channels=track.codec_context.channels if track.codec_context else 0,
                layout=track.codec_context.layout.name if track.codec_context else "unknown",
                duration_s=found.audio_duration_s.get(track.index, 0.0),
            )
            for track in container.streams.audio
        )
        codec = stream.codec_context.name
    size_px = (first.height, first.width) if turns % 2 else (first.width, first.height)
    start_s = float(index.times_s[0])
    last_s = found.last_frame_duration_s if variable and found.last_frame_duration_s else 1 / float(rate)
    return ClipInfo(
        kind="video",
        frame_count=len(index),
        rate=rate,
        variable_rate=variable,
        width=size_px[0],
        height=size_px[1],
        rotation_deg=90 * turns,
        pixel_format=first.format.name,
        bit_depth=reader.bit_depth,
        color=color,
        timecode=timecode,
        start_time_s=start_s,
        duration_s=float(index.times_s[-1]) - start_s + last_s,
        audio=audio,
        codec=codec,
        pixel_aspect=1 / pixel_aspect if turns % 2 else pixel_aspect,
    )


def _rate(found: Scan, nominal: list[Fraction], time_base: Fraction) -> tuple[Fraction, bool]:
    """The constant rate that the frame times follow, to the rounding of the file's clock; else their average, and
    True."""
    times_s_N = found.index.times_s
    count = len(times_s_N)
    if count < 2:
        return (nominal[0] if nominal else Fraction(25)), False
    steps_N = np.arange(count)
    for rate in map(_standard, nominal):
        if np.max(np.abs(times_s_N - times_s_N[0] - steps_N / float(rate))) <= 1.01 * float(time_base):
            return rate, False
    average = Fraction((count - 1) / float(times_s_N[-1] - times_s_N[0])).limit_denominator(100_000)
    even = np.max(np.abs(times_s_N - times_s_N[0] - steps_N / float(average))) <= 1.01 * float(time_base)
    return average, not bool(even)


def _standard(rate: Fraction) -> Fraction:
    """The standard rate that ``rate`` is a rounding of (a clock of milliseconds cannot say 60000/1001), else itself."""
    for standard in _STANDARD_RATES:
        if abs(rate / standard - 1) < Fraction(1, 10_000):
            return standard
    return rate


def _timecode(container: InputContainer) -> str | None:
    """The start timecode, from wherever the format keeps it: the file, the video stream, or a timecode track."""
    for metadata in (container.metadata, *(stream.metadata for stream in container.streams)):
        if timecode := metadata.get("timecode") or metadata.get("TIMECODE"):
            return str(timecode)
    return None
