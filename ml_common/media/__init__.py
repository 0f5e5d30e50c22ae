"""Footage in and out: probing, frame-exact reading, lossless segments, and the encoded result.

Start at ``source.py`` (reading) and ``encode.py`` (writing). What one would get wrong: frame numbers are positions
among the frames that are shown, not timestamps times a rate; only that stays true for variable frame rate, edit lists
and gaps.
"""

from ml_common.media.audio import AudioSamples
from ml_common.media.container import notes_in
from ml_common.media.encode import EncodeSettings, encode_video
from ml_common.media.errors import MediaError
from ml_common.media.hardware import hardware_decoders
from ml_common.media.info import AudioInfo, ClipInfo, ColorTags
from ml_common.media.segment import SegmentWriter, read_segment
from ml_common.media.source import FrameSource, open_source, probe
from ml_common.media.timecode import timecode_after

__all__ = [
    "AudioInfo",
    "AudioSamples",
    "ClipInfo",
    "ColorTags",
    "EncodeSettings",
    "FrameSource",
    "MediaError",
    "SegmentWriter",
    "encode_video",
    "hardware_decoders",
    "notes_in",
    "open_source",
    "probe",
    "read_segment",
    "timecode_after",
]
