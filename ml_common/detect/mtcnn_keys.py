"""Recognises the three networks of MTCNN by the shapes in their state dicts, and joins them into ours.

What a reader would get wrong: the published weights come from Caffe by way of TensorFlow, where a map is flattened with
its columns outermost and its channels innermost. ``convert`` puts the weights of those layers into torch's own order,
so that our modules flatten as torch does. There is no torch in this module.

Sources: layer shapes of K. Zhang et al., arXiv:1604.02878; names of the files ``pnet.pt``, ``rnet.pt`` and ``onet.pt``
of the package facenet-pytorch (MIT). Pinned by tests/unit/detect/test_mtcnn.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

PARTS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "pnet": {
        "conv1": (10, 3, 3, 3),
        "conv2": (16, 10, 3, 3),
        "conv3": (32, 16, 3, 3),
        "conv4_1": (2, 32, 1, 1),
        "conv4_2": (4, 32, 1, 1),
    },
    "rnet": {
        "conv1": (28, 3, 3, 3),
        "conv2": (48, 28, 3, 3),
        "conv3": (64, 48, 2, 2),
        "dense4": (128, 576),
        "dense5_1": (2, 128),
        "dense5_2": (4, 128),
    },
    "onet": {
        "conv1": (32, 3, 3, 3),
        "conv2": (64, 32, 3, 3),
        "conv3": (64, 64, 3, 3),
        "conv4": (128, 64, 2, 2),
        "dense5": (256, 1152),
        "dense6_1": (2, 256),
        "dense6_2": (4, 256),
        "dense6_3": (10, 256),
    },
}
"""Weight shapes by layer. A layer without ``_`` in its name is followed by a PReLU of its number (``prelu1``)."""

_FLATTENED = {"rnet": ("dense4.weight", 3), "onet": ("dense5.weight", 3)}  # the first dense layer, the side of its map


def shapes_of(part: str) -> dict[str, tuple[int, ...]]:
    """Name to shape of everything in the state dict of ``pnet``, ``rnet`` or ``onet``."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, shape in PARTS[part].items():
        shapes[f"{layer}.weight"], shapes[f"{layer}.bias"] = shape, shape[:1]
        if "_" not in layer:
            shapes[f"prelu{layer[-1]}.weight"] = shape[:1]
    return shapes


def recognise_part(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """``pnet``, ``rnet`` or ``onet`` if a state dict has exactly its names and shapes, else None."""
    given = {name: tuple(shape) for name, shape in shapes.items()}
    return next((part for part in PARTS if shapes_of(part) == given), None)


def convert(parts: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """The state dict of ``mtcnn.Mtcnn``, float32, from the three published ones by name of the part.

    Raises ValueError where a part is absent or has other shapes.
    """
    state: dict[str, Array] = {}
    for part in PARTS:
        if recognise_part({name: array.shape for name, array in parts.get(part, {}).items()}) != part:
            raise ValueError(f"these are not the weights of MTCNN's {part}")
        for name, array in parts[part].items():
            state[f"{part}.{name}"] = np.ascontiguousarray(array, np.float32)
    for part, (name, side) in _FLATTENED.items():
        columns_first = state[f"{part}.{name}"]
        out, channels = len(columns_first), columns_first.shape[1] // side**2
        rows_last = columns_first.reshape(out, side, side, channels)  # out, x, y, channel
        state[f"{part}.{name}"] = np.ascontiguousarray(rows_last.transpose(0, 3, 2, 1).reshape(out, -1))
    return state
