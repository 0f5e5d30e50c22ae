"""The best faces: a set of a given size, spread over head poses, sharp, and as varied as the faceset allows.

What a reader would get wrong: the original's target is no count. It keeps round(target / 128) faces a yaw bin, so a target of
64 or less keeps none at all, and one above that may be missed either way. Here each bin's share is worked out so that
exactly `target` faces stay, or all when there are fewer; `reference=True` gives the original's choice.

Legend: N = faces. Specification: faceset, section 16.4; golden choices: tests/unit/curation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ml_common.curation.distances import bhattacharyya_sums
from ml_common.curation.ordering import Ordering

YAW_BINS = 128
# Beyond it landmarks are not reliable.
_YAW_LIMIT_RAD = 1.2
# So many times a bin's share are looked at for variety, the best ones first.
_POOL = 10


def best_faces(
    best_first: NDArray[np.int64],
    yaw_rad: NDArray[np.floating],
    histogram_grey: NDArray[np.uint32],
    target_count: int,
    *,
    pitch_rad: NDArray[np.floating] | None,
    reference: bool = False,
) -> Ordering:
    """Chooses faces over yaw bins, and pitch bins within them where `pitch_rad` is given.

    `best_first`: all N positions, the most wanted first (the sharpest, the largest). `yaw_rad` positive to the image's
    left. `histogram_grey` [N, 256]. Kept faces go from the image's left to its right, in each bin from one pitch to the
    next and round again, the most unusual of each first. ValueError when target_count is below 1.
    """
    if target_count < 1:
        raise ValueError(f"target_count must be at least 1, got {target_count}")
    yaw_bin = _bins(-np.asarray(yaw_rad, dtype=np.float64), np.linspace(-_YAW_LIMIT_RAD, _YAW_LIMIT_RAD, YAW_BINS))
    counts = np.bincount(yaw_bin, minlength=YAW_BINS)
    shares = _reference_shares(counts, target_count) if reference else _shares(counts, target_count)
    kept: list[int] = []
    passed_over: list[int] = []
    left_over: list[int] = []
    bin_of_best = yaw_bin[best_first]
    for number, share in enumerate(shares.tolist()):
        members = best_first[bin_of_best == number]
        pool, beyond = members[: _POOL * share], members[_POOL * share :]
        passed_over += beyond.tolist()
        swept = list(_swept(pool, share, histogram_grey, pitch_rad))
        kept += swept[:share]
        left_over += swept[share:]
    return Ordering(
        kept=np.array(kept, dtype=np.int64),
        trashed=np.array(passed_over + left_over, dtype=np.int64),
        method=f"{len(kept)} of {len(best_first)} faces over {YAW_BINS} yaw bins"
        + ("" if pitch_rad is None else " and pitch bins within"),
    )


def _shares(counts: NDArray[np.int64], target_count: int) -> NDArray[np.int64]:
    """How many faces each bin gives: the same number, as far as it has them, and exactly `target_count` together."""
    target = min(target_count, int(counts.sum()))
    level = 0
    # The level rises until one more from every bin that has it would be too many.
    while np.minimum(counts, level + 1).sum() <= target and level < counts.max(initial=0):
        level += 1
    shares = np.minimum(counts, level)
    missing = target - int(shares.sum())
    if missing:
        able = np.flatnonzero(counts > level)
        shares[able[((np.arange(missing) + 0.5) * len(able) / missing).astype(np.int64)]] += 1
    return shares


def _reference_shares(counts: NDArray[np.int64], target_count: int) -> NDArray[np.int64]:
    share = round(target_count / YAW_BINS)
    lack = int(np.maximum(share - counts, 0).sum())
    return np.full(YAW_BINS, share + lack // YAW_BINS)


def _swept(
    pool: NDArray[np.int64], share: int, histogram_grey: NDArray[np.uint32], pitch_rad: NDArray[np.floating] | None
) -> Iterator[int]:
    """One yaw bin's faces: round after round the next of every pitch bin, the most unusual of a pitch bin first."""
    if not len(pool):
        return
    pitch_bin = np.zeros(len(pool), dtype=np.int64)
    if pitch_rad is not None:
        pitch_bin = _bins(
            np.asarray(pitch_rad[pool], dtype=np.float64), np.linspace(-math.pi / 2.0, math.pi / 2.0, share)
        )
    queues = []
    for number in np.unique(pitch_bin):
        members = pool[pitch_bin == number]
        unlikeness = bhattacharyya_sums(histogram_grey[members])
        queues.append(members[np.argsort(-unlikeness, kind="stable")].tolist())
    for turn in range(max(map(len, queues))):
        for queue in queues:
            if turn < len(queue):
                yield queue[turn]


def _bins(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first bin reaches down to everything, the last begins at the last edge."""
    found = np.searchsorted(edges, values, side="right") - 1
    return np.clip(found, 0, len(edges) - 1).astype(np.int64)
