"""Colour transfers that move the whole distribution of colours: idt, sot, mix.

What a reader would get wrong: these look along random directions, so two neighbouring frames get slightly different
results unless they share the directions. The caller passes them in (`draw_rotations`, `draw_directions`): the same seed
for a whole clip keeps it from flickering for that reason.

Weights say which pixels take part (those above 0) in both pictures; the others keep their colour. Without weights all
take part, and the results are those of DeepFaceLab for the same directions.

Shape legend: HWC = BGR float32 0 to 1, HW = float32 weights, N3 = N colours, K = number of directions.
Specification: merge, section 6; golden numbers: tests/unit/color.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Weights = NDArray[np.float32]

_IDT_BINS = 256
_IDT_RELAXATION = 1.0 / 20.0
# Colours that differ less than this are equal but for rounding.
_IDT_LEAST_RANGE = 1e-5
_SMOOTHING_SIGMA_PX = 16.0
_SMOOTHING_SIGMA_COLOR = 5.0
_SMOOTHING_RADIUS_PX = 24
_MIX_STEPS_BATCH = (10, 5)


def draw_rotations(count: int, seed: int) -> NDArray[np.float64]:
    """`count` random rotations of colour space, [count, 3, 3], uniformly distributed."""
    # RandomState, because its stream is frozen: a clip merged again years later gets the same directions.
    matrices = np.random.RandomState(seed).normal(size=(count, 3, 3))
    orthogonal, r = np.linalg.qr(matrices)
    q: NDArray[np.float64] = orthogonal * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    q[:, :, 0] *= np.sign(np.linalg.det(q))[:, None]
    return q


def draw_directions(steps: int, batch: int, seed: int) -> NDArray[np.float64]:
    """Random unit vectors in colour space, [steps, batch, 3], uniformly distributed."""
    vectors = np.random.RandomState(seed).normal(size=(steps, batch, 3))
    directions: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    return directions


def idt(
    target_bgr_HWC: Image,
    source_bgr_HWC: Image,
    target_weights_HW: Weights | None = None,
    source_weights_HW: Weights | None = None,
    *,
    rotations_K33: NDArray[np.float64],
    lowest_to_zero: bool = False,
) -> Image:
    """Matches the target's histograms to the source's along three axes at a time, K times, each time a twentieth.

    After Pitié, Kokaram and Dahyot, "N-dimensional probability density function transfer and its application to colour
    transfer", ICCV 2005. `lowest_to_zero` sends the values in the lowest of 256 bins to 0 whatever the source says, as
    DeepFaceLab does; it tints flat pictures. Result float32 BGR, 0 to 1.
    """
    target_N3 = _taking_part(target_bgr_HWC, target_weights_HW).astype(np.float64)
    source_N3 = _taking_part(source_bgr_HWC, source_weights_HW).astype(np.float64)
    for rotation in rotations_K33:
        target_rotated, source_rotated = target_N3 @ rotation.T, source_N3 @ rotation.T
        moved = np.stack(
            [_match_histogram_1d(target_rotated[:, i], source_rotated[:, i], lowest_to_zero) for i in range(3)],
            axis=1,
        )
        # The inverse of a rotation is its transpose.
        target_N3 += _IDT_RELAXATION * (moved - target_rotated) @ rotation
    return _put_back(target_bgr_HWC, target_weights_HW, np.clip(target_N3, 0.0, 1.0))


def sot(
    target_bgr_HWC: Image,
    source_bgr_HWC: Image,
    target_weights_HW: Weights | None = None,
    source_weights_HW: Weights | None = None,
    *,
    directions_SB3: NDArray[np.float64],
) -> Image:
    """Moves the target's colours onto the source's along random lines, then smooths the change over the picture.

    Sliced optimal transport after Rabin, Peyré, Delon and Bernot, "Wasserstein barycenter and its application to
    texture mixing", SSVM 2011: in each of S steps the mean over B directions. Result float32 BGR, 0 to 1.
    """
    moved = _transport(
        _taking_part(target_bgr_HWC, target_weights_HW), _taking_part(source_bgr_HWC, source_weights_HW), directions_SB3
    )
    change = _put_back(target_bgr_HWC, target_weights_HW, moved) - target_bgr_HWC
    result: Image = target_bgr_HWC + _smoothed(change, target_weights_HW)
    return np.clip(result, 0.0, 1.0, out=result)


def mix(
    target_bgr_HWC: Image,
    source_bgr_HWC: Image,
    target_weights_HW: Weights | None = None,
    source_weights_HW: Weights | None = None,
    *,
    seed: int,
) -> Image:
    """Lightness by mean and spread, colour by `sot` with the lightness taken out. Result float32 BGR, 0 to 1.

    The same idea as DeepFaceLab's mix, which works in 8 bits (`mix_8bit`) and therefore bands.
    """
    target_lab = _lab(target_bgr_HWC)
    source_lab = _lab(source_bgr_HWC)
    lightness = _match_lightness(
        target_lab[..., 0] / 100.0,
        _taking_part(target_lab, target_weights_HW)[:, 0] / 100.0,
        _taking_part(source_lab, source_weights_HW)[:, 0] / 100.0,
    )
    colour = sot(
        _at_equal_lightness(target_lab),
        _at_equal_lightness(source_lab),
        target_weights_HW,
        source_weights_HW,
        directions_SB3=draw_directions(*_MIX_STEPS_BATCH, seed),
    )
    result_lab = _lab(colour)
    result_lab[..., 0] = lightness * 100.0
    result: Image = cv2.cvtColor(result_lab, cv2.COLOR_Lab2BGR).astype(np.float32, copy=False)
    return np.clip(result, 0.0, 1.0)


def mix_8bit(target_bgr_HWC: Image, source_bgr_HWC: Image, *, seed: int) -> Image:
    """`mix` as DeepFaceLab computes it, through 8-bit CIE Lab. Kept to reproduce its numbers."""
    target_lab, source_lab = (
        cv2.cvtColor(np.clip(image * 255.0, 0, 255).astype(np.uint8), cv2.COLOR_BGR2Lab)
        for image in (target_bgr_HWC, source_bgr_HWC)
    )
    target_l, source_l = target_lab[..., 0] / 255.0, source_lab[..., 0] / 255.0
    lightness = _match_lightness(target_l, target_l.ravel(), source_l.ravel())
    target_lab[..., 0] = source_lab[..., 0] = 100
    target_bgr, source_bgr = (
        cv2.cvtColor(lab, cv2.COLOR_Lab2BGR).astype(np.float32) for lab in (target_lab, source_lab)
    )
    directions = draw_directions(*_MIX_STEPS_BATCH, seed)
    moved = _transport(target_bgr.reshape(-1, 3), source_bgr.reshape(-1, 3), directions).reshape(target_bgr.shape)
    colour = target_bgr + _smoothed(moved - target_bgr, None)
    result_lab = cv2.cvtColor(np.clip(colour, 0, 255).astype(np.uint8), cv2.COLOR_BGR2Lab)
    result_lab[..., 0] = np.clip(lightness * 255.0, 0, 255).astype(np.uint8)
    result: Image = cv2.cvtColor(result_lab, cv2.COLOR_Lab2BGR).astype(np.float32) / np.float32(255.0)
    return result


def _taking_part(image_HWC: Image, weights_HW: Weights | None) -> Image:
    if weights_HW is None:
        return image_HWC.reshape(-1, 3)
    selected = image_HWC[weights_HW > 0]
    if len(selected) == 0:
        raise ValueError("no pixel has a positive weight: there is nothing to take colours from")
    return selected


def _put_back(image_HWC: Image, weights_HW: Weights | None, colours_N3: NDArray[np.floating]) -> Image:
    if weights_HW is None:
        return colours_N3.reshape(image_HWC.shape).astype(np.float32)
    result = image_HWC.copy()
    result[weights_HW > 0] = colours_N3
    return result


def _match_histogram_1d(
    values_N: NDArray[np.float64], like_M: NDArray[np.float64], lowest_to_zero: bool
) -> NDArray[np.float64]:
    value_range = (float(min(values_N.min(), like_M.min())), float(max(values_N.max(), like_M.max())))
    if value_range[1] - value_range[0] < _IDT_LEAST_RANGE:
        return values_N
    counts, edges = np.histogram(values_N, _IDT_BINS, value_range)
    like_counts, _ = np.histogram(like_M, _IDT_BINS, value_range)
    share, like_share = np.cumsum(counts) / len(values_N), np.cumsum(like_counts) / len(like_M)
    upper_edges = edges[1:]
    mapped = np.interp(share, like_share, upper_edges)
    left = 0.0 if lowest_to_zero else None
    matched: NDArray[np.float64] = np.interp(values_N, upper_edges, mapped, left=left)
    return matched


def _transport(target_N3: Image, source_M3: Image, directions_SB3: NDArray[np.float64]) -> Image:
    moved = target_N3.astype(np.float32)
    count, source_count = len(moved), len(source_M3)
    # Rank i of the target takes the source's value at the same quantile; a no-op for equal counts.
    ranks = (np.arange(count) + 0.5) * (source_count / count) - 0.5
    for step in directions_SB3.astype(np.float32):
        advance = np.zeros_like(moved)
        for direction in step:
            projected = moved @ direction
            like = np.sort(source_M3 @ direction)
            if source_count != count:
                like = np.interp(ranks, np.arange(source_count), like).astype(np.float32)
            order = np.argsort(projected)
            difference = np.empty_like(projected)
            difference[order] = like - projected[order]
            advance += difference[:, None] * direction
        moved += advance / np.float32(len(step))
    return moved


def _smoothed(change_HWC: Image, weights_HW: Weights | None) -> Image:
    if weights_HW is None:
        return cv2.bilateralFilter(change_HWC, 0, _SMOOTHING_SIGMA_COLOR, _SMOOTHING_SIGMA_PX).astype(
            np.float32, copy=False
        )
    # Changes are far smaller than the colour sigma: the filter is a Gaussian. Only pixels that take part are averaged.
    width_px = 2 * _SMOOTHING_RADIUS_PX + 1
    part = (weights_HW > 0).astype(np.float32)
    blurred = cv2.GaussianBlur(change_HWC * part[..., None], (width_px, width_px), _SMOOTHING_SIGMA_PX)
    share = cv2.GaussianBlur(part, (width_px, width_px), _SMOOTHING_SIGMA_PX)
    normalised = blurred / np.maximum(share, np.float32(1e-6))[..., None] * part[..., None]
    return normalised.astype(np.float32, copy=False)


def _match_lightness(
    target_HW: NDArray[np.floating],
    target_N: NDArray[np.floating],
    source_N: NDArray[np.floating],
) -> NDArray[np.floating]:
    gain = np.sqrt((source_N.var(dtype=np.float64) + 1e-5) / (target_N.var(dtype=np.float64) + 1e-5))
    mean, new_mean = target_N.mean(dtype=np.float64), source_N.mean(dtype=np.float64)
    matched: NDArray[np.floating] = (target_HW - mean) * gain + new_mean
    return np.clip(matched, 0.0, 1.0, out=matched)


def _lab(image_bgr_HWC: Image) -> Image:
    lab: Image = cv2.cvtColor(image_bgr_HWC, cv2.COLOR_BGR2Lab).astype(np.float32, copy=False)
    return lab


def _at_equal_lightness(lab_HWC: Image) -> Image:
    level = lab_HWC.copy()
    # 100 of 255: the lightness at which DeepFaceLab compares colours, dark enough that few of them leave the gamut.
    level[..., 0] = 100.0 * 100.0 / 255.0
    bgr: Image = cv2.cvtColor(level, cv2.COLOR_Lab2BGR).astype(np.float32, copy=False)
    return np.clip(bgr, 0.0, 1.0)
