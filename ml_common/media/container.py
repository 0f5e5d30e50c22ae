"""Opening container files, safely and with errors that say what to do.

What one would get wrong: FFmpeg opens far more than films. A playlist named .mp4 would make it fetch other files, and a
text file is a "video" to its terminal-art reader; so only formats that hold footage or sound are let in, and only local
files.
"""

from __future__ import annotations

import os
import secrets
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from ml_common.media.errors import MediaError
from ml_common.media.structure import is_cut_short

_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,mxf,gif,flv,asf,ogg,dv,h264,hevc,yuv4mpegpipe,nut,"
    "wav,mp3,flac,aac,ac3,aiff"
)
MAX_THREADS = 4
_OWN_NOTES = {"major_brand", "minor_version", "compatible_brands", "encoder", "creation_time", "duration", "timecode"}


def worker_threads() -> int:
    """Threads for one decoder or encoder: bounded, because many of them share a machine."""
    return max(1, min(MAX_THREADS, os.cpu_count() or 1))


def open_input(path: Path, accelerator: HWAccel | None = None) -> InputContainer:
    """Open ``path`` for reading. FileNotFoundError where there is none; MediaError NOT_MEDIA or TRUNCATED where it is
    no footage. ``accelerator`` is for ``hardware.open_on_device``."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return av.open(
            str(path),
            mode="r",
            container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
            metadata_errors="replace",
            hwaccel=accelerator,
        )
    except PermissionError:
        raise
    except av.error.FFmpegError as error:
        size_bytes = path.stat().st_size
        if size_bytes and is_cut_short(path):
            raise MediaError(
                "TRUNCATED",
                f"{path.name} ends before its index: no frame of it can be read; copy it again from the source",
                decodable_frames=0,
            ) from error
        if size_bytes and isinstance(error, av.error.EOFError):
            raise MediaError("NO_FRAMES", f"{path.name} has a header and nothing else; export it again") from error
        raise MediaError(
            "NOT_MEDIA",
            f"{path.name} is not a video or sound file that can be read ({error.strerror}); "
            "check that it is what its name says and that it was copied whole",
        ) from error


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """The first stream that is footage (cover pictures are not), set to decode on a bounded number of threads.

    MediaError NO_VIDEO where there is none, UNSUPPORTED where no decoder knows its codec.
    """
    for stream in container.streams.video:
        if stream.disposition & Disposition.attached_pic:
            continue
        if stream.codec_context is None:
            raise MediaError("UNSUPPORTED", f"{name} has video in a codec that cannot be decoded; convert it first")
        stream.thread_type = "AUTO"
        stream.thread_count = worker_threads()
        return stream
    if not container.streams:
        raise MediaError("NO_FRAMES", f"{name} has nothing in it; export it again")
    raise MediaError("NO_VIDEO", f"{name} has no video in it; give a file that has")


def time_base_of(stream: Stream) -> Fraction:
    """The tick of a stream's stamps in seconds; PyAV allows for streams without one, which no demuxer makes."""
    if stream.time_base is None:
        raise MediaError("UNSUPPORTED", "a stream has no clock; put the clip in an MP4 or MKV first")
    return stream.time_base


def notes_in(path: Path) -> dict[str, str]:
    """What people and programs wrote into ``path`` (title, comment), without what belongs to the file itself; errors as
    ``open_input``."""
    with open_input(path) as container:
        return {name: text for name, text in container.metadata.items() if name.lower() not in _OWN_NOTES}


def partial_path(path: Path) -> Path:
    """A name beside ``path`` for a file under way, hidden and unlike that of anybody else who writes the same file."""
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
