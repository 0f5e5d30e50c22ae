"""Faces in time: who goes on through a shot (link), landmarks without jitter (smooth), which tracks show one person
(appearance).

What a reader would get wrong: the three do not know of each other. A track is a matter of motion alone, smoothing takes
one track at a time, and appearance compares pictures, never tracks.

Names are imported on first use: a server that plans smoothing does not load SciPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_common.lazy_names import lazy_names

if TYPE_CHECKING:
    from ml_common.tracking.appearance import (
        DEFAULT_MIN_SIMILARITY,
        choose_faces,
        describe_face,
        mean_descriptor,
        similarity,
    )
    from ml_common.tracking.link import FrameFaces, TrackLinker
    from ml_common.tracking.smooth import DEFAULT_RADIUS_FRAMES, MAX_RADIUS_FRAMES, smooth_track

_HOMES = {
    "DEFAULT_MIN_SIMILARITY": "appearance",
    "DEFAULT_RADIUS_FRAMES": "smooth",
    "MAX_RADIUS_FRAMES": "smooth",
    "FrameFaces": "link",
    "TrackLinker": "link",
    "choose_faces": "appearance",
    "describe_face": "appearance",
    "mean_descriptor": "appearance",
    "similarity": "appearance",
    "smooth_track": "smooth",
}

__all__ = [
    "DEFAULT_MIN_SIMILARITY",
    "DEFAULT_RADIUS_FRAMES",
    "MAX_RADIUS_FRAMES",
    "FrameFaces",
    "TrackLinker",
    "choose_faces",
    "describe_face",
    "mean_descriptor",
    "similarity",
    "smooth_track",
]

__getattr__ = lazy_names(__name__, _HOMES)
