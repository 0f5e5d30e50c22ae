"""One way to frames, whatever they are stored in.

What one would get wrong: times. ``time_s`` is on the file's own timeline, which may not start at 0; hand it to
``encode_video`` together with the same file as ``audio_from`` and picture and sound stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from ml_common.media.color import Image
from ml_common.media.errors import MediaError
from ml_common.media.info import ClipInfo
from ml_common.media.sequence import SequenceSource, is_sequence
from ml_common.media.video import VideoSource, probe_video


class FrameSource(Protocol):
    """Frames by index, 0 to ``len(source) - 1``; a context manager. One source belongs to one thread."""

    info: ClipInfo

    def __len__(self) -> int: ...

    def frame(self, index: int) -> Image:
        """``image_bgr_HWC``: uint8, or uint16 (white 65535) for sources over 8 bits, or float32 for float sources."""
        ...

    def frames(
        self, start: int, stop: int, *, on_corrupt: Callable[[MediaError], None] | None = None
    ) -> Iterator[tuple[int, Image]]:
        """(index, frame) for ``start`` up to but without ``stop``; reading in order never seeks.

        A damaged frame raises MediaError CORRUPT_FRAME. With ``on_corrupt`` it is handed there instead, once for each
        frame that is left out (``frame_index``), and all other frames come with their own indices and sound pixels.
        Other errors are raised either way.
        """
        ...

    def time_s(self, index: int) -> float:
        """When the frame is shown, in seconds on the timeline that the file's audio shares."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def probe(path: Path, *, sequence_rate: Fraction | None = None) -> ClipInfo:
    """What is in ``path``: a video, a picture, a folder of pictures, or a pattern like ``shot.%04d.png``.

    ``sequence_rate``: frames a second of pictures; None for what DPX and OpenEXR headers say, else 25. A video's
    packets are all read, since frame counts are exact. FileNotFoundError; MediaError NOT_MEDIA, NO_VIDEO, NO_FRAMES,
    UNSUPPORTED, CORRUPT_FRAME where no picture of a sequence has a sound header, or TRUNCATED, which tells in
    ``decodable_frames`` how many frames at the start still decode.
    """
    if is_sequence(path):
        return SequenceSource(path, sequence_rate).info
    return probe_video(path)


def open_source(path: Path, *, sequence_rate: Fraction | None = None, hardware: str | None = None) -> FrameSource:
    """The frames of ``path``, as for ``probe``. A numbered picture stands for itself and all later numbers beside
    it.

    ``hardware``: decode a video on a device, one of ``hardware_decoders()`` (``cuda`` is NVDEC); None for the
    processor. MediaError UNSUPPORTED where there is no such device, it does not decode this codec, or ``path`` holds
    pictures: it is for the caller to open it again without.
    """
    if is_sequence(path):
        if hardware is not None:
            raise MediaError(
                "UNSUPPORTED", f"{path.name} holds pictures, which {hardware} does not decode; leave it out"
            )
        return SequenceSource(path, sequence_rate)
    return VideoSource(path, hardware)
