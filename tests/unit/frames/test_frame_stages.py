"""Windows of denoising, numbers of pictures, films without holes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_common.media import open_source
from services.frames.pictures import by_number, picture_name
from services.frames.plans import STAGE_VERSIONS
from services.frames.stages import _denoised, _without_holes, windows
from services.kit.clips import frame_numbers
from services.kit.errors import Corrupt
from services.kit.operations.plan import Plan
from services.kit.operations.stage import load_stage

PLAN = Plan("0" * 64, "services.frames.stages:CutStage", {"clip": "projects/p/clips/c"}, (), "frames")


def _image(index: int) -> np.ndarray:
    return np.full((1, 1, 3), index, np.uint8)


@given(st.sets(st.integers(0, 60), max_size=40), st.integers(0, 4))
def test_windows_hold_what_is_near_and_sound(indices: set[int], support: int) -> None:
    frames = [(index, 1000 + index, _image(index)) for index in sorted(indices)]
    found = list(windows(iter(frames), support))
    assert [number for number, _, _ in found] == [1000 + index for index in sorted(indices)]
    for number, window, centre in found:
        index = number - 1000
        near = [other for other in sorted(indices) if abs(other - index) <= support]
        assert [int(image[0, 0, 0]) for image in window] == near
        assert near[centre] == index


def test_photos_of_other_sizes_do_not_take_part() -> None:
    noisy = [np.random.default_rng(seed).integers(90, 110, (8, 8, 3)).astype(np.uint8) for seed in range(3)]
    mixed = [noisy[0], np.zeros((4, 4, 3), np.uint8), noisy[1], noisy[2].astype(np.uint16)]
    assert np.array_equal(_denoised(mixed, 2, 5), _denoised(noisy[:2], 1, 5))


def test_windows_hold_few_frames_at_a_time() -> None:
    taken = 0

    def frames():  # type: ignore[no-untyped-def]
        nonlocal taken
        for index in range(100):
            taken += 1
            yield index, index, _image(index)

    for number, _, _ in windows(frames(), 3):
        assert taken <= number + 5


def test_holes_show_the_frame_before() -> None:
    frames = [(number, _image(number)) for number in (2, 3, 6)]
    shown = [int(image[0, 0, 0]) for image in _without_holes(PLAN, range(1, 9), iter(frames))]
    assert shown == [2, 2, 3, 3, 3, 6, 6, 6]
    with pytest.raises(Corrupt, match="none of the frames"):
        list(_without_holes(PLAN, range(3), iter([])))


@pytest.mark.parametrize(
    "names",
    [
        ["a.0009.png", "a.0010.png", "a.0008.png"],
        ["a9.png", "a10.png", "a011.png"],
        ["v2_shot_7.png", "v2_shot_12.png"],
        ["b.png", "a.png", "c7.png"],
        ["a1.png", "b2.png"],
        ["a1.png", "a2.PNG"],
        ["a1.png", "a01.png"],
        [picture_name("Shot 7", number, "png") for number in (5, 999999, 1000000)],
    ],
)
def test_numbers_are_those_that_reading_finds(names: list[str], tmp_path: Path) -> None:
    for at, name in enumerate(names):
        cv2.imwrite(str(tmp_path / name), np.full((4, 4, 3), 20 * at, np.uint8))
    entries = [{"name": name, "shade": 20 * at} for at, name in enumerate(names)]
    with open_source(tmp_path) as source:
        shades = [int(image[0, 0, 0]) for _, image in source.frames(0, len(source))]
        numbers = list(frame_numbers(source.info))
    assert [(number, entry["shade"]) for number, entry in by_number(entries)] == list(zip(numbers, shades, strict=True))


def test_the_planned_versions_are_the_stages() -> None:
    for path, version in STAGE_VERSIONS.items():
        assert load_stage(path).version == version
