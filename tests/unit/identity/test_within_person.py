"""Learning from tracks what changes while the person stays the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_common.identity import WithinPerson, learn_within_person
from ml_common.identity.within_person import numbered_tracks, sums, unit

Array = np.ndarray[Any, Any]
LENGTH, NUISANCES = 40, 6


def people(count: int, tracks_each: int, faces_each: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Embeddings whose persons differ little and whose faces differ much, in few directions. And person, track."""
    chance = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(77).normal(size=(LENGTH, LENGTH)))[0]
    person = np.repeat(np.arange(count), tracks_each * faces_each)
    track = np.repeat(np.arange(count * tracks_each), faces_each)
    faces = chance.normal(size=(count, LENGTH - NUISANCES))[person] @ basis[NUISANCES:]
    faces = faces + 6.0 * chance.normal(size=(len(person), NUISANCES)) @ basis[:NUISANCES]
    return unit(faces), person, track


def separation(embeddings: Array, person: Array) -> float:
    """How often two faces of one person are more alike than two of different ones."""
    alike = embeddings @ embeddings.T
    pairs = np.triu_indices(len(person), 1)
    same = (person[:, None] == person)[pairs]
    chance = np.random.default_rng(0)
    a, b = chance.choice(alike[pairs][same], 4000), chance.choice(alike[pairs][~same], 4000)
    return float((a > b).mean())


def test_persons_come_apart_also_those_not_learned_from() -> None:
    embeddings, person, track = people(8, 2, 12)
    others, other_person, _ = people(8, 2, 12, seed=5)
    learned = learn_within_person(embeddings, track)
    assert separation(embeddings, person) < 0.75
    assert separation(learned.quietened(embeddings), person) > 0.97
    assert separation(learned.quietened(others), other_person) > 0.97


def test_embeddings_keep_unit_length_and_gains_only_turn_down() -> None:
    embeddings, _, track = people(4, 2, 10)
    learned = learn_within_person(embeddings, track)
    assert np.allclose(np.linalg.norm(learned.quietened(embeddings), axis=1), 1.0, atol=1e-5)
    assert ((learned.gains_R > 0.0) & (learned.gains_R <= 1.0)).all() and learned.gains_R.min() < 0.5
    directions = learned.directions_RD
    assert np.allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-5)


def test_names_and_order_of_tracks_do_not_matter() -> None:
    embeddings, _, track = people(4, 2, 10)
    learned = learn_within_person(embeddings, track).quietened(embeddings)
    shuffled = np.random.default_rng(1).permutation(len(track))
    named = np.array([f"clip-{9 - number}" for number in track])
    again = learn_within_person(embeddings[shuffled], named[shuffled]).quietened(embeddings)
    assert np.allclose(learned, again, atol=1e-3)


def test_faces_without_a_track_teach_nothing() -> None:
    embeddings, _, track = people(4, 2, 10)
    stray = unit(np.random.default_rng(3).normal(size=(50, LENGTH)))
    alone = learn_within_person(embeddings, track).quietened(embeddings)
    beside = learn_within_person(np.concatenate((embeddings, stray)), np.append(track, [-1] * 50)).quietened(embeddings)
    assert np.allclose(alone, beside, atol=1e-4)


def test_one_person_stays_one() -> None:
    """Nothing is centred: what all faces share is what tells them from other facesets."""
    embeddings, _, track = people(1, 6, 10)
    quiet = learn_within_person(embeddings, track).quietened(embeddings)
    assert np.median(quiet @ quiet.T) > np.median(embeddings @ embeddings.T) + 0.3


def test_what_cannot_be_learned_from_is_refused() -> None:
    embeddings = people(2, 1, 4)[0]
    with pytest.raises(ValueError, match="no track has two faces"):
        learn_within_person(embeddings, np.arange(8))
    with pytest.raises(ValueError, match="no track has two faces"):
        learn_within_person(embeddings, [""] * 8)
    with pytest.raises(ValueError, match="all equal"):
        learn_within_person(np.ones((4, 8)), [1, 1, 2, 2])
    with pytest.raises(ValueError, match="one track a face"):
        learn_within_person(embeddings, [1, 2])
    with pytest.raises(ValueError, match="NaN"):
        learn_within_person(np.full((4, 8), np.nan), [1, 1, 2, 2])
    with pytest.raises(ValueError, match="shape"):
        learn_within_person(np.ones(4), [1, 1, 2, 2])
    learned = WithinPerson(np.eye(3, 8, dtype=np.float32), np.ones(3, dtype=np.float32))
    with pytest.raises(ValueError, match="length 9 were given to directions of length 8"):
        learned.quietened(np.ones((2, 9)))


@given(st.lists(st.integers(-1, 6), max_size=30))
def test_tracks_are_numbered_by_their_first_face(tracks: list[int]) -> None:
    seen = list(dict.fromkeys(track for track in tracks if track >= 0))
    wanted = [seen.index(track) if track >= 0 else -1 for track in tracks]
    texts = ["" if track < 0 else f"t{track}" for track in tracks]
    for given_tracks in (tracks, np.array(texts, dtype=object) if texts else tracks):
        number, count = numbered_tracks(given_tracks, len(tracks))
        assert (number.tolist(), count) == (wanted, len(seen))


@given(st.lists(st.integers(0, 5), max_size=30))
def test_sums_are_those_of_each_label(labels: list[int]) -> None:
    values = np.arange(len(labels) * 3, dtype=np.float32).reshape(-1, 3)
    label = np.array(labels, dtype=np.intp)
    wanted = [values[label == k].sum(axis=0) for k in range(6)]
    assert np.allclose(sums(values, label, 6), np.array(wanted))
