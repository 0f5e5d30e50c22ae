"""Golden weights and numbers for the network tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ml_common.dfl.swap_weights import state_dict_from_dfl, variable_name
from ml_common.nets import SwapModel

GOLDEN = Path(__file__).parents[2] / "golden" / "nets"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, and very much so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def golden_nets() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def load_golden_weights() -> Callable[[SwapModel], None]:
    spec = importlib.util.spec_from_file_location("detw", GOLDEN / "detw.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def load(model: SwapModel) -> None:
        files: dict[str, dict[str, np.ndarray]] = {}
        for name, tensor in model.state_dict().items():
            part, variable = variable_name(name)
            # Their layout has the axes reversed, but for kernels, where only height and width keep their order.
            shape = tuple(tensor.permute(2, 3, 1, 0).shape) if tensor.ndim == 4 else tuple(tensor.shape[::-1])
            files.setdefault(part, {})[variable] = module.detw(f"{part}/{variable}", shape)
        model.load_state_dict(state_dict_from_dfl(files, model))

    return load
