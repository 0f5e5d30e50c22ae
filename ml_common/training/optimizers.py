"""AdaBelief and RMSprop as the reference steps them (spec: models, section 9; pinned by tests/unit/training).

Both differ from the textbook: no bias correction, and epsilon (1e-6) is added outside the root only. Both can move a
random subset of the weights per step (`lr_dropout`), swing the learning rate (`lr_cos`) and clip by the global norm.

Easy to get wrong: `lr_dropout` is the probability that a weight DOES move (0.3 holds 70 % of them still; 1.0 is off).
The moments are updated for all. Which weights move is a pure function of (seed, iteration), so a resumed run and all
ranks of a distributed one draw alike, with no generator state to save; only a change of device kind or of the
parameters' memory format draws differently.

No step waits for the device: the learning rate is computed on the host from the iteration, clipping on the device.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# Elements that one block of work touches on a CPU: a few float32 arrays of this length stay in a core's cache, which
# makes the step several times faster than passes over whole tensors. Accelerators take everything as one block.
_CPU_BLOCK = 131_072


def learning_rate_at(iteration: int, *, lr: float, lr_cos: int) -> float:
    """The learning rate in force at a step, counted from 1: constant, or one cosine swing from lr to 0 and back every `lr_cos` steps."""
    return lr * (math.cos(2 * math.pi * iteration / lr_cos) + 1) / 2 if lr_cos else lr


class _Block(NamedTuple):
    """Flat, equally cut pieces of parameters, gradients and slots that are stepped together."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    slots: tuple[list[Tensor], ...]


class _ReferenceOptimizer(Optimizer, ABC):
    """What AdaBelief and RMSprop share: clipping, the learning rate, weight dropout, cutting work into blocks."""

    slot_names: tuple[str, ...]

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]],
        *,
        lr: float,
        lr_dropout: float = 1.0,
        lr_cos: int = 0,
        clipnorm: float = 0.0,
        eps: float = 1e-6,
        seed: int = 0,
        **more: float,
    ) -> None:
        if not lr > 0:
            raise ValueError(f"lr is {lr}; it must be above 0")
        if not 0 < lr_dropout <= 1:
            raise ValueError(f"lr_dropout is {lr_dropout}; it must be above 0 and at most 1 (1 is off)")
        if lr_cos < 0 or clipnorm < 0:
            raise ValueError(f"lr_cos ({lr_cos}) and clipnorm ({clipnorm}) must not be negative (0 is off)")
        defaults = {
            "lr": lr,
            "lr_dropout": lr_dropout,
            "lr_cos": lr_cos,
            "clipnorm": clipnorm,
            "eps": eps,
            "seed": seed,
            "iteration": 0,
            **more,
        }
        super().__init__(parameters, defaults)
        devices = {p.device for group in self.param_groups for p in group["params"]}
        if len(devices) != 1:
            raise ValueError("all parameters of one optimizer must be on one device")
        self._generator = torch.Generator(device=devices.pop())

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step with the gradients in `.grad`; parameters without one stand still and keep their slots."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, group in enumerate(self.param_groups):
            moving = [p for p in group["params"] if p.grad is not None]
            group["iteration"] += 1  # before the step: the reference's cosine counts the first step as 1
            if moving:
                self._step_group(index, group, moving)
        return loss

    def _step_group(self, index: int, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        rate = learning_rate_at(group["iteration"], lr=group["lr"], lr_cos=group["lr_cos"])
        scale = self._clip_scale(parameters, group["clipnorm"])
        if group["lr_dropout"] < 1:
            self._generator.manual_seed(_mixed_seed(group["seed"], index, group["iteration"]))
        for block in self._blocks(parameters):
            gradients = block.gradients if scale is None else list(torch._foreach_mul(block.gradients, scale))
            updates = self._updates(group, gradients, block.slots)
            if group["lr_dropout"] < 1:
                self._hold_still(updates, group["lr_dropout"])
            torch._foreach_add_(block.parameters, updates, alpha=-rate)

    @abstractmethod
    def _updates(self, group: dict[str, Any], gradients: list[Tensor], slots: tuple[list[Tensor], ...]) -> list[Tensor]:
        """Move the slots in place and return new tensors: the direction, before the learning rate."""

    @staticmethod
    def _clip_scale(parameters: list[nn.Parameter], clipnorm: float) -> Tensor | None:
        if not clipnorm:
            return None
        norms = torch._foreach_norm([p.grad for p in parameters if p.grad is not None])
        # A norm of 0 gives infinity, which the clamp turns into 1: no gradient, no change.
        return torch.clamp(clipnorm / torch.linalg.vector_norm(torch.stack(list(norms))), max=1.0)

    def _hold_still(self, updates: list[Tensor], moving_share: float) -> None:
        # 16 random bits per weight: drawing 64-bit words and cutting them is ten times faster on a CPU than a Bernoulli
        # draw per weight, and rounds the share to 1/65536.
        sizes = [update.numel() for update in updates]
        words = torch.empty(-(-sum(sizes) // 4), dtype=torch.int64, device=updates[0].device)
        words.random_(-(2**63), None, generator=self._generator)
        # Compared straight into floats: multiplying by booleans would convert them first, at ten times the cost.
        moves = torch.empty(sum(sizes), dtype=updates[0].dtype, device=updates[0].device)
        torch.lt(words.view(torch.int16)[: sum(sizes)], round(moving_share * 65536) - 32768, out=moves)
        torch._foreach_mul_(updates, list(torch.split(moves, sizes)))

    def _blocks(self, parameters: list[nn.Parameter]) -> Iterator[_Block]:
        limit = _CPU_BLOCK if self._generator.device.type == "cpu" else sum(p.numel() for p in parameters)
        block = _Block([], [], tuple([] for _ in self.slot_names))
        room = limit
        for parameter in parameters:
            rows = self._flat_rows(parameter)
            start = 0
            while start < parameter.numel():
                stop = min(start + room, parameter.numel())
                block.parameters.append(rows[0][start:stop])
                block.gradients.append(rows[1][start:stop])
                for pieces, row in zip(block.slots, rows[2:], strict=True):
                    pieces.append(row[start:stop])
                room -= stop - start
                start = stop
                if room == 0:
                    yield block
                    block = _Block([], [], tuple([] for _ in self.slot_names))
                    room = limit
        if block.parameters:
            yield block

    def _flat_rows(self, parameter: nn.Parameter) -> list[Tensor]:
        """Parameter, gradient and slots as flat views in the order of the parameter's memory."""
        state = self.state[parameter]
        channels_last = not parameter.is_contiguous()
        if channels_last and not parameter.is_contiguous(memory_format=torch.channels_last):
            raise ValueError("parameters must be contiguous or channels_last to be optimized")
        for name in self.slot_names:
            # A slot may be missing on the first step, or come from a checkpoint of another memory format.
            if name not in state:
                state[name] = torch.zeros_like(parameter)
            state[name] = _laid_out(state[name], parameter, channels_last)
        assert parameter.grad is not None
        rows = [parameter, _laid_out(parameter.grad, parameter, channels_last), *(state[n] for n in self.slot_names)]
        return [(row.permute(0, 2, 3, 1) if channels_last else row).view(-1) for row in rows]


class AdaBelief(_ReferenceOptimizer):
    """m += 0.1 (g - m); v = 0.999 v + 0.001 (g - m)^2 with the new m; step = -lr m / (sqrt(v) + eps).

    parameters: all parameters of the model, or (name, parameter) pairs; frozen ones have no gradient and stand still.
    lr_cos: period of a cosine between lr and 0, in steps (0 = constant). clipnorm: largest global L2 norm (0 = off).
    """

    slot_names = ("m", "v")

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]],
        *,
        lr: float = 5e-5,
        beta1: float = 0.9,
        beta2: float = 0.999,
        lr_dropout: float = 1.0,
        lr_cos: int = 0,
        clipnorm: float = 0.0,
        eps: float = 1e-6,
        seed: int = 0,
    ) -> None:
        super().__init__(
            parameters,
            lr=lr,
            lr_dropout=lr_dropout,
            lr_cos=lr_cos,
            clipnorm=clipnorm,
            eps=eps,
            seed=seed,
            beta1=beta1,
            beta2=beta2,
        )

    def _updates(self, group: dict[str, Any], gradients: list[Tensor], slots: tuple[list[Tensor], ...]) -> list[Tensor]:
        m, v = slots
        torch._foreach_lerp_(m, gradients, 1 - group["beta1"])
        surprise = list(torch._foreach_sub(gradients, m))
        torch._foreach_mul_(v, group["beta2"])
        torch._foreach_addcmul_(v, surprise, surprise, 1 - group["beta2"])
        spread = list(torch._foreach_sqrt(v))
        torch._foreach_add_(spread, group["eps"])
        return list(torch._foreach_div(m, spread))


class RMSprop(_ReferenceOptimizer):
    """a = 0.9 a + 0.1 g^2; step = -lr g / (sqrt(a) + eps). Arguments as for AdaBelief."""

    slot_names = ("a",)

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]],
        *,
        lr: float = 5e-5,
        rho: float = 0.9,
        lr_dropout: float = 1.0,
        lr_cos: int = 0,
        clipnorm: float = 0.0,
        eps: float = 1e-6,
        seed: int = 0,
    ) -> None:
        super().__init__(
            parameters,
            lr=lr,
            lr_dropout=lr_dropout,
            lr_cos=lr_cos,
            clipnorm=clipnorm,
            eps=eps,
            seed=seed,
            rho=rho,
        )

    def _updates(self, group: dict[str, Any], gradients: list[Tensor], slots: tuple[list[Tensor], ...]) -> list[Tensor]:
        (a,) = slots
        torch._foreach_mul_(a, group["rho"])
        torch._foreach_addcmul_(a, gradients, gradients, 1 - group["rho"])
        spread = list(torch._foreach_sqrt(a))
        torch._foreach_add_(spread, group["eps"])
        return list(torch._foreach_div(gradients, spread))


def _laid_out(tensor: Tensor, like: Tensor, channels_last: bool) -> Tensor:
    """`tensor`, copied into the memory order of `like` unless it has it already."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return tensor if tensor.is_contiguous(memory_format=memory_format) else torch.empty_like(like).copy_(tensor)


def _mixed_seed(seed: int, group: int, iteration: int) -> int:
    """Spread (seed, group, iteration) over 32 bits, all that a CPU generator takes (the splitmix64 finalizer)."""
    mask = 2**64 - 1
    mixed = 0
    for part in (seed, group, iteration):
        mixed = (mixed + part + 0x9E3779B97F4A7C15) & mask
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
        mixed ^= mixed >> 31
    return mixed & 0xFFFFFFFF
