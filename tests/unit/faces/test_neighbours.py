"""The same place, and the track that a newcomer belongs to."""

from __future__ import annotations

import numpy as np

from ml_common.geometry import HEAD_MODEL_68x3
from services.faces.neighbours import TrackedFace, same_places, tracks_of

FACE = np.asarray(HEAD_MODEL_68x3)[:, :2]


def _at(x: float, scale: float = 1.0) -> np.ndarray:
    return FACE * scale + np.array([x, 200.0])


def test_faces_are_matched_one_to_one_by_overlap() -> None:
    pairs, free = same_places([_at(100), _at(130), _at(600)], [_at(128), _at(102), _at(900)])
    assert sorted(pairs) == [(0, 1), (1, 0)]
    assert free == [2]


def test_a_second_face_at_a_taken_place_is_neither_matched_nor_free() -> None:
    pairs, free = same_places([_at(100), _at(104)], [_at(101)])
    assert pairs == [(0, 0)]
    assert free == []


def test_nothing_there_or_nothing_found() -> None:
    assert same_places([_at(100)], []) == ([], [0])
    assert same_places([], [_at(100)]) == ([], [])


def test_sizes_count() -> None:
    pairs, free = same_places([_at(100, 0.4)], [_at(100)])
    assert (pairs, free) == ([], [0])


def _people(*numbers: int) -> list[TrackedFace]:
    """Two people, 400 pixels apart, who drift to the right."""
    return [
        TrackedFace(number, _at(x + 2 * number), track) for number in numbers for x, track in ((100, "t3"), (500, "t5"))
    ]


def test_a_newcomer_joins_the_track_around_it() -> None:
    newcomers = [TrackedFace(4, _at(508)), TrackedFace(4, _at(108)), TrackedFace(5, _at(110))]
    assert tracks_of(newcomers, _people(1, 2, 3, 6, 7), {"t3", "t5"}) == ["t5", "t3", "t3"]


def test_a_track_holds_one_face_a_frame() -> None:
    """Beside a face that has its track a second one starts a track of its own."""
    newcomer = TrackedFace(4, _at(140))
    assert tracks_of([newcomer], _people(3, 4, 5), {"t000003", "t000005"}) == ["t000006"]


def test_newcomers_without_neighbours_share_a_new_track() -> None:
    newcomers = [TrackedFace(4, _at(800)), TrackedFace(5, _at(801)), TrackedFace(200, _at(800))]
    assert tracks_of(newcomers, _people(3, 4, 5), {"t000003"}) == ["t000004", "t000004", "t000005"]


def test_where_a_track_ends_the_nearer_one_counts() -> None:
    """Two tracks at one place, as left and right of a cut: the newcomer in between takes the nearer."""
    around = [*(TrackedFace(n, _at(100), "t1") for n in (1, 2)), *(TrackedFace(n, _at(100), "t2") for n in (6, 7))]
    assert tracks_of([TrackedFace(3, _at(100))], around, {"t1", "t2"}) == ["t1"]
    assert tracks_of([TrackedFace(5, _at(100))], around, {"t1", "t2"}) == ["t2"]
