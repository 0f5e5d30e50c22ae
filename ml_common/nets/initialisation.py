"""First weights of a network (spec: models, section 7).

Easy to get wrong: an upscaling convolution counts all of its four times wider output as fan-out.
"""

from __future__ import annotations

import torch
from torch import nn


def initialise_glorot(module: nn.Module, generator: torch.Generator) -> None:
    """Overwrite every parameter in place: kernels uniform in +-sqrt(6 / (fan_in + fan_out)), biases zero.

    Draws in the order of `named_parameters`, from `generator` alone. Parameters must live on the generator's device.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim >= 2:
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:
                parameter.zero_()
