"""Structural dissimilarity (Wang et al. 2004, "Image quality assessment: from error visibility to structural
similarity"; constants and window of spec: models, section 1).

Legend: N batch, C channels, H rows, W columns.

Easy to get wrong: only the length of the window follows the resolution; its sigma is always 1.5. It may be even.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ml_common.losses.filters import filter_rows_and_columns, gaussian_kernel

_C1 = 0.01**2
_C2 = 0.03**2


def dssim(a_NCHW: Tensor, b_NCHW: Tensor, *, window: int) -> Tensor:
    """(1 - SSIM) / 2 of each channel of each sample, 0 for equal images. Images 0..1; (N, C) float32.

    window: edge of the Gaussian window in pixels, at most the image's (below 1 counts as 1). No padding.
    Golden test: tests/unit/losses/test_losses_golden.py.
    """
    window = max(1, window)
    if window > min(a_NCHW.shape[2:]):
        raise ValueError(f"a window of {window} pixels does not fit into {tuple(a_NCHW.shape[2:])}")
    channels = a_NCHW.shape[1]
    a_NCHW, b_NCHW = a_NCHW.float(), b_NCHW.float()
    kernel_K = gaussian_kernel(window, 1.5, centre=(window - 1) / 2, device=a_NCHW.device)
    products = torch.cat([a_NCHW, b_NCHW, a_NCHW * b_NCHW, a_NCHW.square() + b_NCHW.square()], dim=1)
    filtered = filter_rows_and_columns(products, kernel_K, padding=0)
    mean_a, mean_b, mean_ab, mean_squares = torch.split(filtered, channels, dim=1)
    twice_means = 2 * mean_a * mean_b
    squared_means = mean_a.square() + mean_b.square()
    luminance = (twice_means + _C1) / (squared_means + _C1)
    contrast_structure = (2 * mean_ab - twice_means + _C2) / (mean_squares - squared_means + _C2)
    similarity_NC = torch.mean(luminance * contrast_structure, dim=(2, 3))
    return (1 - similarity_NC) / 2
