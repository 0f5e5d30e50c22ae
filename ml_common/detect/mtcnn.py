"""MTCNN's three networks and the geometry between them: levels, windows, offsets, squares, suppression.

What a reader would get wrong: boxes here are edge-based (the centre of a picture's first pixel is at 0.5), as the
windows of the first network are; the detector brings them to the project's convention at its end. And the networks take
RGB as (x - 127.5) / 128, while pictures are BGR.

Source: K. Zhang, Z. Zhang, Z. Li, Y. Qiao, "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional
Networks", arXiv:1604.02878. Pools round up, as in Caffe, where the published weights come from. Pinned by
tests/unit/detect/test_mtcnn.py.

Legend: N crops or pictures of one size, K boxes, HW cells, 4 = left, top, right, bottom, 52 = five (x, y) points: the
subject's right eye, left eye, nose, right and left corner of the mouth.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ml_common.detect.blazeface import F64Array

CELL_PX, STRIDE_PX = 12, 2  # of the first network: the side of its window, and the step from one to the next
REFINE_PX, OUTPUT_PX = 24, 48  # sides of the crops of the second and third
LEVEL_RATIO = 0.709  # from a level to the next: about half the area

_BLOCK = 128  # boxes that are compared at once when suppressing

IndexArray = np.ndarray[Any, np.dtype[np.intp]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


class ProposalNet(nn.Module):
    """P-Net: a picture of any size to faces per window. N3HW to (belief NHW in 0..1, offsets N4HW)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, batch_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.prelu1(self.conv1(batch_NCHW))
        maps = nn.functional.max_pool2d(maps, 2, 2, ceil_mode=True)
        maps = self.prelu3(self.conv3(self.prelu2(self.conv2(maps))))
        return _belief(self.conv4_1(maps)), self.conv4_2(maps)


class RefineNet(nn.Module):
    """R-Net: crops N x 3 x 24 x 24 to (belief N in 0..1, offsets N4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, batch_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        maps = nn.functional.max_pool2d(self.prelu1(self.conv1(batch_NCHW)), 3, 2, ceil_mode=True)
        maps = nn.functional.max_pool2d(self.prelu2(self.conv2(maps)), 3, 2, ceil_mode=True)
        values = self.prelu4(self.dense4(self.prelu3(self.conv3(maps)).flatten(1)))
        return _belief(self.dense5_1(values)), self.dense5_2(values)


class OutputNet(nn.Module):
    """O-Net: crops N x 3 x 48 x 48 to (belief N in 0..1, offsets N4, points N52 as shares of the crop)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)

    def forward(self, batch_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = nn.functional.max_pool2d(self.prelu1(self.conv1(batch_NCHW)), 3, 2, ceil_mode=True)
        maps = nn.functional.max_pool2d(self.prelu2(self.conv2(maps)), 3, 2, ceil_mode=True)
        maps = nn.functional.max_pool2d(self.prelu3(self.conv3(maps)), 2, 2, ceil_mode=True)
        values = self.prelu5(self.dense5(self.prelu4(self.conv4(maps)).flatten(1)))
        points_N52 = self.dense6_3(values).unflatten(1, (2, 5)).transpose(1, 2)  # five x, then five y
        return _belief(self.dense6_1(values)), self.dense6_2(values), points_N52


class Mtcnn(nn.Module):
    """The three networks under one roof; its state dict is what ``mtcnn_keys.convert`` makes."""

    def __init__(self) -> None:
        super().__init__()
        self.pnet, self.rnet, self.onet = ProposalNet(), RefineNet(), OutputNet()


def _belief(logits_N2: Tensor) -> Tensor:
    """Of two classes (no face, face) the belief in the second."""
    return torch.sigmoid(logits_N2[:, 1] - logits_N2[:, 0])


def normalised(pictures_bgr_NHWC: Tensor) -> Tensor:
    """Network input (float32 NCHW RGB, about -1..1) from uint8 NHWC BGR."""
    return pictures_bgr_NHWC.permute(0, 3, 1, 2).flip(1).to(torch.float32).sub_(127.5).div_(128.0)


def level_sizes(size_xy_px: tuple[int, int], smallest_face_px: float) -> list[tuple[int, int]]:
    """Sizes (width, height) of a picture's copies for the first network, largest first.

    In the first a face of ``smallest_face_px`` fills one window; each next is LEVEL_RATIO of it, down to where the
    picture's short side is one window. None for a picture that is smaller than such a face.
    """
    sizes, scale = [], CELL_PX / smallest_face_px
    while min(size_xy_px) * scale >= CELL_PX:
        sizes.append((round(size_xy_px[0] * scale), round(size_xy_px[1] * scale)))
        scale *= LEVEL_RATIO
    return sizes


def boxes_of_cells(cells_xy_K2: F64Array, offsets_K4: F64Array, px_per_level_px_2: F64Array) -> F64Array:
    """Boxes of the first network's windows, moved by their offsets, edge-based px of the picture.

    ``cells_xy_K2``: column and row of each window. ``px_per_level_px_2``: how many of the picture's px are one of the
    level's, in x and in y.
    """
    corners = cells_xy_K2 * STRIDE_PX
    windows_K4 = np.concatenate([corners, corners + CELL_PX], axis=1) * np.tile(px_per_level_px_2, 2)
    return moved(windows_K4, offsets_K4)


def moved(boxes_K4: F64Array, offsets_K4: F64Array) -> F64Array:
    """Boxes after regression: each edge goes by its offset times the box's width (left, right) or height."""
    sides = boxes_K4[:, 2:] - boxes_K4[:, :2]
    return boxes_K4 + offsets_K4 * np.tile(sides, 2)


def squared(boxes_K4: F64Array) -> F64Array:
    """The squares around the centres of boxes, as long as their longer sides."""
    centres = (boxes_K4[:, :2] + boxes_K4[:, 2:]) / 2
    half = (boxes_K4[:, 2:] - boxes_K4[:, :2]).max(axis=1, keepdims=True, initial=0.0) / 2
    return np.concatenate([centres - half, centres + half], axis=1)


def suppress(boxes_K4: F64Array, scores_K: F64Array, *, max_iou: float, max_inside: float = 1.0) -> IndexArray:
    """Which boxes stay, best first (of equals the earlier): one goes if with a better one that stays its intersection
    over union is above ``max_iou``, or its intersection over the smaller of both above ``max_inside``.
    """
    order: IndexArray = np.argsort(-scores_K, kind="stable")
    kept: IndexArray = order[:0]
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        block = block[~_same(boxes_K4[kept], boxes_K4[block], max_iou, max_inside).any(axis=0)]
        same = _same(boxes_K4[block], boxes_K4[block], max_iou, max_inside)
        stays = np.ones(len(block), np.bool_)
        for index in range(len(block)):
            if stays[index]:
                stays[index + 1 :] &= ~same[index, index + 1 :]
        kept = np.concatenate([kept, block[stays]])
    return kept


def _same(boxes_M4: F64Array, boxes_N4: F64Array, max_iou: float, max_inside: float) -> BoolArray:
    """Which pairs of boxes show one thing, M x N."""
    left, top, right, bottom = (edge[:, None] for edge in boxes_M4.T)
    across = np.minimum(right, boxes_N4[:, 2]) - np.maximum(left, boxes_N4[:, 0])
    down = np.minimum(bottom, boxes_N4[:, 3]) - np.maximum(top, boxes_N4[:, 1])
    inner = np.maximum(across, 0.0) * np.maximum(down, 0.0)
    area_M = (right - left) * (bottom - top)
    area_N = (boxes_N4[:, 2] - boxes_N4[:, 0]) * (boxes_N4[:, 3] - boxes_N4[:, 1])
    union, smaller = area_M + area_N - inner, np.minimum(area_M, area_N)
    same: BoolArray = (inner > max_iou * union) | (inner > max_inside * smaller)
    return same
