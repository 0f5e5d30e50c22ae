"""S3FD, the network: a VGG trunk with a face / no face head and a box head at six scales, and what its outputs mean.

What a reader would get wrong: the anchor of a cell of stride s is a square of side 4 s, and cell (0, 0) of every level has
its centre at s / 2, also behind `fc6`, whose padding of 3 makes its map grow by 4 cells. The network was trained that way.
And the input is 0..255, not 0..1; the mean that is taken off it belongs to the weights, since published files differ.

Sources: S. Zhang et al., "S3FD: Single Shot Scale-invariant Face Detector", arXiv:1708.05237; spec/faceset section 7.

Legend: N pictures, C channels, H rows and W columns of the input or of a level, K boxes of all pictures, 4 = (left, top,
right, bottom); network px = pixels of the input, counted from its edge: the first pixel's centre is at 0.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_common.detect.types import F64Array

STRIDES_PX = (4, 8, 16, 32, 64, 128)
_ANCHOR_PER_STRIDE = 4.0
_CENTRE_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2  # units of the box head
_SMALLEST_SIDE_PX = 32  # five halvings; below, a map would be empty
_SUPPRESSION_IOU = 0.3

IntArray = np.ndarray[Any, np.dtype[np.intp]]
Heads = list[tuple[Tensor, Tensor]]
"""Per level, finest first: logits that a cell shows a face (N, H, W) and its box head (N, 4, H, W)."""


class L2Norm(nn.Module):
    """Every pixel's channels to unit length, times a weight per channel: keeps the shape (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        length_N1HW = x_NCHW.square().sum(dim=1, keepdim=True).sqrt_().add_(1e-10)
        return x_NCHW / length_N1HW * self.weight[:, None, None]


class S3FD(nn.Module):
    """The network. Its names follow the published files, of 65 arrays; `mean_BGR` is the mean they were trained with."""

    mean_BGR: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean_BGR", torch.tensor([104.0, 117.0, 123.0]))
        self.conv1_1 = _conv3(3, 64)
        self.conv1_2 = _conv3(64, 64)
        self.conv2_1 = _conv3(64, 128)
        self.conv2_2 = _conv3(128, 128)
        self.conv3_1 = _conv3(128, 256)
        self.conv3_2 = _conv3(256, 256)
        self.conv3_3 = _conv3(256, 256)
        self.conv4_1 = _conv3(256, 512)
        self.conv4_2 = _conv3(512, 512)
        self.conv4_3 = _conv3(512, 512)
        self.conv5_1 = _conv3(512, 512)
        self.conv5_2 = _conv3(512, 512)
        self.conv5_3 = _conv3(512, 512)
        self.fc6 = nn.Conv2d(512, 1024, 3, padding=3)
        self.fc7 = nn.Conv2d(1024, 1024, 1)
        self.conv6_1 = nn.Conv2d(1024, 256, 1)
        self.conv6_2 = nn.Conv2d(256, 512, 3, stride=2, padding=1)
        self.conv7_1 = nn.Conv2d(512, 128, 1)
        self.conv7_2 = nn.Conv2d(128, 256, 3, stride=2, padding=1)
        self.conv3_3_norm = L2Norm(256)
        self.conv4_3_norm = L2Norm(512)
        self.conv5_3_norm = L2Norm(512)
        self.conv3_3_norm_mbox_conf = _conv3(256, 4)  # three kinds of background, then face
        self.conv3_3_norm_mbox_loc = _conv3(256, 4)
        self.conv4_3_norm_mbox_conf = _conv3(512, 2)
        self.conv4_3_norm_mbox_loc = _conv3(512, 4)
        self.conv5_3_norm_mbox_conf = _conv3(512, 2)
        self.conv5_3_norm_mbox_loc = _conv3(512, 4)
        self.fc7_mbox_conf = _conv3(1024, 2)
        self.fc7_mbox_loc = _conv3(1024, 4)
        self.conv6_2_mbox_conf = _conv3(512, 2)
        self.conv6_2_mbox_loc = _conv3(512, 4)
        self.conv7_2_mbox_conf = _conv3(256, 2)
        self.conv7_2_mbox_loc = _conv3(256, 4)

    def taps(self, batch_NCHW: Tensor) -> list[Tensor]:
        """The six maps that the heads look at, finest first, the first three normalised. See forward for the input."""
        x = batch_NCHW - self.mean_BGR[:, None, None]
        height, width = x.shape[2:]
        x = functional.pad(x, (0, max(0, _SMALLEST_SIDE_PX - width), 0, max(0, _SMALLEST_SIDE_PX - height)))
        x = _halved(_run(x, self.conv1_1, self.conv1_2))
        x = _halved(_run(x, self.conv2_1, self.conv2_2))
        f3 = _run(x, self.conv3_1, self.conv3_2, self.conv3_3)
        f4 = _run(_halved(f3), self.conv4_1, self.conv4_2, self.conv4_3)
        f5 = _run(_halved(f4), self.conv5_1, self.conv5_2, self.conv5_3)
        f7 = _run(_halved(f5), self.fc6, self.fc7)
        f6_2 = _run(f7, self.conv6_1, self.conv6_2)
        f7_2 = _run(f6_2, self.conv7_1, self.conv7_2)
        return [self.conv3_3_norm(f3), self.conv4_3_norm(f4), self.conv5_3_norm(f5), f7, f6_2, f7_2]

    def forward(self, batch_NCHW: Tensor) -> Heads:
        """Heads of pictures (N, 3, H, W), BGR, float32 0..255, any size; a side under 32 px is filled up with the mean."""
        heads = (
            (self.conv3_3_norm_mbox_conf, self.conv3_3_norm_mbox_loc),
            (self.conv4_3_norm_mbox_conf, self.conv4_3_norm_mbox_loc),
            (self.conv5_3_norm_mbox_conf, self.conv5_3_norm_mbox_loc),
            (self.fc7_mbox_conf, self.fc7_mbox_loc),
            (self.conv6_2_mbox_conf, self.conv6_2_mbox_loc),
            (self.conv7_2_mbox_conf, self.conv7_2_mbox_loc),
        )
        taps = self.taps(batch_NCHW)
        return [(face_logit(conf(tap)), loc(tap)) for tap, (conf, loc) in zip(taps, heads, strict=True)]


def face_logit(scores_NCHW: Tensor) -> Tensor:
    """Logit of "face" (N, H, W) of a head's scores: the last channel over the best of the background channels before it."""
    return scores_NCHW[:, -1] - scores_NCHW[:, :-1].amax(dim=1)


def decode(heads: Heads, min_score: float) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of all cells whose score reaches ``min_score`` (over 0, under 1).

    Returns the picture of each (K, int64), the boxes (K, 4, network px) and the scores (K, 0..1), on the heads' device, in
    the order of levels, pictures, rows, columns. Spec: faceset, section 7.3.
    """
    least = float(np.log(min_score / (1.0 - min_score)))
    pictures, boxes, scores = [], [], []
    for stride, (logits_NHW, loc_N4HW) in zip(STRIDES_PX, heads, strict=True):
        # Only what passes the threshold is worth decoding: of ten thousands of cells a handful.
        picture_K, row_K, column_K = torch.nonzero(logits_NHW >= least, as_tuple=True)
        loc_K4 = loc_N4HW[picture_K, :, row_K, column_K]
        anchor = _ANCHOR_PER_STRIDE * stride
        cells_K2 = torch.stack([column_K, row_K], dim=1).to(loc_K4.dtype)
        centres_K2 = (cells_K2 + 0.5) * stride + loc_K4[:, :2] * (_CENTRE_VARIANCE * anchor)
        halves_K2 = torch.exp(loc_K4[:, 2:] * _SIZE_VARIANCE) * (anchor / 2)
        pictures.append(picture_K)
        boxes.append(torch.cat([centres_K2 - halves_K2, centres_K2 + halves_K2], dim=1))
        scores.append(torch.sigmoid(logits_NHW[picture_K, row_K, column_K]))
    return torch.cat(pictures), torch.cat(boxes), torch.cat(scores)


def suppress(boxes_K4: F64Array, scores_K: F64Array) -> IntArray:
    """Which boxes of one picture (network px) stay, best first: greedily, each takes with it what it covers by IoU > 0.3.

    A side counts one pixel more than right - left, as in the published detector. Equal scores keep their order.
    """
    sides_K2 = boxes_K4[:, 2:] - boxes_K4[:, :2] + 1.0
    areas_K = sides_K2.prod(axis=1)
    order = np.argsort(-scores_K, kind="stable")
    kept: list[int] = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(boxes_K4[best, :2], boxes_K4[rest, :2])
        high = np.minimum(boxes_K4[best, 2:], boxes_K4[rest, 2:])
        inner = np.maximum(high - low + 1.0, 0.0).prod(axis=1)
        order = rest[inner <= _SUPPRESSION_IOU * (areas_K[best] + areas_K[rest] - inner)]
    return np.asarray(kept, dtype=np.intp)


def _conv3(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


def _run(x_NCHW: Tensor, *convolutions: nn.Module) -> Tensor:
    for convolution in convolutions:
        x_NCHW = functional.relu(convolution(x_NCHW), inplace=True)
    return x_NCHW


def _halved(x_NCHW: Tensor) -> Tensor:
    return functional.max_pool2d(x_NCHW, 2)
