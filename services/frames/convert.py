"""Clips and requests between messages and plain values."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from google.protobuf import json_format

from ml_common.media import ClipInfo
from services.frames.clip_body import info_body
from services.frames.options import ClipFacts, check_film, frames_to_keep
from services.kit.clip_messages import media_file, selected_frames
from services.kit.errors import InvalidInput
from services.kit.storage import ObjectStore
from understudy.v1 import common_pb2, frame_service_pb2


def info_to_message(info: ClipInfo) -> frame_service_pb2.MediaInfo:
    """ClipInfo as MediaInfo."""
    return json_format.ParseDict(info_body(info), frame_service_pb2.MediaInfo())


def clip_facts(store: ObjectStore, clip: frame_service_pb2.Clip) -> ClipFacts:
    """What planning needs to know of a clip."""
    return ClipFacts(
        name=clip.name,
        file_name=clip.display_name or clip.name.rpartition("/")[2],
        media=media_file(store, clip),
        media_sha256=clip.media.digest.sha256,
        frames=selected_frames(clip, []),
        rate=fraction(clip.info.frame_rate) or Fraction(25),
        bit_depth=clip.info.bit_depth,
        is_float=clip.info.image.pixel_type == common_pb2.PIXEL_TYPE_F32,
        audio_streams=tuple(audio.stream_index for audio in clip.info.audio),
    )


def fraction(rate: common_pb2.Rational) -> Fraction | None:
    """A rate; None when it is unset (``selected_frames`` refuses a wrong one)."""
    return Fraction(rate.num, rate.den) if rate.num > 0 and rate.den > 0 else None


def range_to_keep(clip: ClipFacts, request: frame_service_pb2.CutClipRequest) -> Sequence[int]:
    """The frames that a cut keeps."""
    if not request.HasField("range"):
        raise InvalidInput("range must be set: the first and the last frame kept", fields={"range": "must be set"})
    check_film(clip)
    return frames_to_keep(clip, request.range.first, request.range.last, request.range.step)
