"""Published weight files of S3FD and FAN as state dicts of our modules.

What a reader would get wrong: the two kinds of S3FD file want different pictures. The one of the face-alignment project
was trained on BGR less the mean (104, 117, 123); DeepFaceLab's is fed RGB less the same three numbers in that order
(spec/faceset 7.2). Our network takes BGR, so for the latter the first convolution's input channels and the mean are turned.

| what                 | DeepFaceLab, `.npy`               | face-alignment, `.pth`        | ours                        |
|----------------------|-----------------------------------|-------------------------------|-----------------------------|
| convolution          | `conv1_1/weight:0`, HWIO          | `conv1_1.weight`, OIHW        | `conv1_1.weight`, OIHW      |
| vector               | (C) or (1, 1, 1, C)               | (C)                           | (C)                         |
| stack 0 of FAN       | `m_0`, `conv_last_0`, `l_0`       | `m0`, `conv_last0`, `l0`      | `m.0`, `conv_last.0`, `l.0` |
| depth of hourglasses | `b2_plus/b2_plus/b1`              | `b1_2`, the innermost is 1    | `b2_plus.b2_plus.b1`        |
| shortcut of a block  | `down_bn1`, `down_conv1`          | `downsample.0`, `downsample.2`| as DeepFaceLab              |

Sources: spec/faceset sections 6 to 8; state dicts of github.com/1adrianb/face-alignment (BSD-3-Clause).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

    M = TypeVar("M", bound=nn.Module)

F32Array = np.ndarray[Any, np.dtype[np.float32]]
Arrays = Mapping[str, np.ndarray[Any, Any]]

_DFL_SUFFIX = ":0"
_UNUSED = "num_batches_tracked"  # newer versions of torch count training steps here
_MEAN = "mean_BGR"
_MEAN_OF_RGB_FILE = (123.0, 117.0, 104.0)  # (104, 117, 123) off (R, G, B), as (B, G, R)
_MEAN_OF_BGR_FILE = (104.0, 117.0, 123.0)
_DEEPEST = 4
_TELLING = {"s3fd": "conv3_3_norm_mbox_conf.weight", "fan": "m.0.b1.bn1.weight"}
_SHOWN = 5


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Which network a file is of, by its arrays' names and shapes: "s3fd", "fan", or None for neither.

    2D-FAN and 3D-FAN cannot be told apart. The file may still be incomplete or of a variant that the converter refuses.
    """
    names = {_our_name(name, dfl=_is_dfl(shapes)) for name in shapes}
    return next((kind for kind, telling in _TELLING.items() if telling in names), None)


def _convert_s3fd(arrays: Arrays) -> dict[str, F32Array]:
    from ml_common.detect.s3fd import S3FD

    state = _converted("s3fd", arrays, _shapes(S3FD, leave_out=_MEAN))
    if _is_dfl(arrays):
        state["conv1_1.weight"] = np.ascontiguousarray(state["conv1_1.weight"][:, ::-1])
    state[_MEAN] = np.array(_MEAN_OF_RGB_FILE if _is_dfl(arrays) else _MEAN_OF_BGR_FILE, np.float32)
    return state


def _convert_fan(name: str, arrays: Arrays) -> dict[str, F32Array]:
    from ml_common.detect.fan import FAN

    return _converted(name, arrays, _shapes(FAN, leave_out=_UNUSED))


CONVERTERS: dict[str, Callable[[Arrays], dict[str, F32Array]]] = {
    "s3fd": _convert_s3fd,
    "fan2d": partial(_convert_fan, "fan2d"),
    "fan3d": partial(_convert_fan, "fan3d"),
}
"""By the name of the weights: arrays of a published file, by their names there, to our state dict, float32.

Each raises ValueError that says what is missing, left over, misshapen or not a number, and what the file looks like.
"""


def filled(network: type[M], tensors: Mapping[str, Tensor]) -> M:
    """The network with the given state dict, ready to run. The tensors are used, not copied.

    Raises ValueError for tensors of another network: the file was not made by ``understudy weights add``.
    """
    import torch

    with torch.device("meta"):
        module = network()
    try:
        module.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"these are not the weights of {network.__name__}; "
            f"add the published file again with `understudy weights add`: {error}"
        ) from error
    return module.eval().requires_grad_(False)


def _shapes(network: type[nn.Module], *, leave_out: str) -> dict[str, tuple[int, ...]]:
    import torch

    with torch.device("meta"):
        state = network().state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(leave_out)}


def _converted(name: str, arrays: Arrays, expected: Mapping[str, tuple[int, ...]]) -> dict[str, F32Array]:
    dfl = _is_dfl(arrays)
    theirs = {_our_name(their, dfl=dfl): their for their in arrays if not their.endswith(_UNUSED)}
    complaints = [f"lacks {ours}" for ours in expected if ours not in theirs]
    complaints += [f"has {theirs[ours]}, which does not belong there" for ours in theirs if ours not in expected]
    state: dict[str, F32Array] = {}
    for ours, shape in expected.items():
        if ours not in theirs:
            continue
        given = arrays[theirs[ours]]
        try:
            array = _our_layout(given, len(shape), dfl=dfl)
        except (TypeError, ValueError):
            complaints.append(f"has {theirs[ours]}, which holds no numbers")
            continue
        if array.shape != shape:
            complaints.append(f"has {theirs[ours]} of shape {given.shape}, which is not {shape} in our layout")
        elif not np.isfinite(array).all():
            complaints.append(f"has NaN or infinity in {theirs[ours]}")
        state[ours] = array
    if complaints:
        more = f" and {len(complaints) - _SHOWN} more" if len(complaints) > _SHOWN else ""
        raise ValueError(f"{_looks_like(arrays)} and does not fit {name}: it {'; it '.join(complaints[:_SHOWN])}{more}")
    return state


def _our_layout(array: np.ndarray[Any, Any], axes: int, *, dfl: bool) -> F32Array:
    ours = np.asarray(array, dtype=np.float32)
    if dfl and axes == 1:
        ours = ours.reshape(-1)  # singleton axes differ between the published files
    elif dfl and ours.ndim == 4:
        ours = ours.transpose(3, 2, 0, 1)
    return np.ascontiguousarray(ours)


def _is_dfl(names: Mapping[str, object]) -> bool:
    return any(name.endswith(_DFL_SUFFIX) for name in names)


def _our_name(name: str, *, dfl: bool) -> str:
    if dfl:
        name = name.removesuffix(_DFL_SUFFIX).replace("/", ".")
        return re.sub(r"^(m|top_m|conv_last|bn_end|l|bl|al)_(\d+)\.", r"\1.\2.", name)
    name = re.sub(r"^(?:(top_m)_|(m|conv_last|bn_end|l|bl|al))(\d+)\.", lambda m: f"{m[1] or m[2]}.{m[3]}.", name)
    name = re.sub(r"^(m\.\d+\.)(b1|b2|b3|b2_plus)_([1-4])\.", _nested, name)
    return name.replace(".downsample.0.", ".down_bn1.").replace(".downsample.2.", ".down_conv1.")


def _nested(match: re.Match[str]) -> str:
    return f"{match[1]}{'b2_plus.' * (_DEEPEST - int(match[3]))}{match[2]}."


def _looks_like(arrays: Arrays) -> str:
    kind = recognise({name: tuple(np.shape(array)) for name, array in arrays.items()})
    network = {"s3fd": "an S3FD", "fan": "a FAN", None: "no network we know"}[kind]
    names = "DeepFaceLab's" if _is_dfl(arrays) else "torch's"
    return f"the file looks like {network} ({len(arrays)} arrays, named in {names} way)"
