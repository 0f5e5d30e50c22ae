"""Reading: frame i is the i-th frame shown, whatever the container, the codec and the order of asking."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ml_common.media import ColorTags, MediaError, color, open_source, probe

_OPEN_GROUPS = {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:b-pyramid=normal:scenecut=0"}
_KINDS = {
    "mp4-bframes": ("a.mp4", {"options": {"g": "10", "bf": "3"}}),
    "mkv-open-groups": ("a.mkv", {"options": _OPEN_GROUPS}),
    "mp4-open-groups": ("a.mp4", {"options": _OPEN_GROUPS}),
    "ts-open-groups": ("a.ts", {"options": _OPEN_GROUPS}),
    "mkv-gradual-refresh": ("a.mkv", {"options": {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}}),
    "avi-mpeg4-bframes": ("a.avi", {"codec": "mpeg4", "options": {"g": "10", "bf": "2"}}),
    "avi-mjpeg": ("a.avi", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
    "mov-prores": ("a.mov", {"codec": "prores_ks", "pixel_format": "yuv422p10le"}),
    "mkv-ffv1": ("a.mkv", {"codec": "ffv1"}),
    "webm-vp8-hidden-frames": (
        "a.webm",
        {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "12", "g": "15", "deadline": "realtime"}},
    ),
    "webm-vp9": (
        "a.webm",
        {"codec": "libvpx-vp9", "options": {"lag-in-frames": "10", "g": "15", "deadline": "realtime"}},
    ),
    "mkv-hevc": (
        "a.mkv",
        {"codec": "libx265", "options": {"x265-params": "keyint=12:bframes=4:log-level=none:pools=1"}},
    ),
    "mpg-mpeg2": ("a.mpg", {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}}),
    "gif": ("a.gif", {"codec": "gif", "pixel_format": "rgb8"}),
    "raw-h264": ("a.h264", {"options": {"g": "10", "bf": "2"}}),
    "mp4-interlaced": ("a.mp4", {"options": {"x264-params": "interlaced=1:keyint=10:bframes=2"}}),
}


@pytest.mark.parametrize("kind", _KINDS)
def test_every_frame_by_number(kind, tmp_path, write_clip, number_of):
    name, arguments = _KINDS[kind]
    path = write_clip(tmp_path / name, 40, **arguments)
    with open_source(path) as source:
        in_order = dict(source.frames(0, len(source)))
        assert len(source) == source.info.frame_count == 40
        assert [number_of(image) for image in in_order.values()] == list(range(40))
        for index in np.random.default_rng(1).permutation(40):
            assert np.array_equal(source.frame(int(index)), in_order[int(index)]), index
    with open_source(path) as source:  # a source that starts in the middle
        assert np.array_equal(source.frame(27), in_order[27])
        assert np.array_equal(source.frame(3), in_order[3])


def test_in_order_never_seeks(tmp_path, write_clip, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", 40, options={"g": "5"})
    with open_source(path) as source:
        monkeypatch.setattr(source, "_seek", lambda key: pytest.fail("a seek"))
        assert sum(1 for _ in source.frames(0, 40)) == 40


def test_iterators_do_not_disturb_each_other(tmp_path, write_clip, number_of):
    path = write_clip(tmp_path / "a.mkv", 30, options={"g": "8"})
    with open_source(path) as source:
        for index, image in source.frames(5, 25):
            assert number_of(image) == index
            if index % 4 == 0:
                assert number_of(source.frame(29 - index % 20)) == 29 - index % 20


def test_variable_rate_times(tmp_path, write_clip, number_of):
    times_ms = [0, 40, 80, 200, 240, 280, 1000, 1040, 1041, 1100]
    path = write_clip(tmp_path / "a.mkv", 10, times_ms=times_ms, options={"g": "4", "bf": "2"})
    with open_source(path) as source:
        assert source.info.variable_rate
        assert source.info.rate == Fraction(9, 1) / Fraction(1100, 1000)
        assert [round(source.time_s(i) * 1000) for i in range(10)] == times_ms
        assert [number_of(image) for _, image in source.frames(0, 10)] == list(range(10))
        assert number_of(source.frame(6)) == 6


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.avi"])
@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(25), Fraction(60000, 1001)])
def test_constant_rate_is_exact(tmp_path, write_clip, name, rate):
    info = probe(write_clip(tmp_path / name, 30, rate=rate))
    assert (info.rate, info.variable_rate, info.frame_count) == (rate, False, 30)
    assert info.duration_s == pytest.approx(30 / rate, abs=2e-3)


def _remuxed(path: Path, target: Path, shift: int, skip_packets: int = 0) -> Path:
    """The packets of ``path`` in a new file, ``shift`` ticks later, without the first few."""
    with av.open(str(path)) as source, av.open(str(target), "w") as output:
        video = output.add_stream_from_template(source.streams.video[0], opaque=True)
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if not packet.size or number < skip_packets:
                continue
            packet.pts += shift
            packet.dts = None if packet.dts is None else packet.dts + shift
            packet.stream = video
            output.mux(packet)
    return target


def test_edit_list_hides_frames(tmp_path, write_clip, number_of):
    """Negative times in MP4 become an edit list: those packets are decoded, never shown, and are no frames."""
    whole = write_clip(tmp_path / "a.mp4", 30, options={"g": "12", "bf": "2"})
    with av.open(str(whole)) as container:
        tick = round(Fraction(1, 25) / container.streams.video[0].time_base)
    path = _remuxed(whole, tmp_path / "b.mp4", -5 * tick)
    with open_source(path) as source:
        assert len(source) == 25
        numbers = [number_of(image) for _, image in source.frames(0, 25)]
        assert numbers == list(range(5, 30))
        assert source.info.start_time_s == pytest.approx(0.0, abs=1e-3)
        assert number_of(source.frame(20)) == 25
        assert number_of(source.frame(2)) == 7


def test_late_start_is_kept(tmp_path, write_clip):
    path = _remuxed(write_clip(tmp_path / "a.mkv", 10, options={"bf": "0"}), tmp_path / "b.mkv", 480)
    with open_source(path) as source:
        assert source.info.start_time_s == pytest.approx(0.48, abs=2e-3)
        assert source.time_s(1) - source.time_s(0) == pytest.approx(0.04, abs=2e-3)


def test_cut_inside_an_open_group(tmp_path, write_clip, number_of):
    """Pictures before the first keyframe whose references were cut off are no frames: the keyframe is frame 0."""
    whole = write_clip(tmp_path / "a.mkv", 40, options=_OPEN_GROUPS)
    with av.open(str(whole)) as container:
        keys = [n for n, packet in enumerate(container.demux(video=0)) if packet.size and packet.is_keyframe]
    path = _remuxed(whole, tmp_path / "b.mkv", 0, skip_packets=keys[1])
    with open_source(path) as source:
        numbers = [number_of(image) for _, image in source.frames(0, len(source))]
        assert numbers == list(range(numbers[0], 40))
        assert numbers[0] <= 10
        assert [number_of(source.frame(i)) for i in (17, 3, 0)] == [numbers[17], numbers[3], numbers[0]]


# What the stored picture looks like after a counter-clockwise turn and, before it, a mirror (as the display matrix
# says).
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_rotation_flag(tmp_path, write_clip, degrees, mirror, name):
    def paint(number, width, height):
        image = np.full((height, width, 3), 60, np.uint8)
        image[:24, :32] = 220  # top left corner
        image[:24, -32:] = 130  # top right
        return image

    path = write_clip(tmp_path / name, 2, size=(128, 96), rotation=(degrees, mirror), paint=paint)
    stored = paint(0, 128, 96)
    turned = np.rot90(stored, degrees // 90)  # counter-clockwise
    expected = turned[:, ::-1] if mirror else turned
    with open_source(path) as source:
        image = source.frame(0)
        assert image.shape == expected.shape == (source.info.height, source.info.width, 3)
        assert image.flags["C_CONTIGUOUS"]
        assert np.abs(image.astype(int) - expected).mean() < 6
        if not mirror:
            assert source.info.rotation_deg == (360 - degrees) % 360


@pytest.mark.parametrize(("codec", "pixel_format"), [("ffv1", "yuv420p"), ("libx264", "yuv444p")])
def test_odd_sizes(tmp_path, write_clip, number_of, codec, pixel_format):
    path = write_clip(tmp_path / "a.mkv", 5, size=(129, 97), codec=codec, pixel_format=pixel_format)
    with open_source(path) as source:
        assert source.frame(4).shape == (97, 129, 3)
        assert number_of(source.frame(4)) == 4


def _flat_clip(
    path: Path, pixel_format: str, yuv: tuple[int, int, int], tags: tuple[int, int, int, int], height: int
) -> Path:
    """One lossless frame of one stored value."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25, options={"level": "3"})
        stream.width, stream.height, stream.pix_fmt = 64, height, pixel_format
        context = stream.codec_context
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = tags
        frame = av.VideoFrame(64, height, pixel_format)
        for plane, value in zip(frame.planes, yuv, strict=True):
            dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
            np.frombuffer(plane, dtype)[:] = value
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def _bgr(yuv: tuple[int, int, int], kr: float, kb: float, full: bool, bits: int) -> np.ndarray:
    """ITU-R BT.601/709/2020: Y'CbCr to B'G'R' in 0..1."""
    unit = 1 << (bits - 8)
    peak = (1 << bits) - 1
    y, cb, cr = (
        (yuv[0] / peak, (yuv[1] - 128 * unit) / peak, (yuv[2] - 128 * unit) / peak)
        if full
        else (
            (yuv[0] - 16 * unit) / (219 * unit),
            (yuv[1] - 128 * unit) / (224 * unit),
            (yuv[2] - 128 * unit) / (224 * unit),
        )
    )
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip([blue, green, red], 0, 1)


_K = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


@pytest.mark.parametrize("code", [1, 6, 9])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_matrix_and_range_are_honoured(tmp_path, code, full, bits):
    yuv = tuple(value << (bits - 8) for value in (120, 100, 160))
    pixel_format = "yuv444p" if bits == 8 else f"yuv444p{bits}le"
    path = _flat_clip(tmp_path / "a.mkv", pixel_format, yuv, (2 if full else 1, code, code, code), 64)
    with open_source(path) as source:
        image = source.frame(0)
        info = source.info
    expected = _bgr(yuv, *_K[code], full, bits)
    assert info.bit_depth == bits
    assert image.dtype == (np.uint8 if bits == 8 else np.uint16)
    white = 255 if bits == 8 else 65535
    # 16-bit output passes through swscale's 15 to 19 bit arithmetic: a few counts of 65535.
    assert np.abs(image[5, 5] / white - expected).max() <= (0.51 / 255 if bits == 8 else 24 / 65535)
    assert info.color.range == ("pc" if full else "tv")
    assert info.color.matrix == {1: "bt709", 6: "smpte170m", 9: "bt2020nc"}[code]


@pytest.mark.parametrize(("full", "peak"), [(False, 940), (True, 1023)])
def test_ten_bit_white_is_full_scale(tmp_path, full, peak):
    path = _flat_clip(tmp_path / "a.mkv", "yuv444p10le", (peak, 512, 512), (2 if full else 1, 1, 1, 1), 64)
    with open_source(path) as source:
        assert np.abs(source.frame(0).astype(int) - 65535).max() <= 8


@pytest.mark.parametrize(("height", "code"), [(576, 6), (720, 1)])
def test_untagged_footage_is_sd_or_hd_by_its_lines(tmp_path, height, code):
    path = _flat_clip(tmp_path / "a.mkv", "yuv444p", (120, 100, 160), (0, 2, 2, 2), height)
    with open_source(path) as source:
        assert np.abs(source.frame(0)[5, 5] / 255 - _bgr((120, 100, 160), *_K[code], False, 8)).max() <= 0.51 / 255
        color = source.info.color
    assert (color.range, color.matrix, color.primaries, color.transfer) == ("unspecified",) * 4


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuvj420p", "yuv420p10le", "yuv444p12le"])
def test_threads_do_not_change_the_picture(monkeypatch, pixel_format):
    rng = np.random.default_rng(5)
    frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (134, 200, 3)).astype(np.uint8), format="bgr24")
    frame = frame.reformat(format=pixel_format)
    images = []
    for threads in (1, 2, 3, 4):
        monkeypatch.setattr(color, "_READ_THREADS", threads)
        images.append(color.BgrReader(pixel_format, ColorTags(), 134).read(frame))
    assert all(np.array_equal(image, images[0]) for image in images)


def test_ten_bit_h264(tmp_path, write_clip, number_of):
    path = write_clip(tmp_path / "a.mp4", 6, pixel_format="yuv420p10le")
    with open_source(path) as source:
        assert source.info.bit_depth == 10
        assert source.frame(0).dtype == np.uint16
        assert [number_of(image) for _, image in source.frames(0, 6)] == list(range(6))


def test_rgb_video_is_exact(tmp_path, write_clip, numbered_picture):
    path = write_clip(tmp_path / "a.mkv", 3, codec="ffv1", pixel_format="bgr0")
    with open_source(path) as source:
        assert source.info.color.matrix == "gbr"
        assert np.array_equal(source.frame(2), numbered_picture(2, 128, 96))


@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2)])
def test_audio_and_timecode(tmp_path, write_clip, layout, channels):
    sound = np.zeros((channels, 48000 * 2), np.float32)
    path = write_clip(tmp_path / "a.mp4", 50, audio=("aac", layout, 48000, sound), timecode="10:20:30:12")
    info = probe(path)
    assert info.timecode == "10:20:30:12"
    (track,) = info.audio
    assert (track.codec, track.channels, track.layout, track.sample_rate_hz) == ("aac", channels, layout, 48000)
    assert track.duration_s == pytest.approx(2.0, abs=0.03)


def _reason(path: Path) -> tuple[str, MediaError]:
    with pytest.raises(MediaError) as caught:
        probe(path)
    with pytest.raises(MediaError):
        open_source(path)
    return caught.value.reason, caught.value


def test_text_named_mp4(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("This is not a film.\n" * 50)
    assert _reason(path)[0] == "NOT_MEDIA"
    path.write_bytes(b"")
    assert _reason(path)[0] == "NOT_MEDIA"


def test_a_playlist_is_not_followed(tmp_path, write_clip):
    write_clip(tmp_path / "a.ts", 5)
    playlist = tmp_path / "b.mp4"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.2,\na.ts\n#EXT-X-ENDLIST\n")
    assert _reason(playlist)[0] == "NOT_MEDIA"


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "a.mp4")


def test_sound_only(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 48000), np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert _reason(path)[0] == "NO_VIDEO"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_no_frames(tmp_path, name):
    with av.open(str(tmp_path / name), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 64
        output.start_encoding()
    assert _reason(tmp_path / name)[0] == "NO_FRAMES"


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.mp4", {"movflags": "faststart"}), ("a.mkv", {}), ("a.avi", {})],
    ids=lambda value: str(value),
)
def test_truncated_tells_how_many_frames_decode(tmp_path, write_clip, name, options):
    whole = write_clip(tmp_path / name, 60, options={"g": "12", "bf": "0"}, container_options=options)
    cut = tmp_path / f"cut{whole.suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    reason, error = _reason(cut)
    assert reason == "TRUNCATED"
    assert 10 <= error.decodable_frames < 60
    assert str(error.decodable_frames) in str(error)


def test_truncated_without_index(tmp_path, write_clip):
    whole = write_clip(tmp_path / "a.mp4", 60)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    reason, error = _reason(cut)
    assert (reason, error.decodable_frames) == ("TRUNCATED", 0)


def _damage(path: Path, target: Path, frame: int, part: float) -> Path:
    """Lose the last ``part`` of the coded picture that is shown as ``frame``, as a bad sector does."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    packet = sorted(packets, key=lambda item: item.pts)[frame]
    data = bytearray(path.read_bytes())
    lost = int(packet.size * part)
    data[packet.pos + packet.size - lost : packet.pos + packet.size] = bytes(lost)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("frame", [0, 15, 20, 39])
@pytest.mark.parametrize("bframes", ["0", "3"])
@pytest.mark.parametrize("part", [1.0, 0.5])
def test_damage_is_named_and_shifts_nothing(tmp_path, write_clip, frame, bframes, part):
    whole = write_clip(tmp_path / "a.mp4", 40, options={"g": "10", "bf": bframes, "preset": "veryfast"})
    with open_source(whole) as source:
        sound = dict(source.frames(0, 40))
    path = _damage(whole, tmp_path / "b.mp4", frame, part)
    with open_source(path) as source:
        assert len(source) == 40
        got = {}

        def read_all():
            for index, image in source.frames(0, 40):
                got.setdefault(index, image)

        with pytest.raises(MediaError) as caught:
            read_all()
        assert caught.value.reason == "CORRUPT_FRAME"
        # A decoder that loses a whole keyframe loses with it the pictures of the group before that it still held back.
        lost_before = 2 if part == 1.0 and frame == 20 and bframes != "0" else 0
        assert frame - lost_before <= caught.value.frame_index <= frame
        assert all(np.array_equal(image, sound[index]) for index, image in got.items())  # nothing patched was given out
        assert list(got) == list(range(len(got)))
        assert frame // 10 * 10 - lost_before <= len(got) <= frame
        for index in range(frame // 10 * 10 + 10, 40):  # later groups are whole
            assert np.array_equal(source.frame(index), sound[index])
        with pytest.raises(MediaError, match=f"frame {caught.value.frame_index} "):
            source.frame(frame)


def test_index_out_of_range(tmp_path, write_clip):
    with open_source(write_clip(tmp_path / "a.mp4", 5)) as source:
        for index in (-1, 5):
            with pytest.raises(IndexError):
                source.frame(index)


_REAL = Path(__file__).parents[4] / "shared" / "data" / "video"


@pytest.mark.skipif(not _REAL.is_dir(), reason="the private trial footage is not on this machine")
@pytest.mark.parametrize("name", ["hand_near_face.mkv", "person_b.mp4"])
def test_real_footage(name):
    with open_source(_REAL / name) as source:
        with av.open(str(_REAL / name)) as container:
            assert len(source) == sum(1 for _ in container.decode(video=0))
        last = len(source) - 1
        first, middle, end = source.frame(0), source.frame(last // 2), source.frame(last)
        for index, image in source.frames(0, last + 1):
            if index in (0, last // 2, last):
                assert np.array_equal(image, {0: first, last // 2: middle, last: end}[index])
