"""The port behind which detectors and landmarkers stand: what the finder asks of either.

What a reader would get wrong: both work on many pictures at once, and nothing may compare one picture with another, so
that a face is the same whether its frame comes alone or among hundreds. And a landmarker judges too: it returns None
for what it does not take for a face.

Legend: K faces of one picture or of all pictures of a call, HWC picture, px = frame pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ml_common.detect.types import Detection, Located, U8Array


class Detector(Protocol):
    """Finds boxes."""

    name: str
    """Registry name, `blazeface`."""
    version: str
    """Algorithm version and digest of the weights: another version means other results."""
    clear_score: float
    """From this score on a face is surely an upright one: the frame need not be looked at again turned. Above 1: always
    look; 0: never."""

    def detect(self, images_bgr: Sequence[U8Array], *, coarse: bool = False) -> list[list[Detection]]:
        """Faces per picture, best score first, suppressed: no two boxes for one face. ``coarse``: only faces that are
        large in their picture, for a quick second look at a smaller copy, whatever the smallest face is otherwise."""
        ...


class Landmarker(Protocol):
    """Places 68 points."""

    name: str
    """Registry name, `facemesh`."""
    version: str
    """As in Detector."""

    def locate(
        self,
        images_bgr: Sequence[U8Array],
        frame_of_K: Sequence[int],
        faces_K: Sequence[Detection],
        *,
        turned: bool = False,
    ) -> list[Located | None]:
        """Landmarks of faces, in the order given; None where there is no face after all. ``frame_of_K`` says which
        picture each face lies in. ``turned``: only a turned frame showed these faces, so be strict."""
        ...
