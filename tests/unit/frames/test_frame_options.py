"""What the tools of clips are told: defaults, limits, which frames, and keys that are equal for equal work."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.frames import plans
from services.frames.options import (
    ClipFacts,
    PictureOptions,
    audio_stream,
    check_factor,
    check_film,
    first_of_each_period,
    frames_to_keep,
)
from services.kit.clips import SEQUENCE_MEDIA_TYPE, MediaFile
from services.kit.errors import InvalidInput
from services.kit.operations.plan import chunk_frames

VIDEO = ClipFacts(
    name="projects/p/clips/c",
    file_name="Shot 7.mp4",
    media=MediaFile("projects/p/uploads/x", "video/mp4", "25/1"),
    media_sha256="0" * 64,
    frames=range(100),
    rate=Fraction(25),
    bit_depth=8,
    is_float=False,
    audio_streams=(1, 2),
)
SEQUENCE = dataclasses.replace(
    VIDEO,
    file_name="plates.v2",
    media=MediaFile("projects/p/uploads/y", SEQUENCE_MEDIA_TYPE, "24/1"),
    frames=[1001, 1002, 1004],
    audio_streams=(),
)


@pytest.mark.parametrize(
    ("file_name", "stem"),
    [
        ("Shot 7.mp4", "Shot 7"),
        ("a/b\\c.mov", "a_b_c"),
        ("../../etc/passwd.mp4", "_.._etc_passwd"),
        (".hidden.mp4", "hidden"),
        ("", "clip"),
        ("...", "clip"),
        ("x" * 300 + ".mp4", "x" * 100),
        ("a\nb.mp4", "a_b"),
    ],
)
def test_stems_are_bare_names(file_name: str, stem: str) -> None:
    assert dataclasses.replace(VIDEO, file_name=file_name).stem == stem


def test_a_folder_s_name_has_no_suffix() -> None:
    assert SEQUENCE.stem == "plates.v2"


def test_pictures_default_to_png_and_know_no_quality() -> None:
    assert PictureOptions.of("", 0) == PictureOptions.of("PNG", 35) == PictureOptions("png", 0)
    assert PictureOptions.of(".jpg", 0) == PictureOptions("jpg", 90)
    for wrong in (("gif", 0), ("jpg", 101), ("jpg", -1), ("png", 500)):
        with pytest.raises(InvalidInput):
            PictureOptions.of(*wrong)


def test_the_range_of_a_cut() -> None:
    assert list(frames_to_keep(VIDEO, 0, 99, 0)) == list(range(100))
    assert list(frames_to_keep(SEQUENCE, 1002, 1003, 1)) == [1002]
    for first, last, step in ((5, 4, 0), (0, 100, 0), (-1, 5, 0), (0, 9, 2)):
        with pytest.raises(InvalidInput):
            frames_to_keep(VIDEO, first, last, step)
    with pytest.raises(InvalidInput, match="1001 to 1004"):
        frames_to_keep(SEQUENCE, 1003, 1003, 0)


def test_which_sound() -> None:
    assert (audio_stream(VIDEO, None), audio_stream(VIDEO, 2), audio_stream(SEQUENCE, None)) == (1, 2, None)
    with pytest.raises(InvalidInput, match="1, 2"):
        audio_stream(VIDEO, 0)
    with pytest.raises(InvalidInput, match="silent"):
        audio_stream(SEQUENCE, 1)


def test_limits() -> None:
    assert (check_factor(1), check_factor(20)) == (1, 20)
    for wrong in (0, 21):
        with pytest.raises(InvalidInput):
            check_factor(wrong)
    check_film(dataclasses.replace(SEQUENCE, is_float=True))
    with pytest.raises(InvalidInput, match="exr"):
        check_film(dataclasses.replace(VIDEO, is_float=True))


@given(st.lists(st.floats(0.002, 2), min_size=1, max_size=50), st.integers(1, 60))
def test_evenly_chosen_frames_are_the_first_of_their_periods(steps_s: list[float], rate: int) -> None:
    times_s = [sum(steps_s[:count]) + 3.5 for count in range(len(steps_s))]
    numbers = list(range(10, 10 + len(times_s)))
    chosen = first_of_each_period(numbers, times_s, times_s[0], Fraction(rate))
    periods = {number: int((time_s - 3.5 + 1e-3) * rate) for number, time_s in zip(numbers, times_s, strict=True)}
    assert chosen[0] == 10
    assert [periods[number] for number in chosen] == sorted(set(periods.values()))
    assert all(number == 10 or periods[number - 1] < periods[number] for number in chosen)


def test_times_that_were_rounded_to_milliseconds_change_nothing() -> None:
    times_s = [round(number / 30, 3) for number in range(300)]
    assert first_of_each_period(range(300), times_s, 0.0, Fraction(10)) == list(range(0, 300, 3))


def test_films_are_joined_by_a_chunk_of_their_own() -> None:
    plan = plans.denoise_plan(VIDEO, new_clip="projects/p/clips/n", factor=3, chunk_frames=40)
    assert [(chunk.units, chunk.phase) for chunk in plan.chunks] == [(40, 0), (40, 0), (20, 0), (100, 1)]
    for deep in (SEQUENCE, dataclasses.replace(VIDEO, bit_depth=12)):
        plan = plans.denoise_plan(deep, new_clip="projects/p/clips/n", factor=3, chunk_frames=40)
        assert {chunk.phase for chunk in plan.chunks} == {0}
        assert plan.params["output"] == "pictures"


def test_equal_work_has_an_equal_key() -> None:
    def key(clip: ClipFacts, first: int, quality: int) -> str:
        return plans.extract_plan(clip, range(first, 50), PictureOptions.of("png", quality), 16).action_key

    assert key(VIDEO, 0, 50) == key(VIDEO, 0, 90)
    assert key(VIDEO, 0, 50) != key(VIDEO, 1, 50)
    assert key(VIDEO, 0, 50) != key(dataclasses.replace(VIDEO, media_sha256="1" * 64), 0, 50)


def test_a_cut_is_one_chunk_of_its_frames() -> None:
    plan = plans.cut_plan(
        SEQUENCE, [1002, 1004], new_clip="projects/p/clips/n", audio_stream_index=None, bitrate_mbit=0
    )
    assert [chunk_frames(chunk) for chunk in plan.chunks] == [[1002, 1004]]
