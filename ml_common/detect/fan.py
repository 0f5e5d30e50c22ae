"""FAN, the face alignment network of four stacked hourglasses, and how its heat maps are read.

What a reader would get wrong: 2D-FAN and 3D-FAN are this one network with two sets of weights; the second puts the points
where the hidden half of a turned face projects to. And a point is more exact than a cell of its map, which is 4 crop pixels
wide: the peak between the cells is fitted.

Sources: A. Bulat and G. Tzimiropoulos, "How far are we from solving the 2D & 3D Face Alignment problem?",
arXiv:1703.07332; spec/faceset section 8. The fit: H. Guo, "A Simple Algorithm for Fitting a Gaussian Function", IEEE
Signal Processing Magazine 28(5), 2011, in two dimensions.

Legend: N crops, C channels, H rows, W columns, 68 landmarks, M = N x 68 maps; cells: pixels of a map, centres at integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_common.detect.types import F64Array

CROP_PX = 256
MAP_CELLS = 64
LANDMARKS = 68
_STACKS = 4
_DEPTH = 4
_FEATURES = 256
_REACH = 2  # cells on either side of the peak that the fit looks at: published maps are Gaussians about 1.75 cells wide
_FLOOR = 1e-3  # of the peak; smaller values and negative ones say nothing about the peak's place


class ConvBlock(nn.Module):
    """Three 3x3 convolutions, each after normalisation and ReLU, whose outputs stand side by side on top of a shortcut.

    (N, C, H, W) to (N, O, H, W).
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        half, quarter = channels_out // 2, channels_out // 4
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, half, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, quarter, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(quarter)
        self.conv3 = nn.Conv2d(quarter, quarter, 3, padding=1, bias=False)
        self.widens = channels_in != channels_out
        if self.widens:
            self.down_bn1 = nn.BatchNorm2d(channels_in)
            self.down_conv1 = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        o1 = self.conv1(_relu(self.bn1(x_NCHW)))
        o2 = self.conv2(_relu(self.bn2(o1)))
        o3 = self.conv3(_relu(self.bn3(o2)))
        shortcut = self.down_conv1(_relu(self.down_bn1(x_NCHW))) if self.widens else x_NCHW
        return torch.cat([o1, o2, o3], dim=1).add_(shortcut)


class HourGlass(nn.Module):
    """A block beside a way through half the size, and so on inwards, ``depth`` times. Keeps the shape; sides are multiples
    of 2^depth."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.b1 = ConvBlock(_FEATURES, _FEATURES)
        self.b2 = ConvBlock(_FEATURES, _FEATURES)
        self.b2_plus = HourGlass(depth - 1) if depth > 1 else ConvBlock(_FEATURES, _FEATURES)
        self.b3 = ConvBlock(_FEATURES, _FEATURES)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        inner = self.b3(self.b2_plus(self.b2(functional.avg_pool2d(x_NCHW, 2))))
        beside: Tensor = self.b1(x_NCHW)
        return beside.add_(functional.interpolate(inner, scale_factor=2.0, mode="nearest"))


class FAN(nn.Module):
    """The network, for inference only. Its names follow the published files, of 945 arrays."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = ConvBlock(64, 128)
        self.conv3 = ConvBlock(128, 128)
        self.conv4 = ConvBlock(128, _FEATURES)
        stacks = range(_STACKS)
        self.m = nn.ModuleList(HourGlass(_DEPTH) for _ in stacks)
        self.top_m = nn.ModuleList(ConvBlock(_FEATURES, _FEATURES) for _ in stacks)
        self.conv_last = nn.ModuleList(nn.Conv2d(_FEATURES, _FEATURES, 1) for _ in stacks)
        self.bn_end = nn.ModuleList(nn.BatchNorm2d(_FEATURES) for _ in stacks)
        self.l = nn.ModuleList(nn.Conv2d(_FEATURES, LANDMARKS, 1) for _ in stacks)
        self.bl = nn.ModuleList(nn.Conv2d(_FEATURES, _FEATURES, 1) for _ in stacks[1:])
        self.al = nn.ModuleList(nn.Conv2d(LANDMARKS, _FEATURES, 1) for _ in stacks[1:])

    def forward(self, batch_NCHW: Tensor) -> Tensor:
        """Heat maps (N, 68, 64, 64), about 0..1, of crops (N, 3, 256, 256), BGR, float32 0..1."""
        x = _relu(self.bn1(self.conv1(batch_NCHW.flip(1))))  # the network was trained on RGB
        x = functional.avg_pool2d(self.conv2(x), 2)
        x = self.conv4(self.conv3(x))
        for stack in range(_STACKS - 1):
            features = self._features(x, stack)
            x = x + self.bl[stack](features) + self.al[stack](self.l[stack](features))
        maps: Tensor = self.l[-1](self._features(x, _STACKS - 1))
        return maps

    def _features(self, x_NCHW: Tensor, stack: int) -> Tensor:
        return _relu(self.bn_end[stack](self.conv_last[stack](self.top_m[stack](self.m[stack](x_NCHW)))))


def _relu(x_NCHW: Tensor) -> Tensor:
    return functional.relu(x_NCHW, inplace=True)


def read_maps(maps_N68HW: Tensor) -> tuple[F64Array, F64Array]:
    """Where heat maps peak, (N, 68, 2) as (x, y) in cells with fractions, and how high (N, 68).

    Around the highest cell (of equal ones the first) the logarithm of the map is fitted with a quadric, each value
    weighing as much as its square: a Gaussian peak is found exactly, also where its centre lies beyond the border. The
    place stays within half a cell of the highest one, and is its centre where the fit has no peak (a plateau, an empty map).
    Maps have at least 5 cells a side.
    """
    count, landmarks, height, width = maps_N68HW.shape
    maps_MHW = maps_N68HW.reshape(-1, height, width)
    cell_M = maps_MHW.flatten(1).argmax(dim=1)
    row_M, column_M = cell_M // width, cell_M % width
    near = torch.arange(-_REACH, _REACH + 1, device=maps_MHW.device)
    rows = row_M.clamp(_REACH, height - 1 - _REACH)[:, None] + near
    columns = column_M.clamp(_REACH, width - 1 - _REACH)[:, None] + near
    every = torch.arange(len(maps_MHW), device=maps_MHW.device)
    # 25 values per map leave the device instead of 4096.
    windows = maps_MHW[every[:, None, None], rows[:, :, None], columns[:, None, :]].cpu().double().numpy()
    highest = torch.stack([column_M, row_M], dim=1).cpu().double().numpy()
    peaks = maps_MHW[every, row_M, column_M].cpu().double().numpy()
    middle = torch.stack([columns[:, _REACH], rows[:, _REACH]], dim=1).cpu().double().numpy()
    fitted, found = _fitted_peaks(windows, peaks)
    points = np.where(found[:, None], np.clip(middle + fitted, highest - 0.5, highest + 0.5), highest)
    return points.reshape(count, landmarks, 2), peaks.reshape(count, landmarks)


def _fitted_peaks(windows_M55: F64Array, peaks_M: F64Array) -> tuple[F64Array, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Peaks (M, 2) as (x, y) from the windows' middles, and where there is one at all."""
    positive = peaks_M > 0
    shares = windows_M55.reshape(len(windows_M55), -1) / np.where(positive, peaks_M, 1.0)[:, None]
    shares = np.clip(shares, _FLOOR, 1.0)
    weights = np.square(shares)
    y, x = (axis.ravel() for axis in np.mgrid[-_REACH : _REACH + 1, -_REACH : _REACH + 1].astype(np.float64))
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    normal = np.einsum("mk,ki,kj->mij", weights, terms, terms)
    right = (weights * np.log(shares)) @ terms
    _, gx, gy, xx, xy, yy = np.linalg.solve(normal, right[..., None])[..., 0].T
    determinant = 4 * xx * yy - xy * xy
    found = positive & (xx < -1e-9) & (determinant > 1e-12)
    safe = np.where(found, determinant, 1.0)
    return np.stack([xy * gy - 2 * yy * gx, xy * gx - 2 * xx * gy], axis=1) / safe[:, None], found
