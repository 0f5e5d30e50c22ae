"""The registry of weight files."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ml_common import weights


@pytest.fixture
def one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.arange(3.0)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    registered = weights.WeightEntry("a", path.name, digest, "Apache-2.0", "test", "")
    monkeypatch.setattr(weights, "_ENTRIES", (registered, replace(registered, name="b", file="b.safetensors")))
    return path


def test_entries_are_complete() -> None:
    names = [entry.name for entry in weights.entries()]
    assert len(set(names)) == len(names)
    for entry in weights.entries():
        assert len(entry.sha256) == 64
        assert entry.licence == "Apache-2.0"
        assert entry.file.endswith(".safetensors")


def test_right_file_is_found_and_read(one_file: Path) -> None:
    assert weights.locate("a", one_file.parent) == one_file
    assert weights.load_tensors(one_file)["w"].tolist() == [0, 1, 2]


def test_absent_unknown_and_damaged_files_are_told_apart(one_file: Path) -> None:
    with pytest.raises(weights.MissingWeights, match="missing; run `understudy weights fetch`"):
        weights.locate("b", one_file.parent)
    with pytest.raises(ValueError, match="known are a, b"):
        weights.locate("c", one_file.parent)
    weights.locate("a", one_file.parent)
    content = bytearray(one_file.read_bytes())
    content[-1] ^= 1
    one_file.write_bytes(content)
    os.utime(one_file, ns=(1, 1))
    with pytest.raises(weights.MissingWeights, match="damaged"):
        weights.locate("a", one_file.parent)
