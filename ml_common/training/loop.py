"""The training loop: from the latest checkpoint to the target, the same on one CPU and on many GPUs.

The one thing a reader would get wrong: every process must take the same decisions at the same iteration, or the next
gradient exchange hangs. So only rank 0 looks at clocks and wishes, and shares what it decided.

The device is waited for once a report interval, never in between.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ml_common.geometry import FaceType
from ml_common.training.checkpoint import read_checkpoint, restore, write_checkpoint
from ml_common.training.config import TrainConfig
from ml_common.training.context import (
    CheckpointPublished,
    LossesReported,
    OptionsApplied,
    OptionsRejected,
    PreviewRendered,
    TrainContext,
    TrainEvent,
    TrainingFinished,
)
from ml_common.training.data import TrainingData, plan_batch
from ml_common.training.preview import encode_preview, preview_rows, render_preview
from ml_common.training.samples import FaceSample, SampleSet
from ml_common.training.step import TrainState, copy_weights_from_rank_0, train_step


class TrainingDiverged(RuntimeError):
    """A loss or a weight is no longer a number. Nothing was saved since the last checkpoint that the message names."""


def run_training(
    config: TrainConfig,
    src: Sequence[FaceSample],
    dst: Sequence[FaceSample],
    context: TrainContext,
    *,
    scratch_dir: Path,
    threads: int = 2,
) -> TrainState:
    """Trains until `config.target_iteration` or until asked to stop; returns the last state.

    A run that has a checkpoint goes on from it, with the mutable options of `config`. `scratch_dir` holds one
    checkpoint while it is being published; `threads` decode samples. Raises ValueError for unusable samples or
    options that a run cannot change, CorruptCheckpoint, TrainingDiverged; none of them leaves anything half-saved.
    """
    face_type = FaceType.from_string(config.model.face_type)
    latest = context.latest_checkpoint()
    if latest is None:
        state = TrainState.create(config, context.device)
    else:
        state = restore(read_checkpoint(latest), config, context.device)
    copy_weights_from_rank_0(state.model)
    sets = [SampleSet(samples, face_type=face_type, resolution=config.model.resolution) for samples in (src, dst)]
    with TrainingData(sets[0], sets[1], config, device=context.device, threads=threads) as data:
        _Loop(state, data, context, scratch_dir).run()
    return state


class _Decision(NamedTuple):
    stop: bool = False
    save: bool = False
    options: Mapping[str, Any] | None = None


@dataclass
class _Interval:
    """What was measured since the last report. `loss_sums_2` (src, dst) stays on the device until it is told."""

    began_s: float
    loss_sums_2: Tensor
    gradient_norm: Tensor | None = None
    iterations: int = 0
    samples: int = 0
    waited_s: float = 0.0

    @classmethod
    def begin(cls, context: TrainContext) -> _Interval:
        return cls(context.clock(), torch.zeros(2, device=context.device))


class _Loop:
    def __init__(self, state: TrainState, data: TrainingData, context: TrainContext, scratch_dir: Path) -> None:
        self._state = state
        self._data = data
        self._context = context
        self._scratch_dir = scratch_dir
        self._is_rank_0 = context.rank == 0
        self._shown_iteration = -1
        self._saved_iteration = state.iteration
        self._saved_at_s = context.clock()
        self._interval = _Interval.begin(context)

    def run(self) -> None:
        reason = self._iterate_to_the_end()
        self._report_losses()
        if self._state.iteration != self._saved_iteration:
            self._save()
        self._show_preview()
        self._report(TrainingFinished(iteration=self._state.iteration, reason=reason))

    def _iterate_to_the_end(self) -> Literal["target", "stopped"]:
        state = self._state
        self._show_preview()
        self._interval = _Interval.begin(self._context)
        while not state.config.target_iteration or state.iteration < state.config.target_iteration:
            decision = self._decide()
            if decision.options:
                self._change_options(decision.options)
            if decision.save:
                self._save()
            if decision.stop:
                return "stopped"
            self._train_once()
            config = state.config
            if state.iteration % config.report_every_iterations == 0:
                self._report_losses()
            if config.preview_every_iterations and state.iteration % config.preview_every_iterations == 0:
                self._show_preview()
            if config.save_every_iterations and state.iteration % config.save_every_iterations == 0:
                self._save()
        return "target"

    def _train_once(self) -> None:
        state, context, interval = self._state, self._context, self._interval
        plan = plan_batch(state.config, state.iteration, state.position)
        asked_s = context.clock()
        batch = self._data.next_batch(plan.start, warp=plan.warp, rank=context.rank, world_size=context.world_size)
        interval.waited_s += context.clock() - asked_s
        # The first of an interval too, because a save or a change of options may end it early.
        ends_interval = (state.iteration + 1) % state.config.report_every_iterations == 0
        report = train_step(state, batch, measure_gradients=ends_interval or interval.gradient_norm is None)
        state.position = plan.next_position
        interval.loss_sums_2 += torch.stack([report.src_loss_sum, report.dst_loss_sum])
        interval.iterations += 1
        interval.samples += batch.global_size
        if report.gradient_norm is not None:
            interval.gradient_norm = report.gradient_norm

    def _decide(self) -> _Decision:
        """What to do before the next iteration: rank 0 decides, everyone gets the same answer."""
        context, state = self._context, self._state
        # Sharing a decision waits for the slowest process, so it is not done at every iteration.
        if context.world_size > 1 and state.iteration % state.config.report_every_iterations:
            return _Decision()
        decision = _Decision()
        if self._is_rank_0:
            due_s = state.config.save_every_s
            wanted = context.save_requested()
            is_due = due_s > 0 and context.clock() - self._saved_at_s >= due_s
            save = (wanted or is_due) and state.iteration != self._saved_iteration
            decision = _Decision(context.should_stop(), save, dict(context.pending_options()))
        if context.world_size > 1:
            shared: list[Any] = [decision]
            dist.broadcast_object_list(shared, src=0)
            decision = shared[0]
        return decision

    def _change_options(self, changes: Mapping[str, Any]) -> None:
        state = self._state
        try:
            config = state.config.with_options(changes)
            if config.batch_size < self._context.world_size:
                raise ValueError(f"batch_size is smaller than the number of workers, {self._context.world_size}")
        except ValueError as error:
            self._report(OptionsRejected(iteration=state.iteration, changes=changes, reason=str(error)))
            return
        self._report_losses()
        state.reconfigure(config)
        self._data.reconfigure(config)
        self._report(OptionsApplied(iteration=state.iteration, changes=changes))

    def _report_losses(self) -> None:
        """Ends the interval: waits for the device, checks that the losses are numbers, tells them."""
        state, context, interval = self._state, self._context, self._interval
        if interval.gradient_norm is None:
            return  # nothing was trained in it
        if context.world_size > 1:
            dist.all_reduce(interval.loss_sums_2)
        src_mean, dst_mean = (value / interval.samples for value in interval.loss_sums_2.tolist())
        if not (math.isfinite(src_mean) and math.isfinite(dst_mean)):
            raise self._diverged(f"the losses are {src_mean} (src) and {dst_mean} (dst)")
        state.history.add(state.iteration, interval.iterations, src_mean, dst_mean)
        elapsed_s = max(context.clock() - interval.began_s, 1e-9)
        target = state.config.target_iteration
        remaining = max(0, target - state.iteration)
        self._report(
            LossesReported(
                iteration=state.iteration,
                src_loss=src_mean,
                dst_loss=dst_mean,
                samples_per_s=interval.samples / elapsed_s,
                eta_s=remaining * elapsed_s / interval.iterations if target else None,
                data_wait_ratio=min(1.0, interval.waited_s / elapsed_s),
                gradient_norm=float(interval.gradient_norm),
                learning_rate=state.learning_rate,
            )
        )
        self._interval = _Interval.begin(context)

    def _save(self) -> None:
        self._report_losses()
        state = self._state
        norms = torch.stack(list(torch._foreach_norm([parameter.data for parameter in state.model.parameters()])))
        if not bool(norms.isfinite().all()):
            raise self._diverged("some weights are not finite")
        if self._is_rank_0:
            directory = self._scratch_dir / f"checkpoint-{state.iteration:08d}"
            try:
                write_checkpoint(state, directory)
                self._context.publish_checkpoint(directory, state.iteration)
            finally:
                shutil.rmtree(directory, ignore_errors=True)
        self._saved_iteration = state.iteration
        self._saved_at_s = self._context.clock()
        self._report(CheckpointPublished(iteration=state.iteration))

    def _show_preview(self) -> None:
        state, config = self._state, self._state.config
        if not self._is_rank_0 or not config.preview_every_iterations or self._shown_iteration == state.iteration:
            return
        self._shown_iteration = state.iteration
        rows = preview_rows(config.model.resolution, config.batch_size)
        src, dst = self._data.preview_faces("src", rows), self._data.preview_faces("dst", rows)
        grids = render_preview(state.model, src, dst)
        self._report(
            PreviewRendered(
                iteration=state.iteration,
                plain_jpeg=encode_preview(grids.plain_bgr_HWC),
                masked_jpeg=encode_preview(grids.masked_bgr_HWC),
            )
        )

    def _report(self, event: TrainEvent) -> None:
        if self._is_rank_0:
            self._context.report(event)

    def _diverged(self, what: str) -> TrainingDiverged:
        last = f"the last checkpoint is of iteration {self._saved_iteration}"
        return TrainingDiverged(
            f"training diverged by iteration {self._state.iteration}: {what}. Nothing was saved since; "
            f"{last if self._saved_iteration else 'there is no checkpoint'}. "
            "Lower learning_rate or turn clipgrad on, then resume."
        )
