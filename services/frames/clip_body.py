"""Clips as records: the canonical JSON of Clip and MediaInfo, made of plain values so that workers can write it too.

What a reader would get wrong: a clip that an operation made carries that operation's `actionKey`; messages do not have the field. It
tells a second run of the same work from other work that wants the same name.
"""

from __future__ import annotations

import time
from typing import Any

from ml_common.media import AudioInfo, ClipInfo
from services.kit.errors import AlreadyExists, NotFound
from services.kit.records import Record, Records
from services.kit.storage import ObjectInfo, ObjectStore


def info_body(info: ClipInfo) -> dict[str, Any]:
    """ClipInfo as the JSON of MediaInfo."""
    return {
        "frameCount": str(info.frame_count),
        "frameRate": {"num": str(info.rate.numerator), "den": str(info.rate.denominator)},
        "variableRate": info.variable_rate,
        "image": {
            "width": info.width,
            "height": info.height,
            "channels": 3,
            "pixelType": _pixel_type(info),
            "colorTags": {
                "range": info.color.range,
                "matrix": info.color.matrix,
                "primaries": info.color.primaries,
                "transfer": info.color.transfer,
            },
        },
        "pixelFormat": info.pixel_format,
        "bitDepth": info.bit_depth,
        "rotationDeg": info.rotation_deg,
        "timecode": info.timecode or "",
        "codec": info.codec,
        "audio": [_audio_body(audio) for audio in info.audio],
        "firstFrameNumber": str(info.first_number),
        "missingFrameNumbers": [str(number) for number in info.missing_numbers],
        "duration": _seconds(info.duration_s),
    }


def reference(store: ObjectStore, info: ObjectInfo) -> dict[str, Any]:
    """A stored object as the JSON of ObjectRef."""
    return {
        "uri": store.uri(info.key),
        "digest": {"sha256": info.sha256 or "", "sizeBytes": str(info.size_bytes)},
        "mediaType": info.media_type,
    }


def made_clip(records: Records, name: str, action_key: str) -> Record | None:
    """The clip ``name`` if this very work made it; AlreadyExists when it is another, None when there is none."""
    try:
        record = records.get(name)
    except NotFound:
        return None
    if record.body.get("actionKey") != action_key:
        raise AlreadyExists(f"{name} exists and is another clip: choose another clip id, or delete it")
    return record


def publish_clip(
    records: Records, name: str, *, display_name: str, media: dict[str, Any], info: dict[str, Any], action_key: str
) -> dict[str, Any]:
    """Registers what an operation made, once, and returns the JSON of the clip."""
    body = {
        "name": name,
        "displayName": display_name,
        "media": media,
        "info": info,
        "createTime": now_json(),
        "actionKey": action_key,
    }
    try:
        record = records.create(name, body)
    except AlreadyExists:
        found = made_clip(records, name, action_key)
        if found is None:
            raise
        record = found
    clip = {**record.body, "etag": record.etag}
    del clip["actionKey"]
    return clip


def now_json() -> str:
    """The time as proto JSON writes it, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _pixel_type(info: ClipInfo) -> str:
    if info.is_float:
        return "PIXEL_TYPE_F32"
    return "PIXEL_TYPE_U8" if info.bit_depth <= 8 else "PIXEL_TYPE_U16"


def _audio_body(audio: AudioInfo) -> dict[str, Any]:
    return {
        "streamIndex": audio.stream_index,
        "codec": audio.codec,
        "sampleRateHz": audio.sample_rate_hz,
        "channels": audio.channels,
        "layout": audio.layout,
        "duration": _seconds(audio.duration_s),
    }


def _seconds(seconds: float) -> str:
    return f"{seconds:.6f}s"
