"""What a sidecar says of a face's pixels: how sharp and how bright they are within the hull of its landmarks.

Easy to get wrong: these two are the sidecar's own quick numbers. Sorting has measures of its own (`ml_common.curation`),
with DeepFaceLab's definitions.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_common.masks.hull import hull_mask


def sharpness_and_brightness(
    crop_bgr_HW3: NDArray[np.uint8], crop_landmarks_px_68x2: NDArray[np.float64]
) -> tuple[float, float]:
    """Variance of the Laplacian of the luma (on a 0 to 255 scale), and mean luma 0 to 1, both inside the face hull.

    crop_bgr_HW3: uint8 BGR. crop_landmarks_px_68x2: (x, y) in its pixels; where they lie outside of it, the whole
    picture is judged. ValueError as `hull_mask`.
    """
    luma = cv2.cvtColor(crop_bgr_HW3, cv2.COLOR_BGR2GRAY)
    inside = hull_mask(crop_landmarks_px_68x2, *luma.shape) > 0.5
    if not inside.any():
        inside = np.ones_like(inside)
    laplacian = cv2.Laplacian(luma, cv2.CV_32F)
    return float(laplacian[inside].var()), float(luma[inside].mean() / 255)
