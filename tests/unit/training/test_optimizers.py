"""AdaBelief and RMSprop step as the original's do, and a resumed optimizer continues as if nothing had happened."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ml_common.training.optimizers import AdaBelief, RMSprop

GOLDEN = Path(__file__).parents[2] / "golden" / "optimizers" / "optim.npz"
KINDS = {"AdaBelief": AdaBelief, "RMSprop": RMSprop}
CASES = {
    "plain": {},
    "lr2e-4": {"lr": 2e-4},
    "cos500": {"lr_cos": 500},
    "cos7": {"lr_cos": 7},
    "clip1": {"clipnorm": 1.0},
}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_six_steps_of_the_original(kind, case, golden) -> None:
    v, w = (nn.Parameter(torch.from_numpy(golden[name].copy())) for name in ("v0", "w0"))
    optimizer = KINDS[kind]([v, w], **CASES[case])
    for step in range(6):
        v.grad, w.grad = (torch.from_numpy(golden[f"g{name}{step}"].copy()) for name in "vw")
        optimizer.step()
        for name, parameter in (("v", v), ("w", w)):
            np.testing.assert_allclose(
                parameter.detach().numpy(), golden[f"{kind}_{case}_{name}{step}"], rtol=0, atol=1e-8
            )
    if case == "plain":
        for ours, theirs in {"AdaBelief": [("m", "ms"), ("v", "vs")], "RMSprop": [("a", "acc")]}[kind]:
            recorded = golden[f"{kind}_state_opt/{theirs}_mdl/v_0:0"]
            np.testing.assert_allclose(optimizer.state[v][ours].numpy(), recorded, rtol=1e-5, atol=1e-8)


def test_large_and_small_tensors_together_step_by_the_formula() -> None:
    random = torch.Generator().manual_seed(0)
    shapes = [(300_000,), (7,), (2, 150_001), (131_072,), (3, 5)]  # cut at odd places by the blocks of work
    start = [torch.randn(shape, generator=random) for shape in shapes]
    parameters = [nn.Parameter(p.clone()) for p in start]
    optimizer = AdaBelief(parameters, lr=1e-2)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=random)
    optimizer.step()
    for before, after in zip(start, parameters, strict=True):
        m = 0.1 * after.grad
        v = 0.001 * (after.grad - m).square()
        torch.testing.assert_close(after.detach(), before - 1e-2 * m / (v.sqrt() + 1e-6), rtol=0, atol=1e-5)


def network(seed: int = 0, *, channels_last: bool = False) -> nn.Sequential:
    # Large enough for several blocks of work, small tensors among them.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 64, 500), nn.Linear(500, 300))
    return net.to(memory_format=torch.channels_last) if channels_last else net


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()


OPTIONS = {"lr": 1e-3, "lr_dropout": 0.3, "lr_cos": 9, "clipnorm": 1.0, "seed": 7}


@pytest.mark.parametrize("kind", KINDS.values())
@pytest.mark.parametrize("channels_last", [False, True])
def test_resuming_is_exact(kind, channels_last) -> None:
    whole = network(channels_last=channels_last)
    train(whole, kind(whole.named_parameters(), **OPTIONS), range(8))

    first = network(channels_last=channels_last)
    optimizer = kind(first.named_parameters(), **OPTIONS)
    train(first, optimizer, range(5))
    buffer = io.BytesIO()
    torch.save({"net": first.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    # A checkpoint format without strides must do: safetensors has none.
    saved["optimizer"]["state"] = {
        index: {name: slot.contiguous() for name, slot in slots.items()}
        for index, slots in saved["optimizer"]["state"].items()
    }
    second = network(seed=1, channels_last=channels_last)
    second.load_state_dict(saved["net"])
    optimizer = kind(second.named_parameters(), lr=1.0)
    optimizer.load_state_dict(saved["optimizer"])
    train(second, optimizer, range(5, 8))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS.values())
def test_memory_format_does_not_change_the_step(kind) -> None:
    nets = [network(), network(channels_last=True)]
    for net in nets:
        train(net, kind(net.parameters(), lr=1e-3, clipnorm=1.0), range(3))
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS.values())
def test_lr_dropout_moves_its_share_and_leaves_the_moments_alone(kind) -> None:
    free, held = network(), network()
    free_optimizer = kind(free.parameters(), lr=1e-3)
    held_optimizer = kind(held.parameters(), lr=1e-3, lr_dropout=0.3, seed=2)
    train(free, free_optimizer, range(1))
    train(held, held_optimizer, range(1))
    start = network()
    moved = still = 0
    for first, a, b in zip(start.parameters(), free.parameters(), held.parameters(), strict=True):
        hit = b != first
        assert torch.equal(b[hit], a[hit])  # no rescaling by 1/p
        could_move = a != first
        moved += int(hit.sum())
        still += int((could_move & ~hit).sum())
        for slot in kind.slot_names:
            assert torch.equal(free_optimizer.state[a][slot], held_optimizer.state[b][slot])
    assert moved / (moved + still) == pytest.approx(0.3, abs=0.01)


def test_each_step_and_each_seed_draws_other_weights() -> None:
    def directions(seed: int) -> list[torch.Tensor]:
        parameter = nn.Parameter(torch.zeros(4096))
        optimizer = RMSprop([parameter], lr=1e-3, lr_dropout=0.5, seed=seed)
        drawn = []
        for _ in range(3):
            before = parameter.detach().clone()
            parameter.grad = torch.ones(4096)
            optimizer.step()
            drawn.append((parameter.detach() != before).float())
        return drawn

    one, other = directions(0), directions(1)
    draws = [*one, *other]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert (a * b).mean().item() == pytest.approx(0.25, abs=0.04)
    assert all(torch.equal(a, b) for a, b in zip(one, directions(0), strict=True))


def test_frozen_parameters_stand_still_and_keep_their_slots() -> None:
    net = network()
    optimizer = AdaBelief(net.parameters(), lr=1e-3)
    train(net, optimizer, range(1))
    first = net[0].weight
    frozen, slot = first.detach().clone(), optimizer.state[first]["m"].clone()
    net[0].requires_grad_(False)
    train(net, optimizer, range(1, 3))
    assert torch.equal(first, frozen)
    assert torch.equal(optimizer.state[first]["m"], slot)


def test_clipping_acts_on_the_global_norm_and_leaves_small_gradients_alone() -> None:
    def first_moment(scale: float) -> torch.Tensor:
        parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2))]
        optimizer = AdaBelief(parameters, clipnorm=1.0)
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, scale)
        optimizer.step()
        return torch.cat([optimizer.state[p]["m"].flatten() for p in parameters]) * 10

    torch.testing.assert_close(first_moment(5.0), torch.full((7,), 1 / math.sqrt(7)))
    torch.testing.assert_close(first_moment(0.1), torch.full((7,), 0.1))
    assert not first_moment(0.0).any()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"lr": 0.0}, "lr is"), ({"lr_dropout": 0.0}, "lr_dropout"), ({"clipnorm": -1.0}, "clipnorm")],
)
def test_bad_options_are_refused(options, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        RMSprop([nn.Parameter(torch.zeros(1))], **options)
