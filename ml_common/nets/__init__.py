"""Swap networks: the df and liae families with the flags u, d, t, c, behind one registry.

`build_model(ModelConfig(...), seed=...)` is the way in. Easy to get wrong: networks take and give NCHW BGR float32 in
0..1, with no mean subtracted.
"""

from ml_common.nets.config import QUICK96, ModelConfig
from ml_common.nets.families import DfModel, LiaeModel
from ml_common.nets.registry import build_model, families, parameter_counts, register_family
from ml_common.nets.swap_model import SwapModel, SwapOutputs, TrainOutputs

__all__ = [
    "QUICK96",
    "DfModel",
    "LiaeModel",
    "ModelConfig",
    "SwapModel",
    "SwapOutputs",
    "TrainOutputs",
    "build_model",
    "families",
    "parameter_counts",
    "register_family",
]
