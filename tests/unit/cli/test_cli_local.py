"""Commands that need no server, and the one that is a server: version, up."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from services.kit import main as kit_main
from services.kit.config import Settings
from tests.unit.cli.conftest import document
from understudy import local
from understudy.cli.commands import up as up_module


def test_version(run: Callable[..., Result]) -> None:
    expected = importlib.metadata.version("understudy")
    assert run("version").stdout == f"{expected}\n"
    assert document(run("version", "--json")) == {"version": expected}


@pytest.fixture
def settings_of_up(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that a server would have been started with; the server says that it is ready and ends."""
    seen: list[Settings] = []

    def run_server(_services: object, settings: Settings, *, ready_file: Path, on_ready: Callable[..., None]) -> None:
        seen.append(settings)
        ready_file.write_text("{}")
        facts = {"address": "127.0.0.1:5", "pid": 1, "token_file": "/t/token", "metrics_address": "127.0.0.1:6"}
        on_ready(facts)

    monkeypatch.setattr(kit_main, "run_server", run_server)
    return seen


def test_up_keeps_everything_in_the_workspace(
    run: Callable[..., Result], tmp_path: Path, settings_of_up: list[Settings]
) -> None:
    result = run("--workspace", str(tmp_path / "w"), "up", "--port", "5", "--set", "execution.workers=3")
    assert result.exit_code == 0, result.stderr
    settings = settings_of_up[0]
    assert settings.store.root == tmp_path / "w" / "objects"
    assert settings.server.token_file == tmp_path / "w" / "token"
    assert settings.server.port == 5
    assert settings.execution.workers == 3
    assert "127.0.0.1:5" in result.stdout
    assert "/t/token" in result.stdout
    assert "http://127.0.0.1:6/metrics" in result.stdout
    assert not local.ready_file(tmp_path / "w").exists(), "a server that ended is not to be found"


def test_up_prints_one_line_of_json(run: Callable[..., Result], tmp_path: Path, settings_of_up: list[Settings]) -> None:
    result = run("up", "--workspace", str(tmp_path), "--json")
    assert json.loads(result.stdout)["address"] == "127.0.0.1:5"
    assert len(result.stdout.splitlines()) == 1


def test_a_settings_file_goes_before_the_workspace_and_flags_before_the_file(
    run: Callable[..., Result], tmp_path: Path, settings_of_up: list[Settings]
) -> None:
    config = tmp_path / "site.yaml"
    config.write_text(f"store: {{root: {tmp_path / 'elsewhere'}}}\nlog_level: ERROR\nserver: {{port: 7}}\n")
    assert run("up", "--workspace", str(tmp_path / "w"), "--config", str(config), "--port", "8", "-q").exit_code == 0
    settings = settings_of_up[0]
    assert settings.store.root == tmp_path / "elsewhere"
    assert settings.store.cache_dir == tmp_path / "w" / "cache"
    assert settings.log_level == "ERROR"
    assert settings.server.port == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--set", "execution.wrokers=3"), "execution.wrokers"),
        (("--set", "execution.workers=many"), "execution.workers"),
        (("--set", "nonsense"), "name=value"),
        (("--port", "70000"), "--port"),
        (("--address", "127.0.0.1:1"), "--address"),
    ],
)
def test_up_refuses_wrong_settings(
    arguments: tuple[str, ...],
    says: str,
    run: Callable[..., Result],
    tmp_path: Path,
    settings_of_up: list[Settings],
) -> None:
    result = run("up", "--workspace", str(tmp_path), *arguments, "--json")
    assert result.exit_code == 2
    assert says in document(result)["error"]["message"]
    assert not settings_of_up


def test_up_refuses_a_workspace_that_is_served(
    run: Callable[..., Result], tmp_path: Path, settings_of_up: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "running_server", lambda workspace: "127.0.0.1:9")
    result = run("up", "--workspace", str(tmp_path))
    assert result.exit_code == 2
    assert "127.0.0.1:9" in result.stderr
    assert not settings_of_up


def test_a_settings_file_that_is_no_yaml(run: Callable[..., Result], tmp_path: Path) -> None:
    config = tmp_path / "site.yaml"
    config.write_text("store: [")
    with pytest.raises(Exception, match="not YAML"):
        up_module._stated(config)
    assert run("up", "--workspace", str(tmp_path), "--config", str(config)).exit_code == 2
