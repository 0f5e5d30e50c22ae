"""Messages as plain values, tables, progress as lines and as bars."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from click.testing import Result
from google.longrunning import operations_pb2
from google.protobuf import struct_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from rich.console import Console

from tests.unit.cli.conftest import FakeClient, document
from understudy.cli.plain import plain
from understudy.cli.progress import bars, lines
from understudy.swap import SwapEvent
from understudy.v1 import (
    face_pb2,
    face_service_pb2,
    faceset_service_pb2,
    frame_service_pb2,
    operation_pb2,
    project_service_pb2,
    training_service_pb2,
)


def test_numbers_durations_enums_and_absence() -> None:
    clip = frame_service_pb2.Clip(name="projects/p/clips/c")
    clip.info.frame_count = 2**40
    clip.info.frame_rate.num, clip.info.frame_rate.den = 24000, 1001
    clip.info.duration.FromMilliseconds(1500)
    clip.create_time.FromJsonString("2026-01-02T03:04:05Z")
    values = plain(clip)
    assert values["info"]["frame_count"] == 2**40
    assert values["info"]["duration"] == 1.5
    assert values["info"]["audio"] == []
    assert values["info"]["variable_rate"] is False
    assert values["create_time"] == "2026-01-02T03:04:05Z"
    assert "media" not in values, "an absent message is left out"
    faceset = faceset_service_pb2.Faceset(face_type=face_pb2.FACE_TYPE_MID_HALF, labels={"show": "x"})
    assert plain(faceset)["face_type"] == "MID_HALF"
    assert plain(faceset)["labels"] == {"show": "x"}
    assert plain(training_service_pb2.TrainingRun(state=3))["state"] == "RUNNING"


def test_structs_have_whole_numbers() -> None:
    options = struct_pb2.Struct()
    options.update({"batch_size": 8, "learning_rate": 5e-5, "model": {"dims": [1, 2.5]}, "masked": True, "name": None})
    assert plain(options) == {
        "batch_size": 8,
        "learning_rate": 5e-5,
        "model": {"dims": [1, 2.5]},
        "masked": True,
        "name": None,
    }


def ended_operation(state: int, *, error: str = "", failed: int = 0) -> operations_pb2.Operation:
    """An operation that has ended so."""
    metadata = operation_pb2.OperationMetadata(state=state)  # type: ignore[arg-type]
    for number in range(failed):
        metadata.failed_items.add(name=str(number)).status.message = "cannot be decoded"
    operation = operations_pb2.Operation(name="projects/p/operations/o", done=True)
    operation.metadata.Pack(metadata)
    if error:
        info = error_details_pb2.ErrorInfo(reason=error, domain="understudy")
        status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="it did not work")
        status.details.add().Pack(info)
        operation.error.CopyFrom(status)
    else:
        operation.response.Pack(face_service_pb2.ExtractFacesetResponse(faceset="projects/p/facesets/f", face_count=3))
    return operation


def test_operations_are_flat_and_carry_their_outcome() -> None:
    values = plain(ended_operation(operation_pb2.OPERATION_STATE_SUCCEEDED))
    assert values["state"] == "SUCCEEDED"
    assert values["done"] is True
    assert values["response"]["face_count"] == 3
    failed = plain(ended_operation(operation_pb2.OPERATION_STATE_FAILED, error="NO_FACE"))
    assert failed["error"] == {"code": "INVALID_ARGUMENT", "reason": "NO_FACE", "message": "it did not work"}


def test_a_table_for_people_and_all_of_it_as_json(client: FakeClient, run: Callable[..., Result]) -> None:
    projects = [
        project_service_pb2.Project(name="projects/a", display_name="Shot"),
        project_service_pb2.Project(name="projects/longer"),
    ]
    client.projects.answers("ListProjects", project_service_pb2.ListProjectsResponse(projects=projects))
    table = run("project", "list")
    assert table.exit_code == 0
    assert [line.split() for line in table.stdout.splitlines()] == [
        ["NAME", "TITLE", "MADE", "DELETED"],
        ["projects/a", "Shot"],
        ["projects/longer"],
    ]
    listed = document(run("project", "list", "--json"))["projects"]
    assert [item["name"] for item in listed] == ["projects/a", "projects/longer"]
    assert listed[0]["labels"] == {}


def test_lines_come_at_most_every_two_seconds_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    say = lines(clock=lambda: now)
    say(SwapEvent("train", "begin"))
    for step in range(100):  # ten seconds
        now = step / 10
        say(SwapEvent("train", "progress", done=step, total=100, unit="iterations", eta_s=90.0, losses={"src": 0.5}))
    say(SwapEvent("train", "log", text="saved at iteration 99"))
    say(SwapEvent("merge", "begin"))
    say(SwapEvent("train", "end", text="100 iterations"))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "[train] begins"
    assert said[1:5] == [f"[train] {done}/100 iterations, loss src 0.5000, 1:30 left" for done in (20, 40, 60, 80)]
    assert said[5:] == ["[train] saved at iteration 99", "[merge] begins", "[train] 100 iterations"]


def test_bars_show_rate_and_time_left() -> None:
    target = io.StringIO()
    console = Console(file=target, force_terminal=True, width=120, color_system=None)
    with bars(console) as draw:
        draw(SwapEvent("extract src", "begin"))
        draw(SwapEvent("extract src", "progress", done=5, total=48, unit="frames", rate_per_s=12.5, eta_s=3723))
        draw(SwapEvent("extract src", "log", text="[a chunk] is tried again"))
        draw(SwapEvent("train", "progress", done=7, total=0, unit="iterations", samples_per_s=80.0))
    shown = target.getvalue()
    assert "5/48 frames, 12.5/s, 1:02:03 left" in shown
    assert "[extract src] [a chunk] is tried again" in shown, "text from elsewhere is no markup"
    assert "7 iterations, 80 samples/s" in shown
