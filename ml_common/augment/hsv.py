"""Batched hue, saturation and value shift on the device.

The one thing a reader would get wrong: the maths is on the gamma-encoded values as they are stored, hue in degrees 0
to 360, saturation and value 0 to 1, exactly as OpenCV's float BGR2HSV (cross-checked in
tests/unit/augment/test_hsv.py).

Legend: N samples, C = 3 channels in the order blue, green, red, H rows, W columns.
"""

import torch

_TINY = 1e-12


def shift_hsv(batch_NCHW: torch.Tensor, hsv_shift_N3: torch.Tensor) -> torch.Tensor:
    """Adds (hue degrees, saturation, value) of each sample; hue wraps, saturation and value are clipped to 0..1.

    batch_NCHW: float BGR 0..1. Returns the same shape and type, 0..1. Source: samples specification, section 8.
    """
    hue_shift, saturation_shift, value_shift = (hsv_shift_N3[:, k, None, None] for k in range(3))
    blue, green, red = batch_NCHW.unbind(1)
    value = batch_NCHW.amax(1)
    chroma = value - batch_NCHW.amin(1)
    safe = chroma.clamp_min(_TINY)
    hue_sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    saturation = chroma / value.clamp_min(_TINY)
    hue_sixths = hue_sixths + hue_shift / 60.0
    saturation = (saturation + saturation_shift).clamp(0.0, 1.0)
    value = (value + value_shift).clamp(0.0, 1.0)
    # Each channel falls from `value` by value * saturation * (a trapezoid of the hue): 5, 3, 1 sixths apart for R, G,
    # B.
    offsets = torch.tensor([1.0, 3.0, 5.0], device=batch_NCHW.device, dtype=batch_NCHW.dtype).view(1, 3, 1, 1)
    k = torch.remainder(hue_sixths[:, None] + offsets, 6.0)
    return value[:, None] * (1.0 - saturation[:, None] * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0))
