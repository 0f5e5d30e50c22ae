"""Swap networks: the df and liae families with the flags u, d, t, c, behind one registry.

`build_model(ModelConfig(...), seed=...)` is the way in. Easy to get wrong: networks take and give NCHW BGR float32 in
0..1, with no mean subtracted.

Names are imported on first use, so that what needs only a configuration (a server checking options) does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_common.lazy_names import lazy_names

if TYPE_CHECKING:
    from ml_common.nets.config import FAMILIES, QUICK96, ModelConfig
    from ml_common.nets.families import DfModel, LiaeModel
    from ml_common.nets.registry import build_model, family_names, parameter_counts, register_family
    from ml_common.nets.swap_model import SwapModel, SwapOutputs, TrainOutputs

_HOMES = {
    "DfModel": "families",
    "FAMILIES": "config",
    "LiaeModel": "families",
    "ModelConfig": "config",
    "QUICK96": "config",
    "SwapModel": "swap_model",
    "SwapOutputs": "swap_model",
    "TrainOutputs": "swap_model",
    "build_model": "registry",
    "family_names": "registry",
    "parameter_counts": "registry",
    "register_family": "registry",
}

__all__ = [
    "FAMILIES",
    "QUICK96",
    "DfModel",
    "LiaeModel",
    "ModelConfig",
    "SwapModel",
    "SwapOutputs",
    "TrainOutputs",
    "build_model",
    "family_names",
    "parameter_counts",
    "register_family",
]

__getattr__ = lazy_names(__name__, _HOMES)
