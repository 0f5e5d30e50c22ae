"""Losses that compare what a swap model drew with what it should have drawn.

Easy to get wrong: all of them return one number per sample (or per sample and channel), never a batch mean.

Names are imported on first use, so that what needs only options (a server checking them) does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_common.lazy_names import lazy_names

if TYPE_CHECKING:
    from ml_common.losses.config import LossConfig
    from ml_common.losses.filters import gaussian_blur
    from ml_common.losses.structural import dssim
    from ml_common.losses.style import style_loss
    from ml_common.losses.swap import LossTerms, blur_out, soft_mask, swap_losses

_HOMES = {
    "LossConfig": "config",
    "LossTerms": "swap",
    "blur_out": "swap",
    "dssim": "structural",
    "gaussian_blur": "filters",
    "soft_mask": "swap",
    "style_loss": "style",
    "swap_losses": "swap",
}

__all__ = [
    "LossConfig",
    "LossTerms",
    "blur_out",
    "dssim",
    "gaussian_blur",
    "soft_mask",
    "style_loss",
    "swap_losses",
]

__getattr__ = lazy_names(__name__, _HOMES)
