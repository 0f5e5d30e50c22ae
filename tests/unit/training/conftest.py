"""Small drawn faces to train on, and a context that a test can steer."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ml_common.geometry import FaceType, HEAD_MODEL_68x3
from ml_common.training.config import TrainConfig
from ml_common.training.presets import train_config_from_dict
from ml_common.training.samples import FaceSample


def _landmarks(size_px: int, yaw_rad: float) -> np.ndarray:
    model = np.asarray(HEAD_MODEL_68x3, np.float64)
    points = np.stack([np.cos(yaw_rad) * model[:, 0] + np.sin(yaw_rad) * model[:, 2], model[:, 1]], axis=1)
    scaled = (points - points.mean(0)) / np.ptp(points[:, 1]) * size_px * 0.5
    return (scaled + np.array([size_px * 0.5, size_px * 0.55])).astype(np.float32)


def _draw_face(size_px: int, yaw_rad: float, skin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    points = _landmarks(size_px, yaw_rad)
    image = np.full((size_px, size_px, 3), (60, 70, 80), np.uint8)
    parts = ((0, 27, skin), (36, 42, (250, 250, 250)), (42, 48, (250, 250, 250)), (48, 60, (60, 60, 200)))
    for first, stop, colour in parts:
        hull = cv2.convexHull(points[first:stop].astype(np.int32))
        cv2.fillConvexPoly(image, hull, tuple(int(value) for value in colour))
    return image, points


@pytest.fixture
def make_faces() -> Callable[..., list[FaceSample]]:
    """make_faces(count, skin_bgr, seed, size_px=96): JPEG crops of one drawn person at many yaws."""

    def make(count: int, skin_bgr: tuple[int, int, int], seed: int, size_px: int = 96) -> list[FaceSample]:
        rng = np.random.default_rng(seed)
        faces = []
        for index in range(count):
            yaw = float(rng.uniform(-0.6, 0.6))
            image, points = _draw_face(size_px, yaw, np.array(skin_bgr) * rng.uniform(0.8, 1.0))
            jpeg = cv2.imencode(".jpg", image)[1].tobytes()
            faces.append(
                FaceSample(
                    image=jpeg,
                    landmarks_px_68x2=points,
                    face_type=FaceType.WHOLE_FACE,
                    yaw_rad=-yaw,
                    name=f"{seed}/{index}",
                )
            )
        return faces

    return make


@pytest.fixture
def tiny_config() -> Callable[..., TrainConfig]:
    """tiny_config(**options): a model of a few thousand weights at 32 pixels that trains in milliseconds."""

    def make(**options: Any) -> TrainConfig:
        model = {
            "arch": "df",
            "face_type": "wf",
            "resolution": 32,
            "ae_dims": 16,
            "e_dims": 8,
            "d_dims": 8,
            "d_mask_dims": 4,
        }
        defaults = {
            "batch_size": 4,
            "optimizer": "adabelief",
            "learning_rate": 5e-4,
            "lr_warmup_iterations": 0,
            "lr_cosine_period": 0,
            "report_every_iterations": 5,
            "preview_every_iterations": 0,
            "save_every_s": 0.0,
            "target_iteration": 10,
            "unwarped_every": 0,
        }
        model_options = options.pop("model", {})
        return train_config_from_dict("demo", {**defaults, **options, "model": {**model, **model_options}})

    return make


@dataclass
class RecordingContext:
    """A context on one process: keeps events, publishes into a folder, and its clock advances a second a look."""

    folder: Path
    events: list[Any] = field(default_factory=list)
    published: list[Path] = field(default_factory=list)
    stop_at_iteration: int | None = None
    wishes: dict[int, dict[str, Any]] = field(default_factory=dict)
    saves_wished: int = 0
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _asked: int = 0
    _now_s: float = 0.0

    def report(self, event: Any) -> None:
        self.events.append(event)

    def should_stop(self) -> bool:
        """Asked once before every iteration, so the count of questions is the iteration."""
        stop = self.stop_at_iteration is not None and self._asked >= self.stop_at_iteration
        self._asked += 1
        return stop

    def pending_options(self) -> dict[str, Any]:
        return self.wishes.pop(self._asked - 1, {})

    def save_requested(self) -> bool:
        wished, self.saves_wished = self.saves_wished > 0, 0
        return wished

    def publish_checkpoint(self, directory: Path, iteration: int) -> None:
        self.published.append(directory.rename(self.folder / f"published-{iteration}"))

    def latest_checkpoint(self) -> Path | None:
        return self.published[-1] if self.published else None

    def clock(self) -> float:
        self._now_s += 1.0
        return self._now_s

    def of_kind(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def make_context(tmp_path: Path) -> Callable[..., RecordingContext]:
    """make_context(**fields): a RecordingContext that publishes into a folder of its own."""
    numbers = itertools.count()

    def make(**fields: Any) -> RecordingContext:
        folder = tmp_path / f"run-{next(numbers)}"
        folder.mkdir()
        return RecordingContext(folder, **fields)

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Torch on one thread: sums are always taken in the same order, and tiny tensors do not wait for busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
