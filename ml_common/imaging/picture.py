"""Pictures from bytes and to bytes: PNG, JPEG, TIFF, DPX and OpenEXR, keeping the depth that a file has.

What a reader would get wrong: values are never rescaled by meaning. 8 bits stay uint8, 10 to 16 bits become uint16 with
white at 65535, floats stay as stored: scene-linear EXR values over 1, below 0, NaN and infinity come through as they
are (``as_bgr_u8`` and the like clip them for what only looks). No colour space is converted.

Legend: H height, W width, C channels (B, G, R).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from ml_common.imaging.picture_error import PictureError
from ml_common.imaging.picture_file import (
    MAX_PICTURE_PIXELS,
    Picture,
    PictureHeader,
    codec_of,
    read_header,
    read_picture,
)

__all__ = [
    "MAX_PICTURE_PIXELS",
    "PICTURE_SUFFIXES",
    "Picture",
    "PictureError",
    "PictureHeader",
    "decode_picture",
    "encode_picture",
    "lossless_suffix",
    "media_type_of",
    "read_header",
    "read_picture",
]

_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".dpx": "image/x-dpx",
    ".exr": "image/x-exr",
}
# Lower case, with the dot; all of them are read and written.
PICTURE_SUFFIXES = tuple(_MEDIA_TYPES)

_SUFFIX_OF_CODEC = {"png": ".png", "jpeg": ".jpg", "tiff": ".tif", "dpx": ".dpx", "openexr": ".exr"}
_DEPTHS = {
    ".png": (np.uint8, np.uint16),
    ".jpg": (np.uint8,),
    ".tif": (np.uint8, np.uint16, np.float32),
    ".dpx": (np.uint16,),
    ".exr": (np.float32,),
}
_DEPTH_HINTS = {
    ".png": "PNG takes uint8 and uint16; write float32 as .exr",
    ".jpg": "JPEG takes uint8; write uint16 as .png and float32 as .exr",
    ".tif": "TIFF takes uint8, uint16 and float32",
    ".dpx": "DPX takes uint16 (white 65535); write uint8 as .png and float32 as .exr",
    ".exr": "OpenEXR takes float32; write uint8 and uint16 as .png",
}
_JPEG_MAX_SIDE_PX = 65500
_TIFF_LZW, _TIFF_DIFFERENCES = 5, 2
_NO_DATE = "1970:01:01 00:00:00"  # the writer would put the time of day, and equal pictures would get unequal bytes
_DPX_NAME = range(36, 136)  # SMPTE 268M: the file's name, here that of a scratch file; zeros say that there is none
_HALF_PROBE_STEP = 997  # a prime, so that the probe walks over all columns


def decode_picture(data: bytes, name: str) -> Picture:
    """A picture file's bytes as ``image_bgr_HWC``, 3 channels B, G, R: uint8, uint16 (white 65535) or float32.

    The format is told by the bytes, ``name`` only stands in errors. PNG (palette and 1 to 16 bits), JPEG, TIFF (8, 16
    bits, float), DPX (8, 10, 12, 16 bits) and OpenEXR (half and float, as float32). Grey becomes B = G = R; alpha is
    left out, colours are neither multiplied nor divided by it (premultiplied EXR stays so). EXIF orientation is
    applied. CMYK and YCCK become BGR without a colour profile; those of JPEG are taken as stored inverted, as Adobe
    does and all common readers assume, with or without Adobe's marker. OpenEXR: the first layer with R, G, B
    (one without a name or named like beauty before others), on the display window, black where there are no pixels;
    NaN and infinity stay.

    PictureError: NOT_MEDIA, CORRUPT_FRAME for a file that is cut short or damaged as far as its format can tell (never
    a partly filled picture), UNSUPPORTED, TOO_LARGE over ``MAX_PICTURE_PIXELS`` (before room for pixels is made).
    """
    suffix = _SUFFIX_OF_CODEC.get(codec_of(data) or "", "")
    # The library's Python module opens files only; a name in memory would not be portable.
    with tempfile.NamedTemporaryFile(prefix="picture-", suffix=suffix) as file:
        file.write(data)
        file.flush()
        return read_picture(Path(file.name), name)


def encode_picture(image_bgr_HWC: NDArray[Any], suffix: str, *, jpeg_quality: int = 90) -> bytes:
    """A picture as the bytes of a file; equal pixels give equal bytes.

    ``suffix``: one of ``PICTURE_SUFFIXES``. JPEG: uint8, quality 1 to 100, colour at full resolution (4:4:4). PNG:
    uint8, uint16. TIFF: uint8, uint16, float32, LZW. DPX: uint16, 10 bits where every sample is a 10-bit value
    stretched to 16 bits, else 16 bits. OpenEXR: float32, zip; stored as half where that changes no sample, else as
    float, so that it is always lossless. All but JPEG are.

    ValueError for another suffix, shape, quality, or a depth that the format does not hold (it says what to use).
    """
    kind = {".jpeg": ".jpg", ".tiff": ".tif"}.get(suffix.lower(), suffix.lower())
    if kind not in _DEPTHS:
        raise ValueError(f"pictures are not written as {suffix!r}; use one of {', '.join(PICTURE_SUFFIXES)}")
    if image_bgr_HWC.ndim != 3 or image_bgr_HWC.shape[2] != 3 or 0 in image_bgr_HWC.shape:
        raise ValueError(f"a picture must be (H, W, 3) and not empty, not {image_bgr_HWC.shape}; give BGR")
    if image_bgr_HWC.dtype not in _DEPTHS[kind]:
        raise ValueError(f"{image_bgr_HWC.dtype} cannot be written as {suffix}: {_DEPTH_HINTS[kind]}")
    image_bgr_HWC = np.ascontiguousarray(image_bgr_HWC)
    if kind == ".jpg":
        return _jpeg(image_bgr_HWC, jpeg_quality)
    if kind == ".png":
        return _encoded(image_bgr_HWC, kind, [])
    if kind == ".tif":
        differences = [] if image_bgr_HWC.dtype == np.float32 else [cv2.IMWRITE_TIFF_PREDICTOR, _TIFF_DIFFERENCES]
        return _encoded(image_bgr_HWC, kind, [cv2.IMWRITE_TIFF_COMPRESSION, _TIFF_LZW, *differences])
    return _dpx(image_bgr_HWC) if kind == ".dpx" else _exr(image_bgr_HWC)


def media_type_of(suffix: str) -> str:
    """The media type of a picture suffix, ``.png`` -> ``image/png``. ValueError for any that is not read."""
    if suffix.lower() not in _MEDIA_TYPES:
        raise ValueError(f"{suffix!r} is no picture that is read; use one of {', '.join(PICTURE_SUFFIXES)}")
    return _MEDIA_TYPES[suffix.lower()]


def lossless_suffix(dtype: DTypeLike) -> str:
    """The suffix under which a picture of this type is kept whole: ``.png`` for uint8 and uint16, ``.exr`` for float32.

    ValueError for other types.
    """
    wanted = np.dtype(dtype)
    if wanted in (np.uint8, np.uint16):
        return ".png"
    if wanted == np.float32:
        return ".exr"
    raise ValueError(f"pictures are uint8, uint16 or float32, not {wanted}; convert first")


def _jpeg(image_bgr_HWC: NDArray[Any], quality: int) -> bytes:
    if not 1 <= quality <= 100:
        raise ValueError(f"jpeg_quality={quality}: choose 1 to 100")
    if max(image_bgr_HWC.shape) > _JPEG_MAX_SIDE_PX:
        raise ValueError(f"JPEG holds sides up to {_JPEG_MAX_SIDE_PX} px, not {image_bgr_HWC.shape}; write .png")
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return _encoded(image_bgr_HWC, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling])


def _encoded(image_bgr_HWC: NDArray[Any], suffix: str, settings: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image_bgr_HWC, settings)
    if not done:
        raise ValueError(f"a picture of shape {image_bgr_HWC.shape} could not be written as {suffix}; cut it smaller")
    return data.tobytes()


def _dpx(image_bgr_HWC: NDArray[np.uint16]) -> bytes:
    import OpenImageIO

    stretched = np.array_equal(image_bgr_HWC, (image_bgr_HWC >> 6 << 6) | (image_bgr_HWC >> 10))
    data = _written(image_bgr_HWC, ".dpx", OpenImageIO.UINT16, {"oiio:BitsPerSample": 10 if stretched else 16})
    return data[: _DPX_NAME.start] + bytes(len(_DPX_NAME)) + data[_DPX_NAME.stop :]


def _exr(image_bgr_HWC: NDArray[np.float32]) -> bytes:
    import OpenImageIO

    is_half = _fits_half(image_bgr_HWC.reshape(-1)[::_HALF_PROBE_STEP]) and _fits_half(image_bgr_HWC)
    settings = {"compression": "zip", "DateTime": _NO_DATE}
    return _written(image_bgr_HWC, ".exr", OpenImageIO.HALF if is_half else OpenImageIO.FLOAT, settings)


def _fits_half(samples: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore"):
        return np.array_equal(samples.astype(np.float16).astype(np.float32), samples, equal_nan=True)


def _written(image_bgr_HWC: NDArray[Any], suffix: str, sample: Any, settings: Mapping[str, int | str]) -> bytes:
    import OpenImageIO

    height, width = image_bgr_HWC.shape[:2]
    spec = OpenImageIO.ImageSpec(width, height, 3, sample)
    for key, value in settings.items():
        spec.attribute(key, value)
    with tempfile.TemporaryDirectory(prefix="picture-") as folder:
        path = Path(folder, f"picture{suffix}")
        target = OpenImageIO.ImageOutput.create(str(path))
        if target is None:
            raise ValueError(
                f"this OpenImageIO does not write {suffix} ({OpenImageIO.geterror()}); install the PyPI build"
            )
        rgb_HWC = cv2.cvtColor(image_bgr_HWC, cv2.COLOR_BGR2RGB)
        if not (target.open(str(path), spec) and target.write_image(rgb_HWC) and target.close()):
            raise OSError(f"a picture could not be written as {suffix}: {target.geterror()}")
        return path.read_bytes()
