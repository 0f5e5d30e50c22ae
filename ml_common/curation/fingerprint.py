"""What tells equal and nearly equal pictures from others: a digest of the pixels, a 64-bit perceptual hash, a thumbnail.

What a reader would get wrong: aligned faces have eyes and mouth in the same places, so hashes of one person's faces lie much
closer together than those of unrelated pictures. The hash finds candidates; the thumbnails decide.

Legend: HWC = image [height, width, BGR] uint8, HW = grey [height, width].
Source of the hash: C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010 (the DCT hash).
"""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
from numpy.typing import NDArray

THUMBNAIL_PX = 32
DIGEST_BYTES = 16
_HASH_PX, _HASH_SIDE = 32, 8


def pixel_digest(image_bgr_HWC: NDArray[np.uint8]) -> bytes:
    """16 bytes that are equal for equal pixels and sizes: BLAKE2b."""
    digest = hashlib.blake2b(repr(image_bgr_HWC.shape).encode(), digest_size=DIGEST_BYTES)
    digest.update(np.ascontiguousarray(image_bgr_HWC).data)
    return digest.digest()


def perceptual_hash(grey_HW: NDArray[np.uint8]) -> int:
    """64 bits, 0 to 2^64 - 1: which of the 64 lowest horizontal frequencies are above their median."""
    small = cv2.resize(grey_HW, (_HASH_PX, _HASH_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    # Without the first column: it holds the mean, which says nothing about the picture's shape.
    low = cv2.dct(small)[:_HASH_SIDE, 1 : _HASH_SIDE + 1].ravel()
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def thumbnail(image_bgr_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture as the means of 32x32 areas, uint8 [32, 32, 3], whatever its size and shape."""
    small = cv2.resize(image_bgr_HWC, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)
