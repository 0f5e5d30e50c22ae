"""Reads one picture file, header and pixels, through OpenImageIO.

What a reader would get wrong: a decoder that meets damage mostly goes on and leaves the rest grey or black. OpenImageIO
turns the warnings of the JPEG, PNG, TIFF and OpenEXR libraries into errors, and any error here means that no pixel is
handed out. The second thing: an EXR file's pixels (data window) need not fill its frame (display window); what comes
back is always the frame.

Legend: H height, W width, C channels (B, G, R).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_common.imaging.picture_error import PictureError

if TYPE_CHECKING:
    import OpenImageIO

Picture = NDArray[np.uint8 | np.uint16 | np.float32]

# 16384 x 16384. A picture of three float channels of this size takes 3 GiB, twice that while it is read.
MAX_PICTURE_PIXELS = 2**28

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"SDPX", "dpx"),
    (b"XPDS", "dpx"),
    (b"\x76\x2f\x31\x01", "openexr"),
)
_MAGIC_BYTES = 8
# Start-of-frame markers of JPEG: 0xC0 to 0xCF without DHT, JPG and DAC (ITU-T T.81 table B.1).
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
_BEAUTY = {"rgba", "rgb", "beauty", "combined", "c", "main", "color", "colour"}
_COLOURS = {"r": "R", "red": "R", "g": "G", "green": "G", "b": "B", "blue": "B"}
_CHROMA = {"ry", "by"}
_PIXEL_FORMATS = {8: "bgr24", 10: "gbrp10le", 12: "gbrp12le", 14: "gbrp14le", 16: "bgr48le"}
# EXIF orientation (TIFF 6.0 section 8): mirror left to right first, then turn.
_UPRIGHT: dict[int, tuple[bool, int | None]] = {
    2: (True, None),
    3: (False, cv2.ROTATE_180),
    4: (True, cv2.ROTATE_180),
    5: (True, cv2.ROTATE_90_COUNTERCLOCKWISE),
    6: (False, cv2.ROTATE_90_CLOCKWISE),
    7: (True, cv2.ROTATE_90_CLOCKWISE),
    8: (False, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """What a picture file says of itself.

    ``codec``: png, jpeg, tiff, dpx or openexr. ``width`` x ``height`` are those of the decoded array (upright, display
    window). ``pixel_format`` by FFmpeg's names, ``bit_depth`` that of one stored sample: 10 for a 10-bit DPX (though
    its array is uint16), 16 for half floats (``gbrpf16le``), 32 for floats. ``timecode`` ``hh:mm:ss:ff`` (``;ff`` for
    drop frame), ``rate`` in frames a second and ``pixel_aspect`` (width by height of a pixel) are of DPX and OpenEXR.
    """

    codec: str
    width: int
    height: int
    pixel_format: str
    bit_depth: int
    timecode: str | None
    rate: Fraction | None
    pixel_aspect: Fraction


@dataclass(frozen=True, slots=True)
class _Layer:
    """Which channels of which part are the picture; ``is_half``: all of them stored as half floats."""

    part: int
    channels: tuple[int, ...]
    spec: OpenImageIO.ImageSpec
    is_half: bool


def read_header(path: Path) -> PictureHeader:
    """The header of the picture file ``path``; pixels are not read. Errors as ``read_picture``."""
    with _opened(path, path.name) as (source, codec):
        layer = _layer(source, codec, path.name)
        return _header(layer, codec)


def read_picture(path: Path, name: str = "") -> Picture:
    """The picture file ``path`` as ``image_bgr_HWC``, as described in ``decode_picture``; ``name`` stands in errors.

    FileNotFoundError; PictureError.
    """
    name = name or path.name
    with _opened(path, name) as (source, codec):
        layer = _layer(source, codec, name)
        pixels_HWC = source.read_image(
            layer.part, 0, min(layer.channels), max(layer.channels) + 1, _read_type(layer, codec, name)
        )
        problem = source.geterror()
        if problem or pixels_HWC is None:
            raise _refused(problem, path, name)
        spec = layer.spec
    chosen = [channel - min(layer.channels) for channel in layer.channels]
    if pixels_HWC.dtype == np.float64:
        pixels_HWC = pixels_HWC.astype(np.float32)
    if len(chosen) == 1:
        image_bgr_HWC = cv2.cvtColor(np.ascontiguousarray(pixels_HWC[..., chosen[0]]), cv2.COLOR_GRAY2BGR)
    elif chosen == [0, 1, 2] and pixels_HWC.shape[2] == 3:
        image_bgr_HWC = cv2.cvtColor(pixels_HWC, cv2.COLOR_RGB2BGR)
    else:
        image_bgr_HWC = np.ascontiguousarray(pixels_HWC[..., chosen[::-1]])
    if codec == "openexr":
        return _on_display_window(image_bgr_HWC, spec)
    return _upright(image_bgr_HWC, spec.get_int_attribute("Orientation", 1))


def codec_of(head: bytes) -> str | None:
    """png, jpeg, tiff, dpx or openexr by a file's first bytes, None for anything else."""
    return next((codec for magic, codec in _MAGIC if head.startswith(magic)), None)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[OpenImageIO.ImageInput, str]]:
    """The open file and its format. PictureError where it is no picture, or one that its format's library refuses."""
    with path.open("rb") as file:
        head = file.read(_MAGIC_BYTES)
        codec = codec_of(head)
        if codec is None:
            what = "is empty" if not head else "is not a PNG, JPEG, TIFF, DPX or OpenEXR picture"
            raise PictureError("NOT_MEDIA", f"{name} {what}; check that it was copied whole, or convert it")
        if codec == "jpeg":
            _check_size(*_jpeg_size(file, name), name)  # its library makes room for the whole picture on opening
    import OpenImageIO

    hints = OpenImageIO.ImageSpec()
    hints.attribute("oiio:UnassociatedAlpha", 1)  # alpha is left out, so colours must not be multiplied by it
    source = OpenImageIO.ImageInput.open(str(path), hints)
    if source is None:
        raise _refused(OpenImageIO.geterror(), path, name)
    try:
        if source.format_name() != codec:
            raise _refused("", path, name)
        yield source, codec
    finally:
        source.close()


def _refused(problem: str, path: Path, name: str) -> PictureError:
    """The error for what a format's library said; a person knows the picture by its name, not by where it lies."""
    text = " ".join(problem.replace(str(path), name).split()) or "its structure is broken"
    if "unsupported" in text.lower() or "not support" in text.lower():
        return PictureError("UNSUPPORTED", f"{name} is of a kind that is not read ({text}); convert it")
    return PictureError("CORRUPT_FRAME", f"{name} is cut short or damaged ({text}); export or copy it again")


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PICTURE_PIXELS:
        raise PictureError(
            "TOO_LARGE",
            f"{name} is {width}x{height}, over {MAX_PICTURE_PIXELS} pixels (16384x16384); scale it down or cut it",
        )


def _jpeg_size(file: BinaryIO, name: str) -> tuple[int, int]:
    """(width, height) from the frame header: the first thing of a JPEG after its tables (ITU-T T.81 section B.2.2)."""
    file.seek(2)
    while True:
        lead = file.read(2)
        while lead[1:] == b"\xff":  # fill bytes
            lead = b"\xff" + file.read(1)
        if len(lead) < 2 or lead[0] != 0xFF or lead[1] == _JPEG_SCAN:
            raise PictureError("CORRUPT_FRAME", f"{name} has no frame header; export or copy it again")
        size_bytes = int.from_bytes(file.read(2), "big")
        if lead[1] in _JPEG_FRAMES:
            body = file.read(5)
            return int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")
        file.seek(max(size_bytes - 2, 0), 1)


def _layer(source: OpenImageIO.ImageInput, codec: str, name: str) -> _Layer:
    """The picture among a file's parts and channels, checked for size before anything is read."""
    if codec == "openexr":
        layer = _exr_layer(source, name)
    else:
        spec = source.spec()
        grey = spec.nchannels < 3
        layer = _Layer(0, (0,) if grey else (0, 1, 2), spec, is_half=spec.format.basetype.name == "HALF")
    spec = layer.spec
    _check_size(spec.width, spec.height, name)
    _check_size(spec.full_width, spec.full_height, name)
    if spec.width < 1 or spec.height < 1 or spec.depth > 1:
        raise PictureError("UNSUPPORTED", f"{name} is a volume or empty; give flat pictures")
    return layer


def _exr_layer(source: OpenImageIO.ImageInput, name: str) -> _Layer:
    """The first layer with red, green and blue, one without a name or called beauty before others; else luminance."""
    found: list[tuple[int, _Layer]] = []
    seen: list[str] = []
    part = 0
    while source.seek_subimage(part, 0):
        spec = source.spec(part, 0)
        seen += spec.channelnames
        if not spec.deep:
            found += _exr_candidates(spec, part)
        elif not found:
            seen.append("deep samples")
        part += 1
    source.geterror()  # the last seek, past the last part, is no problem
    if not found:
        raise PictureError(
            "UNSUPPORTED",
            f"{name} has no flat red, green and blue channels (it has {', '.join(seen[:12])}); export an RGB layer",
        )
    return min(found, key=lambda item: item[0])[1]


def _exr_candidates(spec: OpenImageIO.ImageSpec, part: int) -> Iterator[tuple[int, _Layer]]:
    """(rank, layer) of each layer in a part that is a picture; the lowest rank is the best."""
    layers: dict[str, dict[str, int]] = {}
    grey: dict[str, int] = {}
    for index, channel in enumerate(spec.channelnames):
        prefix, _, last = channel.rpartition(".")
        if last.lower() in _COLOURS:
            layers.setdefault(prefix, {}).setdefault(_COLOURS[last.lower()], index)
        elif last.lower() in _CHROMA:
            grey.pop(prefix, None)
            layers.setdefault(prefix, {})
        elif last.lower() == "y" and prefix not in layers:
            grey[prefix] = index
    part_name = spec.get_string_attribute("oiio:subimagename", "")
    picks = [(prefix, tuple(found[key] for key in "RGB")) for prefix, found in layers.items() if len(found) == 3]
    picks += [(prefix, (index,)) for prefix, index in grey.items()]
    for prefix, channels in picks:
        label = (prefix or part_name).rpartition(".")[2].lower()
        rank = (0 if not label else 1 if label in _BEAUTY else 2) + (3 if len(channels) == 1 else 0)
        formats = spec.channelformats or [spec.format] * spec.nchannels
        is_half = all(formats[channel].basetype.name == "HALF" for channel in channels)
        yield rank, _Layer(part, channels, spec, is_half)


def _read_type(layer: _Layer, codec: str, name: str) -> Any:
    """What samples to ask for. UNSUPPORTED for integers that no picture array holds."""
    import OpenImageIO

    stored = layer.spec.format.basetype
    if codec == "openexr" or stored in (OpenImageIO.HALF, OpenImageIO.FLOAT, OpenImageIO.DOUBLE):
        return OpenImageIO.FLOAT
    if stored not in (OpenImageIO.UINT8, OpenImageIO.UINT16):
        raise PictureError(
            "UNSUPPORTED", f"{name} has samples of type {layer.spec.format}; convert it to 8 or 16 bits or float"
        )
    return stored


def _header(layer: _Layer, codec: str) -> PictureHeader:
    spec = layer.spec
    width, height = (spec.full_width, spec.full_height) if codec == "openexr" else (spec.width, spec.height)
    if codec != "openexr" and spec.get_int_attribute("Orientation", 1) >= 5:
        width, height = height, width
    stored = spec.format.basetype.name
    if layer.is_half:
        pixel_format, bit_depth = "gbrpf16le", 16
    elif codec == "openexr" or stored in ("FLOAT", "DOUBLE"):
        pixel_format, bit_depth = "gbrpf32le", 32
    else:
        bits = 16 if stored == "UINT16" else 8
        bit_depth = max(spec.get_int_attribute("oiio:BitsPerSample", bits), 8) if bits == 16 else 8
        pixel_format = _PIXEL_FORMATS.get(bit_depth, "bgr48le")
    aspect = spec.get_float_attribute("PixelAspectRatio", 1.0) if codec in ("dpx", "openexr") else 1.0
    return PictureHeader(
        codec=codec,
        width=width,
        height=height,
        pixel_format=pixel_format,
        bit_depth=bit_depth,
        timecode=_timecode(spec),
        rate=_rate(spec),
        pixel_aspect=Fraction(aspect).limit_denominator(1000) if 0.1 <= aspect <= 10.0 else Fraction(1),
    )


def _timecode(spec: OpenImageIO.ImageSpec) -> str | None:
    """SMPTE 12M time and control code, binary-coded decimals with flags between (OpenEXR's ``timeCode``, SMPTE 268M)."""
    value = spec.getattribute("smpte:TimeCode")
    if value is None:
        return None
    word = int(value[0])
    if word == 0xFFFFFFFF:  # DPX: undefined
        return None
    hours, minutes, seconds, frames = word >> 24 & 0x3F, word >> 16 & 0x7F, word >> 8 & 0x7F, word & 0x3F
    if any(digits & 15 > 9 for digits in (hours, minutes, seconds, frames)):
        return None
    mark = ";" if word & 0x40 else ":"
    return f"{hours:02x}:{minutes:02x}:{seconds:02x}{mark}{frames:02x}"


def _rate(spec: OpenImageIO.ImageSpec) -> Fraction | None:
    """Frames a second: OpenEXR's ``framesPerSecond``, or the film or television header of a DPX; None where unset."""
    exact = spec.getattribute("FramesPerSecond")
    if isinstance(exact, tuple) and len(exact) == 2 and exact[0] > 0 and exact[1] > 0:
        return Fraction(int(exact[0]), int(exact[1]))
    for key in ("dpx:FrameRate", "dpx:TemporalFrameRate"):
        value = spec.get_float_attribute(key, 0.0)
        if 1.0 <= value <= 1000.0:
            return _standard(value)
    return None


def _standard(rate: float) -> Fraction:
    """A rate stored as a float: 23.976 stands for 24000/1001."""
    whole = round(rate)
    if abs(rate - whole) < 1e-3:
        return Fraction(whole)
    broadcast = Fraction(round(rate * 1.001) * 1000, 1001)
    return broadcast if abs(rate - float(broadcast)) < 6e-3 else Fraction(rate).limit_denominator(1000)


def _on_display_window(image_bgr_HWC: NDArray[Any], spec: OpenImageIO.ImageSpec) -> Picture:
    """Cut to the display window; black where the file has no pixels."""
    left, top = spec.x - spec.full_x, spec.y - spec.full_y
    if (left, top, spec.width, spec.height) == (0, 0, spec.full_width, spec.full_height):
        return image_bgr_HWC
    framed_bgr_HWC = np.zeros((spec.full_height, spec.full_width, 3), image_bgr_HWC.dtype)
    rows = slice(max(top, 0), min(top + spec.height, spec.full_height))
    columns = slice(max(left, 0), min(left + spec.width, spec.full_width))
    if rows.start < rows.stop and columns.start < columns.stop:
        framed_bgr_HWC[rows, columns] = image_bgr_HWC[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
    return framed_bgr_HWC


def _upright(image_bgr_HWC: NDArray[Any], orientation: int) -> Picture:
    mirrored, turn = _UPRIGHT.get(orientation, (False, None))
    if mirrored:
        image_bgr_HWC = np.asarray(cv2.flip(image_bgr_HWC, 1))
    return image_bgr_HWC if turn is None else np.asarray(cv2.rotate(image_bgr_HWC, turn))
