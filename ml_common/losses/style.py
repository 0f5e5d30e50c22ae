"""Style loss: match the mean and spread of each channel (spec: models, section 1).

Legend: N batch, C channels, H rows, W columns.

Easy to get wrong: mean and spread are taken after the blur, whose zero border pulls both down at the edges.
"""

from __future__ import annotations

from torch import Tensor

from ml_common.losses.filters import gaussian_blur


def style_loss(image_NCHW: Tensor, style_NCHW: Tensor, *, sigma: float, weight: float) -> Tensor:
    """weight/C * sum over channels of the squared differences of mean and standard deviation. (N,) float32.

    sigma: blur of both images first, 0 for none. Golden test: tests/unit/losses/test_losses_golden.py.
    """
    if sigma > 0:
        image_NCHW, style_NCHW = gaussian_blur(image_NCHW, sigma), gaussian_blur(style_NCHW, sigma)
    mean_difference_NC = image_NCHW.mean(dim=(2, 3)) - style_NCHW.mean(dim=(2, 3))
    spread_difference_NC = _spread(image_NCHW) - _spread(style_NCHW)
    return weight * (mean_difference_NC.square() + spread_difference_NC.square()).mean(dim=1)


def _spread(x_NCHW: Tensor) -> Tensor:
    return (x_NCHW.var(dim=(2, 3), correction=0) + 1e-5).sqrt()
