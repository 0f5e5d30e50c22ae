"""The 68 facial landmarks: checking, mirroring, conversion from 98 points.

What a reader would get wrong: "right" and "left" are the person's own, so right is on the image's left side. Indices
follow the iBUG / 300-W order: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, outer lips 48-59, inner lips 60-67.

Shape legend: 68 and 98 = landmarks, 2 = (x, y) in pixels, y downward, pixel centres at integers.
Specification: faceset, section 2.1.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MIRROR_PAIRS: Final = (
    *((i, 16 - i) for i in range(8)),  # jaw
    *((17 + i, 26 - i) for i in range(5)),  # brows
    *((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),  # eyes
    *((31, 35), (32, 34)),  # nostrils
    *((50, 52), (49, 53), (48, 54), (59, 55), (58, 56), (67, 65), (60, 64), (61, 63)),  # lips
)


def _mirror_order() -> NDArray[np.intp]:
    order = np.arange(68)
    for right, left in _MIRROR_PAIRS:
        order[right], order[left] = left, right
    return order


_MIRROR_ORDER_68: Final = _mirror_order()

# For the brows: which points of the 98-point contour lie above and below each of the ten brow landmarks.
_BROWS_98: Final = (
    *((33, 33), (34, 41), (35, 40), (36, 39), (37, 38)),
    *((42, 50), (43, 49), (44, 48), (45, 47), (46, 46)),
)
_NOSE_98: Final = tuple(range(51, 60))
_EYES_98: Final = (60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75)
_MOUTH_98: Final = tuple(range(76, 96))


def checked_landmarks(landmarks_px_68x2: ArrayLike) -> NDArray[np.float64]:
    """The landmarks as float64 [68, 2]; ValueError when the shape is another or a value is not finite."""
    landmarks = np.asarray(landmarks_px_68x2, dtype=np.float64)
    if landmarks.shape != (68, 2):
        raise ValueError(f"landmarks must have shape [68, 2], got {list(landmarks.shape)}")
    if not np.isfinite(landmarks).all():
        raise ValueError("landmarks hold NaN or infinity; drop the face or detect its landmarks again")
    return landmarks


def mirror_landmarks(landmarks_px_68x2: ArrayLike, width_px: int) -> NDArray[np.float64]:
    """The landmarks of the horizontally flipped image of width `width_px`: x' = width - 1 - x, sides exchanged."""
    mirrored = checked_landmarks(landmarks_px_68x2)[_MIRROR_ORDER_68]
    mirrored[:, 0] = width_px - 1 - mirrored[:, 0]
    return mirrored


def landmarks_98_to_68(landmarks_px_98x2: ArrayLike) -> NDArray[np.float64]:
    """WFLW's 98 points as the 68 of iBUG, float64 [68, 2]. Golden numbers: tests/unit/geometry."""
    points = np.asarray(landmarks_px_98x2, dtype=np.float64)
    if points.shape != (98, 2):
        raise ValueError(f"landmarks must have shape [98, 2], got {list(points.shape)}")
    result = np.empty((68, 2))
    result[0:17] = points[0:33:2]
    # Every other jaw point lies between two points of the denser contour: half itself, half its neighbours' midpoint.
    inner = np.array([i for i in range(1, 16) if i != 8])
    result[inner] = 0.5 * points[2 * inner] + 0.25 * (points[2 * inner - 1] + points[2 * inner + 1])
    above, below = np.array(_BROWS_98).T
    result[17:27] = 0.5 * (points[above] + points[below])
    result[27:36] = points[list(_NOSE_98)]
    result[36:48] = points[list(_EYES_98)]
    result[48:68] = points[list(_MOUTH_98)]
    return result
