"""Image sequences: frames are the files that exist, numbers and times keep the gaps."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
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
        ("a.0001.exr", "UNSUPPORTED"),
        ("a.%04d.dpx", "UNSUPPORTED"),
        ("b.%04d.png", "NO_FRAMES"),
        ("a.####.bmp", "UNSUPPORTED"),
    ],
)
def test_what_is_not_read(tmp_path, name, reason):
    (tmp_path / "a.0001.exr").write_bytes(b"v/1\x01")
    with pytest.raises(MediaError) as caught:
        probe(tmp_path / name)
    assert caught.value.reason == reason


def test_empty_folder(tmp_path):
    with pytest.raises(MediaError) as caught:
        open_source(tmp_path)
    assert caught.value.reason == "NO_FRAMES"
