"""SMPTE timecode (ST 12-1) as a count of frames, and back.

What one would get wrong: at 29.97 and 59.94 frames per second a ``;`` before the frames means that numbers are dropped:
the first 2 (or 4) frame *numbers* of every minute but each tenth, so that the clock on the wall is kept. No frame is
dropped.
"""

from __future__ import annotations

import re
from fractions import Fraction

_TIMECODE = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)")
_DROPPED_OF_BASE = {30: 2, 60: 4}


def timecode_after(timecode: str, frames: int, rate: Fraction) -> str:
    """``timecode`` of the frame ``frames`` (0 or more) frames later, at ``rate`` frames per second; it begins again after
    24 hours.

    ValueError where it is none, or has more frames than a second.
    """
    match = _TIMECODE.fullmatch(timecode)
    if match is None:
        raise ValueError(f"timecode {timecode!r} is not of the form 01:00:00:00")
    base = round(rate)
    hours, minutes, seconds, frame = (int(match[at]) for at in (1, 2, 3, 5))
    if base < 1 or frame >= base:
        raise ValueError(f"timecode {timecode} has frame {frame}, but a second has {base} frames")
    dropped = _DROPPED_OF_BASE.get(base, 0) if match[4] in ";." else 0
    whole_minutes = 60 * hours + minutes
    count = (60 * whole_minutes + seconds) * base + frame - dropped * (whole_minutes - whole_minutes // 10)
    count = (count + frames) % (24 * 6 * (600 * base - 9 * dropped))
    if dropped:
        tens, rest = divmod(count, 600 * base - 9 * dropped)
        # The first minute of ten is whole, the other nine lack the numbers that are dropped.
        count += dropped * (9 * tens + max(0, (rest - dropped) // (60 * base - dropped)))
    seconds, frame = divmod(count, base)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{match[4]}{frame:02}"
