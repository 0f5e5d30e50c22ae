"""What detection returns. All coordinates are frame pixels, x right, y down, pixel centres at integers.

What a reader would get wrong: a box is where the *detector* saw a face (about brows to chin), not the bounds of the
landmarks; geometry that needs a stable extent takes it from the landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

U8Array = np.ndarray[Any, np.dtype[np.uint8]]
F32Array = np.ndarray[Any, np.dtype[np.float32]]
F64Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One face box.

    ``box_px_4``: left, top, right, bottom, float64, may reach outside the frame. ``score``: 0..1. ``keypoints_px_62``:
    right eye, left eye, nose tip, mouth centre, right ear, left ear (the subject's right is image-left), float64, rows
    that the detector does not know NaN; None where it knows none.
    """

    box_px_4: F64Array
    score: float
    keypoints_px_62: F64Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """What a landmarker made of one box.

    ``landmarks_px_68x2``: iBUG order (spec/faceset 2.1), float64. ``score``: its own belief in them, 0..1.
    ``mesh_px_468x3``: Face Mesh vertices where it has them, float32; z in px as well, smaller is nearer, its origin
    about the head's centre.
    """

    landmarks_px_68x2: F64Array
    score: float
    mesh_px_468x3: F32Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FoundFace:
    """One face with landmarks.

    ``box_px_4`` and ``score`` are the detector's (see ``Detection``), the rest is the landmarker's (see ``Located``).
    """

    box_px_4: F64Array
    score: float
    landmark_score: float
    landmarks_px_68x2: F64Array
    mesh_px_468x3: F32Array | None = None
