"""Statistics of a faceset as pictures: the heat map of head poses, bars of a distribution.

What a reader would get wrong: the map is drawn as the head is seen. Its left column holds the faces that look to the left
of the picture, which is the highest yaw, its top row those that look up; the counts go from the lowest angle to the
highest.

Shape legend: P = bins of pitch, Y = of yaw; pictures are uint8 HWC, BGR.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_common.curation.stats import (
    PITCH_EDGES_DEG,
    YAW_EDGES_DEG,
    Comparison,
    Counts,
    Distribution,
    F64Array,
    middles,
    percent,
)

_PALE_BGR: Final = (252, 244, 232)
_DEEP_BGR: Final = (92, 42, 20)
_BAR_BGR: Final = (176, 128, 96)
_INK_BGR: Final = (50, 46, 44)
_WARNING_BGR: Final = (40, 40, 214)


def draw_coverage(pose_PY: Counts, title: str, comparison: Comparison | None = None) -> NDArray[np.uint8]:
    """The heat map of ``coverage`` for people, uint8 BGR, 800 pixels wide: darker is more, each bin with its number.

    With a ``comparison``, pass dst's counts: bins that src covers less than half are framed red. ValueError for counts of
    another shape.
    """
    rows, columns = len(PITCH_EDGES_DEG) - 1, len(YAW_EDGES_DEG) - 1
    if pose_PY.shape != (rows, columns):
        raise ValueError(f"counts must have shape {[rows, columns]} as coverage gives, got {list(pose_PY.shape)}")
    cell_w, cell_h, left, top = 46, 40, 100, 92
    canvas = np.full((top + rows * cell_h + 84, 800, 3), 255, dtype=np.uint8)
    _write(canvas, title, (left, 34), 20, bold=True)
    _write(canvas, f"{int(pose_PY.sum())} faces by where the head turns to, as seen in the picture", (left, 60), 14)
    most = max(int(pose_PY.max()), 1)
    uncovered = []
    for row, pitch in enumerate(reversed(middles(PITCH_EDGES_DEG))):
        y = top + row * cell_h
        _write(canvas, _angle(pitch, PITCH_EDGES_DEG), (left - 10, y + 25), 13, align="right")
        for column, yaw in enumerate(reversed(middles(YAW_EDGES_DEG))):
            x = left + column * cell_w
            if row == 0:
                _write(canvas, _angle(yaw, YAW_EDGES_DEG), (x + cell_w // 2, top - 8), 13, align="center")
            at = rows - 1 - row, columns - 1 - column
            count = int(pose_PY[at])
            # The root, since a faceset has thousands of frontal faces for each that looks aside.
            depth = (count / most) ** 0.5 if count else 0.0
            color = np.array(_PALE_BGR) * (1.0 - depth) + np.array(_DEEP_BGR) * depth
            canvas[y + 1 : y + cell_h, x + 1 : x + cell_w] = color.round() if count else 248
            if count:
                ink = (255, 255, 255) if depth > 0.45 else _INK_BGR
                _write(canvas, _short(count), (x + cell_w // 2, y + 25), 14, align="center", color=ink)
            if comparison is not None and count and comparison.pose_covered_PY[at] < 0.5:
                uncovered.append((x, y))
    for x, y in uncovered:
        cv2.rectangle(canvas, (x + 2, y + 2), (x + cell_w - 2, y + cell_h - 2), _WARNING_BGR, 2)
    bottom = top + rows * cell_h
    _write(canvas, "up", (12, top + 25), 14, bold=True)
    _write(canvas, "down", (12, bottom - 15), 14, bold=True)
    _write(canvas, "to the left", (left, bottom + 26), 14, bold=True)
    _write(canvas, "to the right", (left + columns * cell_w, bottom + 26), 14, bold=True, align="right")
    _write(canvas, "yaw and pitch in degrees", (left + columns * cell_w // 2, bottom + 26), 14, align="center")
    if comparison is not None:
        text = f"Framed red: src has too few. It covers {percent(comparison.pose_covered)} of these poses."
        _write(canvas, text, (left, bottom + 58), 14, color=_WARNING_BGR if uncovered else _INK_BGR)
    return canvas


def draw_distribution(found: Distribution, title: str) -> NDArray[np.uint8]:
    """Bars of a distribution with their bins and numbers, uint8 BGR, 800 pixels wide."""
    left, right, top, bar_h = 100, 790, 84, 110
    canvas = np.full((top + bar_h + 44, 800, 3), 255, dtype=np.uint8)
    _write(canvas, title, (left, 34), 20, bold=True)
    middle = f"half of {int(found.counts_K.sum())} faces lie under {_number(found.median)}"
    _write(canvas, f"{middle}, nine in ten from {_number(found.low)} to {_number(found.high)}", (left, 60), 14)
    bins, most = len(found.counts_K), max(int(found.counts_K.max()), 1)
    step = (right - left) / bins
    bottom = top + bar_h
    for number, count in enumerate(found.counts_K.tolist()):
        x, next_x = round(left + number * step), round(left + (number + 1) * step)
        height = round((bar_h - 20) * count / most)
        canvas[bottom - height : bottom, x + 2 : next_x - 2] = _BAR_BGR
        if count:
            _write(canvas, _short(count), ((x + next_x) // 2, bottom - height - 5), 13, align="center")
        _write(canvas, _number(float(found.edges[number])), (x, bottom + 22), 13, align="center")
    if np.isfinite(found.edges[-1]):
        _write(canvas, _number(float(found.edges[-1])), (right, bottom + 22), 13, align="center")
    canvas[bottom] = _INK_BGR
    return canvas


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == round(value) else f"{value:.2g}"


def _angle(degrees: float, edges: F64Array) -> str:
    """The outermost bins reach on, so they have a plus."""
    beyond = "+" if degrees in (middles(edges)[0], middles(edges)[-1]) else ""
    return f"{'−' if degrees < 0 else ''}{abs(degrees):.0f}{beyond}"


def _short(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"


def _write(
    canvas: NDArray[np.uint8],
    text: str,
    at: tuple[int, int],
    size_px: int,
    *,
    bold: bool = False,
    align: str = "left",
    color: Sequence[int] = _INK_BGR,
) -> None:
    font, weight = cv2.FontFace("sans"), 700 if bold else 400
    _, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), font, size_px, weight)
    left = at[0] - {"left": 0, "center": width // 2, "right": width}[align]
    cv2.putText(canvas, text, (left, at[1]), tuple(color), font, size_px, weight)
