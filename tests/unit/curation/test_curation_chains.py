"""Chains and sums over all pairs against the plain methods they replace."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ml_common.curation import ORDERS, Columns
from ml_common.curation import orders as orders_module
from ml_common.curation.chain import greedy_chain
from ml_common.curation.distances import (
    ColourCosts,
    FarPictureCosts,
    NearPictureCosts,
    bhattacharyya_sums,
    stand_ins,
    unit_roots,
)


def _plain_chain(row_costs, count: int) -> list[int]:
    """The definition: from each face to the cheapest one left, the first of equals."""
    order, left = [0], np.ones(count, dtype=bool)
    left[0] = False
    while left.any():
        costs = row_costs(order[-1])
        costs[~left] = np.inf
        order.append(int(costs.argmin()))
        left[order[-1]] = False
    return order


def _histograms(count: int, seed: int, *, looks: int) -> np.ndarray:
    """Frames of a few looks each: peaks that drift, with counting noise."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(60, 200, (looks, 3, 1))
    width = rng.uniform(10, 40, (looks, 3, 1))
    look = rng.integers(0, looks, count)
    bins = np.arange(256)
    drift = rng.normal(0, 4, (count, 3, 1))
    density = np.exp(-0.5 * ((bins - centre[look] - drift) / width[look]) ** 2) + 0.002
    return rng.poisson(4000 * density / density.sum(axis=2, keepdims=True)).reshape(count, -1).astype(np.uint32)


def _pictures(count: int, seed: int, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size[0], 0 : size[1]] / 32.0
    waves = rng.uniform(-3, 3, (count, 2, 3))
    phase = x[None, ..., None] * waves[:, None, None, 0] + y[None, ..., None] * waves[:, None, None, 1]
    smooth = 128 + rng.uniform(20, 90, (count, 1, 1, 3)) * np.sin(phase) + rng.uniform(-30, 30, (count, 1, 1, 1))
    return (smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("count", "looks"), [(2, 1), (3, 1), (400, 1), (400, 12), (400, 400)])
def test_colour_chain_is_the_plain_greedy_one(count, looks) -> None:
    histograms = _histograms(count, 5, looks=looks)
    roots = unit_roots(histograms.reshape(count, 3, 256))

    def row(face: int) -> np.ndarray:
        return np.sqrt(np.square(roots - roots[face]).sum(axis=2) / 2).sum(axis=1)

    chain = greedy_chain(ColourCosts(histograms))
    plain = _plain_chain(row, count)
    # float32 may tell two all but equally distant faces apart the other way; the chain is then as short.
    assert sorted(chain) == list(range(count))
    length, shortest = (sum(row(a)[b] for a, b in pairwise(o)) for o in (chain.tolist(), plain))
    assert length == pytest.approx(shortest, rel=1e-3)
    assert np.mean(chain == plain) > 0.98


def test_colour_chain_goes_through_copies_in_order() -> None:
    histograms = np.repeat(_histograms(30, 7, looks=5), 4, axis=0)
    chain = greedy_chain(ColourCosts(histograms))
    assert (chain.reshape(30, 4) % 4 == [0, 1, 2, 3]).all()
    assert (np.ptp(chain.reshape(30, 4) // 4, axis=1) == 0).all()


def test_a_colour_bound_is_never_above_its_distance() -> None:
    # Faces from all but equal to unlike: where the bound is tightest and where it is loosest.
    histograms = _histograms(300, 11, looks=3)
    histograms[1::2] = histograms[::2]
    histograms[1::2, ::50] += np.arange(150, dtype=np.uint32)[:, None] // 30
    costs = ColourCosts(histograms)
    roots = unit_roots(histograms.reshape(300, 3, 256))
    for face in range(0, 299, 13):
        exact = np.sqrt(np.square(roots[face + 1 :] - roots[face]).sum(axis=2) / 2).sum(axis=1)
        assert (costs.lower_bounds(face) <= exact + 1e-12).all()


@pytest.mark.parametrize("size", [(32, 32), (37, 50), (3, 5)])
@pytest.mark.parametrize(("kind", "sign"), [(NearPictureCosts, 1.0), (FarPictureCosts, -1.0)])
def test_picture_chains_are_the_plain_greedy_ones(kind, sign, size) -> None:
    pictures = _pictures(300, 3, size)
    flat = pictures.reshape(300, -1).astype(np.int64)
    plain = _plain_chain(lambda face: sign * np.abs(flat - flat[face]).sum(axis=1).astype(float), 300)
    assert greedy_chain(kind(pictures)).tolist() == plain


def test_a_picture_bound_is_never_above_its_distance() -> None:
    pictures = _pictures(200, 9)
    pictures[1::2] = pictures[::2]
    pictures[1::2, 5, 5, 0] ^= 1
    costs = NearPictureCosts(pictures)
    flat = pictures.reshape(200, -1).astype(np.int64)
    for face in range(0, 199, 7):
        assert (costs.lower_bounds(face) <= np.abs(flat[face + 1 :] - flat[face]).sum(axis=1)).all()


def test_stand_ins_give_nearly_as_unlike_a_chain(monkeypatch) -> None:
    pictures = _pictures(500, 2)
    flat = pictures.reshape(500, -1).astype(np.int64)

    def length(order: np.ndarray) -> int:
        return int(np.abs(flat[order[1:]] - flat[order[:-1]]).sum())

    exact = length(greedy_chain(FarPictureCosts(pictures)))
    assert length(greedy_chain(FarPictureCosts(stand_ins(pictures)))) > 0.97 * exact
    assert length(np.arange(500)) < 0.9 * exact
    # The order itself turns to them when there are too many faces.
    monkeypatch.setattr(orders_module, "_FULL_FAR_CHAIN_FACES", 100)
    ordering = ORDERS["absdiff-dissim"].order(Columns({"thumbnail_bgr": pictures.reshape(500, -1)}))
    assert "8x8" in ordering.method
    assert length(ordering.kept) > 0.97 * exact


@pytest.mark.parametrize("count", [1, 2, 5, 1500, 4200])
def test_summed_distances_are_those_of_all_pairs(count) -> None:
    histograms = _histograms(count, 4, looks=7)[:, :256]
    sums = bhattacharyya_sums(histograms)
    roots = np.sqrt(histograms / histograms.sum(axis=1, keepdims=True))
    picked = np.arange(0, count, max(1, count // 40))
    distances = np.sqrt(np.maximum(1.0 - roots[picked] @ roots.T, 0.0))
    distances[np.arange(len(picked)), picked] = 0.0
    np.testing.assert_allclose(sums[picked], distances.sum(axis=1), rtol=1e-5)


def test_two_faces_are_equally_unlike() -> None:
    for seed in range(20):
        first, second = bhattacharyya_sums(_histograms(2, seed, looks=2)[:, :256])
        assert first == second > 0
