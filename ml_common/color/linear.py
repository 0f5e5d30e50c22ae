"""Colour transfers that are one formula per picture: rct, lct, mkl.

What a reader would get wrong: "target" is the picture that gets changed and "source" the one it shall look like, as in
the merge: target = the predicted face, source = the face in the footage.

Every transfer takes weights: how much each pixel counts in the statistics (never: which pixels are changed; all are).
Out-of-face background so has no say in how skin is matched. With no weights all pixels count alike, and the results are
those of DeepFaceLab.

Shape legend: HWC = BGR float32 0 to 1, HW = float32 weights, 0 or more. Target and source may differ in size.
Specification: merge, section 6; golden numbers: tests/unit/color.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Weights = NDArray[np.float32]

# A picture flatter than this (in CIE Lab units; about half of what an eye can tell apart) has no contrast to scale.
_FLAT_LAB = 0.5
_COVARIANCE_FLOOR = 1e-5
# The same for mkl, in BGR from 0 to 1: below a quarter of an 8-bit step there is only noise to stretch.
_FLAT_VARIANCE = 1e-6


def rct(
    target_bgr_HWC: Image,
    source_bgr_HWC: Image,
    target_weights_HW: Weights | None = None,
    source_weights_HW: Weights | None = None,
) -> Image:
    """Gives the target the source's mean and spread in each channel of CIE Lab.

    After Reinhard, Ashikhmin, Gooch and Shirley, "Color transfer between images", IEEE CG&A 21(5), 2001. A channel of
    the target without contrast is moved, not stretched. Result float32 BGR, 0 to 1.
    """
    target_lab = _to_lab(target_bgr_HWC)
    if source_weights_HW is not None:
        # Of the source only what counts is needed.
        counted = _checked_weights(source_weights_HW, source_bgr_HWC) > 0
        source_bgr_HWC, source_weights_HW = source_bgr_HWC[counted][None], source_weights_HW[counted][None]
    return _match_lab(
        target_lab,
        *_mean_and_spread(target_lab, target_weights_HW),
        *_mean_and_spread(_to_lab(source_bgr_HWC), source_weights_HW),
        flattest=_FLAT_LAB,
    )


def rct_blackened(
    target_bgr_HWC: Image, source_bgr_HWC: Image, target_mask_HW: Weights, source_mask_HW: Weights
) -> Image:
    """`rct` as DeepFaceLab masks it: pixels where the mask is under 0.5 count as black instead of not counting.

    Its match therefore depends on how much of the crop is face. Kept to reproduce its numbers.
    """
    target_lab, source_lab = _to_lab(target_bgr_HWC), _to_lab(source_bgr_HWC)
    target_counted = np.where(target_mask_HW[..., None] < 0.5, np.float32(0), target_lab)
    source_counted = np.where(source_mask_HW[..., None] < 0.5, np.float32(0), source_lab)
    return _match_lab(
        target_lab, *_mean_and_spread(target_counted, None), *_mean_and_spread(source_counted, None), flattest=1e-6
    )


def lct(
    target_bgr_HWC: Image,
    source_bgr_HWC: Image,
    target_weights_HW: Weights | None = None,
    source_weights_HW: Weights | None = None,
) -> Image:
    """Gives the target the source's mean and covariance in BGR through the principal axes of both.

    The map is R_source R_target^-1, R being the symmetric square root of a covariance. Result float32 BGR, 0 to 1.
    """
    target_mean, target_covariance, _ = _mean_and_covariance(target_bgr_HWC, target_weights_HW)
    source_mean, source_covariance, _ = _mean_and_covariance(source_bgr_HWC, source_weights_HW)
    floor = _COVARIANCE_FLOOR * np.eye(3)
    target_root, source_root = _symmetric_root(target_covariance + floor), _symmetric_root(source_covariance + floor)
    return _affine(target_bgr_HWC, target_mean, source_root @ np.linalg.inv(target_root), source_mean)


def mkl(
    target_bgr_HWC: Image,
    source_bgr_HWC: Image,
    target_weights_HW: Weights | None = None,
    source_weights_HW: Weights | None = None,
) -> Image:
    """Gives the target the source's mean and covariance in BGR by the map that moves colours least.

    The linear Monge-Kantorovich solution after Pitié and Kokaram, "The linear Monge-Kantorovitch linear colour mapping
    for example-based colour transfer", CVMP 2007. Result float32 BGR, 0 to 1.
    """
    target_mean, target_covariance, target_count = _mean_and_covariance(target_bgr_HWC, target_weights_HW)
    source_mean, source_covariance, source_count = _mean_and_covariance(source_bgr_HWC, source_weights_HW)
    # The published form uses the unbiased covariance; it matters only when the two pictures differ in size.
    target_covariance *= target_count / max(target_count - 1.0, 1.0)
    source_covariance *= source_count / max(source_count - 1.0, 1.0)
    values, axes = np.linalg.eigh(target_covariance)
    spread = np.sqrt(np.maximum(values, _FLAT_VARIANCE))
    rotated = spread[:, None] * (axes.T @ source_covariance @ axes) * spread[None, :]
    rotated_values, rotated_axes = np.linalg.eigh(rotated)
    rotated_root = rotated_axes * np.sqrt(np.maximum(rotated_values, 0.0)) @ rotated_axes.T
    matrix = (axes / spread) @ rotated_root @ (axes / spread).T
    return _affine(target_bgr_HWC, target_mean, matrix, source_mean)


def _to_lab(image_bgr_HWC: Image) -> Image:
    lab: Image = cv2.cvtColor(image_bgr_HWC, cv2.COLOR_BGR2Lab).astype(np.float32, copy=False)
    return lab


def _mean_and_spread(lab_HWC: Image, weights_HW: Weights | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean, covariance, _ = _mean_and_covariance(lab_HWC, weights_HW)
    return mean, np.sqrt(np.diag(covariance))


def _match_lab(
    target_lab: Image,
    target_mean: NDArray[np.float64],
    target_spread: NDArray[np.float64],
    source_mean: NDArray[np.float64],
    source_spread: NDArray[np.float64],
    flattest: float,
) -> Image:
    gain = source_spread / np.maximum(target_spread, flattest)
    matched = target_lab * gain.astype(np.float32) + (source_mean - target_mean * gain).astype(np.float32)
    np.clip(matched[..., 0], 0.0, 100.0, out=matched[..., 0])
    np.clip(matched[..., 1:], -127.0, 127.0, out=matched[..., 1:])
    bgr: Image = cv2.cvtColor(matched, cv2.COLOR_Lab2BGR).astype(np.float32, copy=False)
    return np.clip(bgr, 0.0, 1.0, out=bgr)


def _mean_and_covariance(
    image_HWC: Image, weights_HW: Weights | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Mean [3], (biased) covariance [3, 3] and the effective number of pixels, all weighted."""
    pixels = image_HWC.reshape(-1, 3)
    if weights_HW is None:
        weights = np.ones(len(pixels))
    else:
        weights = _checked_weights(weights_HW, image_HWC).reshape(-1).astype(np.float64)
        counted = weights > 0
        weights, pixels = weights[counted], pixels[counted]
    total = float(weights.sum())
    exact = pixels.astype(np.float64)
    mean: NDArray[np.float64] = weights @ exact / total
    exact -= mean
    covariance: NDArray[np.float64] = (exact * weights[:, None]).T @ exact / total
    return mean, covariance, total**2 / float((weights**2).sum())


def _checked_weights(weights_HW: Weights, image_HWC: Image) -> Weights:
    if weights_HW.shape != image_HWC.shape[:2] or not weights_HW.any() or weights_HW.min() < 0:
        raise ValueError(
            "weights must be one number per pixel, none negative and some positive; "
            f"got shape {list(weights_HW.shape)} for an image {list(image_HWC.shape)}"
        )
    return weights_HW


def _symmetric_root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, axes = np.linalg.eigh(covariance)
    root: NDArray[np.float64] = axes * np.sqrt(np.maximum(values, 0.0)) @ axes.T
    return root


def _affine(
    image_HWC: Image, mean: NDArray[np.float64], matrix: NDArray[np.float64], new_mean: NDArray[np.float64]
) -> Image:
    offset = new_mean - matrix @ mean
    mapped = image_HWC @ matrix.T.astype(np.float32) + offset.astype(np.float32)
    return np.clip(mapped, 0.0, 1.0, out=mapped)
