"""`understudy weights`: what it prints, and that it asks the kit for what the command line says."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from ml_common.detect import weight_keys
from ml_common.weights import WeightStatus, fetched, user
from services.kit import weights
from services.kit.errors import Transient
from tests.unit.cli.conftest import document

Run = Callable[..., Result]


@pytest.fixture
def s3fd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as S3FD, though it is a single array."""
    monkeypatch.setattr(weight_keys, "recognise", lambda shapes: "s3fd")
    monkeypatch.setattr(weight_keys, "CONVERTERS", {"s3fd": dict})
    path = tmp_path / "S3FD.npy"
    path.write_bytes(pickle.dumps({"a": np.ones(3, np.float32)}, 4))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "weights")


def test_list_says_what_is_missing_and_what_to_do(run: Run, folder: str) -> None:
    result = run("weights", "list", "--dir", folder, "--json")
    assert result.exit_code == 0
    listed = document(result)["weights"]
    assert [item["name"] for item in listed] == [item.name for item in (*fetched(), *user())]
    assert {item["state"] for item in listed} == {"missing", "not added"}
    shown = run("weights", "list", "--dir", folder).stdout
    assert "NAME" in shown
    assert "understudy weights add S3FD.npy" in shown
    assert "understudy weights fetch --with mtcnn" in shown


def test_verify_fails_and_says_what_to_do(run: Run, folder: str) -> None:
    result = run("weights", "verify", "--dir", folder, "--json")
    assert result.exit_code == 2
    assert document(result)["error"]["reason"] == "MISSING_WEIGHTS"
    assert "understudy weights fetch" in result.stderr
    result = run("weights", "verify", "s3fd", "--dir", folder)
    assert result.exit_code == 2
    assert "understudy weights add S3FD.npy" in result.stderr
    assert run("weights", "verify", "s4fd", "--dir", folder).exit_code == 2


def test_fetch(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "box.whl"
    wheel.touch()
    asked: list[tuple[str, ...]] = []

    def fetch(
        folder: Path, *, on_event: Callable[[str], None], wheel: Path | None, extras: tuple[str, ...]
    ) -> list[WeightStatus]:
        asked.append(extras)
        on_event(f"from {wheel.name if wheel else 'the network'}")
        return weights.status(folder)

    monkeypatch.setattr(weights, "fetch", fetch)
    result = run("weights", "fetch", "--dir", str(tmp_path), "--wheel", str(wheel), "--json")
    assert result.exit_code == 0
    assert result.stderr == "from box.whl\n"
    assert len(document(result)["weights"]) == len((*fetched(), *user()))
    assert run("weights", "fetch", "--with", "mtcnn", "--dir", str(tmp_path), "-q").stderr == ""
    assert asked == [(), ("mtcnn",)]


def test_without_network(run: Run, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise Transient("pip could not download it")

    monkeypatch.setattr(weights, "fetch", fail)
    result = run("weights", "fetch", "--dir", folder)
    assert result.exit_code == 5
    assert result.stderr == "error: pip could not download it\n"


def test_add_shows_what_came_of_it(run: Run, s3fd: Path, folder: str) -> None:
    result = run("weights", "add", str(s3fd), "--dir", folder, "--licence", "BSD-3-Clause", "--json")
    assert result.exit_code == 0
    assert "added s3fd.safetensors" in result.stderr
    (item,) = document(result)["weights"]
    assert (item["name"], item["state"], item["licence"], item["advice"]) == ("s3fd", "ok", "BSD-3-Clause", "")
    assert item["size_bytes"] == Path(item["file"]).stat().st_size
    table = run("weights", "verify", "s3fd", "--dir", folder).stdout
    assert item["sha256"][:12] in table
    assert "DO" not in table


def test_add_refuses_in_one_sentence(run: Run, s3fd: Path, folder: str) -> None:
    web_page = s3fd.with_name("2DFAN.npy")
    web_page.write_text("<html>not found</html>")
    result = run("weights", "add", str(web_page), "--dir", folder)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: 2DFAN.npy is not a weight file: it is a web page")
    assert run("weights", "add", str(s3fd), "--as", "fan2d", "--dir", folder).exit_code == 2
    assert run("weights", "add", "--dir", folder).exit_code == 2
    assert run("weights", "add", str(s3fd), "--dir", folder).exit_code == 0
    s3fd.write_bytes(pickle.dumps({"a": np.zeros(3, np.float32)}, 4))
    result = run("weights", "add", str(s3fd), "--dir", folder, "--json")
    assert result.exit_code == 2
    assert document(result)["error"]["reason"] == "ALREADY_EXISTS"
    assert run("weights", "add", str(s3fd), "--replace", "--dir", folder).exit_code == 0


def test_remove(run: Run, s3fd: Path, folder: str) -> None:
    assert run("weights", "remove", "s3fd", "--dir", folder).exit_code == 2
    run("weights", "add", str(s3fd), "--dir", folder)
    result = run("weights", "remove", "s3fd", "--dir", folder, "--json")
    assert document(result)["weights"][0]["state"] == "not added"
    assert not list(Path(folder).glob("s3fd*"))


def test_publish_goes_to_the_store_of_the_settings(
    run: Run, s3fd: Path, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNDERSTUDY_WEIGHTS_DIR", raising=False)  # it goes before the file
    config = tmp_path / "server.yaml"
    config.write_text(f"store:\n  root: {tmp_path / 'objects'}\nweights_dir: {folder}\n")
    run("weights", "add", str(s3fd), "--dir", folder)
    result = run("weights", "publish", "s3fd", "--config", str(config), "--json")
    assert result.exit_code == 0, result.stderr
    assert document(result)["weights"][0]["name"] == "s3fd"
    published = {path.name for path in (tmp_path / "objects" / "weights").iterdir() if "~" not in path.name}
    assert published >= {"s3fd.safetensors", "s3fd.json"}
    workspace = tmp_path / "ws"
    assert run("weights", "publish", "--dir", folder, "--workspace", str(workspace)).exit_code == 0
    assert (workspace / "objects" / "weights" / "s3fd.json").is_file()
    assert run("weights", "publish", "fan2d", "--config", str(config)).exit_code == 2


def test_looking_loads_no_torch() -> None:
    script = (
        "import sys\nfrom understudy.cli import main\n"
        "try:\n    main(['weights', 'list', '--dir', '/nowhere'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'ray', 'cv2'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
