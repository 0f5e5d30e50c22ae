"""Clips and media facts between messages and plain values."""

from __future__ import annotations

from ml_common.media import AudioInfo, ClipInfo
from services.kit.operations.convert import duration
from understudy.v1 import common_pb2, frame_service_pb2

_PIXEL_TYPES = {8: common_pb2.PIXEL_TYPE_U8, 32: common_pb2.PIXEL_TYPE_F32}


def info_to_message(info: ClipInfo) -> frame_service_pb2.MediaInfo:
    """ClipInfo as MediaInfo."""
    return frame_service_pb2.MediaInfo(
        frame_count=info.frame_count,
        frame_rate=common_pb2.Rational(num=info.rate.numerator, den=info.rate.denominator),
        variable_rate=info.variable_rate,
        image=common_pb2.ImageSpec(
            width=info.width,
            height=info.height,
            channels=3,
            pixel_type=_PIXEL_TYPES.get(info.bit_depth, common_pb2.PIXEL_TYPE_U16),
            color_tags=common_pb2.ColorTags(
                range=info.color.range,
                matrix=info.color.matrix,
                primaries=info.color.primaries,
                transfer=info.color.transfer,
            ),
        ),
        pixel_format=info.pixel_format,
        bit_depth=info.bit_depth,
        rotation_deg=info.rotation_deg,
        timecode=info.timecode or "",
        codec=info.codec,
        audio=[_audio_to_message(audio) for audio in info.audio],
        first_frame_number=info.first_number,
        missing_frame_numbers=info.missing_numbers,
        duration=duration(info.duration_s),
    )


def _audio_to_message(audio: AudioInfo) -> frame_service_pb2.AudioTrack:
    return frame_service_pb2.AudioTrack(
        stream_index=audio.stream_index,
        codec=audio.codec,
        sample_rate_hz=audio.sample_rate_hz,
        channels=audio.channels,
        layout=audio.layout,
        duration=duration(audio.duration_s),
    )
