"""Denoises a frame from the frames around it, and a little from the pixels around each pixel.

What a reader would get wrong: nothing is carried from frame to frame. A result depends on its window alone, so chunks of
a clip give what the whole clip gives, as long as each is read ``SUPPORT_FRAMES`` further at both ends. And noise is told
from motion by *blurred* differences: noise nearly vanishes in them, a moved edge does not.

Where the picture stands still, the window's frames are averaged; where it moves, their weights fall to nothing and an
edge-keeping filter (the guided filter: He, Sun, Tang, "Guided image filtering", 2013) takes their place.

Legend: N frames of a window, H height, W width, C channels (B, G, R).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SUPPORT_FRAMES = 3
MIN_FACTOR, MAX_FACTOR = 1, 20

_SCALES = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}
_LEVEL = 1 / 255
_LEAST_EXPONENT = -20.0
_BLUR_SIGMA_PX = 0.75  # of differences at half size: a fifth of the noise is left
_TEMPORAL_LEVELS = 0.5  # per factor: differences beyond this, blurred, are motion
_NOISE_LEVELS = 1.0  # per factor: standard deviation that noise may have
_ENERGY_SLACK = 2.0  # squares up to so many times those of the noise count as noise
_SPATIAL_LEVELS = 0.7  # per factor: contrast beyond this is an edge
_SPATIAL_SIDE_PX = 5
_SPATIAL_FULL_FACTOR = 10.0  # the spatial part grows up to here


def denoise(window_bgr_NHWC: Sequence[NDArray[Any]], centre_index: int, factor: float) -> NDArray[Any]:
    """The frame ``window_bgr_NHWC[centre_index]`` with less noise, in the type of the window.

    ``window_bgr_NHWC``: frames i - SUPPORT_FRAMES to i + SUPPORT_FRAMES of a clip (fewer at its ends), all of one size
    and type: uint8, uint16 (white 65535) or float32 (values over 1 and below 0 stay; NaN and infinity stay where they
    are, and do not spread). ``factor`` 1 (hardly) to 20: 7 is made for the grain of a usual camera, about 5 of 255
    levels. ValueError for another factor, a window that is too long or uneven, or a centre outside it.
    """
    centre = _checked(window_bgr_NHWC, centre_index, factor)
    scale = _SCALES[centre.dtype]
    is_float = centre.dtype == np.float32
    first_HWC = _unit(centre, scale)
    seen_HWC = _as_seen(first_HWC, is_float)
    result_HWC, weights_HW = first_HWC, np.ones(centre.shape[:2], np.float32)
    for index, other in enumerate(window_bgr_NHWC):
        if index == centre_index:
            continue
        other_HWC = _unit(other, scale)
        if other_HWC is not other and is_float:
            other_HWC = np.where(np.isfinite(other), other_HWC, first_HWC)
        likeness_HW = _enlarged(_likeness(seen_HWC, _as_seen(other_HWC, is_float), factor), centre.shape)
        result_HWC = _blend(result_HWC, other_HWC, weights_HW, likeness_HW)
        weights_HW += likeness_HW
    result_HWC = _spatial(result_HWC, weights_HW, factor)
    if not is_float:
        return np.asarray(np.rint(result_HWC * np.float32(scale)).clip(0, scale), centre.dtype)
    return result_HWC if first_HWC is centre else np.where(np.isfinite(centre), result_HWC, centre)


def _checked(window_bgr_NHWC: Sequence[NDArray[Any]], centre_index: int, factor: float) -> NDArray[Any]:
    if not MIN_FACTOR <= factor <= MAX_FACTOR:
        raise ValueError(f"factor={factor}: choose {MIN_FACTOR} to {MAX_FACTOR}")
    count = len(window_bgr_NHWC)
    if not 0 <= centre_index < count or max(centre_index, count - 1 - centre_index) > SUPPORT_FRAMES:
        raise ValueError(
            f"a window has at most {SUPPORT_FRAMES} frames on either side of its centre, not centre {centre_index} of {count}"
        )
    centre = window_bgr_NHWC[centre_index]
    if centre.dtype not in _SCALES or centre.ndim != 3 or centre.shape[2] != 3 or 0 in centre.shape:
        raise ValueError(f"frames must be (H, W, 3) uint8, uint16 or float32, not {centre.shape} {centre.dtype}")
    for other in window_bgr_NHWC:
        if (other.shape, other.dtype) != (centre.shape, centre.dtype):
            raise ValueError(
                f"the window mixes {centre.shape} {centre.dtype} with {other.shape} {other.dtype}; denoise them apart"
            )
    return centre


def _unit(image_bgr_HWC: NDArray[Any], scale: float) -> NDArray[np.float32]:
    """White at 1.0; the picture itself where it is float and finite throughout, what is not finite at 0."""
    if image_bgr_HWC.dtype != np.float32:
        return np.asarray(np.multiply(image_bgr_HWC, np.float32(1 / scale), dtype=np.float32))
    if np.isfinite(image_bgr_HWC).all():
        return image_bgr_HWC
    return np.asarray(np.nan_to_num(image_bgr_HWC, nan=0.0, posinf=0.0, neginf=0.0))


def _as_seen(image_bgr_HWC: NDArray[np.float32], is_float: bool) -> NDArray[np.float32]:
    """Half the size, in values in which noise is about as strong everywhere: float footage is mostly scene-linear, so
    its root."""
    height, width = image_bgr_HWC.shape[:2]
    half = cv2.resize(image_bgr_HWC, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    half_HWC = np.asarray(half, np.float32)
    return np.sqrt(np.maximum(half_HWC, 0.0)) if is_float else half_HWC


def _likeness(first_HWC: NDArray[np.float32], second_HWC: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """(H, W) 1 where two frames, seen at half size, differ by noise only, falling to 0 where something moved.

    Where fine texture moves, differences of both signs blur to nothing; so their blurred squares count as well, above
    those that noise has by itself.
    """
    difference_HWC = first_HWC - second_HWC
    shift_HWC = np.square(_blurred(difference_HWC))
    shift_HW = _channel_sum(shift_HWC, -1 / (3 * (_TEMPORAL_LEVELS * factor * _LEVEL) ** 2))
    noise = 2 * (_NOISE_LEVELS * factor * _LEVEL) ** 2 / 4  # the variance of a difference of means of four pixels
    energy_HW = _channel_sum(np.square(difference_HWC, out=difference_HWC), -1 / (3 * 2 * _ENERGY_SLACK * noise))
    shift_HW += np.minimum(_blurred(energy_HW) + np.float32(0.5), 0.0)
    # Not all the way down: numbers next to 0 that processors handle slowly would come out.
    np.maximum(shift_HW, _LEAST_EXPONENT, out=shift_HW)
    return np.exp(shift_HW, out=shift_HW)


def _blurred(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), _BLUR_SIGMA_PX), np.float32)


def _enlarged(image_HW: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(image_HW, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)


def _channel_sum(image_HWC: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    return np.asarray(cv2.transform(image_HWC, np.full((1, 3), weight, np.float32)), np.float32)


def _mean(image_HWC: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.blur(image_HWC, (_SPATIAL_SIDE_PX, _SPATIAL_SIDE_PX)), np.float32)


def _blend(
    first_HWC: NDArray[np.float32],
    second_HWC: NDArray[np.float32],
    first_HW: NDArray[np.float32],
    second_HW: NDArray[np.float32],
) -> NDArray[np.float32]:
    """The mean of two pictures by their weights per pixel."""
    return np.asarray(cv2.blendLinear(first_HWC, second_HWC, first_HW, second_HW), np.float32)


def _spatial(image_bgr_HWC: NDArray[np.float32], weights_HW: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """The guided filter, each channel its own guide, the more the fewer frames a pixel was averaged over.

    Its own guide, because an edge of colour alone would be smeared by luma's.
    """
    mean_HWC = _mean(image_bgr_HWC)
    slope_HWC = _mean(np.square(image_bgr_HWC))
    slope_HWC -= np.square(mean_HWC)  # the variance
    np.maximum(slope_HWC, 0.0, out=slope_HWC)
    slope_HWC /= slope_HWC + np.float32((_SPATIAL_LEVELS * factor * _LEVEL) ** 2)
    mean_HWC -= slope_HWC * mean_HWC  # what the slope leaves of the mean
    smooth_HWC = _mean(slope_HWC)
    smooth_HWC *= image_bgr_HWC
    smooth_HWC += _mean(mean_HWC)
    share_HW = np.float32(min(1.0, factor / _SPATIAL_FULL_FACTOR)) / weights_HW
    return _blend(image_bgr_HWC, smooth_HWC, 1 - share_HW, share_HW)
