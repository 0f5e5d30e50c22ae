"""Colour tags and the conversion between stored pictures (mostly YUV) and BGR arrays.

What one would get wrong: swscale's quick path for 8-bit 4:2:0 darkens a picture by a whole level each way and repeats
chroma instead of interpolating it, and for 16-bit output it puts white at 65280 or 65472. The flags and the scale below
undo both; the tests compare with the formulas of ITU-R BT.601, BT.709 and BT.2020.

Footage without a matrix tag is read, and written, as BT.601 up to 576 lines and as BT.709 above, as players do; without
a range tag as ``tv``. The tags themselves stay ``unspecified``.

Shapes: H height, W width, C channels (B, G, R).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from ml_common.media.container import worker_threads
from ml_common.media.errors import MediaError
from ml_common.media.info import UNSPECIFIED, ColorTags

Image = NDArray[np.uint8 | np.uint16 | np.float32]

# The numbers of ITU-T H.273; the names are FFmpeg's.
_RANGES = {1: "tv", 2: "pc"}
_MATRICES = {
    0: "gbr",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
    11: "smpte2085",
    12: "chroma-derived-nc",
    13: "chroma-derived-c",
    14: "ictcp",
}
_PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
    22: "jedec-p22",
}
_TRANSFERS = {
    1: "bt709",
    4: "gamma22",
    5: "gamma28",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    9: "log100",
    10: "log316",
    11: "iec61966-2-4",
    12: "bt1361e",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
}
# The matrices that swscale can apply; the other ones need more than a 3x3 product or luma-dependent terms.
_SWS_MATRICES = {
    "bt709": Colorspace.ITU709,
    "fcc": Colorspace.FCC,
    "bt470bg": Colorspace.ITU601,
    "smpte170m": Colorspace.ITU601,
    "smpte240m": Colorspace.SMPTE240M,
    "bt2020nc": Colorspace.BT2020,
}
_SD_LINES = 576
_UNSPECIFIED_CODE = 2

_TO_BGR = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
_TO_YUV = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
# Reading gives the same picture on any number of threads (tested); writing does not: slices change the chroma.
_READ_THREADS = worker_threads()
_WRITE_THREADS = 1


@dataclass(frozen=True, slots=True)
class TagCodes:
    """Colour tags as the numbers that a codec context takes (2 or 0: unspecified)."""

    range: int
    matrix: int
    primaries: int
    transfer: int


def tags_of(frame: av.VideoFrame) -> ColorTags:
    """The tags of a decoded frame. ``yuvj`` formats are full range by definition, RGB formats have the matrix
    ``gbr``."""
    pixel_format = frame.format.name
    value_range = _RANGES.get(frame.color_range, UNSPECIFIED)
    matrix = _MATRICES.get(frame.colorspace, UNSPECIFIED)
    if frame.format.is_rgb:
        value_range, matrix = "pc", "gbr"
    elif pixel_format.startswith("yuvj"):
        value_range = "pc"
    elif frame.colorspace == 0:
        matrix = UNSPECIFIED  # 0 means RGB, which a YUV picture is not: a writer that left the field empty
    return ColorTags(
        range=value_range,
        matrix=matrix,
        primaries=_PRIMARIES.get(frame.color_primaries, UNSPECIFIED),
        transfer=_TRANSFERS.get(frame.color_trc, UNSPECIFIED),
    )


def codes_of(tags: ColorTags) -> TagCodes:
    """The numbers for ``tags``. ValueError for a name that H.273 does not know."""
    return TagCodes(
        range=_code(_RANGES, tags.range, "range", unspecified=0),
        matrix=_code(_MATRICES, tags.matrix, "matrix"),
        primaries=_code(_PRIMARIES, tags.primaries, "primaries"),
        transfer=_code(_TRANSFERS, tags.transfer, "transfer"),
    )


def _code(names: dict[int, str], name: str, field: str, unspecified: int = _UNSPECIFIED_CODE) -> int:
    if name == UNSPECIFIED:
        return unspecified
    for code, known in names.items():
        if known == name:
            return code
    raise ValueError(f"colour {field} {name!r} is unknown; use {UNSPECIFIED!r} or one of {', '.join(names.values())}")


def yuv_tags(tags: ColorTags) -> ColorTags:
    """``tags`` as a YUV file can carry them: RGB footage names no matrix, so BT.709 in ``tv`` range is chosen, and
    tagged."""
    if tags.matrix != "gbr":
        return tags
    return ColorTags(range="tv", matrix="bt709", primaries=tags.primaries, transfer=tags.transfer)


def _sws_matrix(tags: ColorTags, height_px: int) -> Colorspace:
    if tags.matrix in (UNSPECIFIED, "gbr"):
        return Colorspace.ITU601 if height_px <= _SD_LINES else Colorspace.ITU709
    if tags.matrix not in _SWS_MATRICES:
        raise MediaError(
            "UNSUPPORTED",
            f"the colour matrix {tags.matrix} cannot be converted; "
            f"convert the clip to one of {', '.join(_SWS_MATRICES)}",
        )
    return _SWS_MATRICES[tags.matrix]


def _sws_range(tags: ColorTags) -> ColorRange:
    return ColorRange.JPEG if tags.range == "pc" else ColorRange.MPEG


class BgrReader:
    """Turns decoded frames of one clip into BGR arrays.

    ``tags`` and ``height_px`` (of the stored picture) choose matrix and range for the whole clip. 8 bits and fewer
    become uint8, more bits uint16 with white at 65535, float pictures float32 as stored. Alpha is left out. UNSUPPORTED
    where the format is none of these.
    """

    def __init__(self, pixel_format: str, tags: ColorTags, height_px: int) -> None:
        stored = av.VideoFormat(pixel_format)
        self.bit_depth = max(component.bits for component in stored.components)
        self._is_rgb = stored.is_rgb
        self._reformatter = VideoReformatter()
        self._white_scale = Fraction(1)
        if pixel_format.startswith(("gbrpf32", "gbrapf32")):
            self._target = "gbrpf32le"
        elif "f32" in pixel_format or "f16" in pixel_format:
            raise MediaError("UNSUPPORTED", f"the float pixel format {pixel_format} is not read; convert to gbrpf32le")
        elif self.bit_depth <= 8:
            self._target = "bgr24"
        else:
            self._target = "bgr48le"
            if not self._is_rgb:
                # swscale shifts samples up to 16 bits instead of stretching them: 1023 becomes 65472, and tv white 255
                # * 256.
                depth = self.bit_depth
                white = ((1 << depth) - 1) << (16 - depth) if tags.range == "pc" else 255 << 8
                self._white_scale = Fraction(65535, white)
        self._matrix = _sws_matrix(tags, height_px)
        self._range = _sws_range(tags)

    def read(self, frame: av.VideoFrame) -> Image:
        """``frame`` as ``image_bgr_HWC``, a fresh contiguous array in the orientation in which it is stored."""
        if self._is_rgb:
            converted = self._reformatter.reformat(frame, format=self._target, threads=_READ_THREADS)
        else:
            converted = self._reformatter.reformat(
                frame,
                format=self._target,
                src_colorspace=self._matrix,
                dst_colorspace=self._matrix,
                src_color_range=self._range,
                dst_color_range=ColorRange.JPEG,
                interpolation=_TO_BGR,
                threads=_READ_THREADS,
            )
        array: Image = np.asarray(converted.to_ndarray())
        if self._target == "gbrpf32le":
            return np.ascontiguousarray(array[..., ::-1])  # PyAV gives planar RGB in the order R, G, B
        if self._white_scale != 1:
            cv2.multiply(array, np.full(4, float(self._white_scale)), dst=array)  # rounds and saturates
        return array


class YuvWriter:
    """Turns BGR arrays into frames for an encoder, by the inverse of ``BgrReader`` for the same tags and height.

    ``pixel_format`` is ``yuv420p`` or ``yuv444p``, or one of them with ``10le`` behind it for 10 bits.
    """

    def __init__(self, pixel_format: str, tags: ColorTags, height_px: int) -> None:
        self._matrix = _sws_matrix(tags, height_px)
        self._range = _sws_range(tags)
        self._deep = pixel_format.endswith("10le")
        # swscale loses half a level of chroma on the way to full range; from 14 bits it rounds.
        between = f"{pixel_format.removesuffix('10le')}14le"
        formats = [between, pixel_format] if tags.range == "pc" else [pixel_format]
        self._steps = [(name, VideoReformatter()) for name in formats]

    def write(self, image_bgr_HWC: Image) -> av.VideoFrame:
        """A new frame; what is deeper than the format (uint16, white 65535; float32, white 1.0) is rounded to it."""
        if self._deep:
            frame = av.VideoFrame.from_ndarray(_to_uint16(image_bgr_HWC, white=255 << 8), format="bgr48le")
        else:
            frame = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(to_uint8(image_bgr_HWC)), format="bgr24")
        value_range = ColorRange.JPEG
        for name, reformatter in self._steps:
            frame = reformatter.reformat(
                frame,
                format=name,
                src_colorspace=self._matrix,
                dst_colorspace=self._matrix,
                src_color_range=value_range,
                dst_color_range=self._range,
                interpolation=_TO_YUV,
                threads=_WRITE_THREADS,
            )
            value_range = self._range
        return frame


def to_uint8(image_bgr_HWC: Image) -> NDArray[np.uint8]:
    """A picture in 8 bits (white: uint8 255, uint16 65535, float32 1.0), rounded to nearest and saturated."""
    if image_bgr_HWC.dtype == np.uint8:
        return np.asarray(image_bgr_HWC, np.uint8)
    scale = 255.0 if image_bgr_HWC.dtype == np.float32 else 255.0 / 65535.0
    return np.asarray(cv2.convertScaleAbs(np.maximum(image_bgr_HWC, 0), alpha=scale), np.uint8)


def _to_uint16(image_bgr_HWC: Image, white: int) -> NDArray[np.uint16]:
    """A picture in 16 bits whose white is ``white``: swscale takes 255 * 256 for it when it writes YUV."""
    whites = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
    scaled = cv2.multiply(image_bgr_HWC, np.full(4, white / whites[image_bgr_HWC.dtype.name]), dtype=cv2.CV_16U)
    return np.ascontiguousarray(scaled, np.uint16)
