"""What cuts need of the encoder: the wished sound, 10 bits, no loss at crf 0; timecodes that go on; notes that stay."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ml_common.media import ColorTags, EncodeSettings, encode_video, notes_in, open_source, timecode_after
from tests.support.marked import SOUND_HZ, marked, number_in, write_clip

RATE = Fraction(25)
DROP = Fraction(30000, 1001)


def _encoded(
    path: Path, images: list[np.ndarray], tags: ColorTags, pixel_format: str, **more: object
) -> list[np.ndarray]:
    settings = EncodeSettings(crf=0, preset="ultrafast", pixel_format=pixel_format)
    encode_video(path, images, rate=RATE, color=tags, settings=settings, **more)  # type: ignore[arg-type]
    with open_source(path) as source:
        return [image for _, image in source.frames(0, len(source))]


@pytest.mark.parametrize("value_range", ["tv", "pc"])
def test_ten_bits_keep_sixteen_to_a_few_levels_of_ten(tmp_path: Path, value_range: str) -> None:
    ramp = np.linspace(0, 65535, 96 * 64).reshape(64, 96)
    image = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=2).round().astype(np.uint16)
    tags = ColorTags(range=value_range, matrix="bt709", primaries="bt709", transfer="bt709")
    found = _encoded(tmp_path / "a.mp4", [image, image], tags, "yuv444p10le")
    assert found[1].dtype == np.uint16
    levels = (found[1].astype(int) - image) / 64
    assert np.abs(levels).max() < 4
    assert abs(levels.mean()) < 0.2
    assert len(np.unique(found[1][..., 0])) > 700, "8 bits would leave 256"


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.float32, 1.0)])
def test_white_is_white_from_every_depth(tmp_path: Path, dtype: type, white: float) -> None:
    image = np.full((32, 32, 3), white, dtype)
    tags = ColorTags(range="tv", matrix="bt709")
    assert _encoded(tmp_path / "a.mp4", [image], tags, "yuv420p10le")[0].min() > 65535 - 128


@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv444p10le"])
def test_crf_0_loses_nothing_but_rounding(tmp_path: Path, pixel_format: str) -> None:
    images = [np.random.default_rng(seed).integers(30, 220, (48, 64, 3)).astype(np.uint8) for seed in range(3)]
    found = _encoded(tmp_path / "a.mp4", images, ColorTags(range="tv", matrix="bt709"), pixel_format)
    scale = 1 if found[0].dtype == np.uint8 else 257
    assert max(np.abs(image.astype(int) / scale - images[at]).max() for at, image in enumerate(found)) <= 3


def test_the_wished_sound(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", [marked(number) for number in range(25)], tones_hz=(500, 3000))
    for stream_index, tone_hz in ((None, 500), (1, 500), (2, 3000)):
        path = tmp_path / "out.mp4"
        _encoded(
            path,
            [marked(number) for number in range(25)],
            ColorTags(),
            "yuv420p",
            audio_from=source,
            audio_stream_index=stream_index,
        )
        with av.open(str(path)) as container:
            sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert abs(np.abs(np.fft.rfft(sound)).argmax() * SOUND_HZ / len(sound) - tone_hz) < 30
    for wrong in (0, 7):
        with pytest.raises(ValueError, match="sound streams are 1, 2"):
            _encoded(path, [marked(0)], ColorTags(), "yuv420p", audio_from=source, audio_stream_index=wrong)


def test_marks_survive(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", [marked(number) for number in range(64)])
    with open_source(path) as source:
        assert [number_in(image) for _, image in source.frames(0, 64)] == list(range(64))


def test_notes_without_the_file_s_own(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", [marked(0)], comment="AI-modified", timecode="01:00:00:00")
    assert notes_in(path) == {"comment": "AI-modified"}


@pytest.mark.parametrize(
    ("timecode", "frames", "rate", "expected"),
    [
        ("01:00:00:00", 48, Fraction(24), "01:00:02:00"),
        ("23:59:59:24", 1, RATE, "00:00:00:00"),
        ("00:00:59;29", 1, DROP, "00:01:00;02"),
        ("00:09:59;29", 1, DROP, "00:10:00;00"),
        ("00:00:00;00", 107892, DROP, "01:00:00;00"),
        ("00:00:59:29", 1, DROP, "00:01:00:00"),
        ("00:00:59;59", 1, Fraction(60000, 1001), "00:01:00;04"),
        ("10:20:30:05", 0, Fraction(24000, 1001), "10:20:30:05"),
    ],
)
def test_timecodes_go_on(timecode: str, frames: int, rate: Fraction, expected: str) -> None:
    assert timecode_after(timecode, frames, rate) == expected


def test_dropped_numbers_are_never_written_and_the_others_all_are() -> None:
    """Counted out by the rule itself: ST 12-1, section 5.2.2."""
    expected = [
        f"00:{minute:02}:{second:02};{frame:02}"
        for minute in range(12)
        for second in range(60)
        for frame in range(30)
        if not (frame < 2 and second == 0 and minute % 10)
    ]
    assert [timecode_after("00:00:00;00", frames, DROP) for frames in range(len(expected))] == expected
    assert timecode_after("00:03:07;11", 5000, DROP) == expected[expected.index("00:03:07;11") + 5000]


@pytest.mark.parametrize("timecode", ["", "1:2:3:4", "00:00:00:30"])
def test_what_is_no_timecode(timecode: str) -> None:
    with pytest.raises(ValueError, match="timecode"):
        timecode_after(timecode, 1, DROP)
