"""Which frames a video file has, and when each is shown: built once, so that frame i means the same to everybody.

What one would get wrong: neither the header's frame count nor the number of packets is the number of frames. Edit lists
hide packets, some codecs send packets that are never shown or two packets for one frame, and a clip cut inside an open
group starts with pictures that nothing can decode. Where one packet is one frame by construction the packets are read
and the first group decoded; everywhere else the whole clip is decoded once.

Shapes: N frames in presentation order, K keyframes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ml_common.media.container import open_input, time_base_of, video_stream
from ml_common.media.errors import MediaError
from ml_common.media.structure import is_cut_short

# One packet is one shown frame, unless the picture is interlaced (then two packets may be the two fields of one).
_ONE_PACKET_ONE_FRAME = {
    "h264",
    "hevc",
    "av1",
    "libdav1d",
    "vp9",
    "libvpx-vp9",
    "prores",
    "dnxhd",
    "mjpeg",
    "ffv1",
    "huffyuv",
    "ffvhuff",
    "utvideo",
    "magicyuv",
    "rawvideo",
    "v210",
    "cfhd",
    "qtrle",
    "png",
    "jpeg2000",
}
# Formats that are sought by decoding stamps: MP4's own table is sorted by them; in MPEG streams a seek to when a keyframe
# is shown would end behind it.
_SOUGHT_BY_DTS = ("mov", "mpeg")
# Formats of which a piece from the middle is a proper file.
_JOINED_ANYWHERE = {"mpegts", "mpeg", "mpegvideo", "h264", "hevc"}


@dataclass(frozen=True, slots=True)
class FrameIndex:
    """Where frame i is.

    ``stamps`` (N): the stamp by which a decoded frame is recognised, in presentation order. ``decode_rank`` (N): how many
    frames are decoded before it. ``horizon`` (N): the last frame in presentation order among those decoded up to it.
    ``key_frames`` (K): the frames at which decoding can start, ascending from frame 0 (the start of the file), and
    ``key_seek`` (K) the stamp to seek to for each. ``counted``: the file has no usable stamps, packets are stamped by
    counting them and reading always starts at the beginning. ``reorder_depth``: frames a decoder has to hold back to
    put them in order. ``suspect``: frames of which the container says that bytes are missing, whatever the decoder
    makes of the rest.
    """

    stamps: NDArray[np.int64]
    times_s: NDArray[np.float64]
    decode_rank: NDArray[np.int64]
    horizon: NDArray[np.int64]
    key_frames: list[int]
    key_seek: list[int]
    counted: bool
    reorder_depth: int
    frame_of_stamp: dict[int, int] = field(repr=False)
    suspect: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.stamps)

    def key_before(self, frame: int) -> int:
        """Position in ``key_frames`` of the last keyframe at or before ``frame`` in presentation order.

        At or before in *presentation*: the pictures between a keyframe of an open group and the one before it are
        decoded after it, but from both.
        """
        return max(0, bisect_right(self.key_frames, frame) - 1)


@dataclass(frozen=True, slots=True)
class Scan:
    """The index with what the walk through the file found on the way: ``first`` decoded frame, sound durations by
    stream index."""

    index: FrameIndex
    first: av.VideoFrame
    last_frame_duration_s: float | None
    audio_duration_s: dict[int, float]


@dataclass(slots=True)
class _Packets:
    pts: list[int | None]
    dts: list[int | None]
    key: list[bool]
    duration: list[int]
    audio_span_s: dict[int, tuple[float, float]]
    suspect: set[int]  # stamps of packets that lack bytes
    broken: bool  # the file ends in the middle of a packet


def scan(path: Path) -> Scan:
    """Walk through the file and build its index.

    MediaError NOT_MEDIA, NO_VIDEO, NO_FRAMES, UNSUPPORTED; TRUNCATED (with ``decodable_frames``) when the file is cut
    short.
    """
    with open_input(path) as container:
        stream = video_stream(container, path.name)
        codec, time_base = stream.codec_context.name, time_base_of(stream)
        rate = stream.average_rate or stream.guessed_rate
        any_start = container.format.name in _JOINED_ANYWHERE
        by_dts = container.format.name.startswith(_SOUGHT_BY_DTS)
        packets = _read_packets(container, stream)
    short = packets.broken or is_cut_short(path)
    if not packets.pts and not short:
        raise MediaError("NO_FRAMES", f"{path.name} has a video stream without a single frame; export it again")
    first = _first_frame(path)
    if short:
        count = _sound_count(_decoded_stamps(path, counted=True))
        raise MediaError(
            "TRUNCATED",
            f"{path.name} is cut short: {count} frames at its start can be decoded; "
            "copy it again, or cut it to those frames",
            decodable_frames=count,
        )
    if first is None:
        raise MediaError(
            "NO_FRAMES", f"none of the {len(packets.pts)} frames in {path.name} can be decoded; export it again"
        )

    if codec in _ONE_PACKET_ONE_FRAME and not first.interlaced_frame and _distinct(packets.pts):
        # Pictures shown before the first one decoded that do not come out were cut off from what they need, and are no
        # frames. Where a first packet does not come out it is a damaged frame, and keeps its number; but streams may
        # start anywhere.
        starts = (first.pts,) if any_start else (first.pts, packets.pts[0])
        begin = min(pts for pts in starts if pts is not None)
        stamps = sorted(pts for pts in packets.pts if pts is not None and pts >= begin)
    else:
        decoded = _decoded_stamps(path, counted=False)
        found = [stamp for stamp, _ in decoded]
        known = set(packets.pts)
        if _distinct(found) and all(stamp in known for stamp in found):
            stamps = _with_lost_ones(decoded, packets)
        else:
            return _counted_scan(path, first, packets, rate)
    index = _stamped_index(stamps, packets, time_base, by_dts)
    # MP4 knows durations in decoding order only: that of the last packet holds if its frame is also shown last.
    last_duration = packets.duration[-1] if packets.pts[-1] == stamps[-1] else 0
    return Scan(
        index=index,
        first=first,
        last_frame_duration_s=float(last_duration * time_base) if last_duration > 0 else None,
        audio_duration_s={number: end - max(start, 0.0) for number, (start, end) in packets.audio_span_s.items()},
    )


def decode(container: InputContainer, stream: VideoStream, *, counted: bool) -> Iterator[av.VideoFrame]:
    """Frames from where the container stands, as far as they can be decoded.

    A packet that the decoder refuses gives no frame: the caller sees by the stamps which one is missing. ``counted``
    stamps each packet with its number since the start of the file.
    """
    number = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):
            return  # what the file lacks is missing from the stamps, too
        if counted and packet.size:
            packet.pts = number
            number += 1
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        yield from frames


def _read_packets(container: InputContainer, stream: VideoStream) -> _Packets:
    found = _Packets([], [], [], [], {}, set(), broken=False)
    packets = container.demux(stream, *container.streams.audio)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return found
        except av.error.FFmpegError:
            found.broken = True
            return found
        if not packet.size:
            continue
        if packet.stream.index != stream.index:
            if packet.pts is not None:
                start = float(packet.pts * packet.time_base)
                end = start + float((packet.duration or 0) * packet.time_base)
                before = found.audio_span_s.get(packet.stream_index, (start, end))
                found.audio_span_s[packet.stream_index] = (min(before[0], start), max(before[1], end))
            continue
        found.broken = (
            packet.is_corrupt
        )  # the last one counts: in the middle it is damage, at the end the end is missing
        if packet.is_corrupt and packet.pts is not None:
            found.suspect.add(packet.pts)
        if packet.is_discard:
            continue
        found.pts.append(packet.pts)
        found.dts.append(packet.dts)
        found.key.append(packet.is_keyframe)
        found.duration.append(packet.duration or 0)


def _first_frame(path: Path) -> av.VideoFrame | None:
    with open_input(path) as container:
        return next(decode(container, video_stream(container, path.name), counted=False), None)


def _decoded_stamps(path: Path, *, counted: bool) -> list[tuple[int | None, bool]]:
    """(stamp, whether it came out sound) of all frames from the start, in presentation order."""
    with open_input(path) as container:
        return [
            (frame.pts, not frame.is_corrupt)
            for frame in decode(container, video_stream(container, path.name), counted=counted)
        ]


def _sound_count(decoded: list[tuple[int | None, bool]]) -> int:
    """How many frames come before the first damaged one."""
    return next((number for number, (_, sound) in enumerate(decoded) if not sound), len(decoded))


def _with_lost_ones(decoded: list[tuple[int | None, bool]], packets: _Packets) -> list[int]:
    """Stamps of all frames where some are damaged: those that came out, and those of which nothing did.

    The latter are known where, before the damage, every packet was a frame.
    """
    stamps = [stamp for stamp, _ in decoded if stamp is not None]
    sound = stamps[: _sound_count(decoded)]
    if not sound or len(sound) == len(stamps):
        return stamps
    of_packets = sorted(stamp for stamp in packets.pts if stamp is not None and stamp >= stamps[0])
    whole = bisect_right(of_packets, sound[-1]) == len(sound) and len(set(of_packets)) == len(of_packets)
    return of_packets if whole else stamps


def _distinct(stamps: list[int | None]) -> bool:
    return None not in stamps and len(set(stamps)) == len(stamps)


def _stamped_index(stamps: list[int], packets: _Packets, time_base: Fraction, by_dts: bool) -> FrameIndex:
    """Index of frames that carry the stamps of their packets."""
    frame_of_stamp = {stamp: frame for frame, stamp in enumerate(stamps)}
    order: list[int] = []  # frames in decoding order
    key_frames = [0]
    key_seek = [stamps[0]]
    for pts, dts, key in zip(packets.pts, packets.dts, packets.key, strict=True):
        frame = frame_of_stamp.get(pts) if pts is not None else None
        if frame is None or pts is None:
            continue
        order.append(frame)
        if key and frame > key_frames[-1]:
            key_frames.append(frame)
            key_seek.append(dts if by_dts and dts is not None else pts)
    stamps_N = np.asarray(stamps, np.int64)
    index = _index(
        stamps_N, np.asarray(stamps_N * float(time_base), np.float64), order, key_frames, key_seek, counted=False
    )
    suspect = frozenset(frame_of_stamp[stamp] for stamp in packets.suspect if stamp in frame_of_stamp)
    return replace(index, suspect=suspect)


def _counted_scan(path: Path, first: av.VideoFrame, packets: _Packets, rate: Fraction | None) -> Scan:
    """Scan of a file without usable stamps: packets are numbered, and frames come ``rate`` apart."""
    decoded = _decoded_stamps(path, counted=True)
    numbers = [stamp for stamp, _ in decoded[: _sound_count(decoded)] if stamp is not None]
    if len(numbers) < len(decoded):
        raise MediaError(
            "CORRUPT_FRAME",
            f"frame {len(numbers)} of {path.name} is damaged, and the file has no time stamps to go on by; "
            "export it again",
            frame_index=len(numbers),
        )
    if rate is None:
        raise MediaError(
            "UNSUPPORTED", f"{path.name} says neither a frame rate nor frame times; put it in an MP4 or MKV first"
        )
    index = _index(
        np.asarray(numbers, np.int64),
        np.arange(len(numbers)) / float(rate),
        sorted(range(len(numbers)), key=numbers.__getitem__),
        [0],
        [0],
        counted=True,
    )
    return Scan(
        index, first, 1 / float(rate), {n: end - max(start, 0.0) for n, (start, end) in packets.audio_span_s.items()}
    )


def _index(
    stamps_N: NDArray[np.int64],
    times_s_N: NDArray[np.float64],
    order: list[int],
    key_frames: list[int],
    key_seek: list[int],
    *,
    counted: bool,
) -> FrameIndex:
    order_N = np.asarray(order, np.int64)
    rank_N = np.empty_like(order_N)
    rank_N[order_N] = np.arange(len(order_N))
    horizon_N = np.empty_like(order_N)
    horizon_N[order_N] = np.maximum.accumulate(order_N)
    return FrameIndex(
        stamps=stamps_N,
        times_s=times_s_N,
        decode_rank=rank_N,
        horizon=horizon_N,
        key_frames=key_frames,
        key_seek=key_seek,
        counted=counted,
        reorder_depth=int(np.max(rank_N - np.arange(len(rank_N)))),
        frame_of_stamp={int(stamp): frame for frame, stamp in enumerate(stamps_N)},
    )
