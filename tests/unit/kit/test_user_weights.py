"""Files that a user brings: told apart, converted, kept, replaced, removed, and shared through a store."""

from __future__ import annotations

import io
import json
import os
import pickle
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from ml_common import weights as registry
from ml_common.detect import weight_keys
from ml_common.detect.mtcnn_keys import PARTS, convert, shapes_of
from services.kit import weights
from services.kit.errors import (
    AlreadyExists,
    Corrupt,
    InvalidInput,
    MissingObject,
    NotFound,
    QuotaOrCapacity,
    Transient,
)
from services.kit.storage import FolderStore
from services.kit.weights import wheels

Array = np.ndarray[Any, Any]
NETWORKS = ("s3fd", "fan2d", "fan3d")


def _small_recognise(shapes: dict[str, tuple[int, ...]]) -> str | None:
    return next((name.partition("/")[0] for name in shapes if name.startswith(("s3fd/", "fan/"))), None)


def _small_converter(arrays: dict[str, Array]) -> dict[str, Array]:
    if "broken" in arrays:
        raise ValueError("it lacks conv1.weight")
    return {"conv1.weight": np.asarray(next(iter(arrays.values())), np.float32)}


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of one array in place of those of a hundred megabytes; MTCNN is its own size."""
    monkeypatch.setattr(weight_keys, "recognise", _small_recognise)
    monkeypatch.setattr(weight_keys, "CONVERTERS", dict.fromkeys(NETWORKS, _small_converter))


def _npy(folder: Path, name: str, kind: str, value: float = 1.0, **more: Array) -> Path:
    path = folder / name
    path.write_bytes(pickle.dumps({f"{kind}/weight:0": np.full((2, 2), value, np.float16), **more}, 4))
    return path


def _parts(seed: int = 0) -> dict[str, dict[str, Array]]:
    random = np.random.default_rng(seed)
    return {
        part: {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes_of(part).items()}
        for part in PARTS
    }


def _pt(arrays: dict[str, Array]) -> bytes:
    file = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, file)
    return file.getvalue()


def _mtcnn_files(folder: Path, seed: int = 0) -> list[Path]:
    paths = []
    for part, arrays in _parts(seed).items():
        path = folder / f"{part}.pt"
        path.write_bytes(_pt(arrays))
        paths.append(path)
    return paths


def _wheel(path: Path, seed: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("facenet_pytorch/__init__.py", "raise SystemExit")
        for part, arrays in _parts(seed).items():
            archive.writestr(f"facenet_pytorch/data/{part}.pt", _pt(arrays))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "weights"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "objects")


@pytest.fixture
def add(folder: Path) -> Callable[..., list[registry.WeightStatus]]:
    def call(*paths: Path, **settings: Any) -> list[registry.WeightStatus]:
        return weights.add(paths, folder, on_event=lambda _: None, **settings)

    return call


Add = Callable[..., list[registry.WeightStatus]]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_a_file_becomes_our_state_dict_with_a_record(add: Add, folder: Path, tmp_path: Path) -> None:
    source = _npy(tmp_path, "whatever.bin", "s3fd", 0.5)
    (found,) = add(source)
    assert (found.name, found.state, found.licence) == ("s3fd", "ok", registry.OWNER_STATES)
    assert set(_files(folder)) == {"s3fd.safetensors", "s3fd.json"}
    (array,) = load_file(folder / "s3fd.safetensors").values()
    assert array.dtype == np.float32
    assert array.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    record = json.loads((folder / "s3fd.json").read_bytes())
    assert record["schema"] == 1
    assert record["source_file"] == "whatever.bin"
    assert record["source_kind"] == "deepfacelab-npy"
    assert record["added_time"].endswith("+00:00")
    assert registry.locate("s3fd", folder) == found.path


@pytest.mark.parametrize(
    ("name", "which"),
    [
        ("2DFAN.npy", "fan2d"),
        ("3DFAN.npy", "fan3d"),
        ("2DFAN4-3d8a0f1b9c.zip", "fan2d"),
        ("3dfan4.pth", "fan3d"),
        ("fan_2d.pth", "fan2d"),
        ("my-3D-points.npy", "fan3d"),
    ],
)
def test_the_name_says_which_fan(add: Add, tmp_path: Path, name: str, which: str) -> None:
    assert add(_npy(tmp_path, name, "fan"))[0].name == which


@pytest.mark.parametrize("name", ["fan.npy", "2d_or_3d.npy", "a12d.npy", "abc3def.npy"])
def test_a_fan_without_a_hint_is_asked_for(add: Add, folder: Path, tmp_path: Path, name: str) -> None:
    path = _npy(tmp_path, name, "fan")
    with pytest.raises(InvalidInput, match="--as fan2d or --as fan3d"):
        add(path)
    assert not folder.exists()
    assert add(path, name="fan3d")[0].name == "fan3d"
    assert add(_npy(tmp_path, "2DFAN.npy", "fan"), name="fan3d")[0].name == "fan3d"  # who says it knows


def test_a_name_that_does_not_fit_is_refused(add: Add, tmp_path: Path) -> None:
    path = _npy(tmp_path, "x.npy", "s3fd")
    with pytest.raises(InvalidInput, match="--as fan2d does not fit: what was given is s3fd"):
        add(path, name="fan2d")
    with pytest.raises(InvalidInput, match=r"unknown weights 's4fd'; known are .*s3fd"):
        add(path, name="s4fd")
    assert add(path, name="s3fd")[0].state == "ok"


def test_what_is_no_known_network_is_refused(add: Add, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"other.npy holds 1 arrays \(other/weight:0, \.\.\.\).*s3fd, fan2d, fan3d, mtcnn"
    ):
        add(_npy(tmp_path, "other.npy", "other"))
    with pytest.raises(InvalidInput, match=r"broken.npy: it lacks conv1\.weight"):
        add(_npy(tmp_path, "broken.npy", "s3fd", broken=np.zeros(1)))
    with pytest.raises(InvalidInput, match="no file"):
        add(tmp_path / "absent.npy")
    with pytest.raises(InvalidInput, match="several of the files are s3fd"):
        add(_npy(tmp_path, "a.npy", "s3fd"), _npy(tmp_path, "b.npy", "s3fd", 2))
    picture = tmp_path / "S3FD.npy"
    picture.write_bytes(b"\x89PNG")
    with pytest.raises(InvalidInput, match=r"S3FD\.npy is not a weight file: it is a PNG picture"):
        add(picture)
    assert not folder.exists()


def test_a_pickle_with_code_is_not_executed(add: Add, tmp_path: Path) -> None:
    witness = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {witness}",)

    path = tmp_path / "S3FD.npy"
    path.write_bytes(pickle.dumps({"s3fd/weight:0": Evil()}, 4))
    with pytest.raises(InvalidInput, match="system, which is not data"):
        add(path)
    assert not witness.exists()


def test_adding_again_changes_nothing_and_replacing_has_to_be_said(add: Add, folder: Path, tmp_path: Path) -> None:
    first, other = _npy(tmp_path, "a.npy", "s3fd", 1), _npy(tmp_path, "b.npy", "s3fd", 2)
    add(first, licence="MIT")
    before = _files(folder)
    add(first)
    add(first, licence="MIT")
    assert _files(folder) == before
    with pytest.raises(AlreadyExists, match=r"s3fd is there already, from deepfacelab-npy: a\.npy.*--replace"):
        add(other)
    assert _files(folder) == before
    assert add(other, replace=True)[0].licence == registry.OWNER_STATES
    assert load_file(folder / "s3fd.safetensors")["conv1.weight"][0, 0] == 2
    assert add(other, licence="BSD-3-Clause")[0].licence == "BSD-3-Clause"
    with pytest.raises(InvalidInput, match="SPDX"):
        add(other, licence="a\nb")


def test_damage_is_repaired_without_being_asked(add: Add, folder: Path, tmp_path: Path) -> None:
    (found,) = add(_npy(tmp_path, "a.npy", "s3fd"))
    found.path.write_bytes(b"half")
    with pytest.raises(Corrupt, match=r"damaged.*weights add S3FD\.npy"):
        weights.verify(folder, ["s3fd"])
    assert add(_npy(tmp_path, "b.npy", "s3fd", 3))[0].state == "ok"


def test_all_files_are_looked_at_before_any_is_written(add: Add, folder: Path, tmp_path: Path) -> None:
    add(_npy(tmp_path, "a.npy", "s3fd"))
    before = _files(folder)
    with pytest.raises(AlreadyExists):
        add(_npy(tmp_path, "2DFAN.npy", "fan"), _npy(tmp_path, "b.npy", "s3fd", 2))
    assert _files(folder) == before
    found = add(_npy(tmp_path, "2DFAN.npy", "fan"), _npy(tmp_path, "a.npy", "s3fd"))
    assert [item.name for item in found] == ["fan2d", "s3fd"]


def test_mtcnn_is_three_files_or_a_wheel(add: Add, folder: Path, tmp_path: Path) -> None:
    paths = _mtcnn_files(tmp_path)
    with pytest.raises(InvalidInput, match=r"pnet\.pt.*rnet, onet is not there: add all in one command"):
        add(paths[0])
    with pytest.raises(InvalidInput, match="several of the files are mtcnn"):
        add(*paths, paths[0])
    (found,) = add(*reversed(paths))
    assert found.name == "mtcnn"
    assert "onet.pt, rnet.pt, pnet.pt" in found.source
    expected = convert(_parts())
    written = load_file(found.path)
    assert set(written) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(written[name], array)
    assert add(_wheel(tmp_path / "facenet.whl"))[0].sha256 == found.sha256
    assert "onet.pt, rnet.pt" in registry.status("mtcnn", folder).source  # the same bytes: what was first stays


def test_mtcnn_can_be_fetched(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = _wheel(tmp_path / "facenet.whl")
    wheel = replace(wheels.EXTRAS["mtcnn"], sha256=wheels.files.sha256_of(box))
    monkeypatch.setattr(wheels, "GRAPHS", ())
    monkeypatch.setattr(wheels, "EXTRAS", {"mtcnn": wheel})
    commands: list[list[str]] = []

    def deliver(command: list[str], **_: object) -> Any:
        commands.append(command)
        (Path(command[command.index("--dest") + 1]) / "f.whl").write_bytes(box.read_bytes())
        return type("Done", (), {"returncode": 0, "stdout": "", "stderr": ""})

    monkeypatch.setattr(wheels.subprocess, "run", deliver)
    (found,) = weights.fetch(folder, on_event=print, extras=["mtcnn"])
    assert (found.name, found.state, found.licence) == ("mtcnn", "ok", "MIT")
    assert "facenet-pytorch==2.6.0" in commands[0]
    assert "--no-deps" in commands[0]
    weights.fetch(folder, on_event=print, extras=["mtcnn"])
    assert len(commands) == 1
    found.path.unlink()
    monkeypatch.setattr(wheels, "EXTRAS", {"mtcnn": replace(wheel, sha256="0" * 64)})
    with pytest.raises(Corrupt, match=r"facenet-pytorch==2\.6\.0"):
        weights.fetch(folder, on_event=print, extras=["mtcnn"])
    assert registry.status("mtcnn", folder).state == "not added"

    def fail(*_: object, **__: object) -> Any:
        return type("Done", (), {"returncode": 1, "stdout": "", "stderr": "no route"})

    monkeypatch.setattr(wheels.subprocess, "run", fail)
    with pytest.raises(Transient, match=r"no route.*understudy weights add"):
        weights.fetch(folder, on_event=print, extras=["mtcnn"])


def test_verify_asks_for_what_it_names(add: Add, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FETCHED", ())
    assert {item.state for item in weights.verify(folder)} == {"not added"}  # nobody has to bring anything
    with pytest.raises(MissingObject, match="not added") as caught:
        weights.verify(folder, ["s3fd"])
    assert caught.value.reason == "MISSING_WEIGHTS"
    add(_npy(tmp_path, "a.npy", "s3fd"))
    assert [item.state for item in weights.verify(folder, ["s3fd"])] == ["ok"]
    with pytest.raises(InvalidInput, match="unknown weights 'x'"):
        weights.verify(folder, ["x"])


def test_remove_takes_the_record_too(add: Add, folder: Path, tmp_path: Path) -> None:
    add(_npy(tmp_path, "a.npy", "s3fd"), _npy(tmp_path, "2DFAN.npy", "fan"))
    weights.remove("s3fd", folder)
    assert set(_files(folder)) == {"fan2d.json", "fan2d.safetensors"}
    with pytest.raises(NotFound):
        weights.remove("s3fd", folder)
    with pytest.raises(InvalidInput):
        weights.remove("../fan2d", folder)


def test_a_full_disk_leaves_nothing_that_counts(
    add: Add, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _npy(tmp_path, "a.npy", "s3fd")

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(QuotaOrCapacity, match="no space"):
            add(path)
    assert _files(folder) == {}
    assert add(path)[0].state == "ok"


def test_many_at_once_leave_one_whole_file(folder: Path, tmp_path: Path) -> None:
    paths = [_npy(tmp_path, f"{value}.npy", "s3fd", value) for value in range(6)]
    outcomes: list[object] = []

    def one(path: Path) -> None:
        try:
            outcomes.append(weights.add([path], folder, on_event=lambda _: None)[0].sha256)
        except AlreadyExists as error:
            outcomes.append(error)

    threads = [threading.Thread(target=one, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert len(outcomes) == 6
    assert registry.digest("s3fd", folder) == winner


# Through the store


def test_what_one_machine_publishes_another_finds(add: Add, folder: Path, tmp_path: Path, store: FolderStore) -> None:
    add(_npy(tmp_path, "a.npy", "s3fd"), *_mtcnn_files(tmp_path))
    assert [item.name for item in weights.publish([], folder, store)] == ["s3fd", "mtcnn"]
    keys = [info.key for info in store.list("weights/").objects]
    assert keys == [f"weights/{name}.{kind}" for name in ("mtcnn", "s3fd") for kind in ("json", "safetensors")]
    worker = tmp_path / "worker"
    weights.ensure(["s3fd"], worker, store)
    assert _files(worker) == {name: content for name, content in _files(folder).items() if name.startswith("s3fd")}
    weights.ensure(["s3fd", "mtcnn"], worker, store)
    assert _files(worker) == _files(folder)
    for key in keys:
        store.delete(key)
    weights.ensure(["mtcnn", "s3fd"], worker, store)  # there is nothing to copy


def test_fetched_weights_travel_without_a_record(
    folder: Path, tmp_path: Path, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(parents=True)
    (folder / "a.safetensors").write_bytes(b"content")
    digest = wheels.files.sha256_of(folder / "a.safetensors")
    monkeypatch.setattr(registry, "_FETCHED", (registry.FetchedWeights("a", digest, "MIT", "", ""),))
    weights.publish(["a"], folder, store)
    weights.publish(["a"], folder, store)
    weights.ensure(["a"], tmp_path / "worker", store)
    assert (tmp_path / "worker" / "a.safetensors").read_bytes() == b"content"
    store.put("weights/a.safetensors", b"other")
    (tmp_path / "worker" / "a.safetensors").unlink()
    with pytest.raises(Corrupt):
        weights.ensure(["a"], tmp_path / "worker", store)
    assert _files(tmp_path / "worker") == {}


def test_neither_folder_nor_store_has_it(tmp_path: Path, store: FolderStore) -> None:
    with pytest.raises(MissingObject) as caught:
        weights.ensure(["s3fd"], tmp_path / "worker", store)
    assert caught.value.reason == "MISSING_WEIGHTS"
    assert "understudy weights add S3FD.npy" in caught.value.message
    assert "understudy weights publish s3fd" in caught.value.message
    with pytest.raises(MissingObject, match="weights fetch`"):
        weights.ensure(["face_mesh_468"], tmp_path / "worker", store)
    with pytest.raises(InvalidInput, match="unknown"):
        weights.ensure(["s4fd"], tmp_path / "worker", store)
    with pytest.raises(MissingObject, match="nothing to publish"):
        weights.publish([], tmp_path / "worker", store)
    with pytest.raises(MissingObject, match="not added"):
        weights.publish(["s3fd"], tmp_path / "worker", store)


def test_the_store_is_not_trusted(add: Add, folder: Path, tmp_path: Path, store: FolderStore) -> None:
    add(_npy(tmp_path, "a.npy", "s3fd"))
    worker = tmp_path / "worker"
    weights.publish(["s3fd"], folder, store)
    store.put("weights/s3fd.safetensors", b"other bytes")
    with pytest.raises(Corrupt, match="SHA-256"):
        weights.ensure(["s3fd"], worker, store)
    store.put("weights/s3fd.json", b"{}")
    with pytest.raises(Corrupt, match="not a weight record"):
        weights.ensure(["s3fd"], worker, store)
    store.put("weights/s3fd.json", (folder / "s3fd.json").read_bytes().replace(b'"s3fd"', b'"fan2d"'))
    with pytest.raises(Corrupt, match="record of fan2d"):
        weights.ensure(["s3fd"], worker, store)
    assert _files(worker) == {}


def test_a_damaged_folder_is_repaired_and_a_whole_one_kept(
    add: Add, folder: Path, tmp_path: Path, store: FolderStore
) -> None:
    add(_npy(tmp_path, "a.npy", "s3fd", 1))
    weights.publish(["s3fd"], folder, store)
    worker = tmp_path / "worker"
    weights.add([_npy(tmp_path, "b.npy", "s3fd", 2)], worker, on_event=print)
    own = _files(worker)
    weights.ensure(["s3fd"], worker, store)
    assert _files(worker) == own
    (worker / "s3fd.safetensors").write_bytes(b"half")
    weights.ensure(["s3fd"], worker, store)
    assert _files(worker) == _files(folder)


def test_publishing_other_weights_has_to_be_said(add: Add, folder: Path, tmp_path: Path, store: FolderStore) -> None:
    add(_npy(tmp_path, "a.npy", "s3fd", 1))
    weights.publish(["s3fd"], folder, store)
    add(_npy(tmp_path, "b.npy", "s3fd", 2), replace=True)
    with pytest.raises(AlreadyExists, match=r"from a\.npy: replace them with --replace"):
        weights.publish(["s3fd"], folder, store)
    weights.publish(["s3fd"], folder, store, replace=True)
    weights.ensure(["s3fd"], tmp_path / "worker", store)
    assert _files(tmp_path / "worker") == _files(folder)


def test_workers_of_one_folder_copy_once(add: Add, folder: Path, tmp_path: Path, store: FolderStore) -> None:
    add(_npy(tmp_path, "a.npy", "s3fd"))
    weights.publish(["s3fd"], folder, store)
    opened: list[str] = []

    class Counting(FolderStore):
        def open(self, key: str) -> Any:
            opened.append(key)
            return super().open(key)

    counting, worker, errors = Counting(tmp_path / "objects"), tmp_path / "worker", list[BaseException]()

    def one() -> None:
        try:
            weights.ensure(["s3fd"], worker, counting)
        except BaseException as error:  # noqa: BLE001 (handed to the test)
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert opened == ["weights/s3fd.safetensors"]
    assert registry.status("s3fd", worker).state == "ok"
