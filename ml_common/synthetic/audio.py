"""The voice of a synthetic performer: a tone whose loudness follows the mouth.

What a reader would get wrong: the states given are spread evenly over the duration, so that the sound stays in sync
only when `duration_s` is their number divided by the frame rate.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ml_common.synthetic.scene import FrameState

_QUIET, _LOUD = 0.04, 0.80  # amplitude with the mouth shut and wide open


def tone(
    duration_s: float,
    sample_rate: int = 48000,
    *,
    frequency_hz: float = 220.0,
    follow: Sequence[FrameState] | None = None,
) -> NDArray[np.float32]:
    """float32 [samples, 1] in -1..1; amplitude 0.3, or 0.04..0.8 with `mouth_open` of the states to `follow`.

    Raises ValueError for a duration of 0 or less, no states, or a frequency that the sample rate cannot carry.
    """
    if not duration_s > 0:
        raise ValueError(f"duration_s={duration_s}: choose more than 0 seconds.")
    if sample_rate < 1 or not 0 < 2 * frequency_hz < sample_rate / 2:
        raise ValueError(f"{frequency_hz} Hz needs a sample rate above {4 * frequency_hz:.0f} (it has an overtone).")
    if follow is not None and len(follow) == 0:
        raise ValueError("follow holds no states; leave it out for a steady tone.")
    time_s = np.arange(round(duration_s * sample_rate)) / sample_rate
    amplitude: float | NDArray[np.float64] = 0.3
    if follow is not None:
        middle_s = (np.arange(len(follow)) + 0.5) * duration_s / len(follow)
        opening = np.array([state.expression.mouth_open for state in follow])
        amplitude = _QUIET + (_LOUD - _QUIET) * np.interp(time_s, middle_s, opening)
    phase = 2.0 * np.pi * frequency_hz * time_s
    voice = amplitude * (0.8 * np.sin(phase) + 0.2 * np.sin(2.0 * phase))
    return voice.astype(np.float32)[:, None]
