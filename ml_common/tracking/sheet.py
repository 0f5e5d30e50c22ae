"""Lays a face flat: a crop becomes a small sheet on which eyes, nose and mouth are always at the same place.

What a reader would get wrong: the sheet is not a picture of the face from the front. Each triangle between landmarks is
pulled to its place on a mean face, so the build of the face is gone, what a turn hides is smeared, and an open mouth
shows what is in it. What is left is the skin: what it is painted with, not how it is shaped.

Beyond the brows there is no landmark; ten points above them, as far as the face itself tells, carry the sheet up onto
the forehead.

Shape legend: S = side of the sheet, 68x2 = landmarks (x, y) in crop pixels, 78 = those and the ten above, HWC = image.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from ml_common.geometry import HEAD_MODEL_68x3, mirror_landmarks, umeyama

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]

SHEET_PX: Final = 96
_SHEET_MM: Final = 165.0  # of the head model, edge to edge
_SHEET_CENTER_MM: Final = (0.0, -8.0)
_FOREHEAD: Final = 0.45  # the points above the brows, in distances from the foot of the nose to the brows


def _with_forehead(landmarks_68x2: F64Array) -> F64Array:
    up = _FOREHEAD * ((landmarks_68x2[19] + landmarks_68x2[24]) / 2.0 - landmarks_68x2[33])
    return np.concatenate((landmarks_68x2, landmarks_68x2[17:27] + up))


def _sheet_points() -> F64Array:
    front = HEAD_MODEL_68x3[:, :2]
    symmetric = (front + mirror_landmarks(front, 1)) / 2.0  # width 1: mirrored about x = 0
    scale = SHEET_PX / _SHEET_MM
    return np.asarray((_with_forehead(symmetric) - _SHEET_CENTER_MM) * scale + (SHEET_PX - 1) / 2.0)


SHEET_POINTS_78x2: Final = _sheet_points()
"""Where the landmarks and the ten points above the brows lie on the sheet, in its pixels."""


@cache
def _triangles() -> tuple[NDArray[np.intp], F64Array, NDArray[np.bool_]]:
    """Per pixel of the sheet the three points of its triangle, [S, S, 3], their weights, and whether it is on the face.

    A pixel that is not takes after the nearest one that is, so that the face has no edge.
    """
    subdivision = cv2.Subdiv2D((-SHEET_PX, -SHEET_PX, 3 * SHEET_PX, 3 * SHEET_PX))
    for x, y in SHEET_POINTS_78x2:
        subdivision.insert((float(x), float(y)))
    corners = np.zeros((SHEET_PX, SHEET_PX, 3), dtype=np.intp)
    weights = np.zeros((SHEET_PX, SHEET_PX, 3))
    y, x = np.mgrid[:SHEET_PX, :SHEET_PX]
    pixels = np.stack((x, y, np.ones_like(x)), axis=-1).astype(np.float64)
    for triangle in np.asarray(subdivision.getTriangleList(), dtype=np.float64).reshape(-1, 3, 2):
        distance = np.abs(SHEET_POINTS_78x2[:, None] - triangle).sum(axis=2)
        if distance.min(axis=0).max() > 0.01:  # one that ends at the border of the subdivision
            continue
        points = distance.argmin(axis=0)
        corners_3x3 = np.concatenate((SHEET_POINTS_78x2[points], np.ones((3, 1))), axis=1)
        if abs(np.linalg.det(corners_3x3)) < 1e-6:
            continue
        share = pixels @ np.linalg.inv(corners_3x3)
        inside = (share > -1e-6).all(axis=2) & (weights.sum(axis=2) == 0.0)
        corners[inside], weights[inside] = points, share[inside]
    # Where a triangulation has a choice it need not choose alike on both sides, so one side is the other's mirror image.
    in_mirror = SHEET_POINTS_78x2 * (-1.0, 1.0) + (SHEET_PX - 1, 0.0)
    mirror_of_78 = np.linalg.norm(in_mirror[:, None] - SHEET_POINTS_78x2, axis=2).argmin(axis=1)
    half = SHEET_PX // 2
    covered = weights[:, :half].sum(axis=2) > 0.5
    nearest = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    corners[:, :half], weights[:, :half] = corners[tuple(nearest)], weights[tuple(nearest)]
    corners[:, half:], weights[:, half:] = mirror_of_78[corners[:, :half][:, ::-1]], weights[:, :half][:, ::-1]
    return corners, weights, np.concatenate((covered, covered[:, ::-1]), axis=1)


def on_face() -> NDArray[np.bool_]:
    """Which pixels of the sheet belong to the face, [S, S]."""
    return _triangles()[2]


def lay_flat(crop_HWC: F32Array, landmarks_px_68x2: F64Array) -> F32Array:
    """The sheet [S, S, C] of a face, in the crop's range. Beyond the face its edge pixels are repeated."""
    corners, weights, _ = _triangles()
    source = np.einsum("hwk,hwkc->hwc", weights, _with_forehead(landmarks_px_68x2)[corners]).astype(np.float32)
    crop_to_sheet = umeyama(landmarks_px_68x2[17:], SHEET_POINTS_78x2[17:68])
    shrinks = 1.0 / float(np.sqrt(abs(np.linalg.det(crop_to_sheet[:, :2]))))
    if shrinks > 1.3:
        crop_HWC = cv2.GaussianBlur(crop_HWC, (0, 0), 0.45 * shrinks).astype(np.float32, copy=False)
    sheet = cv2.remap(
        crop_HWC,
        np.ascontiguousarray(source[..., 0]),
        np.ascontiguousarray(source[..., 1]),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(sheet, dtype=np.float32)


def share_of_left_half(landmarks_68x2: F64Array) -> float:
    """How much the image-left half of the face is to be trusted, 0..1; the other half gets the rest.

    By how much of the picture lies on either side of the nose: 0.5 for a face seen from the front, 0 or 1 for a profile.
    """
    left, nose, right = (landmarks_68x2[points].mean(axis=0) for points in ([1, 2, 3], [27, 28, 29, 30], [13, 14, 15]))
    to_left, to_right = float(np.linalg.norm(nose - left)), float(np.linalg.norm(right - nose))
    share = to_left / max(to_left + to_right, 1e-9)
    return float(np.clip((share - 0.25) / 0.5, 0.0, 1.0))
