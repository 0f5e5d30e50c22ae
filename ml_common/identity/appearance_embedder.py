"""The embedding that needs no weights: skin, brows, eyes and lips as ``ml_common.tracking.appearance`` describes them, with
what changes within one person turned down.

What a reader would get wrong: what changes within one person is not learned from the faceset here, but comes with the
project (``rendered_persons.npz``), learned from rendered heads whose names are known. ``learn_within_person`` does the same
once more with the faceset's own tracks.

Measured, how often two faces of one person on different tracks are more alike than those of two persons: 99.7 and 99.8 %
of pairs on rendered footage of two casts of twelve that nothing was learned from (plain descriptors: 90.5 and 85.5 %),
99.99 % once the faceset's tracks are learned from too. Photos of people, of whom one is there on ten pairs of different
days: 98 % (plain: 94 %), 99 % with what six clips teach; a hint, no proof. It is no face recognition: what
``ml_common.tracking.appearance`` says of make-up, glasses and coloured light holds here.
``tests/bench/bench_identity.py`` makes the file and measures the groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from ml_common.identity.port import F32Array, U8Array
from ml_common.identity.within_person import WithinPerson
from ml_common.tracking.appearance import describe_face

RENDERED_PERSONS_FILE: Final = "rendered_persons.npz"


class AppearanceEmbedder:
    """See the module."""

    name = "appearance"
    same_person = 0.65

    def __init__(self) -> None:
        self.version = f"1-{_rendered_digest()}"

    def embed(self, crops_bgr: Sequence[U8Array], crop_landmarks_px: Sequence[ArrayLike]) -> F32Array:
        """See Embedder."""
        if not crops_bgr:
            return np.zeros((0, rendered_persons().directions_RD.shape[1]), dtype=np.float32)
        return rendered_persons().quietened(describe_faces(crops_bgr, crop_landmarks_px))


def describe_faces(crops_bgr: Sequence[U8Array], crop_landmarks_px: Sequence[ArrayLike]) -> F32Array:
    """Plain descriptors float32 [N, D], of at least one face."""
    descriptors = []
    for position, (crop, landmarks) in enumerate(zip(crops_bgr, crop_landmarks_px, strict=True)):
        try:
            descriptors.append(describe_face(crop, landmarks))
        except ValueError as error:
            raise ValueError(f"face {position}: {error}") from error
    return np.array(descriptors)


@cache
def rendered_persons() -> WithinPerson:
    """What changes within one person, learned from rendered heads."""
    with files("ml_common.identity").joinpath(RENDERED_PERSONS_FILE).open("rb") as file, np.load(file) as stored:
        return WithinPerson(stored["directions_RD"].astype(np.float32), stored["gains_R"].astype(np.float32))


@cache
def _rendered_digest() -> str:
    return hashlib.sha256(files("ml_common.identity").joinpath(RENDERED_PERSONS_FILE).read_bytes()).hexdigest()[:12]
