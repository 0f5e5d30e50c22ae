"""What detection returns. All coordinates are frame pixels, x right, y down, pixel centres at integers.

What a reader would get wrong: a box is where the *detector* saw a face (about brows to chin), not the bounds of the
landmarks; geometry that needs a stable extent takes it from the landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

F32Array = np.ndarray[Any, np.dtype[np.float32]]
F64Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One face box.

    ``box_px_4``: left, top, right, bottom, float64, may reach outside the frame. ``score``: 0..1. ``keypoints_px_62``:
    right eye, left eye, nose tip, mouth centre, right ear, left ear (the subject's right is image-left), float64.
    """

    box_px_4: F64Array
    score: float
    keypoints_px_62: F64Array


@dataclass(frozen=True, slots=True, eq=False)
class FoundFace:
    """One face with landmarks.

    ``box_px_4`` and ``score`` are the detector's (see ``Detection``). ``presence``: the mesh network's own belief that
    its crop holds a face, 0..1. ``landmarks_px_68x2``: iBUG order (spec/faceset 2.1), float64. ``mesh_px_468x3``: Face
    Mesh vertices, float32; z in px as well, smaller is nearer, its origin about the head's centre.
    """

    box_px_4: F64Array
    score: float
    presence: float
    landmarks_px_68x2: F64Array
    mesh_px_468x3: F32Array
