"""Reading on over damage: what is lost is told frame by frame, everything else keeps its number and its pixels."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from ml_common.media import MediaError, open_source
from services.kit.clips import ClipFrames
from services.kit.errors import Corrupt

_COUNT = 60
_GROUP = 10


def _packets(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return sorted((packet for packet in container.demux(video=0) if packet.size), key=lambda packet: packet.pts)


def _damage(path: Path, target: Path, frames: tuple[int, ...]) -> Path:
    """Bad sectors: the second half of the coded pictures shown as ``frames`` becomes zeros."""
    data = bytearray(path.read_bytes())
    packets = _packets(path)
    for frame in frames:
        start, size = packets[frame].pos, packets[frame].size
        data[start + size // 2 : start + size] = bytes(size - size // 2)
    target.write_bytes(data)
    return target


def _without_a_packet(path: Path, target: Path) -> Path:
    """A recorded broadcast: one of the 188-byte packets of the picture never came in."""
    data = path.read_bytes()
    pieces = [data[start : start + 188] for start in range(0, len(data), 188)]
    numbers = [(piece[1] & 0x1F) << 8 | piece[2] for piece in pieces]
    of_video = [index for index, number in enumerate(numbers) if number == max(numbers, key=numbers.count)]
    inside = [index for index in of_video if not pieces[index][1] & 0x40]  # not where a picture begins
    del pieces[inside[len(inside) // 2]]
    target.write_bytes(b"".join(pieces))
    return target


def _both(path: Path, whole: Path):
    """(sound frames of the whole file, what the damaged one gives, errors told)."""
    errors: list[MediaError] = []
    with open_source(whole) as source:
        sound = dict(source.frames(0, len(source)))
    with open_source(path) as source:
        assert len(source) == len(sound)
        got = dict(source.frames(0, len(source), on_corrupt=errors.append))
    return sound, got, errors


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("bframes", ["0", "3"])
def test_h264_damage_in_the_middle(tmp_path, write_clip, number_of, numbered_picture, suffix, bframes):
    def grainy(number, width, height):  # so that a picture takes several packets of a transport stream
        grain = np.random.default_rng(number).integers(-25, 25, (height, width, 1))
        return np.clip(numbered_picture(number, width, height) + grain, 0, 255).astype(np.uint8)

    options = {"g": str(_GROUP), "bf": bframes, "sc_threshold": "0"}
    whole = write_clip(
        tmp_path / f"a.{suffix}", _COUNT, options=options, paint=grainy if suffix == "ts" else numbered_picture
    )
    if suffix == "ts":
        path = _without_a_packet(whole, tmp_path / "b.ts")
    else:
        path = _damage(whole, tmp_path / f"b.{suffix}", (25,))
    sound, got, errors = _both(path, whole)
    lost = [error.frame_index for error in errors]
    assert lost, "the damage was not seen"
    assert sorted([*got, *lost]) == list(range(_COUNT))
    assert len(lost) <= _GROUP + 3
    for index, image in got.items():
        assert number_of(image) == index
        assert np.array_equal(image, sound[index])
    assert {error.reason for error in errors} == {"CORRUPT_FRAME"}
    if suffix != "ts":
        assert 25 in lost
        assert all(20 <= index < 30 for index in lost)


def test_two_damages_and_a_lost_end(tmp_path, write_clip, number_of):
    whole = write_clip(tmp_path / "a.mp4", _COUNT, options={"g": str(_GROUP), "bf": "0", "sc_threshold": "0"})
    sound, got, errors = _both(_damage(whole, tmp_path / "b.mp4", (13, 36, 57)), whole)
    lost = [error.frame_index for error in errors]
    assert lost == [*range(13, 20), *range(36, 40), *range(57, 60)]
    assert sorted([*got, *lost]) == list(range(_COUNT))
    assert all(np.array_equal(image, sound[index]) for index, image in got.items())
    assert "frame 13 of b.mp4 is damaged" in str(errors[0])
    assert "frame 14 of b.mp4 is lost with frame 13" in str(errors[1])


def test_damage_in_pictures_that_stand_alone_costs_one_frame(tmp_path, write_clip):
    whole = write_clip(tmp_path / "a.mkv", 20, codec="ffv1", pixel_format="bgr0", options={"g": "1"})
    sound, got, errors = _both(_damage(whole, tmp_path / "b.mkv", (7, 11)), whole)
    assert [error.frame_index for error in errors] == [7, 11]
    assert len(got) == 18
    assert all(np.array_equal(image, sound[index]) for index, image in got.items())


def test_any_start_and_stop(tmp_path, write_clip):
    whole = write_clip(tmp_path / "a.mp4", _COUNT, options={"g": str(_GROUP), "bf": "2", "sc_threshold": "0"})
    path = _damage(whole, tmp_path / "b.mp4", (25,))
    with open_source(path) as source:
        told: list[MediaError] = []
        list(source.frames(0, _COUNT, on_corrupt=told.append))
        everything = {error.frame_index for error in told}
        for start, stop in ((0, 22), (22, 27), (26, 28), (27, 45), (30, 40), (59, 60)):
            errors: list[MediaError] = []
            got = dict(source.frames(start, stop, on_corrupt=errors.append))
            assert {error.frame_index for error in errors} == everything & set(range(start, stop))
            assert set(got) == set(range(start, stop)) - everything


def test_without_on_corrupt_it_is_raised(tmp_path, write_clip):
    whole = write_clip(tmp_path / "a.mp4", 30, options={"g": "10", "bf": "0", "sc_threshold": "0"})
    with open_source(_damage(whole, tmp_path / "b.mp4", (15,))) as source:
        with pytest.raises(MediaError) as caught:
            list(source.frames(0, 30))
        assert (caught.value.reason, caught.value.frame_index) == ("CORRUPT_FRAME", 15)
        assert [index for index, _ in source.frames(20, 30)] == list(range(20, 30))


def test_a_clip_reports_frame_numbers(tmp_path, write_clip, number_of):
    whole = write_clip(tmp_path / "a.mp4", 40, options={"g": "10", "bf": "0", "sc_threshold": "0"})
    path = _damage(whole, tmp_path / "b.mp4", (25,))
    with open_source(path) as source:
        clip = ClipFrames(source, "projects/p/clips/c")
        told = []
        numbers = [3, 4, 24, 25, 27, 31]
        got = dict(clip.read(numbers, on_corrupt=lambda number, error: told.append((number, error))))
        assert [number for number, _ in told] == [25, 27]
        assert {number: number_of(image) for number, image in got.items()} == {3: 3, 4: 4, 24: 24, 31: 31}
        assert all(isinstance(error, Corrupt) and error.reason == "CORRUPT_FRAME" for _, error in told)
        assert "projects/p/clips/c" in str(told[0][1])
        with pytest.raises(Corrupt):
            list(clip.read(numbers))


def test_a_sequence_reports_its_files_numbers(tmp_path, numbered_picture):
    import cv2

    for number in (1001, 1002, 1004, 1005):
        cv2.imwrite(str(tmp_path / f"a.{number}.png"), numbered_picture(number - 1000, 64, 48))
    (tmp_path / "a.1004.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with open_source(tmp_path) as source:
        told = []
        got = [
            number
            for number, _ in ClipFrames(source, "c").read(
                [1001, 1002, 1004, 1005], on_corrupt=lambda number, error: told.append(number)
            )
        ]
    assert (got, told) == ([1001, 1002, 1005], [1004])


def test_mpeg2_goes_on_after_damage(tmp_path, write_clip, number_of):
    """A codec whose packets need not be frames: the frames after the damage still count, under their own numbers."""
    options = {"g": "6", "bf": "2", "sc_threshold": "1000000000"}
    whole = write_clip(tmp_path / "a.mkv", _COUNT, codec="mpeg2video", options=options)
    sound, got, errors = _both(_damage(whole, tmp_path / "b.mkv", (24,)), whole)
    lost = [error.frame_index for error in errors]
    assert 24 in lost
    assert sorted([*got, *lost]) == list(range(_COUNT))
    assert len(got) > _COUNT - 15
    assert all(number_of(image) == index and np.array_equal(image, sound[index]) for index, image in got.items())
