"""Faces that show the same again, at four strengths, and which one of them stays.

What a reader would get wrong: a group is a star, not a chain. Each duplicate is alike to the face that stays; were it enough to
be alike to another duplicate, a whole shot would be one group, since every frame is like the next. And a perceptual hash
alone does not see a blink, so how much the thumbnails differ where they differ most decides as well.

Legend: N = faces, K = values of a thumbnail, P = sums over its cells. Tests: tests/unit/curation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_common.curation.columns import Columns
from ml_common.curation.distances import cell_sums
from ml_common.curation.fingerprint import THUMBNAIL_PX
from ml_common.curation.orders import sharpest_first

DUPLICATE_COLUMNS = ("cpbd", "edge_width_px", "thumbnail_bgr", "perceptual_hash")
"""The columns that `find_duplicates` reads."""

_CELLS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How alike two faces have to be. hash_bits: differing bits of the perceptual hashes, of 64. mean_levels: mean difference
    of their thumbnails, 0 to 255. peak_levels: the largest difference of any thumbnail pixel, mean of its channels."""

    hash_bits: int
    mean_levels: float
    peak_levels: float


STRENGTHS: dict[int, Likeness] = {
    1: Likeness(hash_bits=3, mean_levels=1.5, peak_levels=6.0),
    2: Likeness(hash_bits=3, mean_levels=3.0, peak_levels=18.0),
    3: Likeness(hash_bits=7, mean_levels=6.0, peak_levels=40.0),
    4: Likeness(hash_bits=64, mean_levels=8.0, peak_levels=255.0),
}
"""1: the same picture, also recompressed or resized. 2: hardly moved, by half a pixel of 256; blinks still tell faces apart.
3: moved by a pixel, a little brighter, eyes half closed. 4: loosely alike, whatever the hash says."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DuplicateGroup:
    """kept: position of the sharpest face. duplicates: positions int64 of those alike to it, sharpest first. strengths: int8,
    for each the lowest strength at which it is a duplicate of the kept one."""

    kept: int
    duplicates: NDArray[np.int64]
    strengths: NDArray[np.int8]


def find_duplicates(table: Columns, strength: int) -> list[DuplicateGroup]:
    """Groups of two or more, the sharpest kept face first; no face is in two. Needs DUPLICATE_COLUMNS.

    From the sharpest face to the least sharp, each one that is not yet a duplicate takes those left that are alike to it. Time
    grows with the square of the count in the worst case, though most pairs cost a comparison of their mean brightness;
    memory stays at the columns. ValueError for an unknown strength or a missing column.
    """
    if strength not in STRENGTHS:
        raise ValueError(f"strength must be one of {sorted(STRENGTHS)}, got {strength}")
    if not len(table):
        return []
    search = _Search(table, STRENGTHS[strength])
    sharpest = sharpest_first(table)
    rank = np.empty(len(table), dtype=np.int64)
    rank[sharpest] = np.arange(len(table))
    groups = []
    for face in sharpest.tolist():
        if not search.is_left(face):
            continue
        found, strengths = search.take(face, strength)
        if len(found):
            by_rank = np.argsort(rank[found])
            groups.append(DuplicateGroup(kept=face, duplicates=found[by_rank], strengths=strengths[by_rank]))
    return groups


class _Search:
    """The faces that are left, in order of mean brightness, so that those alike to one lie within a window."""

    def __init__(self, table: Columns, likeness: Likeness) -> None:
        self._likeness = likeness
        thumbnails_NK = table["thumbnail_bgr"]
        cells_NP = cell_sums(thumbnails_NK.reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX, 3), _CELLS).reshape(len(table), -1)
        total = cells_NP.sum(axis=1)
        self._face_at = np.argsort(total, kind="stable").astype(np.int64)
        self._place_of = np.empty_like(self._face_at)
        self._place_of[self._face_at] = np.arange(len(table))
        self._total = total[self._face_at]
        self._cells_NP = cells_NP[self._face_at]
        self._hash = table["perceptual_hash"].astype(np.uint64)[self._face_at]
        self._thumbnails_NK = thumbnails_NK
        self._left = np.ones(len(table), dtype=bool)
        self._reach = np.float32(likeness.mean_levels * thumbnails_NK.shape[1])
        # Cell sums are whole numbers far below 2^24; one level of slack covers the sums of their differences.
        self._starts = np.searchsorted(self._total, self._total - self._reach - 1, side="left")
        self._stops = np.searchsorted(self._total, self._total + self._reach + 1, side="right")

    def is_left(self, face: int) -> bool:
        """Whether no other face took it."""
        return bool(self._left[self._place_of[face]])

    def take(self, face: int, strength: int) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        """Takes the face and all left that are alike to it; these, with the strength each needs."""
        place = int(self._place_of[face])
        self._left[place] = False
        start, stop = int(self._starts[place]), int(self._stops[place])
        bits = np.bitwise_count(self._hash[start:stop] ^ self._hash[place])
        near = start + np.flatnonzero((bits <= self._likeness.hash_bits) & self._left[start:stop])
        bound = np.abs(self._cells_NP[near] - self._cells_NP[place]).sum(axis=1)
        near = near[bound <= self._reach + 1]
        if not len(near):
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int8)
        # Differences of uint8 stay exact in int16.
        differences_MK = np.abs(self._thumbnails_NK[self._face_at[near]] - self._thumbnails_NK[face].astype(np.int16))
        mean = differences_MK.mean(axis=1)
        peak = differences_MK.reshape(len(near), -1, 3).sum(axis=2).max(axis=1) / 3.0
        bits = bits[near - start]
        strengths = np.zeros(len(near), dtype=np.int8)
        for level in range(strength, 0, -1):
            asked = STRENGTHS[level]
            strengths[(bits <= asked.hash_bits) & (mean <= asked.mean_levels) & (peak <= asked.peak_levels)] = level
        taken = near[strengths > 0]
        self._left[taken] = False
        return self._face_at[taken], strengths[strengths > 0]
