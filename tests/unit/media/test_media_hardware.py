"""Decoding on a device: refused clearly where there is none, and the same pixels where there is one."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from ml_common.media import ColorTags, MediaError, hardware_decoders, open_source
from ml_common.media.color import BgrReader


def _refused(path, hardware):
    with pytest.raises(MediaError) as caught:
        open_source(path, hardware=hardware)
    assert caught.value.reason == "UNSUPPORTED"
    return str(caught.value)


def test_what_is_not_there_is_refused(tmp_path, write_clip):
    path = write_clip(tmp_path / "a.mp4", 5)
    there = hardware_decoders()
    assert "nonsense" in _refused(path, "nonsense")
    for name in {"cuda", "vaapi", "qsv", "amf", "videotoolbox"} - set(there):
        assert name in _refused(path, name)
    with open_source(path) as source:
        assert len(source) == 5


def test_a_codec_that_no_device_decodes_is_refused(tmp_path, write_clip):
    path = write_clip(tmp_path / "a.mkv", 3, codec="ffv1", pixel_format="bgr0")
    assert "cuda" in _refused(path, "cuda")


def test_pictures_are_not_for_a_device(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    assert "pictures" in _refused(tmp_path / "a.png", "cuda")


@pytest.mark.parametrize(("stored", "fetched"), [("yuv420p", "nv12"), ("yuv420p10le", "p010le")])
@pytest.mark.parametrize("value_range", ["tv", "pc"])
def test_the_layouts_that_devices_give_read_the_same(numbered_picture, stored, fetched, value_range):
    """A device hands back the samples of a clip with U and V interleaved."""
    frame = av.VideoFrame.from_ndarray(numbered_picture(5, 128, 96), format="bgr24").reformat(format=stored)
    reader = BgrReader(stored, ColorTags(range=value_range), 96)
    wanted = reader.read(frame)
    got = reader.read(VideoReformatter().reformat(frame, format=fetched))
    assert got.dtype == wanted.dtype
    assert np.abs(got.astype(int) - wanted.astype(int)).max() <= (1 if got.dtype == np.uint8 else 70)


@pytest.mark.gpu
@pytest.mark.skipif("cuda" not in hardware_decoders(), reason="this machine has no NVDEC that FFmpeg can open")
@pytest.mark.parametrize(
    ("codec", "pixel_format"), [("libx264", "yuv420p"), ("libx265", "yuv420p"), ("libx265", "yuv420p10le")]
)
def test_nvdec_gives_the_same_frames(tmp_path, write_clip, number_of, codec, pixel_format):
    path = write_clip(tmp_path / "a.mp4", 40, size=(256, 192), codec=codec, pixel_format=pixel_format)
    with open_source(path) as source:
        wanted = dict(source.frames(0, 40))
    with open_source(path, hardware="cuda") as source:
        for index, image in source.frames(0, 40):
            assert number_of(image) == index
            assert np.abs(image.astype(int) - wanted[index].astype(int)).max() <= 2 * (
                257 if image.dtype != np.uint8 else 1
            )
        assert np.array_equal(source.frame(11), dict(source.frames(11, 12))[11])
