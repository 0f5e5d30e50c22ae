"""Which face is which: faces found again at the same place, and the tracks that newcomers belong to.

What one would get wrong: boxes of different detectors frame a face differently, so places are told by the extents of the landmarks. And a
track holds one face a frame: a newcomer takes a neighbour's track only where that track has no face yet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

SAME_PLACE_IOU = 0.35
LINK_FRAMES = 30  # as far as the linker follows a face through footage of which not every frame was looked at


@dataclass(frozen=True, slots=True, eq=False)
class TrackedFace:
    """A face with its track; the ``track`` of one that looks for it is empty."""

    number: int
    landmarks_px_68x2: np.ndarray
    track: str = ""


def same_places(
    found_px_K68x2: Sequence[np.ndarray], there_px_M68x2: Sequence[np.ndarray]
) -> tuple[list[tuple[int, int]], list[int]]:
    """(found, there) that lie at one place, one to one, the best overlaps first; and those found where there is no face at all."""
    if not len(found_px_K68x2) or not len(there_px_M68x2):
        return [], list(range(len(found_px_K68x2)))
    overlap_KM = _iou(_extents(found_px_K68x2), _extents(there_px_M68x2))
    free = np.flatnonzero((overlap_KM <= SAME_PLACE_IOU).all(axis=1)).tolist()
    pairs: list[tuple[int, int]] = []
    for at in np.argsort(-overlap_KM, axis=None, kind="stable"):
        found, there = divmod(int(at), overlap_KM.shape[1])
        if overlap_KM[found, there] <= SAME_PLACE_IOU:
            break
        if all(found != other and there != taken for other, taken in pairs):
            pairs.append((found, there))
    return pairs, free


def tracks_of(newcomers: Sequence[TrackedFace], around: Iterable[TrackedFace], used: Collection[str]) -> list[str]:
    """The track of each newcomer: that of the nearest face in time which it can be followed to, else a new one.

    ``around`` are faces within LINK_FRAMES of the newcomers, ``used`` all track ids of the faceset. Cuts between scenes are not seen here;
    but tracks end there, so a newcomer beside a cut joins the track that is nearer.
    """
    # On first use: this runs in servers too, and SciPy would hold up their start.
    from ml_common.tracking.link import FrameFaces, TrackLinker

    faces = sorted([*newcomers, *(face for face in around if face.track)], key=lambda face: face.number)
    linked: dict[int, list[TrackedFace]] = defaultdict(list)
    link_of: dict[int, int] = {}
    linker = TrackLinker()
    for number, together in _by_frame(faces):
        landmarks = np.stack([face.landmarks_px_68x2 for face in together])
        for face, link in zip(together, linker.add(FrameFaces(number, landmarks, False)), strict=True):
            linked[link].append(face)
            link_of[id(face)] = link
    taken = {(face.number, face.track) for face in faces if face.track}
    fresh = _fresh(used)
    fresh_of: dict[int, str] = {}
    tracks: list[str] = []
    for face in newcomers:
        link = link_of[id(face)]
        kin = sorted(
            (abs(other.number - face.number), other.number, other.track) for other in linked[link] if other.track
        )
        track = next((track for _, _, track in kin if (face.number, track) not in taken), "")
        if not track:
            if link not in fresh_of:
                fresh_of[link] = f"t{fresh:06d}"
                fresh += 1
            track = fresh_of[link]
        taken.add((face.number, track))
        tracks.append(track)
    return tracks


def _by_frame(faces: Sequence[TrackedFace]) -> Iterable[tuple[int, list[TrackedFace]]]:
    frames: dict[int, list[TrackedFace]] = defaultdict(list)
    for face in faces:
        frames[face.number].append(face)
    return sorted(frames.items())


def _fresh(used: Collection[str]) -> int:
    """The first number over those of all `t000123`."""
    numbers = [int(track[1:]) for track in used if track[:1] == "t" and track[1:].isdigit()]
    return max(numbers, default=-1) + 1


def _extents(faces_px_K68x2: Sequence[np.ndarray]) -> np.ndarray:
    """left, top, right, bottom of each, [K, 4]."""
    points = np.stack([np.asarray(face, np.float64) for face in faces_px_K68x2])
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)


def _iou(a_K4: np.ndarray, b_M4: np.ndarray) -> np.ndarray:
    low = np.maximum(a_K4[:, None, :2], b_M4[None, :, :2])
    high = np.minimum(a_K4[:, None, 2:], b_M4[None, :, 2:])
    common_KM = np.clip(high - low, 0, None).prod(axis=2)
    area_K, area_M = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a_K4, b_M4))
    together_KM = area_K[:, None] + area_M[None] - common_KM
    ratio_KM: np.ndarray = np.divide(common_KM, together_KM, out=np.zeros_like(common_KM), where=together_KM > 0)
    return ratio_KM
