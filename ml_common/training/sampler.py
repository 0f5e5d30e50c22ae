"""Which sample comes at which position: pure functions of (seed, position), the same after a resume.

The one thing a reader would get wrong: there is no state to save. A position is one integer, the number of samples of
this side drawn before; ranks take slices of the same positions, so the order is the same for 1, 2 or 8 workers.

`UniformDeck` gives every sample once an epoch. `YawDeck` visits every non-empty yaw bin equally often, whatever its
population (training samples specification, section 2), and within a bin every member once before any comes again.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

YAW_BINS = 128
YAW_LIMIT_RAD = 1.2


class Deck(Protocol):
    """An endless, reproducible order of sample indices."""

    def index_at(self, position: int) -> int:
        """The sample at a position (0, 1, 2, ...)."""


class UniformDeck:
    """All `count` samples in a fresh shuffle every epoch."""

    def __init__(self, count: int, *, seed: int) -> None:
        if count < 1:
            raise ValueError("cannot draw from an empty set of samples")
        self._count = count
        self._shuffles = _Shuffles(seed)

    def index_at(self, position: int) -> int:
        """The sample at `position`; O(count) once an epoch, O(1) within it."""
        epoch, place = divmod(position, self._count)
        return int(self._shuffles.order(self._count, stream=0, epoch=epoch)[place])


class YawDeck:
    """Bins of yaw in a fresh shuffle every round; each bin keeps a shuffled order of its own members.

    yaw_rad: one yaw per sample, positive = nose to image-left. Bins: 128 edges over -1.2 to 1.2, open at both ends.
    """

    def __init__(self, yaw_rad: Sequence[float], *, seed: int) -> None:
        if not len(yaw_rad):
            raise ValueError("cannot draw from an empty set of samples")
        key = -np.asarray(yaw_rad, np.float64)
        if not np.isfinite(key).all():
            raise ValueError("uniform_yaw needs a finite yaw for every sample; recompute the pose of this faceset")
        edges = np.linspace(-YAW_LIMIT_RAD, YAW_LIMIT_RAD, YAW_BINS)
        bin_of_sample = np.clip(np.searchsorted(edges, key, side="right") - 1, 0, YAW_BINS - 1)
        self._bins = [np.flatnonzero(bin_of_sample == b) for b in np.unique(bin_of_sample)]
        self._shuffles = _Shuffles(seed)

    def index_at(self, position: int) -> int:
        """The sample at `position`."""
        round_, place = divmod(position, len(self._bins))
        chosen = int(self._shuffles.order(len(self._bins), stream=0, epoch=round_)[place])
        members = self._bins[chosen]
        # A bin is visited exactly once a round, so the round counts its visits.
        epoch, place_in_bin = divmod(round_, len(members))
        return int(members[self._shuffles.order(len(members), stream=1 + chosen, epoch=epoch)[place_in_bin]])


class _Shuffles:
    """Remembers the latest epoch's permutation of each stream; a step back to the previous epoch recomputes it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._latest: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def order(self, count: int, *, stream: int, epoch: int) -> NDArray[np.int64]:
        known = self._latest.get(stream)
        if known is None or known[0] != epoch:
            known = (epoch, np.random.default_rng((self._seed, stream, epoch)).permutation(count))
            self._latest[stream] = known
        return known[1]
