"""How sharp a face is: the CPBD measure (which share of the edges looks unblurred) and the variance of a wide Laplacian.

What a reader would get wrong: the reference blackens everything outside the face before it measures, and the outline
that it cuts is the sharpest edge in the picture; the blurrier a face, the larger the share of that outline, so its value
often RISES with blur. Here the picture stays whole and only what lies inside the face counts. The functions
`reference_...` keep the original's numbers.

CPBD says 0 for everything beyond a blur of about two pixels; the mean edge width beside it goes on telling those apart.

Legend: HWC = image [height, width, BGR] uint8, HW = one channel, N = edges.
Source: N. Narvekar, L. Karam, "A No-Reference Image Blur Metric Based on the Cumulative Probability of Blur Detection",
2011; spec: faceset, section 16.1. Golden values: tests/unit/curation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_common.curation.canny import canny_edges

_BLOCK_PX = 64
# A block counts when more than this share of its pixels are edges.
_EDGE_SHARE = 0.002
_CANNY_LOW, _CANNY_HIGH = 0.1, 0.2  # of the grey range, as the publication's edge detector takes them
_GREY_RANGE = 255.0
# Widths that nobody notices: in blocks of low and of high contrast.
_LOW_CONTRAST, _UNNOTICED_LOW_PX, _UNNOTICED_HIGH_PX = 50, 5.0, 3.0
_BETA = 3.6
# An edge counts as sharp up to this probability, in per cent, that its blur is noticed.
_SHARP_PERCENT = 63
_LONGEST_PX = 101
_TAN_22_5 = 2.0**0.5 - 1.0
_LAPLACIAN_PX = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSharpness:
    """cpbd: share of edges that look sharp, 0 to 1, 0 where there are none. edge_width_px: their mean width, 0 for none."""

    cpbd: float
    edge_width_px: float


def edge_sharpness(grey_HW: NDArray[np.uint8], inside_HW: NDArray[np.bool_]) -> EdgeSharpness:
    """CPBD sharpness of what lies inside, of an otherwise whole uint8 picture. A face without edges gives zeros."""
    return _edge_sharpness(grey_HW, inside_HW, _GREY_RANGE)


def reference_edge_sharpness(masked_grey_HW: NDArray[np.uint8]) -> EdgeSharpness:
    """The original's CPBD: of a picture that is black outside the face, edge thresholds meant for a range of 0 to 1."""
    return _edge_sharpness(masked_grey_HW, np.ones(masked_grey_HW.shape, dtype=bool), 1.0)


def laplacian_variance(image_bgr_HWC: NDArray[np.uint8], inside_HW: NDArray[np.bool_]) -> float:
    """Variance, over the pixels inside and all channels together, of an 11x11 Laplacian of the whole uint8 picture."""
    values = cv2.Laplacian(image_bgr_HWC, cv2.CV_64F, ksize=_LAPLACIAN_PX)[inside_HW]
    return float(values.var()) if values.size else 0.0


def reference_laplacian_variance(masked_bgr_HWC: NDArray[np.uint8]) -> float:
    """The original's motion-blur measure: over all pixels of a picture that is black outside the face."""
    return float(cv2.Laplacian(masked_bgr_HWC, cv2.CV_64F, ksize=_LAPLACIAN_PX).var())


def _edge_sharpness(grey_HW: NDArray[np.uint8], inside_HW: NDArray[np.bool_], grey_range: float) -> EdgeSharpness:
    none = EdgeSharpness(cpbd=0.0, edge_width_px=0.0)
    rows, columns = grey_HW.shape[0] // _BLOCK_PX, grey_HW.shape[1] // _BLOCK_PX
    if not (rows and columns and inside_HW.any()):
        return none
    float_HW = grey_HW.astype(np.float32)
    y, x, rising = _upright_edges(float_HW, inside_HW)
    whole = (y < rows * _BLOCK_PX) & (x < columns * _BLOCK_PX)
    y, x, rising = y[whole], x[whole], rising[whole]
    canny_HW = canny_edges(float_HW, _CANNY_LOW * grey_range, _CANNY_HIGH * grey_range) & inside_HW
    block = (y // _BLOCK_PX, x // _BLOCK_PX)
    edge_pixels = _over_blocks(np.add, canny_HW.astype(np.uint16), rows, columns)
    counted = (edge_pixels > _EDGE_SHARE * _BLOCK_PX**2)[block]
    y, x, rising, block = y[counted], x[counted], rising[counted], (block[0][counted], block[1][counted])
    if not len(y):
        return none
    # Outside the face both are neutral, and only blocks with edges inside it are looked up.
    brightest = _over_blocks(np.maximum, grey_HW * inside_HW, rows, columns).astype(np.int32)
    darkest = _over_blocks(np.minimum, grey_HW | (inside_HW.view(np.uint8) - np.uint8(1)), rows, columns)
    unnoticed_px = np.where(brightest - darkest <= _LOW_CONTRAST, _UNNOTICED_LOW_PX, _UNNOTICED_HIGH_PX)[block]
    width_px = _widths(grey_HW, y, x, rising)
    noticed = 1.0 - np.exp(-((width_px / unnoticed_px) ** _BETA))
    sharp = np.round(100.0 * noticed) <= _SHARP_PERCENT
    return EdgeSharpness(cpbd=float(sharp.mean()), edge_width_px=float(width_px.mean()))


def _upright_edges(
    grey_HW: NDArray[np.float32], inside_HW: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """(y, x, rising to the right) of thin edges whose gradient is horizontal within 22.5 degrees, rim left out."""
    power_HW = cv2.Sobel(grey_HW, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8, borderType=cv2.BORDER_REFLECT) ** 2
    power_HW[power_HW <= 2.0 * np.sqrt(power_HW.mean(where=inside_HW, dtype=np.float64))] = 0.0
    middle = power_HW[1:-1, 1:-1]
    thin = (middle > power_HW[1:-1, :-2]) & (middle > power_HW[1:-1, 2:])
    thin |= (middle > power_HW[:-2, 1:-1]) & (middle > power_HW[2:, 1:-1])
    thin &= inside_HW[1:-1, 1:-1]
    y, x = np.nonzero(thin)
    y, x = y + 1, x + 1
    along = grey_HW[y, x + 1] - grey_HW[y, x - 1]
    across = grey_HW[y + 1, x] - grey_HW[y - 1, x]
    upright = (np.abs(across) < _TAN_22_5 * np.abs(along)) | (along == 0)
    return y[upright], x[upright], along[upright] >= 0


def _widths(
    grey_HW: NDArray[np.uint8], y: NDArray[np.intp], x: NDArray[np.intp], rising: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Pixels over which the grey goes on rising (or falling) to both sides of each edge, int64 [N]."""
    # steps[row, i] leads from pixel i - 1 to pixel i; zeros at both ends of a row stop every walk.
    steps = np.zeros((grey_HW.shape[0], grey_HW.shape[1] + 1), dtype=np.int8)
    np.subtract(grey_HW[:, 1:] > grey_HW[:, :-1], grey_HW[:, 1:] < grey_HW[:, :-1], out=steps[:, 1:-1], dtype=np.int8)
    width_px = np.empty(len(y), dtype=np.int64)
    # Counting starts one pixel away from the edge, so the step that leads to the edge itself is not looked at.
    start = y * steps.shape[1] + x
    for direction, chosen in ((1, rising), (-1, ~rising)):
        stops = np.flatnonzero(steps != direction)
        left, right = start[chosen] - 1, start[chosen] + 2
        last_stop = stops[np.searchsorted(stops, left, side="right") - 1]
        next_stop = stops[np.searchsorted(stops, right)]
        width_px[chosen] = np.minimum(left - last_stop + 1, _LONGEST_PX) + np.minimum(
            next_stop - right + 1, _LONGEST_PX
        )
    return width_px


def _over_blocks(combine: np.ufunc, image_HW: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Each whole block's pixels combined into one, [rows, columns]."""
    height, width = rows * _BLOCK_PX, columns * _BLOCK_PX
    by_row = combine.reduce(image_HW[:height, :width].reshape(rows, _BLOCK_PX, width), axis=1)
    combined: NDArray[Any] = combine.reduce(by_row.reshape(rows, columns, _BLOCK_PX), axis=2)
    return combined
