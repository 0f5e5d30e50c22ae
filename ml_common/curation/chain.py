"""Greedy chains: start at the first face, go to the one most (or least) like it that is left, and on until none is left.

The chain is exact at every size. What makes it affordable is that most faces are ruled out by a bound on their distance
that costs a fraction of the distance itself; only those that the bound cannot rule out are compared in full. Memory is
the features and a few numbers a face; time is still quadratic, with a small constant.

What a reader would get wrong: a chain is greedy, so its last steps are long; that is the definition, not a defect. Of
equally distant faces the one that stands first in the faceset comes first.

Legend: N = faces. Specification: faceset, sections 16.2 and 16.3. Tests against the plain method: tests/unit/curation.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Candidates compared in full at first; each further call takes twice as many, so that a good one found early spares most and
# a bound that rules nothing out still costs few calls.
_FIRST_BATCH, _LARGEST_BATCH = 48, 1536


class PairCosts(Protocol):
    """Distances as a chain asks for them: the less the cost, the sooner a face comes.

    The chain keeps its faces in places 0 to N - 1 and exchanges them as it goes, so that those left over always lie behind
    each other; an implementation moves its cheap features along in `exchange`.
    """

    def __len__(self) -> int:
        """N."""
        ...

    def lower_bounds(self, place: int) -> NDArray[np.floating[Any]]:
        """For every place behind `place`, a number not above its cost: [N - place - 1]."""
        ...

    def costs(self, face: int, others: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """The costs from a face to others, by face number; equal for equal faces."""
        ...

    def exchange(self, place: int, other: int) -> None:
        """The cheap features of two places change places."""
        ...


def greedy_chain(pairs: PairCosts) -> NDArray[np.int64]:
    """Face numbers in chain order, int64 [N]: a permutation that begins with face 0."""
    count = len(pairs)
    face_at = np.arange(count)
    for place in range(count - 1):
        step = _nearest(pairs, place, face_at) + place + 1
        if step != place + 1:
            face_at[[place + 1, step]] = face_at[[step, place + 1]]
            pairs.exchange(place + 1, step)
    return face_at


def _nearest(pairs: PairCosts, place: int, face_at: NDArray[np.int64]) -> int:
    """Which of the places behind `place`, counted from the first of them, costs least."""
    here, left = int(face_at[place]), face_at[place + 1 :]
    bounds = pairs.lower_bounds(place)
    best = int(bounds.argmin())
    best_cost = float(pairs.costs(here, left[best : best + 1])[0])
    candidates = np.flatnonzero(bounds <= best_cost)
    if len(candidates) > _FIRST_BATCH:
        candidates = candidates[np.argsort(bounds[candidates], kind="stable")]
    start, size = 0, _FIRST_BATCH
    while start < len(candidates) and bounds[candidates[start]] <= best_cost:
        batch = candidates[start : start + size]
        costs = pairs.costs(here, left[batch])
        cost = float(costs.min())
        cheapest = batch[costs == cost]
        first = int(cheapest[left[cheapest].argmin()])
        if cost < best_cost or (cost == best_cost and left[first] < left[best]):
            best, best_cost = first, cost
        start, size = start + size, min(2 * size, _LARGEST_BATCH)
    return best
