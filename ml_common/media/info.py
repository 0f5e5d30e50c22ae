"""What is known about a clip, as plain values.

What one would get wrong: ``frame_count`` counts frames that decode, not what a header claims, and ``width`` x
``height`` are those of the arrays one gets, so after the rotation flag was applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

UNSPECIFIED = "unspecified"
FLOAT_FORMATS = frozenset({"gbrpf16le", "gbrpf32le", "gbrpf32be", "gbrapf32le", "gbrapf32be"})


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """One audio stream. ``layout`` is the channel layout's name (``stereo``, ``5.1``); ``duration_s`` from its
    packets."""

    stream_index: int
    codec: str
    sample_rate_hz: int
    channels: int
    layout: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class ColorTags:
    """Colour tags by their ITU-T H.273 names as FFmpeg spells them, or ``unspecified``: what the file says, never a
    guess.

    ``range`` is ``tv`` (16 to 235) or ``pc`` (0 to 255); ``matrix`` e.g. ``bt709``, ``smpte170m``, ``bt2020nc``, or
    ``gbr`` where the file stores RGB; ``primaries`` e.g. ``bt709``; ``transfer`` e.g. ``bt709``, ``iec61966-2-1``,
    ``smpte2084``.
    """

    range: str = UNSPECIFIED
    matrix: str = UNSPECIFIED
    primaries: str = UNSPECIFIED
    transfer: str = UNSPECIFIED


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """What ``probe`` finds out.

    ``rate`` is in frames per second: the exact constant rate, or the average where ``variable_rate``. ``rotation_deg``
    (0, 90, 180, 270) is how far the stored picture was turned clockwise to be shown; frames come already turned.
    ``bit_depth`` is that of one stored sample: 10 for a 10-bit DPX, 16 for the half floats of OpenEXR (``pixel_format``
    ``gbrpf16le``), 32 for floats. ``start_time_s`` is the time of frame 0 on the file's own timeline, which its audio
    shares. ``pixel_aspect`` is the width of a pixel divided by its height; frames are never resampled for it. A
    sequence's frames are the files that exist: ``first_number`` is the number of frame 0, ``missing_numbers`` the gaps
    after it.
    """

    kind: str
    frame_count: int
    rate: Fraction
    variable_rate: bool
    width: int
    height: int
    rotation_deg: int
    pixel_format: str
    bit_depth: int
    color: ColorTags
    timecode: str | None
    start_time_s: float
    duration_s: float
    audio: tuple[AudioInfo, ...]
    codec: str
    first_number: int = 0
    missing_numbers: tuple[int, ...] = ()
    pixel_aspect: Fraction = Fraction(1)

    @property
    def is_float(self) -> bool:
        """Whether frames are float32; ``bit_depth`` does not tell (half floats have 16)."""
        return self.pixel_format in FLOAT_FORMATS
