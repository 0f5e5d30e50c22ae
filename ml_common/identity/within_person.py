"""What changes in a face's embedding while the person stays the same, and embeddings with that turned down.

What a reader would get wrong: nobody says who is who. Faces of one track are faces of one person, whatever his name, so
their spread around the track's mean shows how turning, talking and light move an embedding. Along the directions of that
spread embeddings are shrunk, by the more the wider it is; what is left tells persons apart. Nothing is centred, so that it
works as well where all tracks show one person.

This is within-class covariance normalisation (Hatch, Kajarekar, Stolcke, Interspeech 2006) with the widest directions
kept and the others taken for equal.

Shape legend: N = faces, D = length of an embedding, R = directions, T = tracks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]

MOST_DIRECTIONS: Final = 128
_SHRINKAGE: Final = 0.1  # of the spread, towards the same in every direction


@dataclass(frozen=True, slots=True, eq=False)
class WithinPerson:
    """``directions_RD``: orthonormal, float32; ``gains_R``: what embeddings are multiplied with along each, above 0 and at
    most 1, float32."""

    directions_RD: F32Array
    gains_R: F32Array

    def quietened(self, embeddings_ND: ArrayLike) -> F32Array:
        """Embeddings float32 [N, D] of length 1 with the spread within persons turned down. ValueError for another D."""
        embeddings = checked_embeddings(embeddings_ND)
        if embeddings.shape[1] != self.directions_RD.shape[1]:
            raise ValueError(
                f"embeddings of length {embeddings.shape[1]} were given to directions of length "
                f"{self.directions_RD.shape[1]}: learn them again from embeddings of this kind"
            )
        along_NR = embeddings @ self.directions_RD.T
        return unit(embeddings + (along_NR * (self.gains_R - 1.0)) @ self.directions_RD)


def learn_within_person(embeddings_ND: ArrayLike, tracks_N: ArrayLike) -> WithinPerson:
    """Learns from faces in tracks. ``tracks_N``: a whole number or text a face; -1 and "" mean no track and are left out.

    ValueError where no track has two faces: there is nothing to learn from, so cluster without.
    """
    embeddings = checked_embeddings(embeddings_ND)
    track_N, _ = numbered_tracks(tracks_N, len(embeddings))
    counts_T = np.bincount(track_N[track_N >= 0])
    several_N = (track_N >= 0) & (counts_T[track_N] > 1) if len(counts_T) else np.zeros(len(track_N), dtype=bool)
    if not several_N.any():
        raise ValueError("no track has two faces, so nothing can be learned from tracks; use embeddings as they are")
    members, track = embeddings[several_N], track_N[several_N]
    deviation = members - sums(members, track, len(counts_T))[track] / counts_T[track][:, None].astype(np.float32)
    free = len(members) - len(np.unique(track))
    spread_DD = (deviation.T @ deviation).astype(np.float64) / free
    dimensions = len(spread_DD)
    mean_spread = float(np.trace(spread_DD)) / dimensions
    if mean_spread <= 0.0:
        raise ValueError("the faces of each track are all equal, so nothing can be learned from tracks")
    variances, directions = np.linalg.eigh(spread_DD)
    variances = (1.0 - _SHRINKAGE) * variances + _SHRINKAGE * mean_spread
    kept = min(MOST_DIRECTIONS, dimensions - 1)
    elsewhere = float(variances[:-kept].mean())
    gains = np.sqrt(elsewhere / np.maximum(variances[-kept:], elsewhere))
    return WithinPerson(
        np.ascontiguousarray(directions[:, -kept:].T, dtype=np.float32), np.asarray(gains, dtype=np.float32)
    )


def checked_embeddings(embeddings_ND: ArrayLike) -> F32Array:
    """As float32 [N, D]; ValueError for another shape, or numbers that are not finite."""
    embeddings = np.asarray(embeddings_ND, dtype=np.float32)
    if embeddings.ndim != 2 or embeddings.shape[1] < 2:
        raise ValueError(f"embeddings must have shape [N, D >= 2], got {list(embeddings.shape)}")
    if not np.isfinite(embeddings).all():
        raise ValueError("embeddings hold NaN or infinity; embed those faces again or leave them out")
    return embeddings


def numbered_tracks(tracks_N: ArrayLike, count: int) -> tuple[NDArray[np.intp], int]:
    """Tracks numbered 0 to T - 1 in the order of their first faces, -1 for none; and T. ValueError for another length."""
    tracks: np.ndarray[Any, Any] = np.asarray(tracks_N)
    if tracks.shape != (count,):
        raise ValueError(f"there must be one track a face, {count} of them, got {list(tracks.shape)}")
    no_track = "" if tracks.dtype.kind in "UO" else -1
    _, first, number_N = np.unique(tracks, return_index=True, return_inverse=True)
    has_none = tracks[first] == no_track
    order = np.empty(len(first), dtype=np.intp)
    order[np.argsort(np.where(has_none, count, first), kind="stable")] = np.arange(len(first))
    order[has_none] = -1
    return order[number_N], int(np.count_nonzero(~has_none))


def sums(values_ND: F32Array, label_N: NDArray[np.intp], count: int) -> F32Array:
    """The sum of each label's values, [count, D]; labels are 0 to count - 1."""
    total = np.zeros((count, values_ND.shape[1]), dtype=np.float32)
    if len(label_N):
        order = np.argsort(label_N, kind="stable")
        present, starts = np.unique(label_N[order], return_index=True)
        total[present] = np.add.reduceat(values_ND[order], starts, axis=0)
    return total


def unit(vectors_ND: np.ndarray[Any, Any]) -> F32Array:
    """Each of length 1; one of length 0 stays."""
    length = np.linalg.norm(vectors_ND, axis=-1, keepdims=True)
    return np.asarray(vectors_ND / np.maximum(length, 1e-12), dtype=np.float32)
