"""Weights of swap networks, DeepFaceLab's layout to ours and back (spec: models, sections 13.3 and 13.4).

Legend: O, I channels out and in; H, W kernel rows and columns.

| theirs                             | ours                                       |
|------------------------------------|--------------------------------------------|
| part "encoder", "res1/conv2/bias:0"| "encoder.res1.conv2.bias"                  |
| convolution HWIO                   | OIHW                                       |
| dense (in, out)                    | (out, in)                                  |
| `upscale*`: channel k*C + c        | channel c*4 + k, k = 2*dy + dx in the cell |

Easy to get wrong: the last row. Without it shapes fit, the face looks like a mosaic, and nothing raises.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml_common.nets import SwapModel


def parameter_name(part: str, variable: str) -> str:
    """Our name in the state dict: ("inter", "dense1/bias:0") gives "inter.dense1.bias"."""
    return f"{part}.{variable.removesuffix(':0').replace('/', '.')}"


def variable_name(parameter: str) -> tuple[str, str]:
    """Inverse of parameter_name: "inter.dense1.bias" gives ("inter", "dense1/bias:0")."""
    part, _, path = parameter.partition(".")
    return part, path.replace(".", "/") + ":0"


def tensor_from_array(parameter: str, array: NDArray[np.generic]) -> Tensor:
    """One array of a file as float32 in our layout. Also right for gradients and optimizer slots."""
    tensor = torch.from_numpy(np.asarray(array, dtype=np.float32).copy())
    if tensor.ndim == 4:
        tensor = tensor.permute(3, 2, 0, 1)
    elif tensor.ndim == 2:
        tensor = tensor.T
    if _is_upscale(parameter):
        tensor = torch.unflatten(tensor, 0, (4, -1)).transpose(0, 1).flatten(0, 1)
    return tensor.contiguous()


def array_from_tensor(parameter: str, tensor: Tensor) -> NDArray[np.float32]:
    """Inverse of tensor_from_array."""
    tensor = tensor.detach().to("cpu", torch.float32)
    if _is_upscale(parameter):
        tensor = torch.unflatten(tensor, 0, (-1, 4)).transpose(0, 1).flatten(0, 1)
    if tensor.ndim == 4:
        tensor = tensor.permute(2, 3, 1, 0)
    elif tensor.ndim == 2:
        tensor = tensor.T
    return np.ascontiguousarray(tensor.numpy())


def state_dict_from_dfl(files: Mapping[str, Mapping[str, NDArray[np.generic]]], model: SwapModel) -> dict[str, Tensor]:
    """State dict for `model` from the arrays of its files, by part name ("encoder", "inter_AB", ...).

    `model` says what is expected. Raises ValueError listing what is missing, left over or of another shape: the
    original program would silently start such a network from scratch.
    """
    given = {
        parameter_name(part, variable): array for part, arrays in files.items() for variable, array in arrays.items()
    }
    expected = model.state_dict()
    complaints = [f"lacks {name}" for name in expected if name not in given]
    complaints += [f"has {name}, which this architecture does not" for name in given if name not in expected]
    state: dict[str, Tensor] = {}
    for name in expected.keys() & given.keys():
        state[name] = tensor_from_array(name, given[name])
        if state[name].shape != expected[name].shape:
            shapes = f"{tuple(state[name].shape)}, not {tuple(expected[name].shape)}"
            complaints.append(f"has {name} of shape {shapes}")
    if complaints:
        more = f" and {len(complaints) - 5} more" if len(complaints) > 5 else ""
        raise ValueError(f"the files do not fit {model.config.arch}: it {'; it '.join(complaints[:5])}{more}")
    return {name: state[name] for name in expected}


def dfl_from_state_dict(state: Mapping[str, Tensor]) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Arrays by part and variable name, as the files hold them: the inverse of state_dict_from_dfl."""
    files: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, tensor in state.items():
        part, variable = variable_name(name)
        files.setdefault(part, {})[variable] = array_from_tensor(name, tensor)
    return files


def _is_upscale(parameter: str) -> bool:
    return any(piece.startswith("upscale") for piece in parameter.split("."))
