"""Between a frame's own dtype and floats from 0 to 1.

What a reader would get wrong: float32 frames are not limited to 0 to 1. Footage has values above white and below black,
and they must come out as they went in; only what the model sees is clipped.

Shape legend: HWC = BGR. uint8 spans 0 to 255, uint16 0 to 65535, float32 0 to 1 (and beyond).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]

_WHITE: dict[np.dtype[Any], int] = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def checked_frame(frame_bgr_HWC: Frame) -> None:
    """ValueError unless the array is a BGR frame of uint8, uint16 or float32."""
    if frame_bgr_HWC.ndim != 3 or frame_bgr_HWC.shape[2] != 3 or 0 in frame_bgr_HWC.shape:
        raise ValueError(f"a frame must be a non-empty BGR array [height, width, 3], got {list(frame_bgr_HWC.shape)}")
    if frame_bgr_HWC.dtype not in _WHITE and frame_bgr_HWC.dtype != np.float32:
        raise ValueError(
            f"a frame must be uint8, uint16 or float32, got {frame_bgr_HWC.dtype}; convert it when reading"
        )


def to_unit(pixels_HWC: Frame) -> NDArray[np.float32]:
    """A float32 copy in which white is 1."""
    white = _WHITE.get(pixels_HWC.dtype)
    if white is None:
        return pixels_HWC.astype(np.float32, copy=True)
    return np.multiply(pixels_HWC, np.float32(1.0 / white), dtype=np.float32)


def from_unit(unit_HWC: NDArray[np.float32], dtype: np.dtype[Any], *, truncate: bool = False) -> Frame:
    """Floats back into a frame's dtype: rounded (or, on request, truncated) and saturated; floats pass as they are."""
    white = _WHITE.get(dtype)
    if white is None:
        return unit_HWC
    scaled = np.clip(unit_HWC * np.float32(white), 0.0, white)
    if not truncate:
        scaled += np.float32(0.5)
    # Converting to an integer type truncates.
    result: Frame = scaled.astype(dtype)
    return result
