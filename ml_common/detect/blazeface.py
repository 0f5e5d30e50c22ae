"""BlazeFace: boxes and six keypoints of faces in small square tiles, many tiles at once.

What a reader would get wrong: this module knows tiles only, in the tile's own pixels; where tiles come from and how
their boxes meet again in a frame is ``pyramid``'s business. And the network was trained on RGB in -1..1, while tiles
here are BGR uint8.

Sources: V. Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs", arXiv:1907.05047 (the
weighted suppression is its section 3.3); constants of the two graphs: mediapipe/modules/face_detection/*.pbtxt
(Apache-2.0).

Legend: N tiles, H = W = tile side, A anchors, K kept boxes, 16 = centre x, centre y, width, height, then six (x, y)
keypoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

U8Array = np.ndarray[Any, np.dtype[np.uint8]]
F64Array = np.ndarray[Any, np.dtype[np.float64]]

KEYPOINTS = (
    "right_eye",
    "left_eye",
    "nose_tip",
    "mouth_centre",
    "right_ear",
    "left_ear",
)  # the subject's right = image-left
_SUPPRESSION_IOU = 0.3  # as in MediaPipe's graphs


@dataclass(frozen=True, slots=True)
class BlazeFaceLayout:
    """Where a BlazeFace graph puts its anchors: ``grids`` lists (cells per side, anchors per cell); ``side_px`` is the
    input side.
    """

    side_px: int
    grids: tuple[tuple[int, int], ...]


FULL_RANGE = BlazeFaceLayout(side_px=192, grids=((48, 1),))
SHORT_RANGE = BlazeFaceLayout(side_px=128, grids=((16, 2), (8, 6)))


@dataclass(frozen=True, slots=True)
class TileFaces:
    """Faces of one tile, best first. ``boxes_px_k4`` is (l, t, r, b), ``keypoints_px_k62`` (x, y), ``scores_k`` 0..1.

    Coordinates are edge-based tile pixels: the tile spans 0..side, so the centre of its first pixel is at 0.5.
    """

    boxes_px_k4: F64Array
    keypoints_px_k62: F64Array
    scores_k: F64Array


class BlazeFace:
    """A BlazeFace graph with its anchors. ``graph`` takes N x 3 x side x side RGB in -1..1 and returns (N x A x 16, N x
    A x 1).
    """

    def __init__(self, graph: nn.Module, layout: BlazeFaceLayout, device: torch.device, *, min_score: float) -> None:
        if not 0.0 < min_score < 1.0:
            raise ValueError(f"min_score must lie between 0 and 1, got {min_score}")
        self.layout = layout
        self._graph = graph.to(device)
        self._device = device
        self._min_score = min_score
        self._anchors_A2 = torch.from_numpy(anchor_centres(layout)).to(device)

    @torch.inference_mode()
    def detect_tiles(self, tiles_bgr_NHWC: U8Array) -> list[TileFaces]:
        """Finds faces in uint8 BGR tiles of the layout's side; one ``TileFaces`` per tile, suppressed."""
        side = self.layout.side_px
        if tiles_bgr_NHWC.dtype != np.uint8 or tiles_bgr_NHWC.shape[1:] != (side, side, 3):
            raise ValueError(
                f"tiles must be uint8 N x {side} x {side} x 3, got {tiles_bgr_NHWC.dtype} {tiles_bgr_NHWC.shape}"
            )
        tiles = cv2.cvtColor(tiles_bgr_NHWC.reshape(-1, side, 3), cv2.COLOR_BGR2RGB).reshape(tiles_bgr_NHWC.shape)
        batch_NHWC = torch.from_numpy(tiles).to(self._device)
        batch_NCHW = batch_NHWC.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)
        raw_NA16, logits_NA1 = self._graph(batch_NCHW)
        return self._decode(raw_NA16, logits_NA1[..., 0])

    def _decode(self, raw_NA16: Tensor, logits_NA: Tensor) -> list[TileFaces]:
        # Only what passes the threshold leaves the device: of thousands of anchors a handful.
        tile_K, anchor_K = torch.nonzero(
            logits_NA > float(np.log(self._min_score / (1.0 - self._min_score))), as_tuple=True
        )
        points_K82 = raw_NA16[tile_K, anchor_K].reshape(-1, 8, 2)
        points_K82[:, 1:2] *= 0.5  # width and height to half extents
        points_K82[:, [0, 2, 3, 4, 5, 6, 7]] += self._anchors_A2[anchor_K][:, None]
        scores_k = torch.sigmoid(logits_NA[tile_K, anchor_K])
        tile, points, scores = tile_K.cpu().numpy(), points_K82.cpu().double().numpy(), scores_k.cpu().double().numpy()
        boxes = np.concatenate([points[:, 0] - points[:, 1], points[:, 0] + points[:, 1]], axis=1)
        faces = []
        for index in range(len(logits_NA)):
            mine = tile == index
            faces.append(suppress_weighted(boxes[mine], points[mine, 2:], scores[mine]))
        return faces


def anchor_centres(layout: BlazeFaceLayout) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Anchor centres in edge-based tile pixels, A x 2 (x, y), in the graph's order: row by row, a cell's anchors
    together.
    """
    centres = []
    for cells, per_cell in layout.grids:
        axis = (np.arange(cells) + 0.5) * (layout.side_px / cells)
        grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        centres.append(np.repeat(grid, per_cell, axis=0))
    return np.concatenate(centres).astype(np.float32)


def suppress_weighted(boxes_K4: F64Array, keypoints_K62: F64Array, scores_k: F64Array) -> TileFaces:
    """Merges overlapping boxes into their score-weighted mean; each group keeps its best score; best first."""
    order = np.argsort(-scores_k, kind="stable")
    boxes, keypoints, scores = [], [], []
    while len(order):
        group = iou(boxes_K4[order[:1]], boxes_K4[order])[0] > _SUPPRESSION_IOU
        group[0] = True  # also a box without area leaves the queue
        chosen = order[group]
        weights = scores_k[chosen] / scores_k[chosen].sum()
        boxes.append(weights @ boxes_K4[chosen])
        keypoints.append(np.tensordot(weights, keypoints_K62[chosen], axes=1))
        scores.append(scores_k[order[0]])
        order = order[~group]
    return TileFaces(
        np.asarray(boxes).reshape(-1, 4), np.asarray(keypoints).reshape(-1, 6, 2), np.asarray(scores, dtype=np.float64)
    )


def iou(boxes_M4: F64Array, boxes_N4: F64Array) -> F64Array:
    """Intersection over union of every pair of (l, t, r, b) boxes, M x N, 0..1; a pair without area gives 0."""
    inner, area_M, area_N = overlap_areas(boxes_M4, boxes_N4)
    union = area_M[:, None] + area_N[None] - inner
    return np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)


def overlap_areas(boxes_M4: F64Array, boxes_N4: F64Array) -> tuple[F64Array, F64Array, F64Array]:
    """Areas in squared px: of every pair's intersection (M x N), of the first boxes (M), of the second (N)."""
    top_left = np.maximum(boxes_M4[:, None, :2], boxes_N4[None, :, :2])
    bottom_right = np.minimum(boxes_M4[:, None, 2:], boxes_N4[None, :, 2:])
    inner = np.prod(np.maximum(bottom_right - top_left, 0.0), axis=2)
    area_M = np.prod(np.maximum(boxes_M4[:, 2:] - boxes_M4[:, :2], 0.0), axis=1)
    area_N = np.prod(np.maximum(boxes_N4[:, 2:] - boxes_N4[:, :2], 0.0), axis=1)
    return inner, area_M, area_N
