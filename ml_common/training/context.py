"""What the training loop asks of the world around it, and what it tells it.

The one thing a reader would get wrong: the loop reads no clock, no store and no flag by itself. Whoever runs it
implements `TrainContext`; only rank 0 is asked for anything but its rank, and only rank 0 reports and publishes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch


@dataclass(frozen=True, kw_only=True)
class LossesReported:
    """Means over the iterations since the last report, which end with `iteration`.

    samples_per_s counts samples of one side, over all processes. eta_s: seconds to the target, None without one.
    data_wait_ratio: share of the time (0..1) spent waiting for samples. gradient_norm (before clipping) and
    learning_rate (warm-up and cosine included): of the last iteration.
    """

    iteration: int
    src_loss: float
    dst_loss: float
    samples_per_s: float
    eta_s: float | None
    data_wait_ratio: float
    gradient_norm: float
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class PreviewRendered:
    """Two JPEGs of the same faces, columns S SS D DD SD: as they are, and masked."""

    iteration: int
    plain_jpeg: bytes
    masked_jpeg: bytes


@dataclass(frozen=True, kw_only=True)
class CheckpointPublished:
    """A checkpoint of this iteration is safe."""

    iteration: int


@dataclass(frozen=True, kw_only=True)
class OptionsApplied:
    """These options hold from the iteration after `iteration` on."""

    iteration: int
    changes: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class OptionsRejected:
    """These options were asked for and cannot be; the run goes on as it was."""

    iteration: int
    changes: Mapping[str, Any]
    reason: str


@dataclass(frozen=True, kw_only=True)
class TrainingFinished:
    """The loop ends, after its last checkpoint: the target was reached, or it was asked to stop."""

    iteration: int
    reason: Literal["target", "stopped"]


TrainEvent = (
    LossesReported | PreviewRendered | CheckpointPublished | OptionsApplied | OptionsRejected | TrainingFinished
)


class TrainContext(Protocol):
    """One process' place in a run. Calls come from the training thread and should return within milliseconds."""

    @property
    def rank(self) -> int:
        """0 to world_size - 1."""

    @property
    def world_size(self) -> int:
        """Number of processes; above 1, torch.distributed has been initialised."""

    @property
    def device(self) -> torch.device:
        """Where this process trains."""

    def report(self, event: TrainEvent) -> None:
        """Takes an event; rank 0 only."""

    def should_stop(self) -> bool:
        """True to save and end at the next iteration boundary; rank 0 only."""

    def pending_options(self) -> dict[str, Any]:
        """Options to change, each returned once; usually empty; rank 0 only."""

    def save_requested(self) -> bool:
        """True once for every wish to save now; rank 0 only."""

    def publish_checkpoint(self, directory: Path, iteration: int) -> None:
        """Puts a whole checkpoint where `latest_checkpoint` finds it, atomically; rank 0 only.

        The directory may be moved away; what is left of it is deleted when this returns.
        """

    def latest_checkpoint(self) -> Path | None:
        """A local directory with the newest checkpoint of this run, or None; every rank, once, at the start."""

    def clock(self) -> float:
        """Seconds, monotonic."""
