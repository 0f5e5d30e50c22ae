"""A checkpoint: weights and optimizer as safetensors, everything else in state.json, each file hashed.

The one thing a reader would get wrong: `state.json` is written last and carries the hashes of the others, so a
directory without it is not a checkpoint, and one with it is whole or refused. Nothing is pickled; an unknown or
missing tensor is an error, never a reset.

    weights.safetensors     the model's state dict, float32 optimizer.safetensors   "<parameter>/<slot>" for every
    slot state.json              format, iteration, position, config, optimizer (kind and step counter), history,
    files {sha256, size_bytes}
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ml_common.nets import SwapModel, build_model
from ml_common.training.config import TrainConfig
from ml_common.training.history import LossHistory
from ml_common.training.step import TrainState

FORMAT = "understudy.checkpoint.v1"
WEIGHTS_FILE = "weights.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"


class CorruptCheckpoint(ValueError):
    """A checkpoint cannot be trusted; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified; tensors are on the CPU."""

    config: TrainConfig
    iteration: int
    position: int
    history: LossHistory
    weights: Mapping[str, Tensor]
    optimizer_slots: Mapping[str, Tensor]
    optimizer_iteration: int


def checkpoint_files(state: TrainState) -> dict[str, bytes]:
    """The files of a checkpoint by name, `state.json` last. Waits for the device."""
    slots = {
        f"{name}/{slot}": tensor
        for name, parameter in state.model.named_parameters()
        for slot, tensor in state.optimizer.state.get(parameter, {}).items()
    }
    files = {
        WEIGHTS_FILE: to_safetensors(_plain(state.model.state_dict())),
        OPTIMIZER_FILE: to_safetensors(_plain(slots)),
    }
    description = {
        "format": FORMAT,
        "iteration": state.iteration,
        "position": state.position,
        "config": state.config.to_dict(),
        "optimizer": {"kind": state.config.optimizer, "iteration": state.optimizer.param_groups[0]["iteration"]},
        "history": state.history.to_dict(),
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
            for name, content in files.items()
        },
    }
    description["sha256"] = _digest(description)
    return {**files, STATE_FILE: json.dumps(description, indent=1, allow_nan=False).encode()}


def write_checkpoint(state: TrainState, directory: Path) -> None:
    """Writes a checkpoint so that `directory` either holds all of it or does not exist; what was there is replaced."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        for name, content in checkpoint_files(state).items():
            with (unfinished / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if directory.exists():
            shutil.rmtree(directory)
        unfinished.rename(directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def read_checkpoint(directory: Path) -> Checkpoint:
    """Reads and verifies a checkpoint. Raises CorruptCheckpoint naming the file that is missing or wrong."""
    described = _read_state(directory)
    return Checkpoint(
        config=described.config,
        iteration=described.iteration,
        position=described.position,
        history=described.history,
        weights=_read_tensors(directory, WEIGHTS_FILE, described),
        optimizer_slots=_read_tensors(directory, OPTIMIZER_FILE, described),
        optimizer_iteration=described.optimizer_iteration,
    )


def restore(checkpoint: Checkpoint, config: TrainConfig, device: torch.device) -> TrainState:
    """The run as it was saved, going on with the mutable options of `config`.

    Raises ValueError when a fixed option differs, CorruptCheckpoint when a tensor is missing, unknown or of another
    shape.
    """
    config.require_same_run(checkpoint.config)
    state = TrainState.create(config, device)
    _load_weights(checkpoint.weights, state.model)
    _load_slots(checkpoint.optimizer_slots, state)
    for group in state.optimizer.param_groups:
        group["iteration"] = checkpoint.optimizer_iteration
    state.iteration, state.position, state.history = checkpoint.iteration, checkpoint.position, checkpoint.history
    return state


def load_model(directory: Path, device: torch.device) -> tuple[SwapModel, TrainConfig]:
    """The trained model alone, for swapping: verified weights, in evaluation mode, on `device`."""
    described = _read_state(directory)
    model = build_model(described.config.model, seed=described.config.seed)
    _load_weights(_read_tensors(directory, WEIGHTS_FILE, described), model)
    return model.to(device=device, memory_format=torch.channels_last).eval(), described.config  # type: ignore[call-overload]


@dataclass(frozen=True)
class _State:
    config: TrainConfig
    iteration: int
    position: int
    history: LossHistory
    optimizer_iteration: int
    files: Mapping[str, Mapping[str, Any]]


def _read_state(directory: Path) -> _State:
    try:
        description = json.loads((directory / STATE_FILE).read_bytes())
        if description["format"] != FORMAT:
            raise ValueError(f"its format is {description['format']!r}, this version reads {FORMAT}")
        if description.pop("sha256") != _digest(description):
            raise ValueError("its content does not match its own hash")
        return _State(
            config=TrainConfig.from_dict(description["config"]),
            iteration=description["iteration"],
            position=description["position"],
            history=LossHistory.from_dict(description["history"]),
            optimizer_iteration=description["optimizer"]["iteration"],
            files=description["files"],
        )
    except FileNotFoundError as error:
        raise CorruptCheckpoint(f"{STATE_FILE} is missing in {directory}: not a complete checkpoint") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptCheckpoint(f"{STATE_FILE} in {directory} is damaged: {error}") from error


def _digest(description: Mapping[str, Any]) -> str:
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read_tensors(directory: Path, name: str, described: _State) -> dict[str, Tensor]:
    expected = described.files.get(name)
    if expected is None or not (directory / name).is_file():
        raise CorruptCheckpoint(f"{name} is missing in {directory}")
    content = (directory / name).read_bytes()
    if len(content) != expected["size_bytes"]:
        raise CorruptCheckpoint(f"{name} in {directory} has {len(content)} bytes instead of {expected['size_bytes']}")
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise CorruptCheckpoint(
            f"{name} in {directory} does not match its SHA-256; it was damaged after it was written"
        )
    try:
        return parse_safetensors(content)
    except SafetensorError as error:
        raise CorruptCheckpoint(f"{name} in {directory} is not a safetensors file: {error}") from error


def _load_weights(weights: Mapping[str, Tensor], model: SwapModel) -> None:
    expected = model.state_dict()
    wrong = sorted(weights.keys() ^ expected.keys())
    wrong += sorted(name for name in weights.keys() & expected.keys() if weights[name].shape != expected[name].shape)
    if wrong:
        raise CorruptCheckpoint(f"{WEIGHTS_FILE} does not fit the model: {', '.join(wrong[:5])} ({len(wrong)} tensors)")
    model.load_state_dict(dict(weights))


def _load_slots(slots: Mapping[str, Tensor], state: TrainState) -> None:
    """A parameter has all of its slots, or none when it has never been trained."""
    slot_names = state.optimizer.slot_names
    taken = 0
    for name, parameter in state.model.named_parameters():
        found = {slot: slots[f"{name}/{slot}"] for slot in slot_names if f"{name}/{slot}" in slots}
        if found and (len(found) < len(slot_names) or any(t.shape != parameter.shape for t in found.values())):
            raise CorruptCheckpoint(f"{OPTIMIZER_FILE} does not fit the model at {name}")
        for slot, tensor in found.items():
            state.optimizer.state[parameter][slot] = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        taken += len(found)
    if taken != len(slots):
        raise CorruptCheckpoint(f"{OPTIMIZER_FILE} has {len(slots) - taken} tensors that the model does not know")


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous on the CPU: the files do not depend on a device or on a memory layout."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
