"""Writing: segments come back bit for bit; the film has every frame, the right times, colours, sound, and nothing
half-written."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ml_common.media import (
    AudioSamples,
    ColorTags,
    EncodeSettings,
    MediaError,
    SegmentWriter,
    encode_video,
    open_source,
    probe,
    read_segment,
)

_BT709 = ColorTags(range="tv", matrix="bt709", primaries="bt709", transfer="bt709")
_FAST = EncodeSettings(crf=14, preset="veryfast")


def _psnr_db(one: np.ndarray, other: np.ndarray, white: float = 255.0) -> float:
    return float(10 * np.log10(white**2 / np.mean((one.astype(np.float64) - other) ** 2)))


def _natural(count: int, width: int = 160, height: int = 120) -> list[np.ndarray]:
    """Moving soft colours: content that 4:2:0 and H.264 are made for."""
    x_HW, y_HW = np.meshgrid(np.arange(width), np.arange(height))
    pictures = []
    for t in range(count):
        waves = [
            np.sin(x_HW / 23 + t / 9 + phase) * np.cos(y_HW / 31 - t / 13 + phase * 2) for phase in (0.0, 1.1, 2.3)
        ]
        pictures.append((128 + 90 * np.stack(waves, -1)).astype(np.uint8))
    return pictures


# Segments


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(48, 64, 3), (47, 61, 3), (1, 1, 3), (48, 64), (33, 65)])
def test_segment_round_trip(tmp_path, dtype, shape):
    rng = np.random.default_rng(3)
    images = [rng.integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype) for _ in range(7)]
    images.append(np.zeros(shape, dtype))
    images.append(np.full(shape, np.iinfo(dtype).max, dtype))
    images.append(np.flip(images[0], 0))  # not contiguous
    with SegmentWriter(tmp_path / "s.mkv") as writer:
        for image in images:
            writer.write(image)
    back = list(read_segment(tmp_path / "s.mkv"))
    assert len(back) == len(images)
    for one, other in zip(back, images, strict=True):
        assert one.dtype == dtype
        assert np.array_equal(one, other)
    assert [path.name for path in tmp_path.iterdir()] == ["s.mkv"]


def test_segment_refuses_what_it_cannot_keep(tmp_path):
    with pytest.raises(ValueError, match="float32"), SegmentWriter(tmp_path / "a.mkv") as writer:
        writer.write(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="image 1"), SegmentWriter(tmp_path / "a.mkv") as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8))
        writer.write(np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="no images"), SegmentWriter(tmp_path / "a.mkv"):
        pass
    with pytest.raises(RuntimeError), SegmentWriter(tmp_path / "a.mkv") as writer:
        writer.write(np.zeros((8, 8), np.uint8))
        raise RuntimeError("the worker died")
    assert list(tmp_path.iterdir()) == []


def _segment(path: Path) -> Path:
    with SegmentWriter(path) as writer:
        for image in _natural(6):
            writer.write(image)
    return path


def test_damaged_segment_is_found(tmp_path):
    path = _segment(tmp_path / "s.mkv")
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][3]
    data = bytearray(path.read_bytes())
    data[packet.pos + packet.size // 2] ^= 0x10
    path.write_bytes(data)
    images = read_segment(path)
    for expected in _natural(3):
        assert np.array_equal(next(images), expected)
    with pytest.raises(MediaError, match="image 3") as caught:
        next(images)
    assert caught.value.reason == "CORRUPT_FRAME"


def test_cut_segment_gives_nothing(tmp_path):
    path = _segment(tmp_path / "s.mkv")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(MediaError) as caught:
        next(read_segment(path))
    assert caught.value.reason == "TRUNCATED"


# The film


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(24000, 1001)])
@pytest.mark.parametrize(
    "color",
    [
        _BT709,
        ColorTags(range="pc", matrix="bt709", primaries="bt709", transfer="bt709"),
        ColorTags(range="tv", matrix="smpte170m", primaries="smpte170m", transfer="smpte170m"),
        ColorTags(),
    ],
    ids=["bt709", "full", "smpte170m", "untagged"],
)
def test_what_goes_in_comes_out(tmp_path, rate, color):
    pictures = _natural(30)
    seen: list[int] = []
    info = encode_video(
        tmp_path / "out.mp4",
        iter(pictures),
        rate=rate,
        color=color,
        settings=_FAST,
        metadata={"comment": "This picture is AI-modified.", "understudy.job": "42"},
        timecode="01:00:00:00",
        on_frame=seen.append,
    )
    assert info == probe(tmp_path / "out.mp4")
    assert (info.frame_count, info.rate, info.variable_rate, info.color, info.timecode) == (
        30,
        rate,
        False,
        color,
        "01:00:00:00",
    )
    assert (info.width, info.height, info.pixel_format.replace("yuvj", "yuv")) == (160, 120, "yuv420p")
    assert seen == list(range(30))
    with open_source(tmp_path / "out.mp4") as source:
        for index, image in source.frames(0, 30):
            assert _psnr_db(image, pictures[index]) > 40
            assert abs(image.mean() - pictures[index].mean()) < 0.5  # no shift of levels
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.metadata["comment"] == "This picture is AI-modified."
        assert container.metadata["understudy.job"] == "42"
    data = (tmp_path / "out.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize(("dtype", "white"), [(np.uint16, 65535), (np.float32, 1.0)])
def test_deeper_pictures_are_rounded(tmp_path, dtype, white):
    pictures = _natural(4)
    deep = [(picture.astype(np.float64) / 255 * white).astype(dtype) for picture in pictures]
    encode_video(tmp_path / "a.mp4", deep, rate=Fraction(25), color=_BT709, settings=_FAST)
    with open_source(tmp_path / "a.mp4") as source:
        assert all(_psnr_db(image, pictures[index]) > 40 for index, image in source.frames(0, 4))


@pytest.mark.parametrize(("width", "height"), [(161, 120), (160, 121), (161, 121)])
def test_odd_sizes_are_kept_as_444(tmp_path, width, height):
    pictures = _natural(5, width, height)
    info = encode_video(tmp_path / "a.mp4", pictures, rate=Fraction(25), color=_BT709, settings=_FAST)
    assert (info.width, info.height, info.pixel_format) == (width, height, "yuv444p")
    with open_source(tmp_path / "a.mp4") as source:
        assert all(_psnr_db(image, pictures[index]) > 40 for index, image in source.frames(0, 5))


def test_rgb_footage_is_tagged_bt709(tmp_path):
    info = encode_video(
        tmp_path / "a.mp4", _natural(3), rate=Fraction(25), color=ColorTags(range="pc", matrix="gbr"), settings=_FAST
    )
    assert (info.color.range, info.color.matrix) == ("tv", "bt709")


def test_variable_times_and_pixel_aspect_are_kept(tmp_path):
    times_s = [0.5, 0.54, 0.58, 0.7, 1.3, 1.34, 1.3401, 2.0]
    info = encode_video(
        tmp_path / "a.mp4",
        _natural(8),
        rate=Fraction(25),
        times_s=times_s,
        color=_BT709,
        settings=_FAST,
        pixel_aspect=Fraction(4, 3),
    )
    assert info.variable_rate
    assert info.pixel_aspect == Fraction(4, 3)
    assert info.duration_s == pytest.approx(1.54, abs=1e-4)
    with open_source(tmp_path / "a.mp4") as source:
        assert [source.time_s(i) for i in range(8)] == pytest.approx([time_s - 0.5 for time_s in times_s], abs=2e-5)


def test_times_of_a_millisecond_clock_are_a_constant_rate(tmp_path):
    rate = Fraction(30000, 1001)
    times_s = [round(float(i / rate), 3) for i in range(30)]
    info = encode_video(tmp_path / "a.mp4", _natural(30), rate=rate, times_s=times_s, color=_BT709, settings=_FAST)
    assert (info.rate, info.variable_rate) == (rate, False)


def test_bitrate(tmp_path):
    noise = [np.random.default_rng(i).integers(0, 255, (120, 160, 3)).astype(np.uint8) for i in range(50)]
    settings = EncodeSettings(crf=None, bitrate_mbit=1.0, preset="veryfast", pixel_format="yuv444p")
    encode_video(tmp_path / "a.mp4", noise, rate=Fraction(25), color=_BT709, settings=settings)
    assert 0.5 < (tmp_path / "a.mp4").stat().st_size * 8 / 2 / 1e6 < 2


# Sound


def _flash_and_beep(path: Path, write_clip, codec: str, rate_hz: int, layout: str, flash: int = 30) -> Path:
    """A white frame and, at the same time, a beep of its length."""
    rate = Fraction(25)
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    sound = np.zeros((channels, rate_hz * 3), np.float32)
    start = int(flash / rate * rate_hz)
    sound[:, start : start + rate_hz // 25] = 0.8 * np.sin(np.arange(rate_hz // 25) * 2 * np.pi * 1000 / rate_hz)

    def paint(number, width, height):
        return np.full((height, width, 3), 235 if number == flash else 20, np.uint8)

    return write_clip(path, 75, rate=rate, audio=(codec, layout, rate_hz, sound), paint=paint)


def _events_s(path: Path) -> tuple[float, float]:
    """(time of the first bright frame, time of the first loud sample) as a player would have them."""
    with open_source(path) as source:
        flash_s = next(source.time_s(index) for index, image in source.frames(0, len(source)) if image.mean() > 120)
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            loud = np.abs(frame.to_ndarray().astype(np.float64)).max(0)
            if loud.max() > 0.2:
                return flash_s, frame.time + float(np.argmax(loud > 0.2)) / frame.sample_rate
    raise AssertionError("no beep")


def _images(source, start: int = 0) -> Iterator[np.ndarray]:
    return (image for _, image in source.frames(start, len(source)))


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz", "layout", "written"),
    [
        ("a.mp4", "aac", 48000, "stereo", "aac"),
        ("a.mkv", "aac", 44100, "mono", "aac"),
        ("a.mkv", "ac3", 48000, "5.1", "ac3"),
        ("a.mov", "pcm_s16le", 48000, "stereo", "aac"),
        ("a.mkv", "pcm_s16le", 96000, "mono", "aac"),
        ("a.mkv", "libmp3lame", 44100, "stereo", "mp3float"),
    ],
)
@pytest.mark.parametrize("first", [0, 13])
def test_flash_and_beep_stay_together(tmp_path, write_clip, name, codec, rate_hz, layout, written, first):
    clip = _flash_and_beep(tmp_path / name, write_clip, codec, rate_hz, layout)
    before_s = _events_s(clip)
    with open_source(clip) as source:
        times_s = [source.time_s(index) for index in range(first, len(source))]
        info = encode_video(
            tmp_path / "out.mp4",
            _images(source, first),
            rate=source.info.rate,
            times_s=times_s,
            color=source.info.color,
            settings=_FAST,
            audio_from=clip,
        )
    assert info.frame_count == 75 - first
    (track,) = info.audio
    assert track.codec == written
    assert (track.layout.split("(")[0], track.sample_rate_hz) == (layout, rate_hz)
    assert track.duration_s == pytest.approx(3 - first / 25, abs=0.06)
    flash_s, beep_s = _events_s(tmp_path / "out.mp4")
    assert flash_s == pytest.approx((30 - first) / 25, abs=1e-3)
    assert abs((beep_s - flash_s) - (before_s[1] - before_s[0])) < 0.012  # a third of a frame
    assert abs(beep_s - flash_s) < 0.04


def test_copied_packets_last_what_they_hold(tmp_path, write_clip):
    """Matroska's milliseconds must not become a sound track whose packets last 21 or 22 ms instead of 1024 samples."""
    clip = _flash_and_beep(tmp_path / "a.mkv", write_clip, "aac", 48000, "stereo")
    with open_source(clip) as source:
        encode_video(
            tmp_path / "out.mp4", _images(source), rate=Fraction(25), color=_BT709, settings=_FAST, audio_from=clip
        )
    with av.open(str(tmp_path / "out.mp4")) as container:
        stamps = [packet.pts for packet in container.demux(audio=0) if packet.size]
    assert set(np.diff(stamps)) == {1024}


def test_sound_that_starts_late_or_ends_early(tmp_path, write_clip):
    """Sound from 1 s on, over a film of 3 s: heard from 1 s on."""
    rate_hz = 48000
    tone = 0.5 * np.ones((1, rate_hz), np.float32)
    clip = write_clip(tmp_path / "a.mkv", 75)
    late = tmp_path / "late.mkv"
    with av.open(str(clip)) as source, av.open(str(late), "w") as output:
        video = output.add_stream_from_template(source.streams.video[0], opaque=True)
        sound = output.add_stream("pcm_s16le", rate=rate_hz)
        sound.layout = "mono"
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                output.mux(packet)
        frame = av.AudioFrame.from_ndarray((tone * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, rate_hz, Fraction(1, rate_hz)
        output.mux(sound.encode(frame))
    with open_source(late) as source:
        info = encode_video(
            tmp_path / "out.mp4", _images(source), rate=Fraction(25), color=_BT709, settings=_FAST, audio_from=late
        )
    assert info.audio[0].duration_s == pytest.approx(2.0, abs=0.05)
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = list(container.decode(audio=0))
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    onset_s = frames[0].time + np.argmax(np.abs(samples) > 0.2) / rate_hz
    assert onset_s == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [44100, 48000, 100000])
def test_samples_as_sound(tmp_path, channels, rate_hz):
    time_s = np.arange(2 * rate_hz) / rate_hz
    tone = np.repeat(np.where(time_s < 1, 0, 0.5 * np.sin(2 * np.pi * 440 * time_s))[:, None], channels, 1).astype(
        np.float32
    )
    info = encode_video(
        tmp_path / "a.mp4",
        _natural(25),
        rate=Fraction(25, 2),
        color=_BT709,
        settings=_FAST,
        audio=AudioSamples(tone, rate_hz),
    )
    assert (info.audio[0].codec, info.audio[0].channels) == ("aac", channels)
    assert info.audio[0].duration_s == pytest.approx(2.0, abs=0.05)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = list(container.decode(audio=0))
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    assert frames[0].time + np.argmax(np.abs(samples) > 0.2) / frames[0].sample_rate == pytest.approx(1.0, abs=0.01)


def test_a_silent_clip_makes_a_silent_film(tmp_path, write_clip):
    clip = write_clip(tmp_path / "a.mp4", 5)
    info = encode_video(
        tmp_path / "b.mp4", _natural(5), rate=Fraction(25), color=_BT709, settings=_FAST, audio_from=clip
    )
    assert info.audio == ()


def test_too_many_channels(tmp_path):
    with pytest.raises(MediaError) as caught:
        encode_video(
            tmp_path / "a.mp4",
            _natural(3),
            rate=Fraction(25),
            color=_BT709,
            settings=_FAST,
            audio=AudioSamples(np.zeros((100, 11), np.float32), 48000),
        )
    assert caught.value.reason == "AUDIO_LAYOUT"
    assert list(tmp_path.iterdir()) == []


# Errors leave nothing behind, and what was there before


def _failing_frames() -> Iterator[np.ndarray]:
    yield from _natural(3)
    raise MediaError("CORRUPT_FRAME", "frame 3 is damaged", frame_index=3)


@pytest.mark.parametrize(
    ("frames", "arguments", "error", "text"),
    [
        (lambda: iter(()), {}, MediaError, "no frames"),
        (_failing_frames, {}, MediaError, "frame 3"),
        (lambda: iter([*_natural(2), *_natural(1, 80, 60)]), {}, ValueError, "frame 2"),
        (lambda: iter([np.zeros((8, 8), np.uint8)]), {}, ValueError, "H, W, 3"),
        (lambda: iter(_natural(3)), {"times_s": [0.0, 0.04]}, ValueError, "more frames"),
        (lambda: iter(_natural(3)), {"times_s": [0.0, 0.04, 0.08, 0.12]}, ValueError, "4 times_s"),
        (lambda: iter(_natural(3)), {"times_s": [0.0, 0.9, 0.5]}, ValueError, "rise"),
        (lambda: iter(_natural(3)), {"timecode": "soon"}, ValueError, "timecode"),
        (lambda: iter(_natural(3)), {"color": ColorTags(matrix="bt7o9")}, ValueError, "bt7o9"),
        (lambda: iter(_natural(3)), {"color": ColorTags(matrix="ictcp")}, MediaError, "ictcp"),
    ],
)
def test_errors_leave_nothing(tmp_path, frames, arguments, error, text):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"the film of yesterday")
    with pytest.raises(error, match=text):
        encode_video(path, frames(), **{"rate": Fraction(25), "color": _BT709, "settings": _FAST, **arguments})
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]
    assert path.read_bytes() == b"the film of yesterday"


def test_a_source_of_sound_that_is_none(tmp_path):
    (tmp_path / "text.mp4").write_text("not a film" * 100)
    with pytest.raises(MediaError) as caught:
        encode_video(
            tmp_path / "a.mp4",
            _natural(3),
            rate=Fraction(25),
            color=_BT709,
            settings=_FAST,
            audio_from=tmp_path / "text.mp4",
        )
    assert caught.value.reason == "NOT_MEDIA"
    assert [file.name for file in tmp_path.iterdir()] == ["text.mp4"]


@pytest.fixture
def small_disk():
    """No file may grow over 20 kB: as a full disk, the writer's system calls fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(tmp_path, small_disk):
    noise = [np.random.default_rng(i).integers(0, 255, (120, 160, 3)).astype(np.uint8) for i in range(20)]
    with pytest.raises((OSError, MediaError)):
        encode_video(tmp_path / "a.mp4", noise, rate=Fraction(25), color=_BT709, settings=_FAST)
    with pytest.raises(OSError), SegmentWriter(tmp_path / "a.mkv") as writer:
        for image in noise:
            writer.write(image)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"codec": "vp9"},
        {"crf": 60},
        {"crf": None},
        {"bitrate_mbit": 5.0},
        {"crf": None, "bitrate_mbit": -1.0},
        {"preset": "quick"},
        {"pixel_format": "rgb24"},
    ],
)
def test_settings_are_checked(arguments):
    with pytest.raises(ValueError, match=r"use|give|crf|bitrate"):
        EncodeSettings(**arguments)


def test_only_mp4(tmp_path):
    with pytest.raises(ValueError, match="mp4"):
        encode_video(tmp_path / "a.mkv", _natural(1), rate=Fraction(25), color=_BT709, settings=_FAST)
