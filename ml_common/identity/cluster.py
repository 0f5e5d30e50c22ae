"""Sorts the faces of a faceset into persons by their embeddings.

What a reader would get wrong: it is tracks that are clustered, not faces. All faces of a track are of one person and go
together; a face without a track stands for itself. Two faces of one frame are two persons, whatever they look like.

How. HDBSCAN (Campello, Moulavi, Sander 2013; scikit-learn) finds the dense cores among the tracks' means, in fine groups
("leaf") that are pure rather than whole. A core that holds two faces of one frame is divided. Then the two most alike
groups are joined, again and again, as average linkage does, while they are as alike as one person's and share no frame.
What HDBSCAN took for noise joins as a group of its own, if it is a track, or goes to the nearest group, if it is a face.
HDBSCAN alone leaves one person in several groups and cannot tell a faceset of one person; average linkage alone takes
too long where no tracks are known.

Measured on rendered footage of thirty persons, three shots each: purity 1.00 and V-measure 1.00 by tracks, with embeddings
of `appearance` and `learned` alike (plain descriptors: 0.82 and 0.94); without tracks `appearance` 0.96 and 0.99 of the
93 % that found a group. Six clips of five people: no track wrong. Photos of strangers beside tracks are the weak side: half
of them go to somebody, with a confidence of 0.2 in the middle where the faces of tracks have 0.9. ``tests/bench/bench_identity.py``.

Of more than ``_MOST_AT_ONCE`` tracks or faces as many are drawn at random, always the same, and the others given to the
groups found; the drawing is repeated among those that fit no group. So time and memory do not grow with the square.

Shape legend: N = faces, U = units (tracks, and faces without one), G = groups, D = length of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import HDBSCAN

from ml_common.identity.within_person import F32Array, checked_embeddings, numbered_tracks, sums, unit

Indices = NDArray[np.intp]

DEFAULT_MIN_GROUP_SIZE: Final = 10
DEFAULT_SAME_PERSON: Final = 0.65

_MOST_AT_ONCE: Final = 3000
_MOST_ROUNDS: Final = 6
_LEAST_CORE_OF_FACES: Final = 5
# Means of few faces are less alike than means of many: how much less than ``same_person`` is asked of them.
_LESS_OF_CORES_OF_FACES: Final = 0.15
_LESS_OF_ONE: Final = 0.1


class Persons(NamedTuple):
    """``labels``: per face its group, 0 the largest, -1 none, intp [N]. ``confidence``: float32 [N], 0..1; how far from the
    most similar other group (0) towards its own group's very mean (1) the face lies; 0 without a group."""

    labels: Indices
    confidence: F32Array


def cluster_faces(
    embeddings_ND: ArrayLike,
    *,
    min_group_size: int = DEFAULT_MIN_GROUP_SIZE,
    tracks: ArrayLike | None = None,
    frames: ArrayLike | None = None,
    same_person: float = DEFAULT_SAME_PERSON,
) -> Persons:
    """Groups of at least ``min_group_size`` faces, each meant to be one person, the largest first.

    ``embeddings_ND``: float [N, D] of length 1. ``tracks``: whole numbers or texts [N], -1 or "" for no track.
    ``frames``: whole numbers or texts [N] that name the picture each face was found in. ``same_person``: how alike (cosine,
    over 0 and under 1) the means of two groups are from which on they show one person; that of the embedder. Equal sizes:
    the group with the earlier face comes first. ValueError for other shapes, numbers that are not finite, a size below 1.
    """
    embeddings = unit(checked_embeddings(embeddings_ND))
    if min_group_size < 1:
        raise ValueError(f"min_group_size must be at least 1, got {min_group_size}")
    if not 0.0 < same_person < 1.0:
        raise ValueError(f"same_person must lie between 0 and 1, got {same_person}")
    units = _units(embeddings, tracks, frames)
    group_U = _grouped(units, min_group_size, same_person)
    labels = _by_size(group_U[units.unit_N], min_group_size)
    return Persons(labels, _confidence(embeddings, labels))


def person_names(labels_N: Indices) -> list[str]:
    """The name of each face's person: "person-1" for label 0, the largest group; "" for -1."""
    return [f"person-{label + 1}" if label >= 0 else "" for label in labels_N.tolist()]


@dataclass(frozen=True, slots=True, eq=False)
class _Units:
    """``mean_UD`` of length 1. ``rivals``: per unit the units that some frame shows beside it."""

    unit_N: Indices
    mean_UD: F32Array
    faces_U: Indices
    is_track_U: NDArray[np.bool_]
    rivals: dict[int, set[int]]


def _units(embeddings: F32Array, tracks: ArrayLike | None, frames: ArrayLike | None) -> _Units:
    count = len(embeddings)
    unit_N, track_count = (
        numbered_tracks(tracks, count) if tracks is not None else (np.full(count, -1, dtype=np.intp), 0)
    )
    alone_N = unit_N < 0
    unit_N[alone_N] = track_count + np.arange(np.count_nonzero(alone_N))
    total = track_count + int(np.count_nonzero(alone_N))
    return _Units(
        unit_N,
        unit(sums(embeddings, unit_N, total)),
        np.bincount(unit_N, minlength=total),
        np.arange(total) < track_count,
        _rivals(unit_N, frames) if frames is not None else {},
    )


def _rivals(unit_N: Indices, frames: ArrayLike) -> dict[int, set[int]]:
    frame: np.ndarray[Any, Any] = np.asarray(frames)
    if frame.shape != unit_N.shape:
        raise ValueError(f"there must be one frame a face, {len(unit_N)} of them, got {list(frame.shape)}")
    order = np.argsort(frame, kind="stable")
    starts = np.flatnonzero(np.concatenate(([True], frame[order][1:] != frame[order][:-1]))) if len(frame) else order
    rivals: dict[int, set[int]] = {}
    for together in np.split(unit_N[order], starts[1:]):
        if len(together) > 1:
            shown = set(together.tolist())
            for one in shown:
                rivals.setdefault(one, set()).update(shown - {one})
    return rivals


def _grouped(units: _Units, min_group_size: int, same_person: float) -> Indices:
    """Group per unit, -1 for none, in no order."""
    group_U = np.full(len(units.faces_U), -1, dtype=np.intp)
    chance = np.random.default_rng(0)
    # Tracks first: two tracks make a person, single faces only where there are several.
    for members, least, join_from in (
        (np.flatnonzero(units.is_track_U), 2, same_person),
        (
            np.flatnonzero(~units.is_track_U),
            max(min_group_size // 2, _LEAST_CORE_OF_FACES),
            same_person - _LESS_OF_CORES_OF_FACES,
        ),
    ):
        for _ in range(_MOST_ROUNDS):
            open_units = members[group_U[members] < 0]
            if not len(open_units):
                break
            drawn = open_units
            if len(open_units) > _MOST_AT_ONCE:
                drawn = np.sort(chance.choice(open_units, _MOST_AT_ONCE, replace=False))
            cores = [
                part for core in _cores(units.mean_UD[drawn], least) for part in _without_rivals(units, drawn[core])
            ]
            if least == 2:  # a track is a group by itself
                cored = {number for core in cores for number in core}
                cores += [[number] for number in drawn.tolist() if number not in cored]
            first_new = int(group_U.max()) + 1
            for number, core in enumerate(cores, start=first_new):
                group_U[core] = number
            group_U = _joined(units, group_U, first_new, join_from)
            _give_away(units, group_U, members, same_person - _LESS_OF_ONE)
            if not cores or len(open_units) == len(drawn):
                break
    return group_U


def _cores(mean_UD: F32Array, least: int) -> list[Indices]:
    if len(mean_UD) < max(2 * least, 3):
        return []
    # Distances by matrix product: on unit vectors they follow from cosines, many times faster than one by one.
    distance_UU = np.sqrt(np.maximum(2.0 - 2.0 * (mean_UD @ mean_UD.T).astype(np.float64), 0.0))
    np.fill_diagonal(distance_UU, 0.0)
    found = HDBSCAN(
        min_cluster_size=least, min_samples=2, metric="precomputed", cluster_selection_method="leaf", copy=False
    ).fit(distance_UU)
    labels = np.asarray(found.labels_)
    return [np.flatnonzero(labels == number) for number in range(int(labels.max()) + 1)]


def _without_rivals(units: _Units, core: Indices) -> list[list[int]]:
    """The core in parts that hold no two units of one frame: large units first, each to the first part that it fits."""
    parts: list[list[int]] = []
    taken: list[set[int]] = []
    for number in core[np.argsort(-units.faces_U[core], kind="stable")].tolist():
        fitting = next((k for k, rivals in enumerate(taken) if number not in rivals), None)
        if fitting is None:
            fitting = len(parts)
            parts.append([])
            taken.append(set())
        parts[fitting].append(number)
        taken[fitting] |= units.rivals.get(number, set())
    return parts


def _joined(units: _Units, group_U: Indices, settled: int, join_from: float) -> Indices:
    """Groups joined by average linkage, the most alike first, down to ``join_from``; never two that share a frame.

    The first ``settled`` groups were told apart before and stay so; new ones may join them.
    """
    count = int(group_U.max()) + 1
    if count < 2:
        return group_U
    means, size_G = _group_means(units, group_U, count)
    alike_GG = (means @ means.T).astype(np.float64)
    np.fill_diagonal(alike_GG, -np.inf)
    alike_GG[:settled, :settled] = -np.inf
    for one, rivals in units.rivals.items():
        if group_U[one] >= 0:
            others = group_U[list(rivals)]
            alike_GG[group_U[one], others[others >= 0]] = -np.inf
    weight_G = size_G.astype(np.float64)
    becomes_G = np.arange(count)
    nearest_G, best_G = alike_GG.argmax(axis=1), alike_GG.max(axis=1)
    while best_G.max() >= join_from:
        kept = int(best_G.argmax())
        gone = int(nearest_G[kept])
        share = weight_G[kept] / (weight_G[kept] + weight_G[gone])
        # A group that one of the two must not join keeps away from both: minus infinity stays.
        row = share * alike_GG[kept] + (1.0 - share) * alike_GG[gone]
        row[[kept, gone]] = -np.inf
        alike_GG[kept], alike_GG[:, kept] = row, row
        alike_GG[gone], alike_GG[:, gone] = -np.inf, -np.inf
        weight_G[kept] += weight_G[gone]
        becomes_G[becomes_G == gone] = kept
        stale = np.flatnonzero((nearest_G == kept) | (nearest_G == gone) | (row > best_G))
        stale = np.unique(np.append(stale, (kept, gone)))
        nearest_G[stale], best_G[stale] = alike_GG[stale].argmax(axis=1), alike_GG[stale].max(axis=1)
    _, dense_G = np.unique(becomes_G, return_inverse=True)
    return np.where(group_U >= 0, dense_G[group_U], -1)


def _give_away(units: _Units, group_U: Indices, members: Indices, least: float) -> None:
    """Puts units without a group to the nearest that shares no frame with them, in place, the most alike first."""
    count = int(group_U.max()) + 1
    homeless = members[group_U[members] < 0]
    if not count or not len(homeless):
        return
    means, _ = _group_means(units, group_U, count)
    alike_UG = units.mean_UD[homeless] @ means.T
    best_U = alike_UG.max(axis=1)
    for row in np.argsort(-best_U, kind="stable").tolist():
        if best_U[row] < least:
            break
        number = int(homeless[row])
        rivals = units.rivals.get(number)
        if rivals:
            taken = group_U[list(rivals)]
            alike_UG[row, taken[taken >= 0]] = -np.inf
        if alike_UG[row].max() >= least:
            group_U[number] = int(alike_UG[row].argmax())


def _group_means(units: _Units, group_U: Indices, count: int) -> tuple[F32Array, Indices]:
    """Means of length 1, each unit counted by the root of its faces (those of a track are alike), and faces of each."""
    inside = group_U >= 0
    weighted = units.mean_UD[inside] * np.sqrt(units.faces_U[inside]).astype(np.float32)[:, None]
    size = np.bincount(group_U[inside], weights=units.faces_U[inside], minlength=count)
    return unit(sums(weighted, group_U[inside], count)), size.astype(np.intp)


def _by_size(group_N: Indices, min_group_size: int) -> Indices:
    labels = np.full(len(group_N), -1, dtype=np.intp)
    if not (group_N >= 0).any():
        return labels
    present, first, faces = np.unique(group_N[group_N >= 0], return_index=True, return_counts=True)
    order = sorted(range(len(present)), key=lambda g: (-faces[g], first[g]))
    for label, group in enumerate(g for g in order if faces[g] >= min_group_size):
        labels[group_N == present[group]] = label
    return labels


def _confidence(embeddings: F32Array, labels: Indices) -> F32Array:
    confidence = np.zeros(len(labels), dtype=np.float32)
    inside = np.flatnonzero(labels >= 0)
    if not len(inside):
        return confidence
    own = labels[inside]
    means = unit(sums(embeddings[inside], own, int(own.max()) + 1))
    alike = embeddings[inside] @ means.T
    rows = np.arange(len(inside))
    to_own = alike[rows, own].copy()
    alike[rows, own] = 0.0
    rival = np.clip(alike.max(axis=1), 0.0, 0.999)
    confidence[inside] = np.clip((to_own - rival) / (1.0 - rival), 0.0, 1.0)
    return confidence
