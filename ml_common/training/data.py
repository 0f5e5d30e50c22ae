"""Turns sample positions into augmented batches on the training device, decoding ahead in threads.

The one thing a reader would get wrong: a batch is a pure function of its start position and the options. Threads only
decide how early it is ready. Both sides use the same positions, each with its own deck and its own seeds.

Legend: N samples of one side in this process' share, R resolution.
"""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ml_common.augment import (
    AugmentationBatch,
    AugmentedBatch,
    SampleAugmentation,
    augment_batch,
    draw_augmentation,
)
from ml_common.training.config import TrainConfig
from ml_common.training.sampler import Deck, UniformDeck, YawDeck
from ml_common.training.samples import PreparedSample, SampleSet

Side = Literal["src", "dst"]
_SIDES: tuple[Side, Side] = ("src", "dst")
_STREAMS = {"src": 1, "dst": 2, "preview": 3}


@dataclass(frozen=True)
class Batch:
    """This process' share of one global batch, on the device; `global_size` counts a side over all processes."""

    src: AugmentedBatch
    dst: AugmentedBatch
    global_size: int


@dataclass(frozen=True)
class PreviewFaces:
    """A few faces of one side as they are, not augmented: (N, 3, R, R) BGR 0..1 and (N, 1, R, R) 0..1."""

    image_NCHW: torch.Tensor
    mask_N1HW: torch.Tensor


class BatchPlan(NamedTuple):
    """Where an iteration's samples start, whether its input is warped, and where the next fresh samples start."""

    start: int
    warp: bool
    next_position: int


def plan_batch(config: TrainConfig, iteration: int, position: int) -> BatchPlan:
    """What iteration `iteration` trains on when `position` samples of each side were drawn before it."""
    repeats = config.unwarped_every > 0 and iteration > 0 and iteration % config.unwarped_every == 0
    if repeats and position >= config.batch_size:
        return BatchPlan(position - config.batch_size, False, position)
    return BatchPlan(position, config.random_warp, position + config.batch_size)


class _HostSide(NamedTuple):
    images_NRR3: torch.Tensor
    masks_NRR2: torch.Tensor
    draws: list[SampleAugmentation]


class TrainingData:
    """Batches of two facesets. Close it (or use it as a context manager) to end its threads."""

    def __init__(
        self, src: SampleSet, dst: SampleSet, config: TrainConfig, *, device: torch.device, threads: int = 2
    ) -> None:
        for side, samples in (("src", src), ("dst", dst)):
            if samples.resolution != config.model.resolution:
                raise ValueError(
                    f"{side} samples are prepared at {samples.resolution} px, the model needs {config.model.resolution}"
                )
        self._sets: dict[Side, SampleSet] = {"src": src, "dst": dst}
        self._device = device
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="samples")
        self._ahead = threads
        self._pending: OrderedDict[tuple[int, int], Future[dict[Side, _HostSide]]] = OrderedDict()
        self.reconfigure(config)

    def reconfigure(self, config: TrainConfig) -> None:
        """Uses other options from the next batch on."""
        self._drop_pending()
        self._config = config
        self._decks = {side: self._deck(side) for side in _SIDES}
        self._specs = {side: config.augment_spec(side) for side in _SIDES}

    def next_batch(self, start: int, *, warp: bool, rank: int = 0, world_size: int = 1) -> Batch:
        """The share of `rank` in the batch that begins at sample position `start`.

        Also begins to prepare the batches after it. ValueError when the batch is too small to share, or a face is
        unusable.
        """
        size = self._config.batch_size
        if size < world_size:
            raise ValueError(f"batch_size {size} is smaller than the number of workers, {world_size}")
        first, stop = size * rank // world_size, size * (rank + 1) // world_size
        for batch_start in range(start, start + (self._ahead + 1) * size, size):
            key = (batch_start + first, batch_start + stop)
            if key not in self._pending:
                self._pending[key] = self._pool.submit(self._host_share, *key)
        host = self._pending[(start + first, start + stop)].result()
        # The previous batch is kept, because an unwarped iteration repeats it.
        for key in [key for key in self._pending if not start - size < key[1] <= start + (self._ahead + 1) * size]:
            del self._pending[key]
        return Batch(
            src=self._to_device("src", host["src"], warp=warp),
            dst=self._to_device("dst", host["dst"], warp=warp),
            global_size=size,
        )

    def preview_faces(self, side: Side, count: int) -> PreviewFaces:
        """The same `count` faces at every call and after every resume; fewer when the faceset is smaller."""
        samples = self._sets[side]
        rng = np.random.default_rng((self._config.seed, _STREAMS["preview"], _STREAMS[side]))
        chosen = rng.permutation(len(samples))[:count]
        images, masks = _stack([samples.prepared(int(index)) for index in chosen])
        return PreviewFaces(
            _to_nchw(images.to(self._device)).contiguous(), _to_nchw(masks.to(self._device))[:, :1].contiguous()
        )

    def close(self) -> None:
        """Ends the threads; batches that were being prepared are dropped."""
        self._drop_pending()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "TrainingData":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _drop_pending(self) -> None:
        for future in self._pending.values():
            future.cancel()
        self._pending.clear()

    def _deck(self, side: Side) -> Deck:
        seed = _derived_seed(self._config.seed, _STREAMS[side])
        samples = self._sets[side]
        if self._config.uniform_yaw:
            return YawDeck(samples.yaw_rad, seed=seed)
        return UniformDeck(len(samples), seed=seed)

    def _host_share(self, start: int, stop: int) -> dict[Side, _HostSide]:
        return {side: self._host_side(side, range(start, stop)) for side in _SIDES}

    def _host_side(self, side: Side, positions: range) -> _HostSide:
        deck, spec, samples = self._decks[side], self._specs[side], self._sets[side]
        images, masks = _stack([samples.prepared(deck.index_at(position)) for position in positions])
        if self._device.type == "cuda":
            images, masks = images.pin_memory(), masks.pin_memory()
        seeds = [_derived_seed(self._config.seed, _STREAMS[side], position) for position in positions]
        return _HostSide(images, masks, [draw_augmentation(seed, spec) for seed in seeds])

    def _to_device(self, side: Side, host: _HostSide, *, warp: bool) -> AugmentedBatch:
        return augment_batch(
            _to_nchw(host.images_NRR3.to(self._device, non_blocking=True)),
            _to_nchw(host.masks_NRR2.to(self._device, non_blocking=True)),
            AugmentationBatch.stack(host.draws, self._device),
            warp=warp,
            hsv=self._specs[side].hsv_power > 0.0,
        )


def _derived_seed(*parts: int) -> int:
    """A seed below 2**31 that depends on every part."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0]) & 0x7FFFFFFF


def _stack(samples: Sequence[PreparedSample]) -> tuple[torch.Tensor, torch.Tensor]:
    images: NDArray[np.uint8] = np.stack([sample.image_bgr_RR3 for sample in samples])
    masks: NDArray[np.uint8] = np.stack([sample.masks_RR2 for sample in samples])
    return torch.from_numpy(images), torch.from_numpy(masks)


def _to_nchw(images_NHWC: torch.Tensor) -> torch.Tensor:
    """uint8 NHWC to float 0..1 NCHW."""
    return images_NHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).mul_(1.0 / 255.0)
