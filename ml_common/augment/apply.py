"""Applies drawn augmentations to a whole batch on the training device: one grid sample per output.

The one thing a reader would get wrong: positions run from output to crop. For every output pixel the flip and the
affine say where in the crop it lies, and only then the warp displaces that position (for the network's input; target
and masks are not warped, but share flip and affine).

Legend: N samples, C channels (blue, green, red for images; face mask, eyes-mouth mask for masks), H rows, W columns,
2 is (x, y). Images and masks are float32 0..1. Positions in pixels, origin top-left, pixel centres at integers.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import grid_sample

from ml_common.augment.hsv import shift_hsv
from ml_common.augment.parameters import AugmentationBatch


@dataclass(frozen=True)
class AugmentedBatch:
    """What a network is trained on: `input_NCHW` warped, `target_NCHW` not, and the target's masks, (N, 1, H, W)."""

    input_NCHW: torch.Tensor
    target_NCHW: torch.Tensor
    mask_N1HW: torch.Tensor
    eyes_mouth_N1HW: torch.Tensor


def augment_batch(
    image_NCHW: torch.Tensor, masks_N2HW: torch.Tensor, draws: AugmentationBatch, *, warp: bool, hsv: bool
) -> AugmentedBatch:
    """Resamples a batch of square crops.

    image_NCHW: float BGR 0..1; masks_N2HW: face mask and eyes-mouth mask, 0..1; both of one resolution, a multiple of
    16. `warp` displaces the input, `hsv` shifts the input's colours. Images are bicubic with replicated borders,
    masks bilinear with black borders; the eyes-mouth mask is scaled so that its maximum is 1. Source: samples
    specification, sections 6 to 8. Raises ValueError when the crops are not square or do not match.
    """
    size = image_NCHW.shape[-1]
    if image_NCHW.shape[-2] != size or masks_N2HW.shape[-2:] != image_NCHW.shape[-2:]:
        raise ValueError(
            "crops and masks must be square and of one size, "
            f"got {tuple(image_NCHW.shape)} and {tuple(masks_N2HW.shape)}"
        )
    target_NHW2, input_NHW2 = sampling_positions(draws, size)
    target_grid_NHW2 = _normalised(target_NHW2, size)
    target_NCHW = _bicubic(image_NCHW, target_grid_NHW2, "border")
    image_in_NCHW = shift_hsv(image_NCHW, draws.hsv_shift_N3) if hsv else image_NCHW
    if warp:
        # The original's remap is black outside the crop, which darkens its last row and column.
        padding = "zeros" if draws.warp_bias_px else "border"
        input_NCHW = _bicubic(image_in_NCHW, _normalised(input_NHW2, size), padding)
    elif hsv:
        input_NCHW = _bicubic(image_in_NCHW, target_grid_NHW2, "border")
    else:
        input_NCHW = target_NCHW
    masks_out_N2HW = grid_sample(
        masks_N2HW, target_grid_NHW2, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    mask_N1HW, eyes_mouth_N1HW = masks_out_N2HW[:, :1], masks_out_N2HW[:, 1:]
    peak_N111 = eyes_mouth_N1HW.amax((1, 2, 3), keepdim=True)
    eyes_mouth_N1HW = eyes_mouth_N1HW / torch.where(peak_N111 > 0, peak_N111, torch.ones_like(peak_N111))
    return AugmentedBatch(input_NCHW, target_NCHW, mask_N1HW.contiguous(), eyes_mouth_N1HW)


def sampling_positions(draws: AugmentationBatch, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Crop positions (pixels, (N, H, W, 2)) that each output pixel shows: of the target, and of the warped input."""
    device = draws.output_to_crop_N23.device
    steps = torch.arange(resolution, device=device, dtype=torch.float32)
    pixels_HW2 = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1)
    linear_N122 = draws.output_to_crop_N23[:, None, :, :2].transpose(-1, -2)
    target_NHW2 = pixels_HW2 @ linear_N122 + draws.output_to_crop_N23[:, None, None, :, 2]
    # What lies outside the crop shows its border: clamped before the displacement, so that the input repeats the
    # warped border.
    inside_NHW2 = target_NHW2.clamp(0.0, resolution - 1.0)
    # Nodes sit on pixel edges, the outer ones on the crop's: -0.5 and resolution - 0.5 are -1 and +1 with
    # align_corners.
    displacement_N2HW = grid_sample(
        draws.nodes_px_N299,
        _normalised(inside_NHW2, resolution),
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    input_NHW2 = inside_NHW2 + displacement_N2HW.permute(0, 2, 3, 1) + draws.warp_bias_px
    return target_NHW2, input_NHW2


def _normalised(positions_px: torch.Tensor, resolution: int) -> torch.Tensor:
    """Pixel positions to -1..1 over the crop's edges (align_corners=False for pixels)."""
    return (positions_px + 0.5) * (2.0 / resolution) - 1.0


def _bicubic(image_NCHW: torch.Tensor, grid_NHW2: torch.Tensor, padding: str) -> torch.Tensor:
    sampled = grid_sample(image_NCHW, grid_NHW2, mode="bicubic", padding_mode=padding, align_corners=False)
    return sampled.clamp_(0.0, 1.0)
