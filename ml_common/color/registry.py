"""Colour transfers by the names that users choose them by.

What a reader would get wrong: whether a transfer is meant to look only at the face is part of its name. `mkl` and `idt`
compare whole crops, `mkl-m` and `idt-m` do the same within the face; so do `rct`, `sot-m` and `mix-m`. Every function
takes weights; it is the caller who gives those of the face to the transfers that are `masked`.

Shape legend: HWC = BGR float32 0 to 1, HW = float32 weights or mask, 0 to 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml_common.color.distribution import draw_directions, draw_rotations, idt, mix, mix_8bit, sot
from ml_common.color.linear import lct, mkl, rct, rct_blackened

Image = NDArray[np.float32]
Weights = NDArray[np.float32]

_IDT_ROTATIONS = 20
_TRAINING_STEPS_BATCH = (10, 5)
_MERGE_STEPS_BATCH = (10, 30)


@dataclass(frozen=True, slots=True)
class ColorTransfer:
    """One way to make a target picture look like a source picture.

    `function(target_bgr_HWC, source_bgr_HWC, target_weights_HW, source_weights_HW, seed)` returns the changed target,
    float32 BGR 0 to 1. `masked`: it wants the face's mask as weights. `seed` matters only to the random ones.
    """

    name: str
    masked: bool
    function: Callable[[Image, Image, Weights | None, Weights | None, int], Image]


def _rct(target: Image, source: Image, target_w: Weights | None, source_w: Weights | None, seed: int) -> Image:
    return rct(target, source, target_w, source_w)


def _lct(target: Image, source: Image, target_w: Weights | None, source_w: Weights | None, seed: int) -> Image:
    return lct(target, source, target_w, source_w)


def _mkl(target: Image, source: Image, target_w: Weights | None, source_w: Weights | None, seed: int) -> Image:
    return mkl(target, source, target_w, source_w)


def _idt(target: Image, source: Image, target_w: Weights | None, source_w: Weights | None, seed: int) -> Image:
    return idt(target, source, target_w, source_w, rotations_K33=draw_rotations(_IDT_ROTATIONS, seed))


def _sot(target: Image, source: Image, target_w: Weights | None, source_w: Weights | None, seed: int) -> Image:
    return sot(target, source, target_w, source_w, directions_SB3=draw_directions(*_TRAINING_STEPS_BATCH, seed))


def _sot_dense(target: Image, source: Image, target_w: Weights | None, source_w: Weights | None, seed: int) -> Image:
    return sot(target, source, target_w, source_w, directions_SB3=draw_directions(*_MERGE_STEPS_BATCH, seed))


def _mix(target: Image, source: Image, target_w: Weights | None, source_w: Weights | None, seed: int) -> Image:
    return mix(target, source, target_w, source_w, seed=seed)


COLOR_TRANSFERS: Final[Mapping[str, ColorTransfer]] = MappingProxyType(
    {
        transfer.name: transfer
        for transfer in (
            ColorTransfer("rct", True, _rct),
            ColorTransfer("lct", False, _lct),
            ColorTransfer("mkl", False, _mkl),
            ColorTransfer("mkl-m", True, _mkl),
            ColorTransfer("idt", False, _idt),
            ColorTransfer("idt-m", True, _idt),
            ColorTransfer("sot", False, _sot),
            ColorTransfer("sot-m", True, _sot_dense),
            ColorTransfer("mix-m", True, _mix),
        )
    }
)


def transfer_color(
    name: str,
    target_bgr_HWC: Image,
    source_bgr_HWC: Image,
    target_weights_HW: Weights | None = None,
    source_weights_HW: Weights | None = None,
    seed: int = 0,
) -> Image:
    """The target made to look like the source by the transfer of that name; ValueError for an unknown name.

    Weights say how much each pixel counts, 0 to 1; without them all count alike.
    """
    transfer = COLOR_TRANSFERS.get(name)
    if transfer is None:
        raise ValueError(f"unknown colour transfer {name!r}; use one of: {', '.join(COLOR_TRANSFERS)}")
    return transfer.function(target_bgr_HWC, source_bgr_HWC, target_weights_HW, source_weights_HW, seed)


def reference_transfer_color(
    name: str, target_bgr_HWC: Image, source_bgr_HWC: Image, mask_HW: Weights, seed: int = 0
) -> Image:
    """The same as DeepFaceLab's merge does it: what the mask excludes is painted black and counted. For parity only."""
    if name == "rct":
        return rct_blackened(target_bgr_HWC, source_bgr_HWC, mask_HW, mask_HW)
    if name in COLOR_TRANSFERS and COLOR_TRANSFERS[name].masked:
        target_bgr_HWC, source_bgr_HWC = target_bgr_HWC * mask_HW[..., None], source_bgr_HWC * mask_HW[..., None]
    if name == "mix-m":
        return mix_8bit(target_bgr_HWC, source_bgr_HWC, seed=seed)
    if name in ("idt", "idt-m"):
        rotations = draw_rotations(_IDT_ROTATIONS, seed)
        return idt(target_bgr_HWC, source_bgr_HWC, rotations_K33=rotations, lowest_to_zero=True)
    return transfer_color(name, target_bgr_HWC, source_bgr_HWC, seed=seed)
