"""The order of samples: fair, reproducible, and a function of the position alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_common.training.sampler import UniformDeck, YawDeck


@given(count=st.integers(1, 60), seed=st.integers(0, 2**31), epoch=st.integers(0, 5))
def test_every_epoch_holds_every_sample_once(count: int, seed: int, epoch: int) -> None:
    deck = UniformDeck(count, seed=seed)
    drawn = [deck.index_at(position) for position in range(epoch * count, (epoch + 1) * count)]
    assert sorted(drawn) == list(range(count))


def test_epochs_and_seeds_differ() -> None:
    deck, other = UniformDeck(50, seed=1), UniformDeck(50, seed=2)
    first = [deck.index_at(p) for p in range(50)]
    assert first != [deck.index_at(p) for p in range(50, 100)]
    assert first != [other.index_at(p) for p in range(50)]


@given(seed=st.integers(0, 1000))
def test_order_does_not_depend_on_what_was_asked_before(seed: int) -> None:
    positions = np.random.default_rng(seed).integers(0, 200, 40).tolist()
    yaws = np.random.default_rng(seed).uniform(-1.5, 1.5, 30).tolist()
    for make in (lambda: UniformDeck(30, seed=seed), lambda: YawDeck(yaws, seed=seed)):
        used = make()
        assert [used.index_at(p) for p in positions] == [make().index_at(p) for p in positions]


def test_yaw_deck_draws_a_rare_profile_as_often_as_the_crowded_front() -> None:
    yaws = [0.0] * 90 + [1.0] * 9 + [-1.15]
    deck = YawDeck(yaws, seed=3)
    drawn = Counter(deck.index_at(p) for p in range(3 * 90))
    assert sum(drawn[i] for i in range(90)) == sum(drawn[i] for i in range(90, 99)) == drawn[99] == 90
    assert {drawn[i] for i in range(90)} == {1}  # within a bin, everyone once before anyone twice
    assert {drawn[i] for i in range(90, 99)} == {10}


def test_yaw_deck_keeps_angles_beyond_its_edges() -> None:
    deck = YawDeck([-1.5, -1.3, 1.3, 1.5], seed=0)
    assert {deck.index_at(p) for p in range(8)} == {0, 1, 2, 3}


def test_empty_and_unusable_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        UniformDeck(0, seed=0)
    with pytest.raises(ValueError, match="empty"):
        YawDeck([], seed=0)
    with pytest.raises(ValueError, match="finite yaw"):
        YawDeck([0.0, float("nan")], seed=0)
