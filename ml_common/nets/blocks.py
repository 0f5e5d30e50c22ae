"""The few layers every swap network is made of.

Legend: N batch, C channels, H rows, W columns.

Easy to get wrong: the published weights write 2x2 cells in another channel order than `pixel_shuffle` reads (k*C + c
against c*4 + k, k = 2*dy + dx). The networks keep their weights in pixel_shuffle's order, because that operator has a
native kernel that keeps channels_last; `ml_common.dfl.swap_weights` permutes when it reads or writes published files.

Attribute names (`conv1`, `downs_0`, ...) follow the published weight files so that one rule maps a name to the other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Callable[[Tensor, float], Tensor]
"""(values, slope for negative values) -> values. May overwrite its argument."""


def leaky(x_NCHW: Tensor, negative_slope: float) -> Tensor:
    """Leaky ReLU in place: a convolution's backward pass never reads its own output, so nothing is lost."""
    return functional.leaky_relu(x_NCHW, negative_slope, inplace=True)


def cosine_unit(x_NCHW: Tensor, negative_slope: float) -> Tensor:
    """x*cos(x), what the flag `c` puts everywhere in the place of leaky ReLU; the slope has no meaning here."""
    return x_NCHW * torch.cos(x_NCHW)


def activation_for(flags: frozenset[str]) -> Activation:
    """The activation that an architecture's flags ask for."""
    return cosine_unit if "c" in flags else leaky


def pixel_norm(x_NC: Tensor) -> Tensor:
    """Scale every sample to unit mean square: x / sqrt(mean(x^2) + 1e-6). (N, C) to float32 (N, C)."""
    x_NC = x_NC.float()  # under autocast a half-precision sum of squares over 10^5 values would lose digits
    return x_NC * torch.rsqrt(x_NC.square().mean(dim=1, keepdim=True) + 1e-6)


class Down(nn.Module):
    """Half the size: 5x5 convolution of stride 2, activation of slope 0.1. (N, C, H, W) to (N, O, H/2, W/2)."""

    def __init__(self, channels_in: int, channels_out: int, activation: Activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 5, stride=2, padding=2)
        self.activation = activation

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.activation(self.conv1(x_NCHW), 0.1)


class Up(nn.Module):
    """Twice the size: 3x3 convolution to 4*O channels, activation, 2x2 cells. (N, C, H, W) to (N, O, 2H, 2W)."""

    def __init__(self, channels_in: int, channels_out: int, activation: Activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, 4 * channels_out, 3, padding=1)
        self.activation = activation

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return functional.pixel_shuffle(self.activation(self.conv1(x_NCHW), 0.1), 2)


class Res(nn.Module):
    """Residual pair of 3x3 convolutions, no normalisation, activated after the sum with slope 0.2. Keeps the shape."""

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.activation = activation

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NCHW = self.activation(self.conv1(x_NCHW), 0.2)
        return self.activation(x_NCHW + self.conv2(y_NCHW), 0.2)
