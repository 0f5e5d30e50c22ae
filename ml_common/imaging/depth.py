"""Pictures from one sample type to another: 255, 65535 and 1.0 are the same white.

What a reader would get wrong: float pictures may hold more than white and less than black; whole numbers cannot, and are clipped there.

Legend: H height, W width, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_WHITES = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}


def as_depth(image_HWC: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """The picture as uint8, uint16 or float32 ``dtype``; itself when it is that already.

    Rounds to nearest; clips float samples to 0..1 for whole numbers, NaN to 0. ValueError for other types.
    """
    wanted = np.dtype(dtype)
    if wanted.name not in _WHITES or image_HWC.dtype.name not in _WHITES:
        raise ValueError(f"pictures are uint8, uint16 or float32, not {image_HWC.dtype} to {wanted}; convert first")
    if image_HWC.dtype == wanted:
        return image_HWC
    scale = _WHITES[wanted.name] / _WHITES[image_HWC.dtype.name]
    if wanted == np.float32:
        return np.asarray(image_HWC * np.float32(scale))
    if image_HWC.dtype == np.uint8:
        return np.asarray(image_HWC.astype(np.uint16) * np.uint16(257))
    scaled = np.nan_to_num(image_HWC.astype(np.float32), nan=0.0, posinf=np.inf, neginf=-np.inf) * np.float32(scale)
    return np.asarray((scaled.clip(0, _WHITES[wanted.name]) + np.float32(0.5)).astype(wanted))
