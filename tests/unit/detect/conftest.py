"""Weights and real pictures for the detection tests; where they are absent, tests say so and skip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ml_common.detect import FaceFinder, load_finder
from services.kit.errors import Transient
from services.kit.weights import default_weights_dir, fetch

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    # Two threads on a machine whose cores are all busy wait for each other most of the time.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    folder = default_weights_dir()
    try:
        fetch(folder, on_event=print)
    except Transient as error:
        pytest.skip(f"weights cannot be fetched here: {error}")
    return folder


@pytest.fixture(scope="session")
def finder(weights_dir: Path) -> FaceFinder:
    return load_finder(weights_dir, torch.device("cpu"))


@pytest.fixture(scope="session")
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"no real pictures at {DATA}")
    return DATA


@pytest.fixture(scope="session")
def annotated(data: Path) -> list[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """(name, image, 68 points annotated by people) of photos."""
    folder = data / "landmarks68"
    faces = json.loads((folder / "human68.json").read_text())["faces"]
    return [(f["image"], cv2.imread(str(folder / f["image"])), np.array(f["points"])) for f in faces]
