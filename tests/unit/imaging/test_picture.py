"""Pictures keep their depth, orientation and frame; what is damaged gives an error, never a part of a picture."""

from __future__ import annotations

import datetime
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import OpenImageIO
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_common.imaging import picture_file
from ml_common.imaging.picture import (
    PICTURE_SUFFIXES,
    PictureError,
    decode_picture,
    encode_picture,
    lossless_suffix,
    media_type_of,
    read_header,
    read_picture,
)

_GOLDEN = Path(__file__).parents[2] / "golden" / "imaging"


def _noise(dtype, shape=(37, 53, 3), seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype) == np.float32:
        return rng.normal(0.5, 1.0, shape).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


def _smooth(shape=(96, 128, 3)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    grain = np.random.default_rng(1).normal(0, 6, shape)
    return np.clip(np.stack([x * 1.5, y * 2, 200 - x], -1) + grain, 0, 255).astype(np.uint8)


def _write(path, pixels_rgb, sample=None, names=None, **attributes):
    """Through OpenImageIO, as other programs write: channels in the order of the file."""
    samples = {"uint8": "uint8", "uint16": "uint16", "float32": "float"}
    height, width, channels = pixels_rgb.shape
    spec = OpenImageIO.ImageSpec(width, height, channels, sample or samples[pixels_rgb.dtype.name])
    if names:
        spec.channelnames = names
    for key, value in attributes.items():
        if key in ("x", "y", "full_x", "full_y", "full_width", "full_height"):
            setattr(spec, key, value)
        elif key == "timecode":
            spec.attribute("smpte:TimeCode", OpenImageIO.TypeTimeCode, value)
        elif key == "rate":
            spec.attribute("FramesPerSecond", OpenImageIO.TypeRational, value)
        else:
            spec.attribute(key.replace("__", ":"), value)
    target = OpenImageIO.ImageOutput.create(str(path))
    assert target.open(str(path), spec), target.geterror()
    assert target.write_image(pixels_rgb), target.geterror()
    assert target.close()
    return path


def _reason(data, name="a"):
    with pytest.raises(PictureError) as caught:
        decode_picture(data, name)
    assert name in str(caught.value)
    assert "/" not in str(caught.value).replace("his/", "")  # no path of a scratch file
    return caught.value.reason


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        (".png", np.uint8),
        (".png", np.uint16),
        (".tif", np.uint8),
        (".TIFF", np.uint16),
        (".tif", np.float32),
        (".dpx", np.uint16),
        (".exr", np.float32),
    ],
)
@pytest.mark.parametrize("shape", [(37, 53, 3), (1, 1, 3), (1, 40, 3)])
def test_lossless_formats_give_the_pixels_back(suffix, dtype, shape):
    image = _noise(dtype, shape)
    data = encode_picture(image, suffix)
    back = decode_picture(data, "a" + suffix)
    assert back.dtype == image.dtype
    assert np.array_equal(back, image)
    assert back.flags.c_contiguous
    assert encode_picture(image.copy(), suffix) == data


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**31), st.sampled_from([".png", ".tif", ".exr", ".dpx"]))
def test_any_size_goes_through(height, width, seed, suffix):
    image = _noise({".exr": np.float32, ".dpx": np.uint16}.get(suffix, np.uint8), (height, width, 3), seed)
    assert np.array_equal(decode_picture(encode_picture(image, suffix), "a"), image)


def test_bytes_do_not_depend_on_the_time(tmp_path):
    """Neither a date nor a time of day is in what is written."""
    year = str(datetime.datetime.now().year).encode()
    for suffix, dtype in ((".exr", np.float32), (".dpx", np.uint16), (".tif", np.uint8), (".png", np.uint8)):
        assert year not in encode_picture(np.zeros((8, 8, 3), dtype), suffix)


def test_jpeg_keeps_colour_edges():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 1::2] = (0, 0, 255)  # red lines one pixel wide: subsampled colour would smear them
    back = decode_picture(encode_picture(image, ".jpg", jpeg_quality=95), "a").astype(int)
    assert np.abs(back - image).mean() < 8
    assert len(encode_picture(_smooth(), ".jpg", jpeg_quality=30)) < len(encode_picture(_smooth(), ".jpg"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_orientation_is_applied(tmp_path, orientation, suffix):
    pixels = _smooth((32, 48, 3)) if suffix == "jpg" else _noise(np.uint8, (32, 48, 3))
    path = _write(tmp_path / f"a.{suffix}", pixels, Orientation=orientation)
    stored = decode_picture(_write(tmp_path / f"b.{suffix}", pixels).read_bytes(), "b")
    # By the definition in EXIF 2.32: which edges of the scene row 0 and column 0 of the stored picture are.
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored.transpose(1, 0, 2)[:, ::-1],
        7: stored.transpose(1, 0, 2)[::-1, ::-1],
        8: stored.transpose(1, 0, 2)[::-1],
    }[orientation]
    assert np.array_equal(read_picture(path), upright)
    header = read_header(path)
    assert (header.height, header.width) == upright.shape[:2]


@pytest.mark.parametrize("name", ["cmyk_adobe", "cmyk_plain", "ycck_adobe"])
def test_cmyk_jpeg(name):
    """The files hold inverted values, as Adobe writes them: 255 is no ink. `cmyk_plain` holds the values of a writer
    that did not invert and gave no marker; every common reader takes it as inverted too."""
    y, x = np.mgrid[:48, :64]
    ink_CMY = 255 - np.stack([x * 255 // 63, y * 255 // 47, 255 - (x + y) * 255 // 110], -1)
    ink_K = np.full((48, 64, 1), 40)
    if name == "cmyk_plain":
        ink_CMY, ink_K = 255 - ink_CMY, 255 - ink_K
    rgb = (255 - ink_CMY) * (255 - ink_K) / 255
    image = decode_picture((_GOLDEN / f"{name}.jpg").read_bytes(), name)
    assert np.abs(image[..., ::-1] - rgb).mean() < 1.0


def test_grey_and_alpha(tmp_path):
    rgba = _noise(np.uint8, (20, 30, 4))
    rgba[..., 3] = 7  # nearly transparent, yet the colours stay as they are
    for suffix in ("png", "tif"):
        path = _write(tmp_path / f"rgba.{suffix}", rgba, oiio__UnassociatedAlpha=1)
        assert np.array_equal(read_picture(path), rgba[..., 2::-1])
        grey = _write(tmp_path / f"grey.{suffix}", rgba[..., :1])
        assert np.array_equal(read_picture(grey), np.repeat(rgba[..., :1], 3, 2))
    both = _write(tmp_path / "both.png", rgba[..., 2:], names=("Y", "A"), oiio__UnassociatedAlpha=1)
    assert np.array_equal(read_picture(both), np.repeat(rgba[..., 2:3], 3, 2))


def test_premultiplied_exr_stays_so(tmp_path):
    rgba = np.full((4, 4, 4), 0.25, np.float32)
    assert np.array_equal(read_picture(_write(tmp_path / "a.exr", rgba)), rgba[..., :3])


def _png(width, height, bits, color, rows, extra=b""):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_palette_and_one_bit_png():
    colours = bytes([10, 20, 30, 200, 100, 50])
    palette = struct.pack(">I", 6) + b"PLTE" + colours + struct.pack(">I", zlib.crc32(b"PLTE" + colours))
    image = decode_picture(_png(2, 1, 8, 3, b"\0\0\1", palette), "palette")
    assert image.tolist() == [[[30, 20, 10], [50, 100, 200]]]
    assert decode_picture(_png(2, 1, 1, 0, b"\0\x40"), "one bit").tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_dpx_depths(tmp_path, bits):
    pixels = _noise(np.uint16)
    pixels[0, 0] = 65535
    path = _write(tmp_path / "a.dpx", pixels, oiio__BitsPerSample=bits)
    image = read_picture(path)
    assert image.dtype == np.uint16
    assert image[0, 0].tolist() == [65535] * 3  # full scale
    assert np.abs(image[..., ::-1].astype(int) - pixels).max() < 2 ** (16 - bits)
    header = read_header(path)
    assert (header.codec, header.bit_depth) == ("dpx", bits)
    assert header.pixel_format == {10: "gbrp10le", 12: "gbrp12le", 16: "bgr48le"}[bits]


def test_dpx_stays_10_bit_where_that_is_enough(tmp_path):
    first = read_picture(_write(tmp_path / "a.dpx", _noise(np.uint16), oiio__BitsPerSample=10))
    (tmp_path / "b.dpx").write_bytes(encode_picture(first, ".dpx"))
    assert read_header(tmp_path / "b.dpx").bit_depth == 10
    assert np.array_equal(read_picture(tmp_path / "b.dpx"), first)
    first[3, 3, 0] ^= 1
    (tmp_path / "b.dpx").write_bytes(encode_picture(first, ".dpx"))
    assert read_header(tmp_path / "b.dpx").bit_depth == 16
    assert np.array_equal(read_picture(tmp_path / "b.dpx"), first)


def test_exr_is_half_where_that_is_enough(tmp_path):
    half = _noise(np.float32).astype(np.float16).astype(np.float32)
    half[0, 0] = (np.nan, np.inf, -np.inf)
    path = tmp_path / "a.exr"
    path.write_bytes(encode_picture(half, ".exr"))
    assert (read_header(path).pixel_format, read_header(path).bit_depth) == ("gbrpf16le", 16)
    assert np.array_equal(read_picture(path), half, equal_nan=True)
    half[5, 5, 1] = 70000.0  # over what a half holds
    path.write_bytes(encode_picture(half, ".exr"))
    assert (read_header(path).pixel_format, read_header(path).bit_depth) == ("gbrpf32le", 32)
    assert np.array_equal(read_picture(path), half, equal_nan=True)


def test_exr_windows(tmp_path):
    pixels = _noise(np.float32, (6, 8, 3))
    inside = {"x": 2, "y": 1, "full_x": 0, "full_y": 0, "full_width": 12, "full_height": 9}
    image = read_picture(_write(tmp_path / "a.exr", pixels, **inside))
    assert image.shape == (9, 12, 3)
    assert np.array_equal(image[1:7, 2:10], pixels[..., ::-1])
    image[1:7, 2:10] = 0
    assert not image.any()
    overscan = {"x": -2, "y": -1, "full_x": 0, "full_y": 0, "full_width": 4, "full_height": 4}
    image = read_picture(_write(tmp_path / "b.exr", pixels, **overscan))
    assert np.array_equal(image, pixels[1:5, 2:6, ::-1])
    apart = {"x": 20, "y": 20, "full_x": 0, "full_y": 0, "full_width": 4, "full_height": 5}
    assert not read_picture(_write(tmp_path / "c.exr", pixels, **apart)).any()
    header = read_header(tmp_path / "a.exr")
    assert (header.width, header.height) == (12, 9)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("R", "G", "B", "Z"), (0, 1, 2)),
        (("diffuse.R", "diffuse.G", "diffuse.B", "R", "G", "B"), "RGB"),
        (("diffuse.R", "diffuse.G", "diffuse.B", "beauty.R", "beauty.G", "beauty.B"), "beauty."),
        (("spec.R", "spec.G", "spec.B", "diffuse.R", "diffuse.G", "diffuse.B"), "first"),
        (("Y", "Z"), "Y"),
    ],
)
def test_exr_layers(tmp_path, names, chosen):
    values = {name: 1.0 + index for index, name in enumerate(names)}
    pixels = np.broadcast_to(np.array([values[name] for name in names], np.float32), (5, 7, len(names))).copy()
    image = read_picture(_write(tmp_path / "a.exr", pixels, names=names))
    if chosen == "Y":
        wanted = ["Y"] * 3
    elif chosen == "beauty.":
        wanted = ["beauty.B", "beauty.G", "beauty.R"]
    elif chosen == "first":  # OpenEXR sorts channels by name: diffuse comes before spec in the file
        wanted = ["diffuse.B", "diffuse.G", "diffuse.R"]
    else:
        wanted = ["B", "G", "R"]
    assert image[2, 3].tolist() == [values[name] for name in wanted]


def test_exr_parts(tmp_path):
    """A part called beauty goes before the first one."""
    path = tmp_path / "a.exr"
    specs = []
    for name in ("depth", "diffuse", "beauty"):
        spec = OpenImageIO.ImageSpec(4, 3, 1 if name == "depth" else 3, "half")
        spec.channelnames = ("Z",) if name == "depth" else ("R", "G", "B")
        spec.attribute("oiio:subimagename", name)
        specs.append(spec)
    target = OpenImageIO.ImageOutput.create(str(path))
    assert target.open(str(path), specs)
    for index, spec in enumerate(specs):
        if index:
            assert target.open(str(path), spec, "AppendSubimage")
        assert target.write_image(np.full((3, 4, spec.nchannels), index, np.float32))
    assert target.close()
    assert (read_picture(path) == 2).all()


def test_kinds_that_are_refused(tmp_path):
    data = _write(tmp_path / "a.exr", np.zeros((4, 4, 2), np.float32), names=("Z", "id")).read_bytes()
    assert _reason(data) == "UNSUPPORTED"
    data = _write(tmp_path / "b.tif", np.zeros((4, 4, 3), np.float32), "int16").read_bytes()
    assert _reason(data) == "UNSUPPORTED"


def test_headers_of_film_scans(tmp_path):
    pixels = np.zeros((6, 8, 3), np.float32)
    path = _write(
        tmp_path / "a.exr", pixels, "half", timecode=(0x01020304, 0), rate=(24000, 1001), PixelAspectRatio=2.0
    )
    header = read_header(path)
    assert (header.timecode, header.rate, header.pixel_aspect) == ("01:02:03:04", Fraction(24000, 1001), 2)
    drop = read_header(_write(tmp_path / "b.exr", pixels, timecode=(0x01020344, 0)))
    assert (drop.timecode, drop.rate) == ("01:02:03;04", None)
    path = _write(tmp_path / "a.dpx", np.zeros((6, 8, 3), np.uint16), timecode=(0x10203012, 0), dpx__FrameRate=23.976)
    header = read_header(path)
    assert (header.timecode, header.rate) == ("10:20:30:12", Fraction(24000, 1001))
    header = read_header(_write(tmp_path / "b.dpx", np.zeros((6, 8, 3), np.uint16)))
    assert (header.timecode, header.rate, header.pixel_aspect) == (None, None, 1)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        (".png", np.uint8),
        (".png", np.uint16),
        (".jpg", np.uint8),
        (".tif", np.uint8),
        (".tif", np.float32),
        (".dpx", np.uint16),
        (".exr", np.float32),
    ],
)
@pytest.mark.parametrize("part", [0.0, 0.05, 0.3, 0.6, 0.95])
def test_a_cut_file_is_an_error(suffix, dtype, part, capfd):
    data = encode_picture(_noise(dtype, (128, 128, 3)) if suffix != ".jpg" else _smooth((256, 256, 3)), suffix)
    cut = data[: int(len(data) * part)]
    assert _reason(cut) == ("NOT_MEDIA" if len(cut) < 4 else "CORRUPT_FRAME")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".exr"])
def test_lost_sectors_are_an_error(suffix, capfd):
    """512 bytes in the middle come out as zeros: never a picture with a grey or black rest."""
    image = {".exr": _noise(np.float32, (128, 128, 3))}.get(suffix, _smooth((256, 256, 3)))
    data = bytearray(encode_picture(image, suffix))
    for start in range(len(data) // 4, len(data) * 3 // 4, len(data) // 8):
        damaged = bytes(data[:start]) + bytes(512) + bytes(data[start + 512 :])
        assert _reason(damaged) == "CORRUPT_FRAME"


def test_a_jpeg_that_ends_properly_but_early():
    data = encode_picture(_smooth((256, 256, 3)), ".jpg")
    assert _reason(data[: len(data) // 2] + b"\xff\xd9") == "CORRUPT_FRAME"


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(40), b"this is text", b"BM" + bytes(60), b"\xff\xd8"])
def test_what_is_no_picture(data):
    assert _reason(data) == "NOT_MEDIA"


def test_too_large_is_said_before_room_is_made(tmp_path):
    assert _reason(_png(60000, 60000, 8, 2, b"\0")) == "CORRUPT_FRAME"  # 66 bytes cannot hold that
    jpeg = bytearray(encode_picture(_smooth(), ".jpg"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 60000, 60000)
    assert _reason(bytes(jpeg)) == "TOO_LARGE"
    window = {"full_x": 0, "full_y": 0, "full_width": 100_000, "full_height": 100_000}
    path = _write(tmp_path / "a.exr", np.zeros((4, 4, 3), np.float32), **window)
    assert _reason(path.read_bytes()) == "TOO_LARGE"
    with pytest.raises(PictureError):
        read_header(path)


def test_the_limit_lets_16k_through(monkeypatch):
    assert picture_file.MAX_PICTURE_PIXELS == 16384 * 16384
    monkeypatch.setattr(picture_file, "MAX_PICTURE_PIXELS", 12)
    assert decode_picture(encode_picture(np.zeros((3, 4, 3), np.uint8), ".png"), "a").shape == (3, 4, 3)
    assert _reason(encode_picture(np.zeros((13, 1, 3), np.uint8), ".tif")) == "TOO_LARGE"


@pytest.mark.parametrize(
    ("suffix", "dtype", "hint"),
    [
        (".jpg", np.uint16, ".png"),
        (".jpg", np.float32, ".exr"),
        (".png", np.float32, ".exr"),
        (".dpx", np.uint8, ".png"),
        (".exr", np.uint16, ".png"),
        (".tif", np.float64, "float32"),
    ],
)
def test_a_depth_that_does_not_fit_is_refused(suffix, dtype, hint):
    with pytest.raises(ValueError, match=hint):
        encode_picture(np.zeros((4, 4, 3), dtype), suffix)


def test_other_bad_wishes():
    image = np.zeros((4, 4, 3), np.uint8)
    for bad, message in ((image[..., :1], "BGR"), (image[:0], "empty"), (image[..., 0], "BGR")):
        with pytest.raises(ValueError, match=message):
            encode_picture(bad, ".png")
    with pytest.raises(ValueError, match=r"\.webp"):
        encode_picture(image, ".webp")
    for quality in (0, 101):
        with pytest.raises(ValueError, match="1 to 100"):
            encode_picture(image, ".jpg", jpeg_quality=quality)
    with pytest.raises(ValueError, match="65500"):
        encode_picture(np.zeros((1, 65501, 3), np.uint8), ".jpg")


def test_suffixes():
    assert media_type_of(".PNG") == "image/png"
    assert media_type_of(".exr") == "image/x-exr"
    assert {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dpx", ".exr"} == set(PICTURE_SUFFIXES)
    with pytest.raises(ValueError, match=r"\.psd"):
        media_type_of(".psd")
    assert [lossless_suffix(dtype) for dtype in (np.uint8, "uint16", np.float32)] == [".png", ".png", ".exr"]
    with pytest.raises(ValueError, match="float64"):
        lossless_suffix(np.float64)


def test_the_client_sends_what_is_read():
    from understudy import media

    assert {suffix: media_type_of(suffix) for suffix in PICTURE_SUFFIXES} == media._PICTURES


def test_the_library_is_loaded_late():
    code = "import ml_common.imaging.picture, ml_common.media, sys; print('OpenImageIO' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_files_are_read_by_what_they_hold(tmp_path):
    """A suffix may lie; the bytes tell."""
    path = tmp_path / "a.png"
    image = _noise(np.uint16)
    path.write_bytes(encode_picture(image, ".tif"))
    assert np.array_equal(read_picture(path), image)
    assert np.array_equal(cv2.imdecode(np.fromfile(path, np.uint8), -1), image)
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "b.png")
