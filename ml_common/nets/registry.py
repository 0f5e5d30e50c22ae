"""The families of swap models by name, and the one way to build a model.

Easy to get wrong: `build_model` draws from its own generator. It neither reads nor moves torch's global random state,
so the same seed gives the same weights wherever and whenever it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from ml_common.nets.config import ModelConfig
from ml_common.nets.initialisation import initialise_glorot
from ml_common.nets.swap_model import SwapModel

_FAMILIES: dict[str, type[SwapModel]] = {}

_Family = TypeVar("_Family", bound=type[SwapModel])


def register_family(name: str) -> Callable[[_Family], _Family]:
    """Class decorator: make a SwapModel available as the family `name` of an architecture string."""

    def register(family: _Family) -> _Family:
        if name in _FAMILIES:
            raise ValueError(f"the family {name!r} is registered twice")
        _FAMILIES[name] = family
        return family

    return register


def family_names() -> tuple[str, ...]:
    """Names of all families, sorted."""
    return tuple(sorted(_registered()))


def build_model(config: ModelConfig, *, seed: int) -> SwapModel:
    """A freshly initialised float32 model on the CPU: Glorot-uniform weights, zero biases (spec: models, section 7).

    Raises ValueError if the configuration names an unknown family.
    """
    model = _on_meta_device(config).to_empty(device="cpu")
    initialise_glorot(model, torch.Generator().manual_seed(seed))
    return model


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Number of parameters of each part, without allocating them."""
    parts = _on_meta_device(config).parts()
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def _on_meta_device(config: ModelConfig) -> SwapModel:
    if config.family not in _registered():
        raise ValueError(f"unknown model family {config.family!r}; known are {', '.join(family_names())}")
    with torch.device("meta"):  # shapes without memory, and without torch's own initialisation
        return _registered()[config.family](config)


def _registered() -> dict[str, type[SwapModel]]:
    import ml_common.nets.families  # noqa: F401  its classes register themselves; at the top it would import in a circle

    return _FAMILIES
