"""Gaussian filters that losses and masks are built from (spec: models, section 1).

Legend: N batch, C channels, H rows, W columns, K kernel length.

Easy to get wrong: these filters run in float32 even under autocast. The losses subtract nearly equal filtered values,
and what bfloat16 or TF32 would leave of them is noise.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def gaussian_kernel(size: int, sigma: float, *, centre: float, device: torch.device) -> Tensor:
    """Weights exp(-(i - centre)^2 / (2 sigma^2)) for i = 0 .. size-1, scaled to sum 1. (K,) float32."""
    offsets_K = torch.arange(size, dtype=torch.float32, device=device) - centre
    weights_K = torch.exp(-offsets_K.square() / (2 * sigma * sigma))
    return weights_K / weights_K.sum()


def filter_rows_and_columns(x_NCHW: Tensor, kernel_K: Tensor, *, padding: int) -> Tensor:
    """Filter every channel by itself with the outer product of `kernel_K` with itself, as two passes.

    Zero padding of `padding` pixels on all sides; 0 keeps only positions where the kernel fits. float32 result.
    """
    channels = x_NCHW.shape[1]
    rows = kernel_K.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = kernel_K.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    with torch.autocast(x_NCHW.device.type, enabled=False):
        # Contiguous: the depthwise kernels for channels_last images of few channels are slow, and may use TF32.
        x_NCHW = x_NCHW.float().contiguous()
        x_NCHW = functional.conv2d(x_NCHW, rows.contiguous(), padding=(padding, 0), groups=channels)
        return functional.conv2d(x_NCHW, columns.contiguous(), padding=(0, padding), groups=channels)


def gaussian_blur(x_NCHW: Tensor, sigma: float) -> Tensor:
    """Blur with zeros outside, so that values fade towards the border. (N, C, H, W), same shape back, float32.

    The kernel has max(3, trunc(4 sigma)) taps, one more if that is even. Raises ValueError unless sigma > 0.
    Golden test: tests/unit/losses/test_losses_golden.py.
    """
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}; a blur needs one above 0")
    size = max(3, int(4 * sigma)) | 1
    kernel_K = gaussian_kernel(size, sigma, centre=size // 2, device=x_NCHW.device)
    return filter_rows_and_columns(x_NCHW, kernel_K, padding=size // 2)
