"""What every swap model can do, whatever its family: train on a pair of batches, swap a batch, name its parts.

Legend: N batch, R resolution. All images are (N, 3, R, R) BGR float32 0..1, all masks (N, 1, R, R) float32 0..1.

Easy to get wrong: in the name of an output the identity comes first and the performance second. `src_dst` is the src
face with the dst pose: the swap. `dst_dst` is the reconstruction of dst.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from ml_common.nets.config import ModelConfig


class TrainOutputs(NamedTuple):
    """Everything a training step may look at. The src_dst fields are None unless they were asked for."""

    src_src: Tensor
    src_src_mask: Tensor
    dst_dst: Tensor
    dst_dst_mask: Tensor
    src_dst: Tensor | None = None
    src_dst_mask: Tensor | None = None
    src_dst_from_stopped_code: Tensor | None = None
    """The swap again, but with the gradient stopped at the code: a loss on it moves the decoder only."""


class SwapOutputs(NamedTuple):
    """What merging needs: the swap, its mask, and the mask of the face that is being replaced."""

    image: Tensor
    mask: Tensor
    dst_mask: Tensor


class SwapModel(nn.Module, ABC):
    """Base of all families. Build one with `ml_common.nets.build_model`; parameters are float32."""

    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(
        self, src_NCHW: Tensor, dst_NCHW: Tensor, *, with_swap: bool = False, with_stopped_swap: bool = False
    ) -> TrainOutputs:
        """Reconstruct both sides. The flags add the swap, which only style losses need during training."""

    @abstractmethod
    def swap(self, dst_NCHW: Tensor) -> SwapOutputs:
        """Put the src face on dst. Call it under `torch.inference_mode()` unless the graph is wanted."""

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """The networks by their published names, in the order of the published files."""

    def trainable_parameters(self, *, random_warp: bool, reference: bool) -> dict[str, nn.Parameter]:
        """The parameters a step may move, by name in the state dict.

        reference: keep the original program's hidden rule, by which liae's inter_AB stands still while `random_warp`
        is off. Without it everything trains. Freeze the others with `requires_grad_(False)`; the optimizer should
        still be given all parameters, so that its slots survive a change of this setting.
        """
        frozen = self._frozen_parts_of_the_reference(random_warp=random_warp) if reference else frozenset[str]()
        return {name: p for name, p in self.named_parameters() if name.partition(".")[0] not in frozen}

    def _frozen_parts_of_the_reference(self, *, random_warp: bool) -> frozenset[str]:
        return frozenset()
