"""Face masks drawn from landmarks, and the treatment of mask edges.

What a reader would get wrong: masks are float32 arrays of shape [height, width] without a channel axis, 0 to 1.
"""

from ml_common.masks.edge import erode_blur
from ml_common.masks.hull import (
    expand_eyebrows,
    eyes_mask,
    eyes_mouth_mask,
    hull_mask,
    hull_mask_window,
    mouth_mask,
    soft_hull_mask,
)
from ml_common.masks.hull_measures import sharpness_and_brightness

__all__ = [
    "erode_blur",
    "expand_eyebrows",
    "eyes_mask",
    "eyes_mouth_mask",
    "hull_mask",
    "hull_mask_window",
    "mouth_mask",
    "sharpness_and_brightness",
    "soft_hull_mask",
]
