"""The port behind which face embeddings stand: what clustering asks of them.

What a reader would get wrong: embeddings of two embedders, or of two versions of one, cannot be compared. Keep ``version``
with them, and embed again where it differs.

Legend: N = faces, D = length of an embedding (the same for every face of an embedder).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

U8Array = NDArray[np.uint8]
F32Array = NDArray[np.float32]


class Embedder(Protocol):
    """Turns faces into vectors that point alike for one person."""

    name: str
    """Registry name, `appearance`."""
    version: str
    """Algorithm version and digest of what it was learned from: another version means other embeddings."""
    same_person: float
    """For ``cluster``: the cosine of two groups' means from which on they show one person."""

    def embed(self, crops_bgr: Sequence[U8Array], crop_landmarks_px: Sequence[ArrayLike]) -> F32Array:
        """Embeddings float32 [N, D] of length 1. ``crops_bgr``: aligned faces, uint8 HWC BGR of any size from 48 px on;
        ``crop_landmarks_px``: [68, 2] each, (x, y) in crop pixels. A face's embedding does not depend on the others.
        ValueError, naming the position, for a face that cannot be embedded."""
        ...
