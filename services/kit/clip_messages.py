"""Clip messages as workers and plans need them: what to open, and which frames were asked for."""

from __future__ import annotations

from collections.abc import Sequence

from services.kit.clips import MediaFile
from services.kit.errors import InvalidInput
from services.kit.storage import ObjectStore
from understudy.v1 import common_pb2, frame_service_pb2


def media_file(store: ObjectStore, clip: frame_service_pb2.Clip) -> MediaFile:
    """The media of a clip as workers open it. The rate matters for image sequences alone; unset means what their headers say, else 25."""
    if not clip.media.uri:
        raise InvalidInput(
            "media.uri must be set: send the file first (TransferService.CreateUploadUrls)",
            fields={"media.uri": "must be set"},
        )
    rate = clip.info.frame_rate
    return MediaFile(
        key=store.key_of(clip.media.uri),
        media_type=clip.media.media_type,
        sequence_rate=f"{rate.num}/{rate.den}" if rate.num > 0 and rate.den > 0 else "",
    )


def selected_frames(
    clip: frame_service_pb2.Clip, ranges: Sequence[common_pb2.FrameRange], rate: common_pb2.Rational | None = None
) -> Sequence[int]:
    """The frame numbers of a clip that the ranges select, rising, each once; all when there are no ranges.

    With a ``rate`` (over 0) that is lower than the clip's own, evenly chosen ones of them: of the frames whose time falls into the same
    1 / rate seconds the first. Times are frame numbers over the clip's average rate.
    """
    numbers = _in_ranges(clip, ranges)
    own = clip.info.frame_rate
    if rate is None or not (rate.num or rate.den):
        return numbers
    if rate.num <= 0 or rate.den <= 0:
        raise InvalidInput("frame_rate must be over 0", fields={"frame_rate": "must be over 0"})
    if rate.num * own.den >= own.num * rate.den:
        return numbers
    first = clip.info.first_frame_number
    chosen: dict[int, int] = {}
    for number in numbers:
        chosen.setdefault((number - first) * own.den * rate.num // (own.num * rate.den), number)
    return list(chosen.values())


def _in_ranges(clip: frame_service_pb2.Clip, ranges: Sequence[common_pb2.FrameRange]) -> Sequence[int]:
    first, missing = clip.info.first_frame_number, set(clip.info.missing_frame_numbers)
    numbers = [number for number in range(first, first + clip.info.frame_count + len(missing)) if number not in missing]
    if not ranges:
        return numbers
    wanted: set[int] = set()
    for entry in ranges:
        step = entry.step or 1
        if entry.first > entry.last or step < 0:
            raise InvalidInput(
                f"the range {entry.first}-{entry.last}x{step} holds no frames",
                fields={"ranges": "first must not be over last"},
            )
        wanted.update(n for n in numbers if entry.first <= n <= entry.last and (n - entry.first) % step == 0)
    if not wanted:
        raise InvalidInput(
            f"the ranges select no frame of {clip.name}", reason="NO_FRAMES", fields={"ranges": "select nothing"}
        )
    return sorted(wanted)
