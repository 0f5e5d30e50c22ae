"""Brings any picture that a decoder hands over to uint8 BGR: for detection, previews and faceset pictures.

What a reader would get wrong: eight bits are enough there, because they are looked at or learned from; no pixel of a
merged frame passes through this.

Legend: H height, W width, C channels (none or 1: grey, 3: BGR, 4: BGRA, alpha ignored).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

U8Array = np.ndarray[Any, np.dtype[np.uint8]]


def as_bgr_u8(image_bgr_HWC: np.ndarray[Any, Any]) -> U8Array:
    """Returns the picture as contiguous uint8 HWC BGR (no copy when it is that already).

    Takes uint8, uint16 (full range) or float32 (display-referred 0..1; clipped, NaN counts as 0); HW, HW1, HW3 (BGR) or
    HW4 (BGRA). Raises ValueError for another dtype or shape, or an empty picture.
    """
    image = image_bgr_HWC
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"a picture must be H x W with 1, 3 or 4 channels and not empty, got shape {image_bgr_HWC.shape}"
        )
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise ValueError(f"a picture must be uint8, uint16 or float32 (0..1), got {image.dtype}; convert it first")
    image = image[..., :3]
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(np.ascontiguousarray(image), alpha=1.0 / 257.0)
    elif image.dtype == np.float32:
        image = (np.nan_to_num(image, nan=0.0).clip(0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    if image.ndim == 2 or image.shape[2] == 1:
        image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(image)
