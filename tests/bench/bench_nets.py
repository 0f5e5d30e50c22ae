"""How long a training step of the swap networks takes: forward, losses, backward, optimizer, on fixed random pictures.

The baseline is DeepFaceLab's own time on two CPU cores, where it is known: 1.33 s for Quick96 with 4 samples a side.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch

from ml_common.losses import LossConfig, dssim, swap_losses
from ml_common.nets import QUICK96, ModelConfig, build_model
from ml_common.training.optimizers import AdaBelief, RMSprop

Row = dict[str, str | float | None]


@dataclass(frozen=True)
class Case:
    name: str
    model: ModelConfig
    batch: int
    family: Literal["saehd", "quick96"] = "saehd"
    channels_last: bool = True
    bfloat16: bool = False
    baseline_s: float | None = None


def config(arch: str, resolution: int, ae: int, encoder: int, decoder: int, mask: int) -> ModelConfig:
    return ModelConfig(
        arch=arch,
        resolution=resolution,
        ae_dims=ae,
        e_dims=encoder,
        d_dims=decoder,
        d_mask_dims=mask,
        face_type="wf",
    )


CASES = (
    Case("quick96 b4", QUICK96, 4, "quick96", baseline_s=1.33),
    Case("quick96 b4, NCHW", QUICK96, 4, "quick96", channels_last=False, baseline_s=1.33),
    Case("quick96 b4, bfloat16", QUICK96, 4, "quick96", bfloat16=True, baseline_s=1.33),
    Case("df-ud 64 ae64 e16 d16 b8", config("df-ud", 64, 64, 16, 16, 8), 8),
    Case("df-ud 64 ae96 e24 d24 b8", config("df-ud", 64, 96, 24, 24, 12), 8),
    Case("df-ud 96 ae64 e16 d16 b8", config("df-ud", 96, 64, 16, 16, 8), 8),
    Case("df-ud 96 ae96 e24 d24 b8", config("df-ud", 96, 96, 24, 24, 12), 8),
    Case("df-ud 96 ae96 e24 d24 b8, bfloat16", config("df-ud", 96, 96, 24, 24, 12), 8, bfloat16=True),
    Case("liae-ud 96 ae96 e24 d24 b8", config("liae-ud", 96, 96, 24, 24, 12), 8),
    Case("df-ud 96 ae128 e32 d32 b8", config("df-ud", 96, 128, 32, 32, 16), 8),
)


def run(cases: tuple[Case, ...] = CASES, *, steps: int = 5) -> list[Row]:
    """Rows {name, value, unit, baseline, ratio}; ratio is baseline / value (above 1 is faster than the baseline)."""
    rows: list[Row] = []
    for case in cases:
        seconds = _step_s(case, steps)
        ratio = case.baseline_s / seconds if case.baseline_s else None
        rows.append(_row(f"train step, {case.name}", seconds, case.baseline_s, ratio))
    rows.append(_row("dssim 8x3x128x128, window 11, forward and backward", _dssim_s(steps), None, None))
    return rows


def _row(name: str, seconds: float, baseline: float | None, ratio: float | None) -> Row:
    return {"name": f"nets: {name}", "value": seconds, "unit": "s", "baseline": baseline, "ratio": ratio}


def _step_s(case: Case, steps: int) -> float:
    memory_format = torch.channels_last if case.channels_last else torch.contiguous_format
    model = build_model(case.model, seed=0).to(memory_format=memory_format)
    kind = RMSprop if case.family == "quick96" else AdaBelief
    optimizer = kind(model.parameters(), lr=2e-4, lr_dropout=0.3 if case.family == "quick96" else 1.0)
    random = torch.Generator().manual_seed(0)
    edge = case.model.resolution
    warped_src, warped_dst, src, dst = (
        torch.rand(case.batch, 3, edge, edge, generator=random).contiguous(memory_format=memory_format)
        for _ in range(4)
    )
    mask = torch.ones(case.batch, 1, edge, edge)
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=case.bfloat16):
            outputs = model(warped_src, warped_dst)
        terms = swap_losses(
            outputs,
            src_target=src,
            dst_target=dst,
            src_mask=mask,
            dst_mask=mask,
            config=LossConfig(family=case.family),
            resolution=edge,
        )
        optimizer.zero_grad()
        (terms.src + terms.dst).sum().backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return min(times[2:])  # the first steps allocate; the quickest of the others was disturbed least


def _dssim_s(steps: int) -> float:
    random = torch.Generator().manual_seed(0)
    a, b = (torch.rand(8, 3, 128, 128, generator=random) for _ in range(2))
    b.requires_grad_()
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        dssim(a, b, window=11).sum().backward()
        times.append(time.perf_counter() - start)
    return min(times[2:])
