"""Merge and encode settings between messages and plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format

from ml_common.media import EncodeSettings
from ml_common.merging import MergeSettings
from services.kit.errors import InvalidInput
from understudy.v1 import common_pb2, merge_service_pb2

Rule = dict[str, Any]


def settings_from_message(message: merge_service_pb2.MergeSettings, field: str) -> dict[str, Any]:
    """Merge settings as plain values, defaults filled in; InvalidInput names what is wrong."""
    given = json_format.MessageToDict(message, preserving_proto_field_name=True)
    given = {name: int(value) if name == "color_seed" else value for name, value in given.items() if value != ""}
    try:
        return MergeSettings.from_dict(given).to_dict()
    except ValueError as error:
        raise InvalidInput(f"{field}: {error}", fields={field: str(error)}) from error


def rules_from_messages(messages: Sequence[merge_service_pb2.FrameSettings]) -> list[Rule]:
    """Settings by frame, in order: ``frames`` is None for all, else a list of numbers."""
    rules: list[Rule] = []
    for index, message in enumerate(messages):
        field = f"settings[{index}]"
        frames = frame_numbers(message.ranges, field) if message.ranges else None
        rules.append({"frames": frames, "settings": settings_from_message(message.settings, field)})
    return rules


def frame_numbers(ranges: Sequence[common_pb2.FrameRange], field: str) -> list[int]:
    """The numbers that ranges name, rising, each once."""
    numbers: set[int] = set()
    for entry in ranges:
        step = entry.step or 1
        if step < 0 or entry.first > entry.last or entry.last - entry.first > 10_000_000:
            raise InvalidInput(
                f"{field}: the range {entry.first}-{entry.last}x{step} holds no frames, or too many",
                fields={field: "bad range"},
            )
        numbers.update(range(entry.first, entry.last + 1, step))
    return sorted(numbers)


def encode_settings(message: merge_service_pb2.EncodeSettings) -> dict[str, Any]:
    """Encode settings as plain values, defaults filled in; InvalidInput names what is wrong."""
    if message.container not in ("", "mp4"):
        raise InvalidInput(
            f"container {message.container!r} is not written: use mp4", fields={"settings.container": "mp4"}
        )
    values: dict[str, Any] = {
        name: getattr(message, name) for name in ("codec", "preset", "pixel_format") if getattr(message, name)
    }
    if message.HasField("bitrate_mbit"):
        values |= {"bitrate_mbit": message.bitrate_mbit, "crf": message.crf if message.HasField("crf") else None}
    elif message.HasField("crf"):
        values["crf"] = message.crf
    try:
        settings = EncodeSettings(**values)
    except ValueError as error:
        raise InvalidInput(f"settings: {error}", fields={"settings": str(error)}) from error
    return {
        "codec": settings.codec,
        "crf": settings.crf,
        "bitrate_mbit": settings.bitrate_mbit,
        "preset": settings.preset,
        "pixel_format": settings.pixel_format,
    }
