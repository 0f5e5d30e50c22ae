"""What a worker implements: a Stage. No gRPC and no Ray here, so a stage runs the same in a test, a farm's command and a Ray actor.

A stage is found by its path `module:Class`. Its module may import torch; servers therefore never import it, they only write the path into a
plan. ``setup`` runs once a process, ``process_chunk`` many times, maybe twice for the same chunk: outputs must be put-once or
identical. ``finish`` runs in the driver, after all chunks, and must not need a device.
"""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from services.kit.operations.plan import Chunk, ChunkManifest, ItemFailure, Plan
from services.kit.records import Records
from services.kit.storage import ObjectStore


@dataclass(frozen=True, slots=True)
class Resources:
    """What one worker of a stage asks the executor for. ``gpus`` may be a fraction; it is asked for only where there are GPUs."""

    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerEnv:
    """What a stage may use: the store, the weights folder, the device's name (`cpu`, `cuda`, `cuda:1`), a scratch folder of its own, and
    the device that decodes videos (None: the processor)."""

    store: ObjectStore
    records: Records
    weights_dir: Path
    device: str
    scratch_dir: Path
    video_decoder: str | None = None


@dataclass(frozen=True, slots=True)
class ChunkOutcome:
    """What ``process_chunk`` returns: becomes the manifest."""

    summary: dict[str, Any]
    failures: tuple[ItemFailure, ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """The response of a finished operation: a proto message of `understudy.v1` by name, as canonical JSON."""

    message: str
    body: dict[str, Any]


class Stage(ABC):
    """One kind of work on chunks."""

    version: ClassVar[str]
    resources: ClassVar[Resources] = Resources()

    def setup(self, env: WorkerEnv) -> None:  # noqa: B027  many stages need nothing but the environment
        """Loads models onto ``env.device``. Called once, before anything else."""

    @abstractmethod
    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """Does a chunk and stores its outputs. ``report(units_done)`` shows progress; it may raise, to end the work.

        An UnderstudyError ends the operation with that error; any other exception is tried again, a few times.
        """

    @abstractmethod
    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Joins the chunks' summaries (in order) into the result and publishes it. Must be harmless to run twice."""

    def answer(self, env: WorkerEnv, question: dict[str, Any]) -> dict[str, Any]:
        """One interactive call (a preview, a detection) on a warm worker; JSON in and out, with bytes under 256 KiB as base64."""
        raise NotImplementedError(f"{type(self).__name__} answers no interactive calls")


def stage_path(stage: type[Stage]) -> str:
    """`module:Class`, for a plan."""
    return f"{stage.__module__}:{stage.__qualname__}"


def load_stage(path: str) -> Stage:
    """Makes the stage that ``path`` names; ValueError when it names none.

    Only classes of this project's packages: a plan in the store must not name arbitrary code.
    """
    module_name, _, class_name = path.partition(":")
    if not module_name.startswith(("services.", "tests.")):
        raise ValueError(f"stage {path!r} is not part of this project")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not module_name.startswith(error.name or " "):
            raise  # the stage is there, something that it needs is not
        raise ValueError(f"this release has no stage {path!r}") from error
    stage_class = getattr(module, class_name, None)
    if not (isinstance(stage_class, type) and issubclass(stage_class, Stage)) or inspect.isabstract(stage_class):
        raise ValueError(f"{path!r} is not a Stage of this release")
    return stage_class()
