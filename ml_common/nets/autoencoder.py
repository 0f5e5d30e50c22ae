"""Encoder, inter and decoder of the df and liae families (spec: models, sections 2.2 to 2.4).

Legend: N batch, C channels, H rows, W columns, Z length of the flattened encoding. Images are BGR, 0..1.

Easy to get wrong: the code between encoder and inter is flattened channel by channel (C, H, W), whatever the memory
format; and with the flag `d` the image head writes the four pixels of each 2x2 cell with four convolutions, of which
only the first is 1x1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_common.nets.blocks import Activation, Down, Res, Up, activation_for, pixel_norm
from ml_common.nets.config import ModelConfig


class _DownStack(nn.Module):
    """Four halvings in a row, to eight times the base width."""

    def __init__(self, base: int, activation: Activation) -> None:
        super().__init__()
        self.downs_0 = Down(3, base, activation)
        self.downs_1 = Down(base, 2 * base, activation)
        self.downs_2 = Down(2 * base, 4 * base, activation)
        self.downs_3 = Down(4 * base, 8 * base, activation)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out_NCHW: Tensor = self.downs_3(self.downs_2(self.downs_1(self.downs_0(x_NCHW))))
        return out_NCHW


class Encoder(nn.Module):
    """Face (N, 3, R, R) to encoding (N, Z), Z = `out_size`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        base, activation = config.e_dims, activation_for(config.flags)
        self.deep = "t" in config.flags
        self.normalise = "u" in config.flags
        if self.deep:
            self.down1: nn.Module = Down(3, base, activation)
            self.res1 = Res(base, activation)
            self.down2 = Down(base, 2 * base, activation)
            self.down3 = Down(2 * base, 4 * base, activation)
            self.down4 = Down(4 * base, 8 * base, activation)
            self.down5 = Down(8 * base, 8 * base, activation)
            self.res5 = Res(8 * base, activation)
        else:
            self.down1 = _DownStack(base, activation)
        edge = config.resolution // (32 if self.deep else 16)
        self.out_size = 8 * base * edge * edge

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = self.down1(x_NCHW)
        if self.deep:
            x_NCHW = self.res1(x_NCHW)
            x_NCHW = self.down5(self.down4(self.down3(self.down2(x_NCHW))))
            x_NCHW = self.res5(x_NCHW)
        encoding_NZ = x_NCHW.flatten(1)
        return pixel_norm(encoding_NZ) if self.normalise else encoding_NZ


class Inter(nn.Module):
    """Encoding (N, Z) to code (N, `out_channels`, L, L) through a bottleneck of ae_dims, with no activation there."""

    def __init__(self, config: ModelConfig, in_size: int, out_channels: int) -> None:
        super().__init__()
        self.edge = config.resolution // (32 if "d" in config.flags else 16)
        self.out_channels = out_channels
        self.dense1 = nn.Linear(in_size, config.ae_dims)
        self.dense2 = nn.Linear(config.ae_dims, self.edge * self.edge * out_channels)
        self.upscale1 = (
            nn.Identity() if "t" in config.flags else Up(out_channels, out_channels, activation_for(config.flags))
        )

    def forward(self, encoding_NZ: Tensor) -> Tensor:
        code_NCHW = self.dense2(self.dense1(encoding_NZ)).view(-1, self.out_channels, self.edge, self.edge)
        out_NCHW: Tensor = self.upscale1(code_NCHW)
        return out_NCHW


class Decoder(nn.Module):
    """Code (N, C, L, L) to a face (N, 3, R, R) and its mask (N, 1, R, R), both float32 in 0..1."""

    def __init__(self, config: ModelConfig, in_channels: int) -> None:
        super().__init__()
        activation = activation_for(config.flags)
        doubled, deep = "d" in config.flags, "t" in config.flags
        # Widths after each doubling, in units of the base width.
        widths = (8, 8, 4, 2) if deep else (8, 4, 2)
        mask_widths = (*widths, 1) if doubled else widths

        self.upscales: list[str] = []
        channels = in_channels
        for index, width in enumerate(widths):
            self.add_module(f"upscale{index}", Up(channels, width * config.d_dims, activation))
            channels = width * config.d_dims
            self.add_module(f"res{index}", Res(channels, activation))
            self.upscales += [f"upscale{index}", f"res{index}"]
        self.out_conv = nn.Conv2d(channels, 3, 1)
        self.doubled = doubled
        if doubled:
            self.out_conv1 = nn.Conv2d(channels, 3, 3, padding=1)
            self.out_conv2 = nn.Conv2d(channels, 3, 3, padding=1)
            self.out_conv3 = nn.Conv2d(channels, 3, 3, padding=1)

        self.mask_upscales: list[str] = []
        channels = in_channels
        for index, width in enumerate(mask_widths):
            self.add_module(f"upscalem{index}", Up(channels, width * config.d_mask_dims, activation))
            channels = width * config.d_mask_dims
            self.mask_upscales.append(f"upscalem{index}")
        self.out_convm = nn.Conv2d(channels, 1, 1)

    def forward(self, code_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        return self.image(code_NCHW), self.mask(code_NCHW)

    def image(self, code_NCHW: Tensor) -> Tensor:
        """The face alone: (N, 3, R, R), float32, 0..1."""
        x_NCHW = code_NCHW
        for name in self.upscales:
            x_NCHW = self.get_submodule(name)(x_NCHW)
        logits_NCHW = self._doubling_head(x_NCHW) if self.doubled else self.out_conv(x_NCHW)
        # float32 before the sigmoid: a bfloat16 result would have fewer levels than an 8-bit picture.
        return torch.sigmoid(logits_NCHW.float())

    def mask(self, code_NCHW: Tensor) -> Tensor:
        """The mask alone, without the cost of the face: (N, 1, R, R), float32, 0..1."""
        x_NCHW = code_NCHW
        for name in self.mask_upscales:
            x_NCHW = self.get_submodule(name)(x_NCHW)
        return torch.sigmoid(self.out_convm(x_NCHW).float())

    def _doubling_head(self, x_NCHW: Tensor) -> Tensor:
        # The four convolutions share their input: one convolution with the stacked kernels reads it once. Stacking on
        # dim 1 gives pixel_shuffle's order (channel, position in the cell).
        heads = (self.out_conv1, self.out_conv2, self.out_conv3)
        weight = torch.stack(
            [functional.pad(self.out_conv.weight, (1, 1, 1, 1)), *(head.weight for head in heads)], dim=1
        )
        bias = torch.stack([self.out_conv.bias, *(head.bias for head in heads)], dim=1)  # type: ignore[list-item]
        return functional.pixel_shuffle(functional.conv2d(x_NCHW, weight.flatten(0, 1), bias.flatten(), padding=1), 2)
