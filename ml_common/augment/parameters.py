"""Draws the augmentation of one sample (warp nodes, affine, flip, HSV shift) as a pure function of a seed.

The one thing a reader would get wrong: the warp is stored as displacements on a fixed 9x9 grid of nodes that sit on
pixel *edges* (node k at x = k * resolution / 8 - 0.5), whatever cell size was drawn. A coarser bilinear grid is
represented on it without loss, so that samples with different cells share one tensor.

Two flavours:
* `default`: the horizontal and vertical displacement fields are independent, an undisturbed warp is the identity, the
  rotation is about the true centre, and a flip comes with probability 1/2. The displacement's standard deviation
  equals the original's, because training recipes are tuned to it.
* `reference`: draws what DeepFaceLab draws, number for number (training samples specification, section 5): both noises
  land on both maps, the warp carries a half-pixel shift, flips come with probability 0.4. Golden test:
  tests/golden/augment/warp.npz.

Legend: N samples, 2 is (x, y), 99 is node row, node column. Positions in pixels, origin top-left, pixel centres at
integers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ml_common.augment.spec import AugmentSpec

ROTATION_DEG = 10.0
SHIFT_RANGE = 0.05  # of the resolution
NODES = 9
_CELL_DIVISORS = (2, 4, 8)
_TRUNCATION = 2.5
_AMPLITUDE = 0.24  # of a cell, for the largest possible single noise value


@dataclass(frozen=True)
class SampleAugmentation:
    """One sample's draw. `output_to_crop_2x3` (float64) maps an output pixel to the crop pixel it shows, flip included.

    `nodes_px_2x9x9` (float32) are the warp's displacements of that crop position, `warp_bias_px` a constant one (0.5
    in the reference flavour). `hsv_shift_3` is (hue in degrees, saturation, value).
    """

    output_to_crop_2x3: NDArray[np.float64]
    nodes_px_2x9x9: NDArray[np.float32]
    warp_bias_px: float
    hsv_shift_3: NDArray[np.float32]


@dataclass(frozen=True)
class AugmentationBatch:
    """The draws of N samples as float32 tensors on one device: (N, 2, 3), (N, 2, 9, 9), (N, 3)."""

    output_to_crop_N23: torch.Tensor
    nodes_px_N299: torch.Tensor
    hsv_shift_N3: torch.Tensor
    warp_bias_px: float

    @classmethod
    def stack(cls, draws: Sequence[SampleAugmentation], device: torch.device) -> "AugmentationBatch":
        """Stacks draws of one flavour. Raises ValueError for an empty list or mixed flavours."""
        biases = {draw.warp_bias_px for draw in draws}
        if len(biases) != 1:
            raise ValueError("a batch needs at least one draw, and all of one flavour")
        output_to_crop_N23 = np.stack([draw.output_to_crop_2x3 for draw in draws]).astype(np.float32)
        return cls(
            output_to_crop_N23=torch.from_numpy(output_to_crop_N23).to(device, non_blocking=True),
            nodes_px_N299=torch.from_numpy(np.stack([draw.nodes_px_2x9x9 for draw in draws])).to(
                device, non_blocking=True
            ),
            hsv_shift_N3=torch.from_numpy(np.stack([draw.hsv_shift_3 for draw in draws])).to(device, non_blocking=True),
            warp_bias_px=biases.pop(),
        )


def draw_augmentation(seed: int, spec: AugmentSpec) -> SampleAugmentation:
    """Draws one sample's augmentation. `seed`: any non-negative integer; the reference flavour needs it below 2**32."""
    if spec.flavour == "reference":
        return _draw_reference(seed, spec)
    return _draw_default(seed, spec)


def _draw_default(seed: int, spec: AugmentSpec) -> SampleAugmentation:
    rng = np.random.default_rng(seed)
    size = spec.resolution
    # Every number is drawn whether it is used or not: switching one option leaves the other draws as they were.
    rotation_deg, shift_x, shift_y, scale_u = rng.uniform(-1.0, 1.0, 4) * (ROTATION_DEG, SHIFT_RANGE, SHIFT_RANGE, 1.0)
    low, high = 1.0 / (1.0 + spec.scale_range), 1.0 + spec.scale_range
    scale = low + (high - low) * 0.5 * (scale_u + 1.0)
    flip = bool(rng.random() < 0.5) and spec.flip
    hue_u, saturation_u, value_u = rng.random(3)
    cell = size // _CELL_DIVISORS[int(rng.integers(3))]
    inner = size // cell - 1
    noise = _truncated_normals(rng.standard_normal, 2 * inner * inner).reshape(2, inner, inner)
    # The original adds two such noises to each map; sqrt(2) keeps its amplitude with one.
    nodes_px = _pad_border(noise * (np.sqrt(2.0) * _AMPLITUDE * cell))
    centre = (size - 1) / 2.0
    crop_to_output = _affine(rotation_deg, scale, centre, shift_x * size, shift_y * size)
    hue_steps = _hue_steps(spec.hsv_power)
    hue_deg = np.floor(hue_u * (2 * hue_steps + 1)) - hue_steps
    return SampleAugmentation(
        _output_to_crop(crop_to_output, flip, size),
        _to_9x9(nodes_px),
        0.0,
        _hsv_shift(spec.hsv_power, hue_deg, saturation_u, value_u),
    )


def _draw_reference(seed: int, spec: AugmentSpec) -> SampleAugmentation:
    size = spec.resolution
    state = np.random.RandomState(seed)
    rotation_deg = state.uniform(-ROTATION_DEG, ROTATION_DEG)
    scale = state.uniform(1.0 / (1.0 + spec.scale_range), 1.0 + spec.scale_range)
    shift_x = state.uniform(-SHIFT_RANGE, SHIFT_RANGE)
    shift_y = state.uniform(-SHIFT_RANGE, SHIFT_RANGE)
    flip = spec.flip and state.randint(10) < 4
    crop_to_output = _affine(rotation_deg, scale, float(size // 2), shift_x * size, shift_y * size)
    hsv_shift_3 = np.zeros(3, np.float32)
    if spec.hsv_power > 0.0:
        hue_steps = _hue_steps(spec.hsv_power)
        hue_deg = state.randint(-hue_steps, hue_steps + 1)
        hsv_shift_3 = _hsv_shift(spec.hsv_power, hue_deg, state.random_sample(), state.random_sample())
    map_x_MM, spacing = reference_warp_nodes(seed, size)
    displacement_x_MM = map_x_MM - spacing[np.newaxis, :]
    return SampleAugmentation(
        _output_to_crop(crop_to_output, flip, size),
        _to_9x9(np.stack([displacement_x_MM, displacement_x_MM.T])),
        0.5,
        hsv_shift_3,
    )


def reference_warp_nodes(seed: int, resolution: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The coarse horizontal map of the reference warp, (M, M) float32, M = 3, 5 or 9, and its undisturbed row, (M,).

    The vertical map is its transpose: in the original both are views of one array, so that each noise lands on both
    (samples specification, section 5.3; pinned by tests/unit/augment/test_parameters.py).
    """
    state = np.random.RandomState(seed)
    cell = resolution // _CELL_DIVISORS[state.randint(3)]
    count = resolution // cell + 1
    inner = count - 2
    noise = _truncated_normals(state.standard_normal, 2 * inner * inner).astype(np.float32)
    first, second = (noise * (cell * _AMPLITUDE)).astype(np.float32).reshape(2, inner, inner)
    spacing = np.linspace(0, resolution, count).astype(np.float32)
    map_x_MM = np.tile(spacing, (count, 1))
    map_x_MM[1:-1, 1:-1] += first
    map_x_MM[1:-1, 1:-1] += second.T
    return map_x_MM, spacing


def _truncated_normals(draw: Callable[[int], NDArray[np.float64]], count: int) -> NDArray[np.float64]:
    """The first `count` standard normals of a stream with |x| <= 2.5, divided by 2.5: values in [-1, 1], std 0.3816."""
    accepted = np.empty(0)
    while accepted.size < count:
        block = draw(count + count // 16 + 4)
        accepted = np.concatenate([accepted, block[np.abs(block) <= _TRUNCATION]])
    return accepted[:count] / _TRUNCATION


def _affine(
    rotation_deg: float, scale: float, centre: float, shift_x_px: float, shift_y_px: float
) -> NDArray[np.float64]:
    """Crop to output: turn (positive = counter-clockwise on screen) and scale about (centre, centre), then shift."""
    angle = np.deg2rad(rotation_deg)
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    return np.array(
        [
            [a, b, (1.0 - a) * centre - b * centre + shift_x_px],
            [-b, a, b * centre + (1.0 - a) * centre + shift_y_px],
        ]
    )


def _output_to_crop(crop_to_output: NDArray[np.float64], flip: bool, size: int) -> NDArray[np.float64]:
    linear_inverse = np.linalg.inv(crop_to_output[:, :2])
    output_to_crop = np.column_stack([linear_inverse, -linear_inverse @ crop_to_output[:, 2]])
    if flip:  # the mirror comes last, so the first thing an output pixel undoes is the mirror: x -> size - 1 - x
        output_to_crop[:, 2] += output_to_crop[:, 0] * (size - 1)
        output_to_crop[:, 0] *= -1.0
    return output_to_crop


def _pad_border(inner_2KK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nodes on the crop's border do not move."""
    return np.pad(inner_2KK, ((0, 0), (1, 1), (1, 1)))


def _to_9x9(nodes_2MM: NDArray[np.floating]) -> NDArray[np.float32]:
    count = nodes_2MM.shape[-1]
    if count == NODES:
        return nodes_2MM.astype(np.float32)
    refine_9M = _REFINE[count]
    return (refine_9M @ nodes_2MM @ refine_9M.T).astype(np.float32)


def _refinement(count: int) -> NDArray[np.float64]:
    fine = np.linspace(0.0, count - 1.0, NODES)
    return np.stack([np.interp(fine, np.arange(count), row) for row in np.eye(count)], axis=1)


_REFINE = {count: _refinement(count) for count in (3, 5)}


def _hue_steps(power: float) -> int:
    return max(1, int(180 * power))


def _hsv_shift(power: float, hue_deg: float, saturation_u: float, value_u: float) -> NDArray[np.float32]:
    if power == 0.0:
        return np.zeros(3, np.float32)
    return np.array([hue_deg, (saturation_u - 0.5) * power, (value_u - 0.5) * power], np.float32)
