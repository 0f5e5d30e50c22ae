"""What linking faces into tracks needs from every chunk: where the faces were, and what each frame looked like.

Chunks are looked at by different workers, tracks run through all of them: so a chunk leaves its trail beside its rows, and whoever joins
the chunks links. Rows and trail list the same faces in the same order.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ml_common.media.scenes import scene_cuts
from ml_common.tracking.link import FrameFaces, TrackLinker


@dataclass(frozen=True, slots=True, eq=False)
class Trail:
    """``numbers_F`` of the frames; ``signatures_FS`` float32, see ml_common.media.scenes; ``faces_per_frame_F``; ``landmarks_px_K68x2``
    float32 of all faces, frame after frame."""

    numbers_F: np.ndarray
    signatures_FS: np.ndarray
    faces_per_frame_F: np.ndarray
    landmarks_px_K68x2: np.ndarray

    def to_bytes(self) -> bytes:
        """Equal trails give equal bytes."""
        sink = io.BytesIO()
        np.savez(
            sink,
            numbers=self.numbers_F.astype(np.int64),
            signatures=self.signatures_FS.astype(np.float32),
            faces=self.faces_per_frame_F.astype(np.int32),
            landmarks=self.landmarks_px_K68x2.astype(np.float32).reshape(-1, 68, 2),
        )
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Trail:
        """Reads what ``to_bytes`` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return cls(stored["numbers"], stored["signatures"], stored["faces"], stored["landmarks"])


def link_tracks(trails: Sequence[Trail]) -> list[str]:
    """The track of every face, `t000000` on, in the order of the rows of all chunks. Cuts between scenes end tracks."""
    if not trails:
        return []
    numbers = np.concatenate([trail.numbers_F for trail in trails]).tolist()
    cuts = set(scene_cuts(np.concatenate([trail.signatures_FS for trail in trails]), numbers))
    linker = TrackLinker()
    tracks: list[str] = []
    for trail in trails:
        first = 0
        for number, count in zip(trail.numbers_F.tolist(), trail.faces_per_frame_F.tolist(), strict=True):
            faces = trail.landmarks_px_K68x2[first : first + count]
            first += count
            tracks += [track_id(track) for track in linker.add(FrameFaces(number, faces, number in cuts))]
    return tracks


def track_id(track: int) -> str:
    """A track's number as the id that revisions hold."""
    return f"t{track:06d}"
