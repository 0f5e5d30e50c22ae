"""Cuts frames of any size into the small square tiles that a detector takes, and brings boxes back to the frame.

What a reader would get wrong: a detector sees faces between a smallest and a largest share of its tile. The coarsest
level shows the whole frame; each finer one halves the tile, and tiles overlap by as much as the largest face that only
this level sees. So a face cut by the edge of a tile may be dropped: another tile, or the level above, holds it whole.

Legend: N tiles, HWC image, xy = (x, y) in px.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import cv2
import numpy as np

from ml_common.detect.blazeface import F64Array, TileFaces, U8Array

_STEP_MAX = 2.0  # how much finer a level may be than the one above
_STEP_MIN = 1.25  # a gain below this is not worth a level
_BOX_PER_FACE = 1.2  # a box is this much larger than the face it is promised for
_THRIFT = 0.97  # a level above the finest may be this much smaller than planned where that spares a row of tiles


@dataclass(frozen=True, slots=True)
class Level:
    """One resized copy of the frame and the corners of its tiles.

    ``size_xy_px``: the copy's size. ``corners_xy_px``: top-left corners of tiles in it; negative where the copy is
    smaller than a tile and is centred in it. ``largest_box_px``: boxes above this side belong to a coarser level.
    """

    size_xy_px: tuple[int, int]
    corners_xy_px: tuple[tuple[int, int], ...]
    largest_box_px: float


def plan_levels(
    size_xy_px: tuple[int, int], side_px: int, *, smallest_face_px: float, smallest_share: float
) -> list[Level]:
    """Plans levels for a frame, finest first, so that a face of ``smallest_face_px`` fills ``smallest_share`` of a tile
    or more.

    ``side_px`` is the tile's side. A frame whose coarsest level (the long side fits the tile) does that already gets
    one level.
    """
    long_px = max(size_xy_px)
    gain = long_px * smallest_share / smallest_face_px
    steps = math.ceil(math.log(gain, _STEP_MAX) - 1e-9) if gain >= _STEP_MIN else 0
    step = gain ** (1.0 / steps) if steps else 1.0
    overlap_px = side_px * min(smallest_share * step / _THRIFT * _BOX_PER_FACE, 0.5)
    levels = []
    for index in range(steps, -1, -1):
        scale = side_px / long_px * step**index
        if 0 < index < steps:
            scale *= min(_thrift(length * scale, side_px, overlap_px) for length in size_xy_px)
        size = tuple(max(1, round(length * scale)) for length in size_xy_px)
        corners = product(*[_tile_starts(length, side_px, overlap_px) for length in reversed(size)])
        largest = 0.5 * side_px if index else math.inf
        levels.append(Level((size[0], size[1]), tuple((x, y) for y, x in corners), largest))
    return levels


def padded_level(size_xy_px: tuple[int, int], side_px: int, zoom_out: float) -> Level:
    """One tile that shows the whole frame with an empty border, the long side filling ``1 / zoom_out`` of it: for
    frames that are all face.
    """
    scale = side_px / (max(size_xy_px) * zoom_out)
    size = tuple(max(1, round(length * scale)) for length in size_xy_px)
    corner = tuple(-((side_px - length) // 2) for length in size)
    return Level((size[0], size[1]), ((corner[0], corner[1]),), math.inf)


def _thrift(length_px: float, side_px: int, overlap_px: float) -> float:
    """How much smaller a length should be so that it takes one tile less; 1 where that asks too much."""
    fewer = math.ceil((length_px - overlap_px) / (side_px - overlap_px)) - 1
    ratio = (fewer * (side_px - overlap_px) + overlap_px) / length_px
    return ratio if fewer >= 1 and ratio >= _THRIFT else 1.0


def _tile_starts(length_px: int, side_px: int, overlap_px: float) -> list[int]:
    if length_px <= side_px:
        return [-((side_px - length_px) // 2)]
    count = math.ceil((length_px - overlap_px) / (side_px - overlap_px))
    return [round(i * (length_px - side_px) / (count - 1)) for i in range(count)]


def cut_tiles(image_bgr_HWC: U8Array, levels: list[Level], side_px: int) -> U8Array:
    """The tiles of all levels (finest first, as planned), uint8 N x side x side x 3; what lies outside the frame is
    black.
    """
    tiles = np.zeros((sum(len(level.corners_xy_px) for level in levels), side_px, side_px, 3), np.uint8)
    copy, row = image_bgr_HWC, 0
    for level in levels:
        # Each copy is made from the finer one before it: a large frame is read in full only once.
        copy = resized(copy, level.size_xy_px)
        for x, y in level.corners_xy_px:
            part = copy[max(y, 0) : y + side_px, max(x, 0) : x + side_px]
            top, left = max(-y, 0), max(-x, 0)
            tiles[row, top : top + part.shape[0], left : left + part.shape[1]] = part
            row += 1
    return tiles


def resized(image_bgr_HWC: U8Array, size_xy_px: tuple[int, int]) -> U8Array:
    """A copy of another size, uint8, good enough for a detector; the picture itself where it has that size.

    Halving is many times quicker than any other averaging, so it goes first and leaves a factor under 2, for which
    mixing four neighbours is enough.
    """
    image = image_bgr_HWC
    while _is_even(image) and image.shape[1] >= 2 * size_xy_px[0] and image.shape[0] >= 2 * size_xy_px[1]:
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    height, width = image.shape[:2]
    if (width, height) == size_xy_px:
        return image
    shrinks_much = 2 * size_xy_px[0] <= width or 2 * size_xy_px[1] <= height
    copy = cv2.resize(image, size_xy_px, interpolation=cv2.INTER_AREA if shrinks_much else cv2.INTER_LINEAR)
    return np.asarray(copy, dtype=np.uint8)


def _is_even(image_HWC: U8Array) -> bool:
    return all(length % 2 == 0 for length in image_HWC.shape[:2])


def gather_faces(
    size_xy_px: tuple[int, int], levels: list[Level], side_px: int, per_tile: list[TileFaces]
) -> tuple[F64Array, F64Array, F64Array]:
    """Brings one frame's tile faces (in the order of ``cut_tiles``) to frame pixels: boxes K x 4, keypoints K x 6 x 2,
    scores K.

    Coordinates are the project's (pixel centres at integers). Boxes cut by a tile's edge inside the frame, too large
    for their level, or centred outside the frame are left out.
    """
    corners = [(level, corner) for level in levels for corner in level.corners_xy_px]
    boxes, keypoints, scores = [np.zeros((0, 4))], [np.zeros((0, 6, 2))], [np.zeros(0)]
    for (level, corner), faces in zip(corners, per_tile, strict=True):
        keep = _whole_boxes(faces.boxes_px_k4, level, np.asarray(corner), side_px)
        if not keep.any():
            continue
        per_px = np.asarray(size_xy_px) / np.asarray(level.size_xy_px)
        points = np.concatenate([faces.boxes_px_k4[keep].reshape(-1, 2, 2), faces.keypoints_px_k62[keep]], axis=1)
        points = (points + corner) * per_px - 0.5
        boxes.append(points[:, :2].reshape(-1, 4))
        keypoints.append(points[:, 2:])
        scores.append(faces.scores_k[keep])
    return np.concatenate(boxes), np.concatenate(keypoints), np.concatenate(scores)


def _whole_boxes(
    boxes_px_k4: F64Array, level: Level, corner_xy_px: np.ndarray[Any, Any], side_px: int
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    size = np.asarray(level.size_xy_px)
    top_left, bottom_right = boxes_px_k4[:, :2], boxes_px_k4[:, 2:]
    cut_before = (top_left < 0) & (corner_xy_px > 0)
    cut_after = (bottom_right > side_px) & (corner_xy_px + side_px < size)
    centre = (top_left + bottom_right) / 2 + corner_xy_px
    inside = (centre >= 0) & (centre <= size) & ~cut_before & ~cut_after
    fits = (bottom_right - top_left).max(axis=1, initial=0.0) <= level.largest_box_px
    whole: np.ndarray[Any, np.dtype[np.bool_]] = inside.all(axis=1) & fits
    return whole
