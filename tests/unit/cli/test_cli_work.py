"""Commands that begin or follow long work: requests they make, what they print, how they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import understudy.swap
from tests.unit.cli.conftest import FakeClient, document
from tests.unit.cli.test_cli_output import ended_operation
from understudy.cli import progress
from understudy.swap import SwapEvent, SwapOptions, SwapResult
from understudy.v1 import merge_service_pb2, operation_pb2, training_service_pb2

Run = training_service_pb2.TrainingRun
pytestmark = pytest.mark.usefixtures("every_line")
EXTRACT = ("faceset", "extract", "c", "-p", "p", "--frames", "1-9x2", "--face-type", "mid-half", "--max-faces", "1")


@pytest.fixture
def every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress lines without the pause between them."""
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)


def _events() -> list[operation_pb2.WatchOperationResponse]:
    running = operation_pb2.WatchOperationResponse(sequence=1)
    running.metadata.state = operation_pb2.OPERATION_STATE_RUNNING
    progress = operation_pb2.WatchOperationResponse(sequence=2)
    progress.progress.done_units, progress.progress.total_units, progress.progress.unit = 4, 5, "frames"
    return [running, progress]


def _ends(client: FakeClient, state: int, **how: Any) -> None:
    begun = ended_operation(operation_pb2.OPERATION_STATE_QUEUED)
    begun.done = False
    begun.ClearField("response")
    client.faces.answers("ExtractFaceset", begun)
    client.operations.answers("GetOperation", ended_operation(state, **how))
    client.events = _events()


def test_extract_asks_for_what_was_said_and_shows_what_came(client: FakeClient, run: Callable[..., Result]) -> None:
    _ends(client, operation_pb2.OPERATION_STATE_SUCCEEDED)
    result = run(*EXTRACT, "--json")
    assert result.exit_code == 0
    assert document(result)["face_count"] == 3
    assert "[extract] 4/5 frames" in result.stderr
    request = client.faces.requests[0]
    assert request.clip == "projects/p/clips/c"
    assert request.faceset_id == "c"
    assert [(entry.first, entry.last, entry.step) for entry in request.ranges] == [(1, 9, 2)]
    assert request.options.face_type == 2
    assert request.options.max_faces_per_frame == 1
    assert not request.options.HasField("min_score")


def test_quiet_is_quiet(client: FakeClient, run: Callable[..., Result]) -> None:
    _ends(client, operation_pb2.OPERATION_STATE_SUCCEEDED)
    result = run(*EXTRACT, "-q")
    assert result.stderr == ""
    assert "face_count: 3" in result.stdout


def test_partly_done_work_lists_what_failed(client: FakeClient, run: Callable[..., Result]) -> None:
    _ends(client, operation_pb2.OPERATION_STATE_PARTIALLY_SUCCEEDED, failed=2)
    result = run(*EXTRACT, "--json", "-q")
    assert result.exit_code == 3
    assert document(result)["face_count"] == 3
    assert result.stderr.splitlines() == ["failed: 0: cannot be decoded", "failed: 1: cannot be decoded"]


def test_failed_work(client: FakeClient, run: Callable[..., Result]) -> None:
    _ends(client, operation_pb2.OPERATION_STATE_FAILED, error="NO_FACE")
    result = run(*EXTRACT, "--json")
    assert result.exit_code == 3
    assert document(result)["error"]["reason"] == "NO_FACE"


def test_detached_work_is_named(client: FakeClient, run: Callable[..., Result]) -> None:
    _ends(client, operation_pb2.OPERATION_STATE_SUCCEEDED)
    result = run(*EXTRACT, "--detach")
    assert result.exit_code == 0
    assert result.stdout == "projects/p/operations/o\n"


@pytest.mark.parametrize(
    ("state", "how", "exit_code"),
    [
        (operation_pb2.OPERATION_STATE_SUCCEEDED, {}, 0),
        (operation_pb2.OPERATION_STATE_PARTIALLY_SUCCEEDED, {"failed": 1}, 3),
        (operation_pb2.OPERATION_STATE_FAILED, {"error": "NO_FACE"}, 3),
    ],
)
def test_watching_an_operation_streams_lines(
    state: int, how: dict[str, Any], exit_code: int, client: FakeClient, run: Callable[..., Result]
) -> None:
    _ends(client, state, **how)
    result = run("op", "watch", "o", "-p", "p", "--json")
    assert result.exit_code == exit_code
    said = [json.loads(line) for line in result.stdout.splitlines()]
    assert said[0]["metadata"]["state"] == "RUNNING"
    assert said[1]["progress"]["done_units"] == 4
    assert [line["name"] for line in said[:2]] == ["projects/p/operations/o"] * 2
    assert len(said) == (3 if "error" in how else 2)


def _run_ends(client: FakeClient, state: Any, **fields: Any) -> None:
    begun = Run(name="projects/p/runs/r", state=Run.STATE_RUNNING, target_iteration=10)
    ended = Run(name="projects/p/runs/r", state=state, iteration=7, **fields)
    client.training.answers("CreateRun", begun)
    answers = iter([begun, ended])
    client.training.answers("GetRun", lambda request: next(answers, ended))
    report = training_service_pb2.WatchRunResponse(sequence=2)
    report.report.iteration, report.report.losses["src"], report.report.samples_per_s = 5, 0.25, 64
    client.events = [training_service_pb2.WatchRunResponse(sequence=1, run=begun), report]


@pytest.mark.parametrize(
    ("state", "exit_code"), [(Run.STATE_COMPLETED, 0), (Run.STATE_STOPPED, 4), (Run.STATE_FAILED, 3)]
)
def test_watching_a_run(state: Any, exit_code: int, client: FakeClient, run: Callable[..., Result]) -> None:
    _run_ends(client, state, error_reason="TRAINING_DIVERGED", error_message="the loss is not a number")
    result = run("run", "watch", "r", "-p", "p", "--json")
    assert result.exit_code == exit_code
    said = [json.loads(line) for line in result.stdout.splitlines()]
    assert said[0]["run"]["state"] == "RUNNING"
    assert said[1]["report"] | {"iteration": 5, "losses": {"src": 0.25}} == said[1]["report"]
    if exit_code == 3:
        assert said[2]["error"]["reason"] == "TRAINING_DIVERGED"


def test_creating_a_run_follows_it(client: FakeClient, run: Callable[..., Result]) -> None:
    _run_ends(client, Run.STATE_COMPLETED)
    options = ("--iterations", "10", "--set", "batch_size=2", "--set", "model.ae_dims=8")
    client.training._answers["GetRun"] = Run(name="projects/p/runs/r", state=Run.STATE_COMPLETED, iteration=10)
    result = run("run", "create", "--src", "a", "--dst", "b", "-p", "p", *options, "--json")
    assert result.exit_code == 0
    assert document(result)["state"] == "COMPLETED"
    assert "[train] 5/10 iterations, 64 samples/s, loss src 0.2500" in result.stderr
    request = client.training.requests[0]
    assert request.run_id == "quick96"
    assert request.run.src_faceset == "projects/p/facesets/a"
    assert dict(request.run.options)["batch_size"] == 2
    assert dict(request.run.options["model"]) == {"ae_dims": 8}


def test_updating_a_run_changes_only_what_was_said(client: FakeClient, run: Callable[..., Result]) -> None:
    client.training.answers("UpdateRun", Run(name="projects/p/runs/r"))
    assert run("run", "update", "r", "-p", "p").exit_code == 2
    assert run("run", "update", "r", "-p", "p", "--iterations", "0").exit_code == 0
    assert list(client.training.requests[0].update_mask.paths) == ["target_iteration"]


def test_a_session_takes_only_the_settings_that_were_given(client: FakeClient, run: Callable[..., Result]) -> None:
    client.merge.answers("CreateSession", merge_service_pb2.MergeSession(name="projects/p/sessions/first"))
    result = run("session", "create", "-p", "p", "--clip", "c", "--faceset", "f", "--model", "r", "--erode", "-5")
    assert result.stdout == "projects/p/sessions/first\n"
    session = client.merge.requests[0].session
    assert session.model == "projects/p/runs/r"
    settings = session.settings[0].settings
    assert settings.erode == -5
    assert not settings.HasField("blur")
    assert settings.mask_mode == ""


def _result(output: Path, **changes: Any) -> SwapResult:
    values: dict[str, Any] = {
        "project": "projects/swap-1",
        "src_faceset": "a",
        "dst_faceset": "b",
        "run": "r",
        "session": "s",
        "output": output,
        "frames_in": 48,
        "frames_out": 48,
        "faces_found": {"src": 48, "dst": 47},
        "frames_without_face": 1,
        "iterations": 9,
        "losses": {"src": 0.1},
        "seconds": {"total": 12.3},
    }
    return SwapResult(**{**values, **changes})


def test_swap(client: FakeClient, run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def swap(given: Any, src: Path, dst: Path, output: Path, options: SwapOptions, on_event: Any) -> SwapResult:
        asked.append((given, options))
        on_event(SwapEvent("upload", "begin"))
        return _result(output)

    monkeypatch.setattr(understudy.swap, "swap", swap)
    src, dst, out = tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "new" / "o.mp4"
    src.touch()
    dst.touch()
    settings = ("--mask-mode", "learned-dst", "--blur", "40", "--crf", "0", "--set-train", "model.ae_dims=8")
    result = run("swap", str(src), str(dst), "-o", str(out), "--project", "projects/x", *settings, "--json")
    assert result.exit_code == 0
    assert document(result)["faces_found"] == {"src": 48, "dst": 47}
    assert document(result)["output"] == str(out)
    assert "[upload] begins" in result.stderr
    given, options = asked[0]
    assert given is client
    assert options == SwapOptions(
        train_options={"model": {"ae_dims": 8}},
        merge={"mask_mode": "learned-dst", "blur": 40},
        encode={"crf": 0},
        project="x",
    )
    told = run("swap", str(src), str(dst), "-o", str(out), "-q")
    assert told.stdout == f"{out}: 48 frames, 1 without a face, 9 iterations, 12 s, project projects/swap-1\n"
    monkeypatch.setattr(understudy.swap, "swap", lambda *_: _result(out, failed_items={"merge": 2}))
    assert run("swap", str(src), str(dst), "-o", str(out)).exit_code == 3


def test_swap_refuses_an_output_that_cannot_be_written(
    client: FakeClient, run: Callable[..., Result], tmp_path: Path
) -> None:
    file = tmp_path / "file.mp4"
    file.touch()
    result = run("swap", str(file), str(file), "-o", str(file / "o.mp4"))
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
