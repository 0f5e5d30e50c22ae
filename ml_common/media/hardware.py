"""Decoding on a device: which there are, and files opened on one.

What one would get wrong: that FFmpeg was built with a decoder says nothing about the machine. A device counts only when
it opens, and a file only when the device takes its codec; nothing falls back to the processor without a word.
"""

from __future__ import annotations

from pathlib import Path

import av.error
from av.codec import Codec
from av.codec.hwaccel import HWAccel, HWDeviceType, hwdevices_available
from av.container import InputContainer

from ml_common.media.container import open_input
from ml_common.media.errors import MediaError

# What footage comes in; a device that decodes none of these is of no use here.
_CODECS = ("h264", "hevc", "av1", "vp9", "mpeg2video", "mjpeg")


def hardware_decoders() -> list[str]:
    """Names of the devices that are there and decode video, as ``open_source`` takes them: ``cuda`` (NVDEC), ``vaapi``.

    Opens each device for a moment; empty where there is none.
    """
    return [name for name in hwdevices_available() if _opens(name)]


def _opens(name: str) -> bool:
    codec = next((codec for codec in map(_decoder, _CODECS) if codec and _takes(codec, name)), None)
    if codec is None:
        return False
    try:
        HWAccel(name, allow_software_fallback=False).create(codec)
    except (av.error.FFmpegError, NotImplementedError):
        return False
    return True


def _decoder(name: str) -> Codec | None:
    try:
        return Codec(name, "r")
    except av.error.FFmpegError:
        return None


def _takes(codec: Codec, device: str) -> bool:
    return any(
        config.is_supported and config.device_type == HWDeviceType[device] for config in codec.hardware_configs or ()
    )


def open_on_device(path: Path, device: str) -> InputContainer:
    """Open ``path``, a file that the processor decodes, with its video decoded on ``device``; frames are fetched back.

    MediaError UNSUPPORTED where FFmpeg does not know the device, the machine has none, or it does not take the codec.
    """
    known = hwdevices_available()
    if device not in known:
        raise MediaError(
            "UNSUPPORTED", f"this FFmpeg decodes on {', '.join(known) or 'no device'}, not on {device!r}; leave it out"
        )
    try:
        return open_input(path, HWAccel(device, allow_software_fallback=False))
    except RuntimeError as error:  # PyAV's word for a codec that the device's decoders do not take
        raise MediaError(
            "UNSUPPORTED", f"{device} does not decode the video of {path.name}; decode it without hardware"
        ) from error
    except (
        PermissionError,
        MediaError,
    ) as error:  # the file itself was read before: it is the device that does not open
        raise MediaError(
            "UNSUPPORTED",
            f"{path.name} cannot be decoded on {device}: this machine has no such device or its driver does not open "
            "it; decode it without hardware",
        ) from error
