"""The reconstruction losses of SAEHD and Quick96, per sample (spec: models, sections 8.1, 8.2 and 8.4).

Legend: N batch (src and dst stacked: 2N), R resolution. Images (N, 3, R, R) BGR 0..1, masks (N, 1, R, R) 0..1.

Easy to get wrong: the reference sums the loss over the batch before differentiating, so its gradients, its clipping and
its epsilon depend on the batch size. `LossTerms` stays per sample: the trainer chooses `.sum()` (reference) or
`.mean()`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ml_common.losses.config import LossConfig
from ml_common.losses.filters import gaussian_blur
from ml_common.losses.structural import dssim
from ml_common.losses.style import style_loss
from ml_common.nets import TrainOutputs


@dataclass(frozen=True, slots=True)
class LossTerms:
    """Losses of a batch. `src` and `dst`, (N,), are what is minimised; their batch means are what people watch."""

    src: Tensor
    dst: Tensor
    parts: dict[str, Tensor]
    """The summands by name ("src_dssim", "dst_mask", "face_style", ...), (N,) each, weighted and detached."""


def soft_mask(mask_N1HW: Tensor, *, resolution: int) -> Tensor:
    """1 on the mask but for sharp corners, fading to 0 outside it within resolution/16 pixels. Float32, 0..1."""
    return 2 * gaussian_blur(mask_N1HW, max(1, resolution // 32)).clamp(0, 0.5)


def blur_out(image_NCHW: Tensor, mask_N1HW: Tensor, *, resolution: int) -> Tensor:
    """The image with its background near the mask replaced by a blur of the background alone. Same shape, float32."""
    outside_N1HW = 1 - mask_N1HW
    blurred = gaussian_blur(torch.cat([image_NCHW * outside_N1HW, mask_N1HW], dim=1), resolution / 128)
    background_NCHW, covered_N1HW = blurred[:, :-1], blurred[:, -1:]
    share_N1HW = 1 - covered_N1HW
    share_N1HW = torch.where(share_N1HW == 0, 1.0, share_N1HW)
    return image_NCHW * mask_N1HW + background_NCHW / share_N1HW * outside_N1HW


def swap_losses(
    outputs: TrainOutputs,
    *,
    src_target: Tensor,
    dst_target: Tensor,
    src_mask: Tensor,
    dst_mask: Tensor,
    src_eyes_mouth: Tensor | None = None,
    dst_eyes_mouth: Tensor | None = None,
    config: LossConfig,
    resolution: int,
) -> LossTerms:
    """Losses of one training batch, differentiable in `outputs`.

    Targets are the unwarped faces, masks the full-face masks; the eyes-mouth masks may be None unless
    `config.eyes_mouth_prio`. src and dst batches have equal size. Raises ValueError if something that the
    configuration needs is absent, or if the targets are not `resolution` pixels wide.
    Golden tests: tests/unit/nets/test_reference_step.py.
    """
    if src_target.shape[-1] != resolution or dst_target.shape != src_target.shape:
        raise ValueError(
            f"targets are {tuple(src_target.shape)} and {tuple(dst_target.shape)}; both must be {resolution} wide"
        )
    count = src_target.shape[0]
    # Both sides as one batch: half the calls, equal numbers.
    target = torch.cat([src_target, dst_target]).float()
    mask = torch.cat([src_mask, dst_mask]).float()
    predicted = torch.cat([outputs.src_src, outputs.dst_dst]).float()
    predicted_mask = torch.cat([outputs.src_src_mask, outputs.dst_dst_mask]).float()
    if config.blur_out_mask:
        target = blur_out(target, mask, resolution=resolution)

    if config.family == "quick96":
        soft = gaussian_blur(mask, resolution // 32)
    else:
        soft = soft_mask(mask, resolution=resolution)
    masked_target, masked_predicted = (
        (target * soft, predicted * soft) if config.masked_training else (target, predicted)
    )
    both_sides = {
        "dssim": _weighted_dssim(masked_target, masked_predicted, resolution=resolution),
        "mse": 10 * _mean((masked_target - masked_predicted).square()),
        "mask": 10 * _mean((mask - predicted_mask).square()),
    }
    if config.eyes_mouth_prio:
        if src_eyes_mouth is None or dst_eyes_mouth is None:
            raise ValueError("eyes_mouth_prio needs src_eyes_mouth and dst_eyes_mouth")
        eyes_mouth = torch.cat([src_eyes_mouth, dst_eyes_mouth]).float()
        both_sides["eyes_mouth"] = 300 * _mean((target * eyes_mouth - predicted * eyes_mouth).abs())

    total = torch.stack(list(both_sides.values())).sum(dim=0)
    src, dst = total[:count], total[count:]
    parts = {f"src_{name}": value[:count].detach() for name, value in both_sides.items()}
    parts |= {f"dst_{name}": value[count:].detach() for name, value in both_sides.items()}
    styles = _style_terms(outputs, dst_target=target[count:], src_soft=soft[:count], config=config)
    for name, value in styles.items():
        src = src + value
        parts[name] = value.detach()
    return LossTerms(src, dst, parts)


def _weighted_dssim(target: Tensor, predicted: Tensor, *, resolution: int) -> Tensor:
    coarse = dssim(target, predicted, window=_coarse_window(resolution)).mean(dim=1)
    if resolution < 256:
        return 10 * coarse
    return 5 * coarse + 5 * dssim(target, predicted, window=int(resolution / 23.2)).mean(dim=1)


def _coarse_window(resolution: int) -> int:
    return int(resolution / 11.6)


def _style_terms(
    outputs: TrainOutputs, *, dst_target: Tensor, src_soft: Tensor, config: LossConfig
) -> dict[str, Tensor]:
    terms: dict[str, Tensor] = {}
    resolution = dst_target.shape[-1]
    if not config.needs_swap:
        return terms
    if outputs.src_dst is None or outputs.src_dst_mask is None:
        raise ValueError("style losses need the swap: call the model with with_swap=True")
    swap, swap_mask = outputs.src_dst.float(), outputs.src_dst_mask.float().detach()
    dst_dst, dst_dst_mask = outputs.dst_dst.float().detach(), outputs.dst_dst_mask.float().detach()
    if config.face_style_power:
        if outputs.src_dst_from_stopped_code is None:
            raise ValueError("the face style loss needs the stopped swap: call the model with with_stopped_swap=True")
        terms["face_style"] = style_loss(
            outputs.src_dst_from_stopped_code.float() * swap_mask,
            dst_dst * dst_dst_mask,
            sigma=resolution // 8,
            weight=100 * config.face_style_power,
        )
    if config.bg_style_power:
        if config.reference:
            face = src_soft
        else:
            face = gaussian_blur(swap_mask * dst_dst_mask, max(1, resolution // 32))
        outside = 1 - face.clamp(0, 1)
        a, b = swap * outside, dst_target * outside
        structure = dssim(a, b, window=_coarse_window(resolution)).mean(dim=1)
        terms["bg_style"] = config.bg_style_power / 10 * (structure + _mean((a - b).square()))
    return terms


def _mean(x_NCHW: Tensor) -> Tensor:
    return x_NCHW.mean(dim=(1, 2, 3))
