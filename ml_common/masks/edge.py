"""Moving and softening the edge of a mask.

What a reader would get wrong: the numbers are kernel widths in pixels of the mask at hand, not radii: eroding by 20
moves the edge by 10 pixels. And the outside of the mask counts as empty, so that erosion also eats in from its borders.

Shape legend: HW = float32 mask, 0 to 1. Specification: merge, section 4.7.
"""

import cv2
import numpy as np
from numpy.typing import NDArray


def erode_blur(mask_HW: NDArray[np.float32], erode_px: int, blur_px: int) -> NDArray[np.float32]:
    """Erodes (or, when negative, dilates) by an ellipse `erode_px` wide, then blurs by a Gaussian `blur_px` wide.

    Before the blur a border of `blur_px // 2` pixels is emptied, so that the result fades out inside the array. The
    Gaussian's sigma is OpenCV's own choice for the kernel width made odd, 0.3 * ((width - 1) / 2 - 1) + 0.8. Returns
    float32 of the same shape, clipped to 0 to 1. ValueError for a mask that is not 2D float32 or a negative blur.
    """
    if mask_HW.ndim != 2 or mask_HW.dtype != np.float32:
        raise ValueError(f"a mask must be a 2D float32 array, got {list(mask_HW.shape)} of {mask_HW.dtype}")
    if blur_px < 0:
        raise ValueError(f"blur_px must be 0 or more, got {blur_px}")
    mask = mask_HW
    if erode_px != 0:
        width_px = abs(erode_px)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width_px, width_px))
        morph = cv2.erode if erode_px > 0 else cv2.dilate
        mask = morph(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0.0).astype(np.float32, copy=False)
    if blur_px > 0:
        border_px = blur_px // 2
        if 2 * border_px >= min(mask.shape):
            return np.zeros_like(mask_HW)
        inner = (slice(border_px, mask.shape[0] - border_px), slice(border_px, mask.shape[1] - border_px))
        faded = np.zeros_like(mask)
        faded[inner] = mask[inner]
        odd_px = blur_px + 1 - blur_px % 2
        mask = cv2.GaussianBlur(faded, (odd_px, odd_px), 0, borderType=cv2.BORDER_CONSTANT).astype(
            np.float32, copy=False
        )
    return np.clip(mask, 0.0, 1.0)
