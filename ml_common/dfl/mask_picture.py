"""The applied XSeg mask as DeepFaceLab keeps it: an encoded picture of one channel, inside the metadata.

Easy to get wrong: it is the file of a picture, PNG or JPEG, not its pixels, and of any size: consumers resize it to the
face. Source: spec: faceset, section 11.2.
"""

from __future__ import annotations

import zlib
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_common.dfl.jpeg_segments import read_structure

MAX_MASK_BYTES: Final = 50_000
"""DeepFaceLab's own limit, which leaves the rest of the segment to the points."""

_MAX_SIDE_PX: Final = 4096
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


def media_type_of(data: bytes) -> str:
    """`image/png` or `image/jpeg`; ValueError for other data."""
    if data.startswith(_PNG_SIGNATURE):
        return "image/png"
    if data.startswith(b"\xff\xd8"):
        return "image/jpeg"
    raise ValueError("a mask must be a PNG or a JPEG")


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """The mask [H, W], uint8, 255 is face. ValueError when the picture is damaged or has more than one channel."""
    if media_type_of(data) == "image/png":
        data, width, height = _plain_png(data)
    else:
        structure = read_structure(data)
        width, height = structure.width_px, structure.height_px
    if max(width, height) > _MAX_SIDE_PX:
        raise ValueError(f"the mask is larger than {_MAX_SIDE_PX} px")
    try:
        mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError("the mask's picture is damaged") from error
    if mask is None:
        raise ValueError("the mask's picture is damaged")
    if mask.ndim == 3 and mask.shape[2] == 1:
        mask = mask[..., 0]
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(f"a mask has one channel of 8 bits, this one {list(mask.shape)} of {mask.dtype}")
    return mask.astype(np.uint8, copy=False)


def encode_mask(mask_HW: NDArray[np.uint8], max_bytes: int = MAX_MASK_BYTES) -> bytes:
    """A mask [H, W], uint8, as DeepFaceLab stores it: PNG, or a JPEG of the best quality that fits `max_bytes`.

    ValueError for another shape or dtype, and when not even the poorest JPEG fits.
    """
    if mask_HW.ndim != 2 or mask_HW.dtype != np.uint8 or not mask_HW.size:
        raise ValueError(f"a mask must be an array [H, W] of uint8, not {list(mask_HW.shape)} of {mask_HW.dtype}")
    data = cv2.imencode(".png", mask_HW)[1].tobytes()
    if len(data) <= max_bytes:
        return data
    for quality in range(100, 0, -1):
        data = cv2.imencode(".jpg", mask_HW, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= max_bytes:
            return data
    raise ValueError(f"the mask does not fit into {max_bytes} bytes at any quality; make it smaller")


def fitted_mask(data: bytes, max_bytes: int) -> bytes:
    """The same mask's file if it fits, or the mask encoded anew so that it does. ValueError as the two above."""
    if len(data) <= max_bytes:
        return data
    return encode_mask(decode_mask(data), max_bytes)


def _plain_png(data: bytes) -> tuple[bytes, int, int]:
    """The PNG with nothing in it but the picture, and its width and height; ValueError when it is not whole.

    OpenCV makes room for whatever length a chunk claims, gigabytes in a file of a few kilobytes, so chunks are checked
    here first (PNG specification, section 5).
    """
    position, header, kept = len(_PNG_SIGNATURE), b"", [_PNG_SIGNATURE]
    while not kept[-1].startswith(b"\x00\x00\x00\x00IEND"):
        size = int.from_bytes(data[position : position + 4], "big")
        chunk = data[position : position + 12 + size]
        kind = chunk[4:8]
        if len(chunk) < 12 + size or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise ValueError("the mask's picture is damaged")
        if (kind == b"IHDR") != (position == len(_PNG_SIGNATURE)):
            raise ValueError("the mask's picture is damaged")
        if kind == b"IHDR":
            header = chunk[8:-4]
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            kept.append(chunk)
        position += len(chunk)
    if len(header) != 13 or header[9] != 0 or header[8] > 8:
        raise ValueError("a mask has one channel of 8 bits")
    return b"".join(kept), int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
