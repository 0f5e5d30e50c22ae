"""Image sequences: frames are the files that exist, numbers and times keep the gaps."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import OpenImageIO
import pytest

from ml_common.media import MediaError, open_source, probe


def _write(folder, names, dtype=np.uint8, size=(24, 16)):
    folder.mkdir(exist_ok=True)
    for value, name in enumerate(names):
        image = (
            np.random.default_rng(value)
            .integers(0, np.iinfo(dtype).max, (size[1], size[0], 3), endpoint=True)
            .astype(dtype)
        )
        assert cv2.imwrite(str(folder / name), image)
    return folder


def _image(value, dtype=np.uint8, size=(24, 16)):
    return (
        np.random.default_rng(value)
        .integers(0, np.iinfo(dtype).max, (size[1], size[0], 3), endpoint=True)
        .astype(dtype)
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", ["png", "tif", "tiff"])
@pytest.mark.parametrize("way", ["", "shot.%04d.{}", "shot.####.{}", "shot.1001.{}"])
def test_gaps_are_kept(tmp_path, dtype, suffix, way):
    numbers = [1001, 1002, 1005, 1006, 1008]
    folder = _write(tmp_path / "seq", [f"shot.{n:04d}.{suffix}" for n in numbers], dtype)
    (folder / "notes.txt").write_text("not a picture")
    with open_source(folder / way.format(suffix), sequence_rate=Fraction(25)) as source:
        info = source.info
        assert (info.kind, info.frame_count, info.first_number) == ("sequence", 5, 1001)
        assert info.missing_numbers == (1003, 1004, 1007)
        assert (info.width, info.height, info.rate) == (24, 16, Fraction(25))
        assert info.bit_depth == 8 * np.dtype(dtype).itemsize
        for index, image in source.frames(0, 5):
            assert image.dtype == dtype
            assert np.array_equal(image, _image(index, dtype))
        assert source.time_s(2) == pytest.approx(4 / 25)
        assert info.duration_s == pytest.approx(8 / 25)


def test_a_middle_file_starts_there(tmp_path):
    folder = _write(tmp_path / "seq", [f"a_{n}.png" for n in (8, 9, 10, 11)])
    assert probe(folder / "a_9.png").first_number == 9
    assert probe(folder / "a_%d.png").frame_count == 4
    assert probe(folder).first_number == 8


def test_padding_distinguishes_sequences(tmp_path):
    folder = _write(tmp_path / "seq", ["a.0001.png", "a.0002.png", "a.01.png"])
    assert probe(folder / "a.%04d.png").frame_count == 2
    assert probe(folder / "a.%02d.png").frame_count == 1


def test_a_folder_of_photos(tmp_path):
    folder = _write(tmp_path / "photos", ["b.png", "a.jpg", "c.PNG"])
    _write(tmp_path / "photos", ["d 7.png"], size=(40, 30))
    with open_source(folder) as source:
        assert (len(source), source.info.first_number, source.info.missing_numbers) == (4, 0, ())
        assert [image.shape for _, image in source.frames(0, 4)] == [(16, 24, 3)] * 3 + [(30, 40, 3)]
        assert np.array_equal(source.frame(1), _image(0))


def test_one_photo_grey_and_with_alpha(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((5, 7), 9, np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((5, 7, 4), 9, np.uint8))
    for name in ("grey.png", "alpha.png"):
        with open_source(tmp_path / name) as source:
            assert len(source) == 1
            assert np.array_equal(source.frame(0), np.full((5, 7, 3), 9, np.uint8))


def test_float_tiff(tmp_path):
    image = np.random.default_rng(0).random((5, 7, 3)).astype(np.float32)
    cv2.imwrite(str(tmp_path / "f.0001.tiff"), image)
    with open_source(tmp_path) as source:
        assert source.info.bit_depth == 32
        assert np.array_equal(source.frame(0), image)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_cut_file_is_named(tmp_path, suffix):
    folder = _write(tmp_path / "seq", [f"a.{n:03d}.{suffix}" for n in range(4)], size=(200, 200))
    bad = folder / f"a.002.{suffix}"
    bad.write_bytes(bad.read_bytes()[:-600])
    with open_source(folder) as source:
        assert source.frame(1).shape == source.frame(3).shape
        with pytest.raises(MediaError, match=r"frame 2 .a\.002") as caught:
            source.frame(2)
        assert (caught.value.reason, caught.value.frame_index) == ("CORRUPT_FRAME", 2)


def test_a_size_that_changes_is_refused(tmp_path):
    folder = _write(tmp_path / "seq", ["a.1.png", "a.2.png"])
    _write(folder, ["a.3.png"], size=(30, 16))
    with open_source(folder) as source, pytest.raises(MediaError, match="30x16") as caught:
        list(source.frames(0, 3))
    assert caught.value.frame_index == 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.0001.exr", "CORRUPT_FRAME"),
        ("a.%04d.exr", "CORRUPT_FRAME"),
        ("a.%04d.dpx", "NO_FRAMES"),
        ("b.%04d.png", "NO_FRAMES"),
        ("a.####.bmp", "UNSUPPORTED"),
    ],
)
def test_what_is_not_read(tmp_path, name, reason):
    (tmp_path / "a.0001.exr").write_bytes(b"v/1\x01")
    with pytest.raises(MediaError) as caught:
        probe(tmp_path / name)
    assert caught.value.reason == reason


def _film(folder, suffix, numbers, dtype, size=(24, 16), **attributes):
    """Pictures as a film scanner or a renderer writes them."""
    folder.mkdir(exist_ok=True)
    for value, number in enumerate(numbers):
        spec = OpenImageIO.ImageSpec(size[0], size[1], 3, "half" if dtype == np.float16 else np.dtype(dtype).name)
        if dtype == np.float32:
            spec.set_format("float")
        for key, attribute in attributes.items():
            spec.attribute(key.replace("__", ":"), attribute)
        spec.attribute("smpte:TimeCode", OpenImageIO.TypeTimeCode, (0x01000000 + value, 0))
        name = str(folder / f"shot.{number}.{suffix}")
        target = OpenImageIO.ImageOutput.create(name)
        assert target.open(name, spec)
        assert target.write_image(np.ascontiguousarray(_film_image(value, dtype, size)[..., ::-1]))
        assert target.close()
    return folder


def _film_image(value, dtype, size=(24, 16)):
    if dtype == np.uint16:
        return _image(value, np.uint16, size)
    return np.random.default_rng(value).normal(0.5, 1, (size[1], size[0], 3)).astype(dtype).astype(np.float32)


@pytest.mark.parametrize(
    ("suffix", "dtype", "bits", "pixel_format"),
    [
        ("dpx", np.uint16, 16, "bgr48le"),
        ("dpx", np.uint16, 10, "gbrp10le"),
        ("exr", np.float16, 16, "gbrpf16le"),
        ("exr", np.float32, 32, "gbrpf32le"),
    ],
)
def test_film_pictures(tmp_path, suffix, dtype, bits, pixel_format):
    depth = {"oiio__BitsPerSample": bits} if suffix == "dpx" else {}
    folder = _film(tmp_path / "plate", suffix, (1001, 1002, 1005), dtype, PixelAspectRatio=2.0, **depth)
    with open_source(folder) as source:
        info = source.info
        assert (info.first_number, info.missing_numbers, info.frame_count) == (1001, (1003, 1004), 3)
        assert (info.bit_depth, info.pixel_format) == (bits, pixel_format)
        assert info.is_float == (suffix == "exr")
        assert (info.timecode, info.pixel_aspect, info.rate) == ("01:00:00:00", 2, 25)
        for index, image in source.frames(0, 3):
            wanted = _film_image(index, dtype)
            assert image.dtype == (np.float32 if suffix == "exr" else np.uint16)
            if bits == 10:
                assert np.abs(image.astype(int) - wanted).max() < 64
            else:
                assert np.array_equal(image, wanted)


def test_the_rate_is_the_callers_or_the_headers(tmp_path):
    folder = _film(tmp_path / "plate", "dpx", (1, 2, 3), np.uint16, dpx__FrameRate=23.976)
    assert probe(folder).rate == Fraction(24000, 1001)
    assert probe(folder).duration_s == pytest.approx(3 * 1001 / 24000)
    assert probe(folder, sequence_rate=Fraction(30)).rate == 30
    assert probe(_write(tmp_path / "png", ["a.1.png"])).rate == 25


def _damaged_sequence(tmp_path):
    """Eight frames 11 to 18: 11 is cut, 13 is no picture, 15 has another size, 16 another depth, 17 is gone."""
    folder = _write(tmp_path / "seq", [f"a.{number}.png" for number in range(11, 19)], size=(64, 48))
    (folder / "a.11.png").write_bytes((folder / "a.11.png").read_bytes()[:2000])
    (folder / "a.13.png").write_text("no picture")
    cv2.imwrite(str(folder / "a.15.png"), np.zeros((5, 5, 3), np.uint8))
    cv2.imwrite(str(folder / "a.16.png"), np.zeros((48, 64, 3), np.uint16))
    return folder


def test_damaged_files_are_reported_and_left_out(tmp_path):
    folder = _damaged_sequence(tmp_path)
    found = []
    with open_source(folder) as source:
        (folder / "a.17.png").unlink()
        got = dict(source.frames(0, 8, on_corrupt=found.append))
        with pytest.raises(MediaError, match=r"a\.17.*gone"):
            source.frame(6)
    assert [error.frame_index for error in found] == [0, 2, 4, 5, 6]
    assert {error.reason for error in found} == {"CORRUPT_FRAME"}
    assert all(f"a.{11 + error.frame_index}.png" in str(error) for error in found)
    assert list(got) == [1, 3, 7]
    assert all(np.array_equal(image, _image(index, size=(64, 48))) for index, image in got.items())


def test_a_damaged_first_file_still_gives_a_sequence(tmp_path):
    folder = _film(tmp_path / "plate", "dpx", (1, 2, 3), np.uint16)
    (folder / "shot.1.dpx").write_bytes(b"")
    info = probe(folder)
    assert (info.frame_count, info.width, info.timecode) == (3, 24, None)  # frame 0's timecode is not known


def test_what_is_not_damage_is_raised(tmp_path):
    folder = _write(tmp_path / "seq", ["a.1.tif", "a.2.tif"])
    spec = OpenImageIO.ImageSpec(24, 16, 3, "int16")
    target = OpenImageIO.ImageOutput.create(str(folder / "a.2.tif"))
    assert target.open(str(folder / "a.2.tif"), spec)
    assert target.write_image(np.zeros((16, 24, 3), np.float32))
    assert target.close()
    with open_source(folder) as source, pytest.raises(MediaError) as caught:
        list(source.frames(0, 2, on_corrupt=lambda error: None))
    assert (caught.value.reason, caught.value.frame_index) == ("UNSUPPORTED", 1)


def test_empty_folder(tmp_path):
    with pytest.raises(MediaError) as caught:
        open_source(tmp_path)
    assert caught.value.reason == "NO_FRAMES"
