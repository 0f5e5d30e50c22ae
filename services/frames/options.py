"""What the tools of clips are told, checked, with defaults filled in: it goes into plans and their action keys.

What a reader would get wrong: values that make no difference are set to one value (the JPEG quality of PNG pictures), so that equal work
has an equal key.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ml_common.media.denoise import MAX_FACTOR, MIN_FACTOR
from ml_common.media.scenes import DEFAULT_THRESHOLD
from services.kit.clips import SEQUENCE_MEDIA_TYPE, MediaFile
from services.kit.errors import InvalidInput

PICTURE_FORMATS = ("png", "jpg", "tif", "exr", "dpx")
DEFAULT_JPEG_QUALITY = 90
MOST_BITRATE_MBIT = 2000.0
DEEPEST_FILM_BITS = 10
_UNFIT = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]+')
_LONGEST_STEM = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFacts:
    """A clip as planning needs it: ``frames`` are all its frame numbers, rising; ``audio_streams`` indices in the container."""

    name: str
    file_name: str
    media: MediaFile
    media_sha256: str
    frames: Sequence[int]
    rate: Fraction
    bit_depth: int
    is_float: bool
    audio_streams: tuple[int, ...]

    @property
    def is_sequence(self) -> bool:
        """Whether its media is a list of pictures."""
        return self.media.media_type == SEQUENCE_MEDIA_TYPE

    @property
    def stem(self) -> str:
        """The file's name without its suffix: pictures made of it begin with it, so that their origin survives. A bare name: what a
        client called its file may hold anything."""
        whole = self.file_name if self.is_sequence else self.file_name.rpartition(".")[0] or self.file_name
        return _UNFIT.sub("_", whole).strip(". ")[:_LONGEST_STEM] or "clip"


@dataclass(frozen=True, slots=True)
class PictureOptions:
    """How frames are written. ``jpeg_quality`` is 0 where it does not matter."""

    format: str
    jpeg_quality: int

    @classmethod
    def of(cls, picture_format: str, jpeg_quality: int) -> PictureOptions:
        """Of a request, where empty and 0 mean the defaults; InvalidInput for what is not known or out of range."""
        chosen = picture_format.lower().lstrip(".") or "png"
        if chosen not in PICTURE_FORMATS:
            raise InvalidInput(
                f"pictures are written as {', '.join(PICTURE_FORMATS)}, not {picture_format!r}",
                reason="UNKNOWN_NAME",
                fields={"format": f"one of {', '.join(PICTURE_FORMATS)}"},
            )
        quality = jpeg_quality or DEFAULT_JPEG_QUALITY
        _within("jpeg_quality", quality, 1, 100)
        return cls(chosen, quality if chosen == "jpg" else 0)

    def to_json(self) -> dict[str, Any]:
        """For a plan."""
        return asdict(self)


def check_factor(factor: int) -> int:
    """The strength of denoising, 1 to 20."""
    _within("factor", factor, MIN_FACTOR, MAX_FACTOR)
    return factor


def check_threshold(threshold: float) -> float:
    """How different the frames of two scenes are, over 0 to 1; 0 for the default."""
    _within("threshold", threshold, 0, 1)
    return threshold or DEFAULT_THRESHOLD


def check_film(clip: ClipFacts) -> None:
    """InvalidInput for a video of float samples, which no film keeps."""
    if clip.is_float and not clip.is_sequence:
        raise InvalidInput(
            f"{clip.name} is a video of float samples: extract its frames as exr and make a clip of them",
            reason="UNSUPPORTED_MEDIA",
        )


def check_bitrate(bitrate_mbit: float) -> float:
    """Megabits a second; 0 for visually lossless."""
    _within("bitrate_mbit", bitrate_mbit, 0, MOST_BITRATE_MBIT)
    return bitrate_mbit


def frames_to_keep(clip: ClipFacts, first: int, last: int, step: int) -> Sequence[int]:
    """The frames of a cut: consecutive ones, both ends included; InvalidInput when the range is empty or leaves the clip."""
    if step > 1 or first > last:
        raise InvalidInput(
            f"a cut keeps consecutive frames: {first}-{last}x{step or 1} is no such range",
            fields={"range": "first must not be over last, step must be 1"},
        )
    frames = [number for number in clip.frames if first <= number <= last]
    if not frames or first < clip.frames[0] or last > clip.frames[-1]:
        raise InvalidInput(
            f"{clip.name} has frames {clip.frames[0]} to {clip.frames[-1]}: {first}-{last} is not within",
            reason="NO_FRAMES",
            fields={"range": f"within {clip.frames[0]} to {clip.frames[-1]}"},
        )
    return frames


def audio_stream(clip: ClipFacts, wished: int | None) -> int | None:
    """Which sound a cut keeps: the wished stream, else the first; None for a clip without sound."""
    if wished is None:
        return clip.audio_streams[0] if clip.audio_streams else None
    if wished not in clip.audio_streams:
        known = ", ".join(map(str, clip.audio_streams)) or "none: it is silent"
        raise InvalidInput(
            f"{clip.name} has no sound stream {wished}; its sound streams are {known}",
            fields={"audio_stream_index": f"one of {known}"},
        )
    return wished


def first_of_each_period(numbers: Sequence[int], times_s: Sequence[float], start_s: float, rate: Fraction) -> list[int]:
    """Evenly chosen frames of a clip of variable rate: of the frames that begin within the same 1/``rate`` seconds after ``start_s`` (when
    the clip's first frame is shown) the first. The rule of ``selected_frames``, with the times themselves.

    A frame that begins up to a millisecond early belongs to the next period: containers round to milliseconds.
    """
    periods = np.floor((np.asarray(times_s) - start_s + 1e-3) * float(rate))
    chosen: dict[float, int] = {}
    for number, period in zip(numbers, periods, strict=True):
        chosen.setdefault(float(period), number)
    return list(chosen.values())


def _within(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN is not within
        raise InvalidInput(
            f"{field} must be {low:g} to {high:g}, not {value:g}", fields={field: f"{low:g} to {high:g}"}
        )
