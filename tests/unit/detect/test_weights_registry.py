"""The registry of weight files: fetched ones, pinned, and those that a user brought, with their records."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ml_common import weights
from ml_common.detect import DETECTORS, LANDMARKERS

RECORD = weights.WeightRecord(
    "mine", "0" * 64, "a.npy", "1" * 64, "deepfacelab-npy", "MIT", "2030-01-01T00:00:00+00:00"
)


@pytest.fixture
def one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.arange(3.0)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    registered = weights.FetchedWeights("a", digest, "Apache-2.0", "test", "")
    monkeypatch.setattr(weights, "_FETCHED", (registered, replace(registered, name="b")))
    monkeypatch.setattr(weights, "_USER", (weights.UserWeights("mine", "understudy weights add A.npy", "A.npy", ""),))
    return path


@pytest.fixture
def users_file(one_file: Path) -> Path:
    path = one_file.with_name("mine.safetensors")
    path.write_bytes(one_file.read_bytes())
    record = replace(RECORD, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    path.with_suffix(".json").write_bytes(record.to_json_bytes())
    return path


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


def test_entries_are_complete() -> None:
    everything = (*weights.fetched(), *weights.user())
    assert len({item.name for item in everything}) == len(everything)
    for item in weights.fetched():
        assert len(item.sha256) == 64
        assert item.licence == "Apache-2.0"
    for item in everything:
        assert item.file == f"{item.name}.safetensors"
        assert item.bring.startswith("understudy weights ")
        assert weights.entry(item.name) is item


def test_what_detectors_and_landmarkers_need_is_registered() -> None:
    for needs in (*DETECTORS.values(), *LANDMARKERS.values()):
        for name in needs.weights:
            assert weights.entry(name)


def test_right_file_is_found_and_read(one_file: Path) -> None:
    assert weights.locate("a", one_file.parent) == one_file
    assert weights.load_tensors(one_file)["w"].tolist() == [0, 1, 2]
    assert weights.digest("a", one_file.parent) == hashlib.sha256(one_file.read_bytes()).hexdigest()


def test_absent_unknown_and_damaged_files_are_told_apart(one_file: Path) -> None:
    with pytest.raises(weights.MissingWeights, match="missing; run `understudy weights fetch`"):
        weights.locate("b", one_file.parent)
    with pytest.raises(ValueError, match="known are a, b, mine"):
        weights.locate("c", one_file.parent)
    weights.locate("a", one_file.parent)
    _flip_a_bit(one_file)
    with pytest.raises(weights.MissingWeights, match="damaged"):
        weights.locate("a", one_file.parent)


def test_a_users_file_is_held_to_its_record(users_file: Path) -> None:
    folder = users_file.parent
    assert weights.locate("mine", folder) == users_file
    assert weights.digest("mine", folder) == hashlib.sha256(users_file.read_bytes()).hexdigest()
    found = weights.status("mine", folder)
    assert (found.state, found.licence, found.advice) == ("ok", "MIT", "")
    assert "a.npy" in found.source
    _flip_a_bit(users_file)
    assert weights.status("mine", folder).state == "damaged"
    with pytest.raises(weights.MissingWeights, match=r"damaged.*`understudy weights add A\.npy`"):
        weights.digest("mine", folder)


@pytest.mark.parametrize("absent", ["mine.json", "mine.safetensors"])
def test_a_file_without_a_record_does_not_count(users_file: Path, absent: str) -> None:
    (users_file.parent / absent).unlink()
    assert weights.status("mine", users_file.parent).state == "not added"
    with pytest.raises(weights.MissingWeights, match=r"not added; run `understudy weights add A\.npy` \(A\.npy\)"):
        weights.locate("mine", users_file.parent)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        json.dumps({"schema": 1}).encode(),
        RECORD.to_json_bytes().replace(b'"schema": 1', b'"schema": 2'),
        RECORD.to_json_bytes().replace(b'"MIT"', b"5"),
        replace(RECORD, name="other").to_json_bytes(),
    ],
)
def test_a_record_that_cannot_be_read_is_damage(users_file: Path, record: bytes) -> None:
    users_file.with_suffix(".json").write_bytes(record)
    assert weights.status("mine", users_file.parent).state == "damaged"
    with pytest.raises(weights.MissingWeights, match="understudy weights add"):
        weights.locate("mine", users_file.parent)


def test_records_come_back_as_they_were() -> None:
    assert weights.WeightRecord.from_json_bytes(RECORD.to_json_bytes()) == RECORD


def test_a_server_can_look_without_torch() -> None:
    root = Path(__file__).resolve().parents[3]
    script = "import sys, ml_common.weights, ml_common.foreign_weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 0
