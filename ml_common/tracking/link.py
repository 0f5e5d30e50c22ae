"""Follows faces through a shot: which face of this frame is which face of the frames before.

What a reader would get wrong: nothing here looks at the picture. A track is a face that moves on as faces do; a person
who leaves and comes back starts another track, and it takes ``appearance`` to say that two tracks show one person.

Each track says where its face should be now: its place moves on at its recent speed (the longer ago it was seen, the
less it is trusted to keep it), its size and its shape stay. A face is judged by how far its place, its size and its
shape (the 68 points without place and size: pose, expression and build) are from that, each in the spread usual for the
time between; the assignment is the likeliest one of all together (Hungarian method). Frames come one after another and
only the tracks still open are held, so memory does not grow with the clip.

Limits: where two faces overlap, detectors often show one. It is taken for the face whose shape and motion it continues;
two people of like size who meet, stop behind each other and turn back may be exchanged. Faces that swap places in less
than a frame, or across a cut that nobody announced, are beyond it.

Legend: K = faces of a frame, T = open tracks, 68x2 = landmarks (x, y) in frame pixels.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

F64Array = NDArray[np.float64]

_SPEED_FRAMES: Final = 4  # observations that the speed of a track is taken from
_SPARSE_REACH: Final = 2.5  # see TrackLinker
# Usual deviation of place (in face sizes), log size and shape (in face sizes) after one frame, and its growth a frame.
_PLACE_SPREAD: Final = (0.08, 0.07)
_SIZE_SPREAD: Final = (0.02, 0.008)
_SHAPE_SPREAD: Final = (0.03, 0.012)
_LONGEST_SPREAD_FRAMES: Final = 12  # a head does not wander off for ever
# What no face does: beyond these a new track begins. First frame, growth a frame, most.
_PLACE_GATE: Final = (0.75, 0.25, 2.0)
_SIZE_GATE: Final = (0.35, 0.05, 0.7)
_UNLIKELIEST: Final = 10.0  # the sum of the three, each the logarithm of 1 + (deviation / usual)^2
_NO_LINK: Final = 16.0  # what it costs to leave a face or a track without the other; above all costs of a link


@dataclass(frozen=True, slots=True, eq=False)
class FrameFaces:
    """The faces found in one frame.

    ``number``: frame number. ``landmarks_px_K68x2``: iBUG order, finite, [0, 68, 2] where nothing was found.
    ``scene_start``: this frame begins a new shot.
    """

    number: int
    landmarks_px_K68x2: F64Array
    scene_start: bool


@dataclass(slots=True, eq=False)
class _Face:
    """Landmarks taken apart: a face of size 1 is as large as its points' root mean square distance from their mean,
    doubled; about the width of a frontal face.
    """

    center_2: F64Array
    log_size: float
    shape_68x2: F64Array

    @classmethod
    def of(cls, landmarks_px_68x2: F64Array) -> _Face:
        center = landmarks_px_68x2.mean(axis=0)
        size = 2.0 * float(np.sqrt(np.square(landmarks_px_68x2 - center).sum(axis=1).mean()))
        if not size > 1e-6 * (1.0 + float(np.abs(center).max())):
            raise ValueError("landmarks are degenerate: a face has no extent; drop it before linking")
        return cls(center, float(np.log(size)), (landmarks_px_68x2 - center) / size)


@dataclass(slots=True, eq=False)
class _Track:
    track: int
    last: _Face
    seen: deque[tuple[int, F64Array]] = field(default_factory=lambda: deque(maxlen=_SPEED_FRAMES))

    @property
    def last_number(self) -> int:
        return self.seen[-1][0]

    def predicted_center(self, number: int, memory_frames: float) -> F64Array:
        """Recent speed carried on, fading over `memory_frames`."""
        center = self.last.center_2
        recent = [(n, c) for n, c in self.seen if self.last_number - n <= 3 * (number - self.last_number)]
        if len(recent) < 2:
            return center
        time = np.array([n for n, _ in recent], dtype=np.float64)
        time -= time.mean()
        speed = time @ np.array([c for _, c in recent]) / np.square(time).sum()
        ahead = memory_frames * (1.0 - np.exp(-(number - self.last_number) / memory_frames))
        return np.asarray(center + speed * ahead)


class TrackLinker:
    """Numbers the tracks of a clip, frame after frame. Not safe for concurrent threads.

    ``max_gap_frames``: a face is sought again for so many frame numbers after it was last seen. A face that was in the
    frame handed over just before is sought over 2.5 times as many, so that clips sampled every 5th or 25th frame link;
    what a face may have moved meanwhile grows with the gap.
    """

    def __init__(self, *, max_gap_frames: int = 12) -> None:
        if max_gap_frames < 1:
            raise ValueError(f"max_gap_frames must be at least 1, got {max_gap_frames}")
        self._max_gap_frames = max_gap_frames
        self._open: list[_Track] = []
        self._count = 0
        self._previous: int | None = None

    def add(self, frame: FrameFaces) -> list[int]:
        """The track of each face of the frame, in the frame's order; tracks count 0, 1, 2, ... as they appear.

        ValueError when the frame's number is not above the last one's or its landmarks are not finite [K, 68, 2].
        """
        landmarks = np.asarray(frame.landmarks_px_K68x2, dtype=np.float64)
        if landmarks.ndim != 3 or landmarks.shape[1:] != (68, 2):
            raise ValueError(f"landmarks must have shape [K, 68, 2], got {list(landmarks.shape)}")
        if not np.isfinite(landmarks).all():
            raise ValueError("landmarks hold NaN or infinity; drop those faces before linking")
        if self._previous is not None and frame.number <= self._previous:
            raise ValueError(f"frames must come in rising numbers: {frame.number} came after {self._previous}")
        faces = [_Face.of(points) for points in landmarks]
        self._open = [] if frame.scene_start else [t for t in self._open if self._in_reach(t, frame.number)]
        self._previous = frame.number
        track_of_face = self._assigned(faces, frame.number)
        for k, face in enumerate(faces):
            track = track_of_face.get(k)
            if track is None:
                track = track_of_face[k] = _Track(self._count, face)
                self._open.append(track)
                self._count += 1
            track.last = face
            track.seen.append((frame.number, face.center_2))
        return [track_of_face[k].track for k in range(len(faces))]

    def _in_reach(self, track: _Track, number: int) -> bool:
        reach = _SPARSE_REACH if track.last_number == self._previous else 1.0
        return number - track.last_number <= reach * self._max_gap_frames

    def _assigned(self, faces: list[_Face], number: int) -> dict[int, _Track]:
        if not faces or not self._open:
            return {}
        costs_TK = self._costs(faces, number)
        rows, columns = linear_sum_assignment(np.minimum(costs_TK, _NO_LINK))
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        return {k: self._open[t] for t, k in pairs if costs_TK[t, k] < _NO_LINK}

    def _costs(self, faces: list[_Face], number: int) -> F64Array:
        """How unlikely it is that each track goes on as each face, [T, K]; infinite where no face moves like that."""
        lasts = [track.last for track in self._open]
        gap_T1 = np.array([[number - track.last_number] for track in self._open], dtype=np.float64)
        expected_T12 = np.array([[track.predicted_center(number, self._max_gap_frames)] for track in self._open])
        log_size_T1, log_size_K = np.array([[face.log_size] for face in lasts]), np.array([f.log_size for f in faces])
        size_TK = np.exp(0.5 * (log_size_T1 + log_size_K))
        place_TK = np.linalg.norm(expected_T12 - np.array([face.center_2 for face in faces]), axis=2) / size_TK
        growth_TK = np.abs(log_size_K - log_size_T1)
        shapes_T1_68x2 = np.array([[face.shape_68x2] for face in lasts])
        moved_TK68 = np.linalg.norm(shapes_T1_68x2 - np.array([face.shape_68x2 for face in faces]), axis=3)
        shape_TK = np.sqrt(np.square(moved_TK68).mean(axis=2))
        # Minus the logarithm of the likelihood, with heavy tails (Student's t): one thing that is quite off, as in a
        # sudden turn, must not outvote the others. Without the widths' own share, a face would rather continue a track
        # lost long ago, of which anything may be expected, than the one beside it.
        deviation_TK, width_T1 = np.zeros_like(place_TK), np.zeros_like(gap_T1)
        for value_TK, (first, growth) in (
            (place_TK, _PLACE_SPREAD),
            (growth_TK, _SIZE_SPREAD),
            (shape_TK, _SHAPE_SPREAD),
        ):
            spread_T1 = first + growth * (np.minimum(gap_T1, _LONGEST_SPREAD_FRAMES) - 1.0)
            deviation_TK += np.log1p(np.square(value_TK / spread_T1))
            width_T1 += np.log(spread_T1 / first)
        possible_TK = (place_TK <= _limit(_PLACE_GATE, gap_T1)) & (growth_TK <= _limit(_SIZE_GATE, gap_T1))
        possible_TK &= deviation_TK < _UNLIKELIEST
        return np.where(possible_TK, deviation_TK + width_T1, np.inf)


def _limit(first_growth_most: tuple[float, float, float], gap_T1: F64Array) -> F64Array:
    first, growth, most = first_growth_most
    return np.minimum(first + growth * (gap_T1 - 1.0), most)
