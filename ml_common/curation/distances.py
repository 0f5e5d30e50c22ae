"""How far two faces are from each other in colour distribution and in pixels, in full and by a cheap bound.

What a reader would get wrong: a bound may be loose, never wrong, float32 rounding included: each one subtracts what its
arithmetic can be off. A chain that trusts it is the chain of the full distances.

Legend: N = faces, C = colour channels, B = 256 histogram bins, P = cheap features, NHWC = pictures, K = H * W * C.
Specification: faceset, sections 16.2 and 16.3.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_BINS = 256
# Principal components a channel in the cheap features; a further value holds the length of what they leave out.
_COMPONENTS = 15
# Faces from which the components are computed: any basis gives true bounds, so a sample does.
_BASIS_FACES = 4096
_SQUARED_ROUNDING = np.float32(4e-6)
_BLOCK_ROWS = 1024
_FLOAT64_FACES = 4096
# Cells along each side of a pooled picture: for bounds of the nearest, and as stand-in where the farthest is sought.
_BOUND_CELLS, _STAND_IN_CELLS = 4, 8
# Pictures are compared so many bytes at a time: what is subtracted stays in the cache.
_PICTURE_BYTES = 1 << 20


def unit_roots(counts_NB: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Histograms as vectors of length 1: square roots of the share in each bin, so that a dot product is the Bhattacharyya
    coefficient. [..., 256] in and out; an empty histogram becomes zeros."""
    totals = counts_NB.sum(axis=-1, keepdims=True, dtype=np.float64)
    roots: NDArray[np.float64] = np.sqrt(counts_NB / np.maximum(totals, 1.0))
    return roots


def bhattacharyya_sums(counts_NB: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Each face's summed Bhattacharyya distance to all faces, float64 [N]; itself counts 0.

    Every pair is counted, block by block, so memory stays at the features and a few MB. In float64 up to 4096 faces, in
    float32 above: sums are then within 1e-5 of the exact ones where faces differ at all.
    """
    # Equal histograms are one, counted often: copies then have the same sum to the last bit.
    rows = np.ascontiguousarray(counts_NB).view(np.dtype((np.void, counts_NB.itemsize * counts_NB.shape[1]))).ravel()
    _, first, which, often = np.unique(rows, return_index=True, return_inverse=True, return_counts=True)
    return _weighted_sums(counts_NB[first], often.astype(np.float64))[which]


def _weighted_sums(counts_NB: NDArray[np.uint32], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    exact = len(counts_NB) <= _FLOAT64_FACES
    roots_NB: NDArray[np.floating[Any]] = unit_roots(counts_NB) if exact else _float32_roots(counts_NB)
    weights_N = weights.astype(roots_NB.dtype)
    sums = np.zeros(len(roots_NB), dtype=np.float64)
    for start in range(0, len(roots_NB), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        for other in range(start, len(roots_NB), _BLOCK_ROWS):
            columns = slice(other, other + _BLOCK_ROWS)
            distances = roots_NB[rows] @ roots_NB[columns].T
            np.subtract(1, distances, out=distances)
            np.maximum(distances, 0, out=distances)
            np.sqrt(distances, out=distances)
            if other == start:
                # A product's two halves may be rounded apart, and two faces alone have to be equally unlike.
                distances = np.maximum(distances, distances.T)
                np.fill_diagonal(distances, 0)
            else:
                sums[columns] += weights_N[rows] @ distances
            sums[rows] += distances @ weights_N[columns]
    return sums


class ColourCosts:
    """Summed Bhattacharyya distances of the B, G and R histograms, for a chain. Histograms: counts, [N, 3 * 256].

    The distance of two histograms is that of their unit_roots divided by the square root of two, so projections on principal
    components, and the length of the rest, bound it from below.
    """

    def __init__(self, histogram_bgr_NK: NDArray[np.uint32]) -> None:
        counts_NCB = histogram_bgr_NK.reshape(len(histogram_bgr_NK), -1, _BINS)
        self._roots_NCB = _float32_roots(counts_NCB)
        self._cheap_CNP = np.stack([_projected(self._roots_NCB[:, channel]) for channel in range(counts_NCB.shape[1])])
        self._squares_CN = np.square(self._cheap_CNP).sum(axis=2)

    def __len__(self) -> int:
        return len(self._roots_NCB)

    def lower_bounds(self, place: int) -> NDArray[np.float32]:
        """See PairCosts."""
        bounds = np.zeros(len(self) - place - 1, dtype=np.float32)
        for cheap_NP, squares in zip(self._cheap_CNP, self._squares_CN, strict=True):
            squared = cheap_NP[place + 1 :] @ (np.float32(-2.0) * cheap_NP[place])
            squared += squares[place + 1 :]
            squared += squares[place] - _SQUARED_ROUNDING
            np.maximum(squared, np.float32(0.0), out=squared)
            bounds += np.sqrt(squared, out=squared)
        bounds *= np.float32(0.5**0.5 * (1.0 - 1e-6))
        return bounds

    def costs(self, face: int, others: NDArray[np.int64]) -> NDArray[np.float32]:
        """See PairCosts."""
        squared_NC = np.square(self._roots_NCB[others] - self._roots_NCB[face]).sum(axis=2)
        distances: NDArray[np.float32] = np.sqrt(squared_NC).sum(axis=1) * np.float32(0.5**0.5)
        return distances

    def exchange(self, place: int, other: int) -> None:
        """See PairCosts."""
        self._cheap_CNP[:, [place, other]] = self._cheap_CNP[:, [other, place]]
        self._squares_CN[:, [place, other]] = self._squares_CN[:, [other, place]]


def _float32_roots(counts_NB: NDArray[np.uint32]) -> NDArray[np.float32]:
    roots_NB = np.empty(counts_NB.shape, dtype=np.float32)
    for start in range(0, len(counts_NB), _BLOCK_ROWS):
        roots_NB[start : start + _BLOCK_ROWS] = unit_roots(counts_NB[start : start + _BLOCK_ROWS])
    return roots_NB


def _projected(roots_NB: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, 16]: distances between rows are never more than those between the roots themselves."""
    mean_B = roots_NB.mean(axis=0)
    sample = roots_NB[:: -(-len(roots_NB) // _BASIS_FACES)] - mean_B
    _, axes_BB = np.linalg.eigh((sample.T @ sample).astype(np.float64))
    basis_BP = np.ascontiguousarray(axes_BB[:, -_COMPONENTS:]).astype(np.float32)
    projected_NP = np.empty((len(roots_NB), _COMPONENTS + 1), dtype=np.float32)
    for start in range(0, len(roots_NB), _BLOCK_ROWS):
        block = roots_NB[start : start + _BLOCK_ROWS] - mean_B
        inner = block @ basis_BP
        projected_NP[start : start + len(block), :-1] = inner
        projected_NP[start : start + len(block), -1] = np.linalg.norm(block - inner @ basis_BP.T, axis=1)
    return projected_NP


class NearPictureCosts:
    """Summed absolute differences of uint8 pictures [N, H, W, C], for a chain of alike ones.

    The difference of two pictures' sums over a cell is never more than the sum of differences there.
    """

    def __init__(self, pictures_NHWC: NDArray[np.uint8]) -> None:
        self._pictures_NK = pictures_NHWC.reshape(len(pictures_NHWC), -1)
        cells = min(_BOUND_CELLS, *pictures_NHWC.shape[1:3])
        self._cheap_NP = cell_sums(pictures_NHWC, cells).reshape(len(pictures_NHWC), -1)
        self._scratch_NP = np.empty_like(self._cheap_NP)
        self._rounding = self._cheap_NP.shape[1] * np.spacing(self._cheap_NP.max(initial=0.0))

    def __len__(self) -> int:
        return len(self._pictures_NK)

    def lower_bounds(self, place: int) -> NDArray[np.float32]:
        """See PairCosts."""
        differences = self._scratch_NP[place + 1 :]
        np.subtract(self._cheap_NP[place + 1 :], self._cheap_NP[place], out=differences)
        np.abs(differences, out=differences)
        bounds = np.asarray(cv2.reduce(differences, 1, cv2.REDUCE_SUM), dtype=np.float32)[:, 0]
        bounds *= np.float32(1.0 - 1e-5)
        bounds -= self._rounding
        return bounds

    def costs(self, face: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        """See PairCosts."""
        return _absolute_differences(self._pictures_NK, self._pictures_NK[face], others)

    def exchange(self, place: int, other: int) -> None:
        """See PairCosts."""
        self._cheap_NP[[place, other]] = self._cheap_NP[[other, place]]


class FarPictureCosts:
    """Minus the summed absolute differences of uint8 pictures [N, H, W, C], for a chain of unlike ones.

    No cheap bound rules out much here, since most pictures are about as far away as the farthest; each step compares all
    that are left, in full, on a copy of the pictures.
    """

    def __init__(self, pictures_NHWC: NDArray[np.uint8]) -> None:
        self._pictures_NK = pictures_NHWC.reshape(len(pictures_NHWC), -1)
        self._placed_NK = self._pictures_NK.copy()

    def __len__(self) -> int:
        return len(self._pictures_NK)

    def lower_bounds(self, place: int) -> NDArray[np.float64]:
        """See PairCosts."""
        return -_absolute_differences(self._placed_NK[place + 1 :], self._placed_NK[place])

    def costs(self, face: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        """See PairCosts."""
        return -_absolute_differences(self._pictures_NK, self._pictures_NK[face], others)

    def exchange(self, place: int, other: int) -> None:
        """See PairCosts."""
        self._placed_NK[[place, other]] = self._placed_NK[[other, place]]


def stand_ins(pictures_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The pictures as means of 8x8 cells, uint8 [N, 8, 8, C]: a fraction of the size, nearly the same far chain."""
    small = np.empty((len(pictures_NHWC), _STAND_IN_CELLS, _STAND_IN_CELLS, pictures_NHWC.shape[3]), dtype=np.uint8)
    for row, picture in zip(small, pictures_NHWC, strict=True):
        row[...] = cv2.resize(picture, (_STAND_IN_CELLS, _STAND_IN_CELLS), interpolation=cv2.INTER_AREA)
    return small


def cell_sums(pictures_NHWC: NDArray[np.uint8], cells: int) -> NDArray[np.float32]:
    """[N, cells, cells, C]; exact for cells of up to 65,793 pixels (2^24 / 255), else rounded to float32."""
    height, width = pictures_NHWC.shape[1:3]
    tops, lefts = (np.arange(cells) * side // cells for side in (height, width))
    sums = np.empty((len(pictures_NHWC), cells, cells, pictures_NHWC.shape[3]), dtype=np.float32)
    step = max(1, _PICTURE_BYTES // math.prod(pictures_NHWC.shape[1:]))
    for start in range(0, len(pictures_NHWC), step):
        block = pictures_NHWC[start : start + step]
        rows = np.add.reduceat(block, tops, axis=1, dtype=np.uint32)
        sums[start : start + len(block)] = np.add.reduceat(rows, lefts, axis=2)
    return sums


def _absolute_differences(
    pictures_NK: NDArray[np.uint8], picture_K: NDArray[np.uint8], chosen: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """From one picture to the chosen ones, to all when nothing is chosen."""
    count = len(pictures_NK) if chosen is None else len(chosen)
    sums = np.empty(count, dtype=np.float64)
    rows = min(count, max(1, _PICTURE_BYTES // len(picture_K)))
    repeated = np.repeat(picture_K[None], rows, axis=0)
    for start in range(0, count, rows):
        place = slice(start, start + rows)
        block = pictures_NK[place if chosen is None else chosen[place]]
        differences = cv2.absdiff(block, repeated[: len(block)])
        sums[place] = cv2.reduce(differences, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0]
    return sums
