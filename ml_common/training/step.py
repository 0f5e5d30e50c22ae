"""One training iteration, and everything that has to survive a restart.

The one thing a reader would get wrong: nothing here waits for the device. A step's losses are tensors; whoever turns
them into numbers pays for the wait, so the loop does it once an interval.

With several processes, each holds a replica and a share of the batch; losses are divided by the *global* batch size
and gradients are summed, so a run's numbers do not depend on how the batch was shared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from ml_common.losses import swap_losses
from ml_common.nets import SwapModel, build_model
from ml_common.training.config import TrainConfig
from ml_common.training.data import Batch
from ml_common.training.history import LossHistory
from ml_common.training.optimizers import AdaBelief, RMSprop, learning_rate_at

CLIP_NORM = 1.0
_BUCKET_ELEMENTS = 8 << 20  # 32 MiB of float32: large enough for full bandwidth, small enough not to matter in memory


@dataclass
class TrainState:
    """A run at an iteration boundary: `iteration` iterations are finished, `position` samples of each side were drawn.

    All randomness follows from config.seed, `position` and the optimizer's step counter: there are no generators to
    save.
    """

    config: TrainConfig
    model: SwapModel
    optimizer: AdaBelief | RMSprop
    iteration: int = 0
    position: int = 0
    history: LossHistory = field(default_factory=LossHistory)

    @classmethod
    def create(cls, config: TrainConfig, device: torch.device) -> TrainState:
        """A fresh run: weights from config.seed, on `device`."""
        # channels_last is the layout that convolutions want on every device; it changes speed, not results.
        model = build_model(config.model, seed=config.seed).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        kind = AdaBelief if config.optimizer == "adabelief" else RMSprop
        state = cls(config, model, kind(model.named_parameters(), lr=config.learning_rate, seed=config.seed))
        state.reconfigure(config)
        return state

    def reconfigure(self, config: TrainConfig) -> None:
        """Takes other options from the next step on. ValueError if an option differs that a run cannot change."""
        config.require_same_run(self.config)
        self.config = config
        for group in self.optimizer.param_groups:
            group["lr_dropout"] = config.lr_dropout
            group["lr_cos"] = config.lr_cosine_period
            group["clipnorm"] = CLIP_NORM if config.clipgrad else 0.0
        trainable = self.model.trainable_parameters(
            random_warp=config.random_warp, reference=config.freeze_inter_ab_without_warp
        )
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trainable)

    @property
    def learning_rate(self) -> float:
        """The rate of the latest step, warm-up and cosine included."""
        group = self.optimizer.param_groups[0]
        return learning_rate_at(group["iteration"] - 1, lr=group["lr"], lr_cos=group["lr_cos"])


@dataclass(frozen=True)
class StepReport:
    """What a step measured, as tensors on the device. Losses are sums over this process' `samples` of each side.

    `gradient_norm` is the global L2 norm before clipping, or None when it was not asked for.
    """

    src_loss_sum: Tensor
    dst_loss_sum: Tensor
    samples: int
    gradient_norm: Tensor | None


def train_step(state: TrainState, batch: Batch, *, measure_gradients: bool = False) -> StepReport:
    """Runs one iteration. `state.position` is left to whoever plans the batches."""
    config = state.config
    device_type = batch.src.input_NCHW.device.type
    with torch.autocast(device_type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        outputs = state.model(_channels_last(batch.src.input_NCHW), _channels_last(batch.dst.input_NCHW))
    losses = swap_losses(  # in float32, whatever the networks ran in
        outputs,
        src_target=batch.src.target_NCHW,
        dst_target=batch.dst.target_NCHW,
        src_mask=batch.src.mask_N1HW,
        dst_mask=batch.dst.mask_N1HW,
        src_eyes_mouth=batch.src.eyes_mouth_N1HW,
        dst_eyes_mouth=batch.dst.eyes_mouth_N1HW,
        config=config.loss_config(),
        resolution=config.model.resolution,
    )
    src_sum, dst_sum = losses.src.sum(), losses.dst.sum()
    state.optimizer.zero_grad(set_to_none=True)
    loss = src_sum + dst_sum
    if config.loss_reduction == "mean":
        loss = loss / batch.global_size
    loss.backward()  # type: ignore[no-untyped-call]
    _sum_gradients_over_processes(state.model)
    norm = _gradient_norm(state.model) if measure_gradients else None
    for group in state.optimizer.param_groups:
        group["lr"] = _warmed_up_rate(config, state.iteration)
    state.optimizer.step()
    state.iteration += 1
    return StepReport(src_sum.detach(), dst_sum.detach(), losses.src.shape[0], norm)


def copy_weights_from_rank_0(model: SwapModel) -> None:
    """Makes all replicas equal before the first step; without a process group it does nothing."""
    if dist.is_initialized():
        for parameter in model.parameters():
            dist.broadcast(parameter.data, src=0)


def _warmed_up_rate(config: TrainConfig, iteration: int) -> float:
    if iteration >= config.lr_warmup_iterations:
        return config.learning_rate
    return config.learning_rate * (iteration + 1) / (config.lr_warmup_iterations + 1)


def _channels_last(batch_NCHW: Tensor) -> Tensor:
    return batch_NCHW.contiguous(memory_format=torch.channels_last)


def _gradient_norm(model: SwapModel) -> Tensor:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(gradients))))
    return norm


def _sum_gradients_over_processes(model: SwapModel) -> None:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    # Which parameters have a gradient follows from the options, so every process builds the same buckets.
    bucket: list[Tensor] = []
    size = 0
    for gradient in [p.grad for p in reversed(list(model.parameters())) if p.grad is not None]:
        if bucket and size + gradient.numel() > _BUCKET_ELEMENTS:
            _sum_bucket(bucket)
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel()
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view(gradient.shape))
        offset += gradient.numel()
