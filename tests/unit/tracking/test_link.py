"""Linking faces to tracks: motion, gaps, cuts, and two people who pass each other."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from ml_common.geometry import HEAD_MODEL_68x3
from ml_common.tracking import FrameFaces, TrackLinker

Array = np.ndarray[Any, np.dtype[np.float64]]

FACE_PX = 100.0


def face(
    x_px: float, y_px: float = 200.0, *, yaw_deg: float = 0.0, size_px: float = FACE_PX, width: float = 1.0
) -> Array:
    """The head model seen at a place; `width` is build, of which no two people have the same."""
    model = HEAD_MODEL_68x3 * (size_px / np.ptp(HEAD_MODEL_68x3[[36, 45], 0]))
    yaw = np.radians(yaw_deg)
    x = width * (np.cos(yaw) * model[:, 0] + np.sin(yaw) * model[:, 2])
    return np.stack((x, model[:, 1]), axis=1) + np.array((x_px, y_px))


def frame(number: int, *faces: Array, scene_start: bool = False) -> FrameFaces:
    return FrameFaces(number, np.array(faces).reshape(-1, 68, 2), scene_start)


def overlap(a: Array, b: Array) -> float:
    """Of the boxes around two faces: intersection over union, by which detectors drop one of two."""
    low = np.maximum(a.min(axis=0), b.min(axis=0))
    high = np.minimum(a.max(axis=0), b.max(axis=0))
    common = float(np.prod(np.clip(high - low, 0.0, None)))
    return common / (float(np.prod(np.ptp(a, axis=0))) + float(np.prod(np.ptp(b, axis=0))) - common)


def test_tracks_count_in_order_of_appearance() -> None:
    linker = TrackLinker()
    assert linker.add(frame(0)) == []
    assert linker.add(frame(1, face(100), face(500))) == [0, 1]
    assert linker.add(frame(2, face(502), face(101), face(900))) == [1, 0, 2]


def test_a_dash_and_a_turn_stay_one_track() -> None:
    linker = TrackLinker()
    for number in range(60):
        done = float(np.clip((number - 20) / 9, 0, 1))
        step = done * done * (3 - 2 * done)
        assert linker.add(frame(number, face(200 + 500 * step, yaw_deg=-40 + 80 * step))) == [0]


@pytest.mark.parametrize("seed", range(30))
def test_two_who_cross_keep_their_tracks(seed: int) -> None:
    """Of like size, each walking through the other's place; where they overlap, only the one in front is seen."""
    chance = np.random.default_rng(seed)
    crossing = int(chance.integers(18, 45))
    front = int(chance.integers(2))
    linker = TrackLinker()
    tracks: list[set[int]] = [set(), set()]
    for number in range(75):
        done = float(np.clip((number - 12) / crossing, 0, 1))
        way = done * done * (3 - 2 * done)
        people = [
            face(150 + 400 * way, yaw_deg=12 * np.sin(number / 9 + seed), width=1.04),
            face(550 - 400 * way, 210.0, yaw_deg=-8 + 10 * np.sin(number / 7), width=0.96, size_px=104),
        ]
        people = [person + chance.normal(0.0, 0.4, (68, 2)) + chance.normal(0.0, 0.6, 2) for person in people]
        seen = [front] if overlap(*people) > 0.25 else [0, 1]
        if chance.random() < 0.5:
            seen = seen[::-1]
        for person, track in zip(seen, linker.add(frame(number, *(people[k] for k in seen))), strict=True):
            tracks[person].add(track)
    assert len(tracks[front]) == 1
    assert not tracks[0] & tracks[1]


def test_who_stays_in_front_is_not_taken_for_who_is_hidden() -> None:
    """The longer the hidden one is lost, the more may be expected of it; it must not pull the visible face over."""
    linker = TrackLinker()
    chance = np.random.default_rng(0)
    for number in range(60):
        walker, sitter = face(100 + 8 * number, yaw_deg=25), face(340, 205)
        hidden = overlap(walker, sitter) > 0.25
        seen = [sitter] if hidden else [sitter, walker]
        tracks = linker.add(frame(number, *(person + chance.normal(0, 0.4, (68, 2)) for person in seen)))
        assert tracks[0] == 0
        if not hidden:
            assert tracks[1] in (1, 2)  # lost for longer than the gap, the walker may start anew


def test_the_order_within_a_frame_does_not_matter() -> None:
    people = [[face(x + 3 * number, yaw_deg=x / 40) for x in (100, 260, 420, 700)] for number in range(20)]
    straight, shuffled = TrackLinker(), TrackLinker()
    first = [0, 1, 2, 3]
    assert straight.add(frame(0, *people[0])) == shuffled.add(frame(0, *people[0])) == first
    chance = np.random.default_rng(1)
    for number in range(1, 20):
        order = chance.permutation(4)
        expected = straight.add(frame(number, *people[number]))
        assert shuffled.add(frame(number, *(people[number][k] for k in order))) == [expected[k] for k in order]


def test_a_cut_breaks_every_track() -> None:
    linker = TrackLinker()
    assert linker.add(frame(0, face(100), face(400))) == [0, 1]
    assert linker.add(frame(1, face(100), face(400), scene_start=True)) == [2, 3]
    assert linker.add(frame(2, face(100), face(400))) == [2, 3]


@pytest.mark.parametrize(("lost_frames", "track"), [(5, 0), (11, 0), (12, 1), (40, 1)])
def test_a_face_is_sought_again_for_the_gap_and_no_longer(lost_frames: int, track: int) -> None:
    linker = TrackLinker(max_gap_frames=12)
    for number in range(10):
        linker.add(frame(number, face(300)))
    for number in range(10, 10 + lost_frames):
        linker.add(frame(number))
    assert linker.add(frame(10 + lost_frames, face(300))) == [track]


@pytest.mark.parametrize(("step", "linked"), [(2, True), (5, True), (12, True), (25, True), (31, False)])
def test_every_nth_frame(step: int, linked: bool) -> None:
    linker = TrackLinker()
    numbers = range(0, 20 * step, step)
    tracks = [
        linker.add(frame(n, face(300 + 50 * np.sin(n / 40), yaw_deg=15 * np.sin(n / 17)), face(700, size_px=90)))
        for n in numbers
    ]
    assert (tracks == [[0, 1]] * 20) is linked


def test_what_no_face_does_begins_a_new_track() -> None:
    for other in (face(600), face(300, size_px=2.2 * FACE_PX)):
        linker = TrackLinker()
        assert linker.add(frame(0, face(300))) == [0]
        assert linker.add(frame(1, other)) == [1]


def test_a_newcomer_does_not_take_a_track() -> None:
    linker = TrackLinker()
    for number in range(5):
        linker.add(frame(number, face(300)))
    assert linker.add(frame(5, face(390, size_px=130, yaw_deg=35), face(301))) == [1, 0]


def test_memory_does_not_grow_with_the_clip() -> None:
    linker = TrackLinker()
    sizes = []
    for number in range(600):
        linker.add(frame(number, face(100 + 400 * (number // 50 % 2)), face(900)))  # a new track every 50 frames
        if number % 100 == 99:
            sizes.append(len(pickle.dumps(linker)))
    assert max(sizes) < 1.1 * min(sizes)


def test_bad_input_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="max_gap_frames"):
        TrackLinker(max_gap_frames=0)
    linker = TrackLinker()
    linker.add(frame(5, face(100)))
    with pytest.raises(ValueError, match="rising numbers: 5 came after 5"):
        linker.add(frame(5, face(100)))
    with pytest.raises(ValueError, match=r"\[K, 68, 2\]"):
        linker.add(FrameFaces(6, np.zeros((1, 51, 2)), False))
    with pytest.raises(ValueError, match="NaN"):
        linker.add(frame(6, np.full((68, 2), np.nan)))
    with pytest.raises(ValueError, match="no extent"):
        linker.add(frame(6, np.ones((68, 2))))
    assert linker.add(frame(6, face(101))) == [0]  # a refused frame leaves the tracks as they were
