"""Which pixels belong to the face, told from the 68 landmarks alone.

What a reader would get wrong: `hull_mask` and its relatives truncate the landmarks to whole pixels and have hard edges,
because masks stored with facesets and used in training are made that way; translating the landmarks by half a pixel can
change nothing or a whole row. `soft_hull_mask` is the same shape with exact edges, for compositing.

Shape legend: 68x2 = landmarks (x, y) in pixels of the image the mask is for, HW = float32 mask 0 to 1.
Specification: faceset, section 5; golden numbers: tests/unit/masks.
"""

import math

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml_common.geometry import checked_landmarks

_RIGHT_EYE, _LEFT_EYE, _INNER_LIPS = slice(36, 42), slice(42, 48), slice(60, 68)
# The eight convex parts whose union is the face. Landmark 8 is the chin.
_HULL_PARTS = (
    (*range(9), 17),  # right jaw
    (*range(8, 17), 26),  # left jaw
    (17, 18, 19, 8),  # right cheek
    (24, 25, 26, 8),  # left cheek
    (*range(19, 25), 8),  # nose ridge
    (*range(17, 22), 27, *range(31, 36), 8),  # right eye
    (*range(22, 27), 27, *range(31, 36), 8),  # left eye
    (*range(27, 31), *range(31, 36)),  # nose
)
# OpenCV fills polygons whose corners are given in 1/16 of a pixel.
_SUBPIXEL_BITS = 4
# Each pixel of a soft mask is the mean of this many squared.
_SOFT_FACTOR = 4
# Corners beyond this are cut off: OpenCV's fixed-point coordinates overflow far outside the picture.
_FAR_PX = 1 << 14


def hull_mask(
    landmarks_px_68x2: ArrayLike, height_px: int, width_px: int, eyebrows_expand: float = 1.0
) -> NDArray[np.float32]:
    """The face from jaw to brows, 0 or 1, float32 [height, width].

    `eyebrows_expand` says how far the upper edge moves from the brows towards the forehead, in brow-to-eye distances
    doubled: 1.0 is the usual half distance, 0 is the brows themselves. ValueError for unusable landmarks or sizes.
    """
    return hull_mask_window(landmarks_px_68x2, 0, 0, height_px, width_px, eyebrows_expand)


def hull_mask_window(
    landmarks_px_68x2: ArrayLike,
    left_px: int,
    top_px: int,
    height_px: int,
    width_px: int,
    eyebrows_expand: float = 1.0,
) -> NDArray[np.float32]:
    """The part of `hull_mask` that lies in a window, without making the rest: its cost follows the window's size."""
    mask = _empty_mask(height_px, width_px)
    points = expand_eyebrows(landmarks_px_68x2, eyebrows_expand) - np.array([left_px, top_px], dtype=np.int32)
    points = np.clip(points, -_FAR_PX, _FAR_PX)
    for part in _HULL_PARTS:
        cv2.fillConvexPoly(mask, cv2.convexHull(points[list(part)]), 1.0)
    return mask


def soft_hull_mask(
    landmarks_px_68x2: ArrayLike, height_px: int, width_px: int, eyebrows_expand: float = 1.0
) -> NDArray[np.float32]:
    """`hull_mask` with subpixel corners and antialiased edges: the share of each pixel that is face, 0 to 1.

    Nothing is rounded to whole pixels, so the mask moves as smoothly as the landmarks do.
    """
    points = _expanded(checked_landmarks(landmarks_px_68x2), eyebrows_expand)
    fine = np.zeros((height_px * _SOFT_FACTOR, width_px * _SOFT_FACTOR), dtype=np.uint8)
    if fine.size == 0:
        raise ValueError(f"a mask needs at least 1x1 px, got {width_px}x{height_px}")
    fine_points = points * _SOFT_FACTOR + (_SOFT_FACTOR - 1) / 2.0
    fixed = np.rint(np.clip(fine_points, -_FAR_PX, _FAR_PX) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    for part in _HULL_PARTS:
        cv2.fillConvexPoly(fine, cv2.convexHull(fixed[list(part)]), 255, shift=_SUBPIXEL_BITS)
    small = cv2.resize(fine, (width_px, height_px), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / np.float32(255.0)


def eyes_mask(landmarks_px_68x2: ArrayLike, height_px: int, width_px: int) -> NDArray[np.float32]:
    """Both eyes with a soft rim, 0 to 1, float32 [height, width]; the rim's width follows the height."""
    return _soft_parts(landmarks_px_68x2, height_px, width_px, (_RIGHT_EYE, _LEFT_EYE))


def mouth_mask(landmarks_px_68x2: ArrayLike, height_px: int, width_px: int) -> NDArray[np.float32]:
    """The opening between the lips with a soft rim, 0 to 1, float32 [height, width]."""
    return _soft_parts(landmarks_px_68x2, height_px, width_px, (_INNER_LIPS,))


def eyes_mouth_mask(landmarks_px_68x2: ArrayLike, height_px: int, width_px: int) -> NDArray[np.float32]:
    """Eyes plus mouth, clipped to 0 to 1, float32 [height, width]."""
    both: NDArray[np.float32] = eyes_mask(landmarks_px_68x2, height_px, width_px)
    both += mouth_mask(landmarks_px_68x2, height_px, width_px)
    return np.minimum(both, np.float32(1.0), out=both)


def expand_eyebrows(landmarks_px_68x2: ArrayLike, eyebrows_expand: float = 1.0) -> NDArray[np.int32]:
    """The landmarks as whole pixels (truncated towards zero) with the brows pushed up, int32 [68, 2]."""
    landmarks = np.trunc(checked_landmarks(landmarks_px_68x2))
    return np.trunc(_expanded(landmarks, eyebrows_expand, whole=True)).astype(np.int32)


def _expanded(landmarks: NDArray[np.float64], amount: float, whole: bool = False) -> NDArray[np.float64]:
    if not (math.isfinite(amount) and amount >= 0):
        raise ValueError(f"eyebrows_expand must be 0 or more, got {amount}")

    def midpoint(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        middle: NDArray[np.float64] = (a + b) / 2.0
        return np.floor(middle) if whole else middle

    # A quarter of the way from each eye's outer corner to the jaw's end stands in for the eye's missing outer rim.
    right_quarter = midpoint(landmarks[36], midpoint(landmarks[36], landmarks[0]))
    left_quarter = midpoint(landmarks[45], midpoint(landmarks[16], landmarks[45]))
    below = np.stack((right_quarter, *landmarks[36:40], *landmarks[42:46], left_quarter))
    expanded = landmarks.copy()
    expanded[17:27] += amount * 0.5 * (landmarks[17:27] - below)
    return expanded


def _soft_parts(
    landmarks_px_68x2: ArrayLike, height_px: int, width_px: int, parts: tuple[slice, ...]
) -> NDArray[np.float32]:
    mask = _empty_mask(height_px, width_px)
    points = np.clip(np.trunc(checked_landmarks(landmarks_px_68x2)), -_FAR_PX, _FAR_PX).astype(np.int32)
    for part in parts:
        cv2.fillConvexPoly(mask, cv2.convexHull(points[part]), 1.0)
    # Images too small for a rim (below 32 and 16 px) keep the bare shape.
    dilate_px, blur_px = height_px // 32, height_px // 16
    if dilate_px >= 1:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (dilate_px, dilate_px))
        mask = cv2.dilate(mask, kernel).astype(np.float32, copy=False)
    if blur_px >= 1:
        odd_px = blur_px + 1 - blur_px % 2
        mask = cv2.GaussianBlur(mask, (odd_px, odd_px), 0).astype(np.float32, copy=False)
    return mask


def _empty_mask(height_px: int, width_px: int) -> NDArray[np.float32]:
    if height_px < 1 or width_px < 1:
        raise ValueError(f"a mask needs at least 1x1 px, got {width_px}x{height_px}")
    return np.zeros((height_px, width_px), dtype=np.float32)
