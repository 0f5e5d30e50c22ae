"""Canny edges as scikit-image's `canny(sigma=1)` finds them, which the CPBD sharpness of a face rests on.

What a reader would get wrong: the gradients are those of an unnormalised 3x3 Sobel operator, so an edge of one grey level
in a pixel answers with 8, and thresholds are in that unit. OpenCV's Canny quantises directions to four and gives other edges.

Legend: HW = one picture [height, width].
Source: J. Canny, "A Computational Approach to Edge Detection", 1986, with interpolated non-maximum suppression; what the
reference asks of it is in spec: faceset, section 16.1. Pinned through the sharpness values in tests/unit/curation.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_GAUSSIAN = cv2.getGaussianKernel(9, 1.0, cv2.CV_32F)


def canny_edges(grey_HW: NDArray[np.float32], low: float, high: float) -> NDArray[np.bool_]:
    """Edge pixels of a float32 picture, bool [height, width]: gradient ridges of at least `low` that hang together with one
    of at least `high`. The outermost pixels are never edges."""
    blurred_HW = cv2.sepFilter2D(grey_HW, cv2.CV_32F, _GAUSSIAN, _GAUSSIAN, borderType=cv2.BORDER_CONSTANT)
    # What the constant border takes away at the rim is given back.
    smooth_HW = _float32(blurred_HW) / np.outer(_border_gain(grey_HW.shape[0]), _border_gain(grey_HW.shape[1]))
    down_HW = _float32(cv2.Sobel(smooth_HW, cv2.CV_32F, 0, 1, ksize=3, borderType=cv2.BORDER_REFLECT))
    right_HW = _float32(cv2.Sobel(smooth_HW, cv2.CV_32F, 1, 0, ksize=3, borderType=cv2.BORDER_REFLECT))
    strength_HW = _float32(cv2.magnitude(down_HW, right_HW))
    ridge_HW = _ridges(down_HW, right_HW, strength_HW, low)
    count, label_HW = cv2.connectedComponents(ridge_HW.view(np.uint8), connectivity=8)
    strong = np.zeros(count, dtype=bool)
    strong[label_HW[ridge_HW & (strength_HW >= high)]] = True
    edges: NDArray[np.bool_] = strong[label_HW]
    return edges


def _border_gain(length: int) -> NDArray[np.float32]:
    ones = np.ones((length, 1), dtype=np.float32)
    return _float32(cv2.filter2D(ones, cv2.CV_32F, _GAUSSIAN, borderType=cv2.BORDER_CONSTANT)).ravel()


def _float32(array: Any) -> NDArray[np.float32]:
    return np.asarray(array, dtype=np.float32)


def _ridges(
    down_HW: NDArray[np.float32], right_HW: NDArray[np.float32], strength_HW: NDArray[np.float32], low: float
) -> NDArray[np.bool_]:
    """Pixels not weaker than what lies before and behind them along their gradient, between pixels by interpolation."""
    height, width = strength_HW.shape
    inner_HW = strength_HW >= low
    inner_HW[[0, -1], :] = False
    inner_HW[:, [0, -1]] = False
    place = np.flatnonzero(inner_HW)
    strength, down, right = strength_HW.ravel(), down_HW.ravel()[place], right_HW.ravel()[place]
    steep_down, steep_right = np.abs(down), np.abs(right)
    mostly_down = steep_down > steep_right
    # The gradient passes between the neighbour along its larger component and the diagonal one.
    straight = np.where(mostly_down, width, 1)
    same_sign = np.where(down * right >= 0, 1, -1)
    diagonal = np.where(mostly_down, width + same_sign, 1 + same_sign * width)
    larger = np.maximum(steep_down, steep_right)
    share = np.divide(np.minimum(steep_down, steep_right), larger, out=np.zeros_like(larger), where=larger > 0)
    here = strength[place]
    keep = strength[place + diagonal] * share + strength[place + straight] * (1 - share) <= here
    keep &= strength[place - diagonal] * share + strength[place - straight] * (1 - share) <= here
    ridge = np.zeros(height * width, dtype=bool)
    ridge[place[keep]] = True
    return ridge.reshape(height, width)
