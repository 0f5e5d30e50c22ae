"""Whether a picture that was edited elsewhere still fits its metadata: the same things in the same places.

Easy to get wrong: pixels say nothing. Grading, sharpening, denoising and enlarging change all of them. What must stay is
where things are, so both pictures are brought to one small size and reduced to local structure, contrast removed, and
those are correlated. Two structures that a twentieth of a crop lies between correlate far below any edit in place.

The thresholds were measured on synthetic and real faces (tests/unit/dfl/test_edited_picture.py holds the synthetic
ones): edits in place correlate at 0.90 and above; crops of 5 %, and other people in the same pose and light, at 0.83 and
below. A face that was blurred from the start is closer to its own crop; there the registration decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_common.imaging import as_bgr_u8

_SIDE_PX: Final = 128
_GRAIN_PX: Final = 1.0
_NEIGHBOURHOOD_PX: Final = 5.0
_CONTRAST_FLOOR: Final = 2.0  # of 255: what is flatter than this is noise
_LEAST_STRUCTURE: Final = 0.05
_SURELY_SAME: Final = 0.97
_SAME_PICTURE: Final = 0.87
_CLEARLY_BETTER: Final = 3.0
_MAX_MOVE: Final = 0.015
_SAME_WHEN_MOVED: Final = 0.80
_MAX_SHAPE_CHANGE: Final = 0.01

_TURNS: Final[dict[str, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    "is mirrored": lambda structure: structure[:, ::-1],
    "is upside down and mirrored": lambda structure: structure[::-1],
    "is turned by 180 degrees": lambda structure: structure[::-1, ::-1],
    "is turned by 90 degrees clockwise": lambda structure: np.rot90(structure, -1),
    "is turned by 90 degrees counterclockwise": lambda structure: np.rot90(structure),
    "is turned by 90 degrees and mirrored": lambda structure: structure.T,
}


def check_edited(original_bgr_HWC: NDArray[Any], edited_bgr_HWC: NDArray[Any]) -> str | None:
    """None when the edited picture shows the original's content in the same places; otherwise why it does not.

    Images are BGR, uint8, uint16 or float32 0 to 1, of any two sizes of one shape. The reason completes the sentence
    "the picture ...". ValueError for an array that is no image.
    """
    (height, width), (edited_height, edited_width) = original_bgr_HWC.shape[:2], edited_bgr_HWC.shape[:2]
    original, edited = _structure(original_bgr_HWC), _structure(edited_bgr_HWC)
    shape_change = abs((edited_width * height) / (edited_height * width) - 1.0)
    if shape_change > max(_MAX_SHAPE_CHANGE, 1.5 / min(height, width, edited_height, edited_width)):
        return f"has another shape: {edited_width}x{edited_height} px cannot come from {width}x{height} px"
    if min(float(original.std()), float(edited.std())) < _LEAST_STRUCTURE:
        return "shows too little to be compared"
    likeness = _likeness(original, edited)
    if likeness >= _SURELY_SAME:
        return None
    # What explains the difference must do so clearly where the pictures are alike anyway: a blurred face is like itself
    # mirrored or moved, and a hard grade registers a little better somewhere else.
    needed = 1.0 - (1.0 - likeness) / _CLEARLY_BETTER if likeness >= _SAME_PICTURE else _SAME_WHEN_MOVED
    turned = {reason: _likeness(np.ascontiguousarray(turn(original)), edited) for reason, turn in _TURNS.items()}
    reason = max(turned, key=lambda name: turned[name])
    if turned[reason] >= needed and turned[reason] > likeness:
        return reason
    registered, move = _registered(original, edited)
    if registered >= needed and move > _MAX_MOVE:
        return f"is cropped, shifted or turned: points would be off by {move:.1%} of its side"
    if likeness >= _SAME_PICTURE:
        return None
    return f"shows something else: its structure agrees with the original's to {max(likeness, 0.0):.0%}"


def _structure(image_bgr_HWC: NDArray[Any]) -> NDArray[np.float32]:
    """Luma less its surroundings' mean, by its surroundings' contrast: about -2 to 2, [side, side]."""
    luma = cv2.cvtColor(as_bgr_u8(image_bgr_HWC), cv2.COLOR_BGR2GRAY).astype(np.float32)
    shrinks = min(luma.shape) >= _SIDE_PX
    small = cv2.resize(luma, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    small = cv2.GaussianBlur(small, (0, 0), _GRAIN_PX)
    detail = small - cv2.GaussianBlur(small, (0, 0), _NEIGHBOURHOOD_PX)
    contrast = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), _NEIGHBOURHOOD_PX))
    return np.asarray(detail / (contrast + _CONTRAST_FLOOR), np.float32)


def _likeness(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Correlation, -1 to 1."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def _registered(original: NDArray[np.float32], edited: NDArray[np.float32]) -> tuple[float, float]:
    """Likeness after an affine registration, and how far the corner that moved most did, as a fraction of the side.

    Enhanced correlation coefficient (Evangelidis and Psarakis, 2008). (-1, 0) when nothing can be registered.
    """
    last = _SIDE_PX - 1
    anywhere = np.full(edited.shape, 255, np.uint8)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4)
    try:
        likeness, motion_2x3 = cv2.findTransformECC(
            original, edited, np.eye(2, 3, dtype=np.float32), cv2.MOTION_AFFINE, stop, anywhere, 5
        )
    except cv2.error:  # does not converge: nothing in common near where it was
        return -1.0, 0.0
    corners_3x4 = np.array([[0, last, 0, last], [0, 0, last, last], [1, 1, 1, 1]], np.float64)
    moved_2x4 = np.asarray(motion_2x3, np.float64) @ corners_3x4 - corners_3x4[:2]
    return likeness, float(np.abs(moved_2x4).max()) / last
