"""Settings: who wins, what is refused, what is printed, and that the commented reference lists them all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from services.kit.config import Settings, load_settings, printable, transportable
from services.kit.errors import InvalidInput

REPOSITORY = Path(__file__).resolve().parents[3]
REFERENCE = REPOSITORY / "deploy/config/reference.yaml"


def write(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def test_each_source_beats_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().execution.attempts == 3
    file = write(tmp_path / "s.yaml", {"execution": {"attempts": 4, "workers": 2, "chunk_frames": 10}})
    assert load_settings(file).execution.attempts == 4
    monkeypatch.setenv("UNDERSTUDY_EXECUTION__ATTEMPTS", "5")
    monkeypatch.setenv("UNDERSTUDY_EXECUTION__WORKERS", "6")
    assert load_settings(file).execution.attempts == 5
    settings = load_settings(file, {"execution.attempts": "7"})
    # Sources are laid over each other field by field, not section by section.
    assert (settings.execution.attempts, settings.execution.workers, settings.execution.chunk_frames) == (7, 6, 10)
    assert settings.execution.kind == "ray"


def test_overrides_may_be_nested_or_dotted() -> None:
    values = {"store": {"root": "/a"}, "store.bucket": "b"}
    settings = load_settings(overrides=values)
    assert (settings.store.root, settings.store.bucket) == (Path("/a"), "b")
    assert values == {"store": {"root": "/a"}, "store.bucket": "b"}


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"store.rooot": "/a"}, "store.rooot"),
        ({"storage.root": "/a"}, "storage"),
        ({"execution.attempts": "none"}, "execution.attempts"),
        ({"execution.kind": "dask"}, "execution.kind"),
        ({"server.port": "70000"}, "server.port"),
        ({"log_level": "LOUD"}, "log_level"),
        ({"store": "folder", "store.root": "/a"}, "store.root"),
    ],
)
def test_wrong_names_and_values_are_refused_by_name(overrides: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_settings(overrides=overrides)
    assert list(caught.value.fields) == [field]
    assert field in str(caught.value)


def test_unknown_names_are_refused_in_files_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="serverr"):
        load_settings(write(tmp_path / "a.yaml", {"serverr": {"port": 1}}))
    with pytest.raises(InvalidInput, match="prt"):
        load_settings(write(tmp_path / "b.yaml", {"server": {"prt": 1}}))
    with monkeypatch.context() as patch, pytest.raises(InvalidInput, match="prt"):
        patch.setenv("UNDERSTUDY_SERVER__PRT", "1")
        load_settings()
    with monkeypatch.context() as patch, pytest.raises(InvalidInput, match="UNDERSTUDY_SERVERR__PORT"):
        patch.setenv("UNDERSTUDY_SERVERR__PORT", "1")
        load_settings()
    # What Kubernetes puts into every pod beside a Service named understudy-server, and the tests' own names.
    monkeypatch.setenv("UNDERSTUDY_SERVER_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("UNDERSTUDY_TEST_S3_ENDPOINT", "http://x")
    assert load_settings().server.port == 0


@pytest.mark.parametrize("text", ["[1, 2]", "just words", "a: [1", "\x00"])
def test_files_that_are_no_mapping_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(InvalidInput, match=r"s\.yaml"):
        load_settings(tmp_path / "s.yaml")


def test_absent_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no settings file"):
        load_settings(tmp_path / "absent.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing set\n")
    assert load_settings(tmp_path / "empty.yaml") == load_settings()


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.0.7", "render01.studio", "localhost.evil.com", "127.0.0.1.evil"]
)
def test_open_hosts_need_tls(host: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="loopback"):
        load_settings(overrides={"server.host": host})
    pair = {"server.tls_certificate": str(tmp_path / "c"), "server.tls_key": str(tmp_path / "k")}
    assert load_settings(overrides={"server.host": host, **pair}).server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.5.5", "::1", "localhost"])
def test_loopback_hosts_need_none(host: str) -> None:
    assert load_settings(overrides={"server.host": host}).server.host == host


def test_half_a_tls_pair_is_refused() -> None:
    with pytest.raises(InvalidInput, match="go together"):
        load_settings(overrides={"server.tls_certificate": "/c"})


SECRET = "hunter2-hunter2"


def test_printing_masks_secrets() -> None:
    settings = load_settings(overrides={"store.secret_key": SECRET, "store.access_key": "someone"})
    text = printable(settings)
    assert SECRET not in text
    assert SECRET not in repr(settings)
    assert yaml.safe_load(text)["store"]["access_key"] == "someone"
    assert yaml.safe_load(text).keys() == Settings.model_fields.keys()


def test_print_config_flag() -> None:
    command = [
        sys.executable,
        "-m",
        "services",
        "--print-config",
        "--set",
        f"store.secret_key={SECRET}",
        "--set",
        "server.port=7",
    ]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(result.stdout)["server"]["port"] == 7
    assert SECRET not in result.stdout + result.stderr
    wrong = subprocess.run(
        [*command, "--set", "store.roooot=x"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert wrong.returncode == 2
    assert "store.roooot" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@given(
    root=st.from_regex(r"/[a-z/]{1,20}", fullmatch=True),
    secret=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20),
    kind=st.sampled_from(["inline", "ray", "ray-cluster"]),
    workers=st.integers(0, 1000),
    grace=st.floats(0, 1000),
)
def test_settings_travel_whole_to_workers(root: str, secret: str, kind: str, workers: int, grace: float) -> None:
    settings = load_settings(
        overrides={
            "store.root": root,
            "store.secret_key": secret,
            "execution.kind": kind,
            "execution.workers": workers,
            "server.stop_grace_s": grace,
        }
    )
    assert load_settings(overrides=transportable(settings)) == settings


def test_the_environment_of_a_worker_does_not_change_what_travelled(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = transportable(load_settings(overrides={"store.root": "/sent", "execution.attempts": 9}))
    monkeypatch.setenv("UNDERSTUDY_STORE__ROOT", "/other")
    monkeypatch.setenv("UNDERSTUDY_EXECUTION__ATTEMPTS", "1")
    arrived = load_settings(overrides=sent)
    assert (arrived.store.root, arrived.execution.attempts) == (Path("/sent"), 9)


def _flat(model: BaseModel, prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            values |= _flat(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values


def test_the_reference_lists_every_setting_with_its_default() -> None:
    listed = {
        f"{section}.{name}" if isinstance(values, dict) else section
        for section, values in yaml.safe_load(REFERENCE.read_text()).items()
        for name in (values if isinstance(values, dict) else [section])
    }
    defaults = _flat(Settings())
    # One default is this machine's own; the reference gives its usual place.
    assert listed == defaults.keys() - {"weights_dir"}, "deploy/config/reference.yaml and services/kit/config.py differ"
    assert _flat(load_settings(REFERENCE)) == defaults, "deploy/config/reference.yaml gives another default"


def test_the_reference_explains_every_setting() -> None:
    lines = REFERENCE.read_text().splitlines()
    for number, line in enumerate(lines):
        if line and not line.lstrip().startswith("#"):
            assert lines[number - 1].lstrip().startswith("#"), f"no comment above {line.strip()!r}"
    assert "# weights_dir:" in REFERENCE.read_text()
