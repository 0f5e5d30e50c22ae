"""Checkpoints: whole or refused, never pickled, and good for continuing and for swapping."""

import json
from pathlib import Path

import pytest
import torch

from ml_common.training.checkpoint import (
    OPTIMIZER_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    CorruptCheckpoint,
    checkpoint_files,
    load_model,
    read_checkpoint,
    restore,
    write_checkpoint,
)
from ml_common.training.history import MAX_POINTS, LossHistory
from ml_common.training.step import TrainState

CPU = torch.device("cpu")


@pytest.fixture
def state(tiny_config) -> TrainState:
    """A run with something in every slot, as after a step."""
    state = TrainState.create(tiny_config(), CPU)
    generator = torch.Generator().manual_seed(0)
    for parameter in state.model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(memory_format=torch.preserve_format)
    state.optimizer.step()
    state.iteration, state.position = 7, 28
    state.history.add(7, 7, 1.5, 1.25)
    return state


def test_what_is_written_is_read(state, tmp_path: Path) -> None:
    write_checkpoint(state, tmp_path / "c")
    again = restore(read_checkpoint(tmp_path / "c"), state.config, CPU)
    assert (again.iteration, again.position, again.history) == (7, 28, state.history)
    assert checkpoint_files(again) == checkpoint_files(state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_writing_replaces_an_older_checkpoint_and_leaves_nothing_behind_on_failure(
    state, tmp_path, monkeypatch
) -> None:
    write_checkpoint(state, tmp_path / "c")
    state.iteration = 8
    write_checkpoint(state, tmp_path / "c")
    assert read_checkpoint(tmp_path / "c").iteration == 8

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    state.iteration = 9
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(state, tmp_path / "c")
    assert read_checkpoint(tmp_path / "c").iteration == 8
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("name", [WEIGHTS_FILE, OPTIMIZER_FILE, STATE_FILE])
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_damage_is_noticed_and_named(state, tmp_path: Path, name: str, damage: str) -> None:
    write_checkpoint(state, tmp_path / "c")
    path = tmp_path / "c" / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-10])
    else:  # one digit or one mantissa bit; state.json stays valid JSON
        place = content.index(b'"iteration": 7') + 13 if name == STATE_FILE else len(content) - 3
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(CorruptCheckpoint, match=name):
        read_checkpoint(tmp_path / "c")


def test_another_model_or_format_is_refused(state, tmp_path: Path, tiny_config) -> None:
    write_checkpoint(state, tmp_path / "c")
    with pytest.raises(ValueError, match="model differs from the checkpoint"):
        restore(read_checkpoint(tmp_path / "c"), tiny_config(model={"ae_dims": 24}), CPU)
    description = json.loads((tmp_path / "c" / STATE_FILE).read_text())
    (tmp_path / "c" / STATE_FILE).write_text(json.dumps({**description, "format": "other.v9"}))
    with pytest.raises(CorruptCheckpoint, match=r"other\.v9"):
        read_checkpoint(tmp_path / "c")


def test_missing_and_unknown_tensors_are_refused(state, tmp_path: Path) -> None:
    write_checkpoint(state, tmp_path / "c")
    checkpoint = read_checkpoint(tmp_path / "c")
    weight = next(iter(checkpoint.weights))
    weights = {name: tensor for name, tensor in checkpoint.weights.items() if name != weight}
    with pytest.raises(CorruptCheckpoint, match=weight):
        restore(_with(checkpoint, weights=weights), state.config, CPU)
    slots = dict(checkpoint.optimizer_slots)
    slots.pop(f"{weight}/m")
    with pytest.raises(CorruptCheckpoint, match=weight):
        restore(_with(checkpoint, optimizer_slots=slots), state.config, CPU)
    with pytest.raises(CorruptCheckpoint, match="1 tensors"):
        more = {**checkpoint.optimizer_slots, "nobody/m": torch.zeros(1)}
        restore(_with(checkpoint, optimizer_slots=more), state.config, CPU)


def _with(checkpoint, **changes):
    from dataclasses import replace

    return replace(checkpoint, **changes)


def test_a_model_is_loaded_for_swapping(state, tmp_path: Path) -> None:
    write_checkpoint(state, tmp_path / "c")
    model, config = load_model(tmp_path / "c", CPU)
    face_NCHW = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model.swap(face_NCHW).image, state.model.swap(face_NCHW).image)
    assert not model.training and config == state.config


def test_history_is_bounded_and_keeps_the_mean() -> None:
    history = LossHistory()
    for iteration in range(1, 10 * MAX_POINTS + 1):
        history.add(iteration, 1, float(iteration), 2.0 * iteration)
    assert len(history.points) < MAX_POINTS and history.stride == 16
    last = history.points[-1]
    assert last[1] == pytest.approx(last[0] - 7.5) and last[2] == pytest.approx(2 * last[1])
    assert LossHistory.from_dict(json.loads(json.dumps(history.to_dict()))) == history
    with pytest.raises(ValueError, match="history"):
        LossHistory.from_dict({"stride": 1})
