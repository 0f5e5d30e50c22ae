"""Losses that compare what a swap model drew with what it should have drawn.

Easy to get wrong: all of them return one number per sample (or per sample and channel), never a batch mean.
"""

from ml_common.losses.dssim import dssim
from ml_common.losses.filters import gaussian_blur
from ml_common.losses.style import style_loss
from ml_common.losses.swap import LossConfig, LossTerms, blur_out, soft_mask, swap_losses

__all__ = ["LossConfig", "LossTerms", "blur_out", "dssim", "gaussian_blur", "soft_mask", "style_loss", "swap_losses"]
