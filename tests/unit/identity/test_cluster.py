"""Sorting faces into persons, on embeddings whose persons are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_common.identity import cluster_faces, person_names
from ml_common.identity.within_person import unit

Array = np.ndarray[Any, Any]
LENGTH = 64


def faces_of(counts: list[int], spread: float = 0.6, seed: int = 0) -> tuple[Array, Array]:
    """Embeddings of ``counts`` faces a person around means that have nothing in common; and persons."""
    chance = np.random.default_rng(seed)
    means = np.linalg.qr(chance.normal(size=(LENGTH, max(len(counts), 2))))[0].T
    person = np.repeat(np.arange(len(counts)), counts)
    return unit(means[person] + spread * unit(chance.normal(size=(len(person), LENGTH)))), person


def in_tracks(person: Array, length: int) -> Array:
    position = np.concatenate([np.arange(count) for count in np.bincount(person)])
    return person * 10_000 + position // length


def agree(labels: Array, person: Array) -> bool:
    """Whether labels are persons by other names."""
    pairs = {(label, who) for label, who in zip(labels.tolist(), person.tolist(), strict=True) if label >= 0}
    return len(pairs) == len({label for label, _ in pairs}) == len({who for _, who in pairs})


@pytest.mark.parametrize("tracked", [True, False])
def test_persons_are_found_the_largest_first(tracked: bool) -> None:
    embeddings, person = faces_of([30, 80, 50])
    found = cluster_faces(embeddings, tracks=in_tracks(person, 10) if tracked else None)
    assert np.bincount(found.labels).tolist() == [80, 50, 30]
    assert found.labels.tolist() == [[2, 0, 1][who] for who in person]
    names = person_names(found.labels)
    assert (names[0], names[30], names[-1]) == ("person-3", "person-1", "person-2")


@pytest.mark.parametrize("tracked", [True, False])
def test_one_person_is_one_group(tracked: bool) -> None:
    embeddings, person = faces_of([120])
    found = cluster_faces(embeddings, tracks=in_tracks(person, 12) if tracked else None)
    assert set(found.labels.tolist()) == {0}


def test_one_track_is_one_person() -> None:
    embeddings, person = faces_of([15])
    assert set(cluster_faces(embeddings, tracks=person).labels.tolist()) == {0}


def test_a_track_goes_together_even_where_a_face_looks_like_another_person() -> None:
    embeddings, person = faces_of([40, 40])
    tracks = in_tracks(person, 10)
    embeddings[3] = embeddings[50]
    found = cluster_faces(embeddings, tracks=tracks)
    assert agree(found.labels, person)
    assert found.confidence[3] == 0.0 and found.confidence[person == 0].max() > 0.5


def test_two_faces_of_one_frame_are_two_persons_however_alike() -> None:
    """Twins: the same embeddings, side by side in every frame."""
    embeddings, _ = faces_of([60])
    twin = np.arange(60) % 2
    frames = np.arange(60) // 2
    tracks = twin * 100 + np.arange(60) // 20
    assert set(cluster_faces(embeddings, tracks=tracks).labels.tolist()) == {0}
    for given_tracks in (tracks, None):
        labels = cluster_faces(embeddings, tracks=given_tracks, frames=frames, min_group_size=1).labels
        for frame in range(30):
            shown = labels[frames == frame]
            assert shown[0] != shown[1] or -1 in shown


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_no_frame_shows_a_person_twice_and_no_track_two_persons(seed: int) -> None:
    chance = np.random.default_rng(seed)
    count = int(chance.integers(2, 120))
    embeddings, _ = faces_of([count], spread=float(chance.uniform(0.2, 2.0)), seed=seed)
    frames = chance.integers(count, size=count)
    tracks = np.where(chance.random(count) < 0.3, -1, np.arange(count) * 5 // count)
    # A track has one face a frame.
    _, first = np.unique(
        np.stack((frames, np.where(tracks < 0, -1 - np.arange(count), tracks))), axis=1, return_index=True
    )
    embeddings, frames, tracks = embeddings[first], frames[first], tracks[first]
    smallest = int(chance.integers(1, 8))
    found = cluster_faces(embeddings, tracks=tracks, frames=frames, min_group_size=smallest)
    inside = found.labels >= 0
    assert len({*zip(frames[inside].tolist(), found.labels[inside].tolist(), strict=True)}) == inside.sum()
    for track in set(tracks.tolist()) - {-1}:
        assert len(set(found.labels[tracks == track].tolist())) == 1
    sizes = np.bincount(found.labels[inside]) if inside.any() else np.array([], dtype=int)
    assert (sizes >= smallest).all() and (np.diff(sizes) <= 0).all()
    assert ((found.confidence >= 0.0) & (found.confidence <= 1.0)).all() and (found.confidence[~inside] == 0.0).all()


def test_small_groups_are_none() -> None:
    embeddings, person = faces_of([40, 8])
    for smallest, wanted in ((8, {0, 1}), (9, {0, -1})):
        found = cluster_faces(embeddings, tracks=in_tracks(person, 8), min_group_size=smallest)
        assert set(found.labels.tolist()) == wanted


def test_strangers_are_none() -> None:
    embeddings, person = faces_of([60, *[1] * 30])
    labels = cluster_faces(embeddings).labels
    assert (labels[person == 0] == 0).all() and (labels[person > 0] == -1).all()


def test_single_faces_join_the_person_of_the_tracks() -> None:
    embeddings, person = faces_of([60, 40])
    tracks = in_tracks(person, 10)
    tracks[::7] = -1
    assert agree(cluster_faces(embeddings, tracks=tracks).labels, person)
    assert (cluster_faces(embeddings, tracks=tracks).labels >= 0).all()


def test_the_order_of_faces_does_not_matter() -> None:
    embeddings, person = faces_of([60, 40, 20])
    tracks = in_tracks(person, 10)
    found = cluster_faces(embeddings, tracks=tracks)
    order = np.random.default_rng(4).permutation(len(person))
    again = cluster_faces(embeddings[order], tracks=tracks[order])
    assert np.array_equal(again.labels, found.labels[order])
    assert np.allclose(again.confidence, found.confidence[order], atol=1e-5)


@pytest.mark.parametrize("tracked", [True, False])
def test_more_than_are_looked_at_at_once(tracked: bool) -> None:
    """Also a person of whom the first draw shows next to nothing."""
    embeddings, person = faces_of([5000, 2000, 24], spread=0.5)
    tracks = in_tracks(person, 2) if tracked else None
    found = cluster_faces(embeddings, tracks=tracks, min_group_size=12)
    assert agree(found.labels, person) and (found.labels >= 0).mean() > 0.99
    assert set(found.labels.tolist()) >= {0, 1, 2}
    assert np.array_equal(found.labels, cluster_faces(embeddings, tracks=tracks, min_group_size=12).labels)


def test_confidence_falls_towards_another_person() -> None:
    embeddings, _ = faces_of([40, 40], spread=0.3)
    between = [unit((1 - share) * embeddings[0] + share * embeddings[-1]) for share in (0.0, 0.2, 0.4)]
    found = cluster_faces(np.concatenate((embeddings, between)), tracks=[0] * 40 + [1] * 40 + [0] * 3)
    assert found.confidence[-3] > found.confidence[-2] > found.confidence[-1]


def test_no_faces_are_no_persons() -> None:
    found = cluster_faces(np.zeros((0, LENGTH)), tracks=[], frames=[])
    assert len(found.labels) == len(found.confidence) == 0
    assert person_names(found.labels) == []


def test_bad_input_is_refused() -> None:
    embeddings, person = faces_of([12])
    with pytest.raises(ValueError, match="min_group_size"):
        cluster_faces(embeddings, min_group_size=0)
    with pytest.raises(ValueError, match="same_person"):
        cluster_faces(embeddings, same_person=1.0)
    with pytest.raises(ValueError, match="one track a face"):
        cluster_faces(embeddings, tracks=person[:-1])
    with pytest.raises(ValueError, match="one frame a face"):
        cluster_faces(embeddings, frames=[1, 2])
    with pytest.raises(ValueError, match="shape"):
        cluster_faces(embeddings[0])
    with pytest.raises(ValueError, match="NaN"):
        cluster_faces(np.full((3, 4), np.inf))
