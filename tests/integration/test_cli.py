"""The command line against a real server: found by its workspace, named by its address, started for one command, stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ml_common.media import open_source, probe
from tests.support.footage import head_clip

FRAMES = 12
COMMAND = [sys.executable, "-m", "understudy.cli"]


def understudy(*arguments: str, workspace: Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs a command line in a workspace."""
    return subprocess.run(
        [*COMMAND, "--workspace", str(workspace), *arguments], capture_output=True, text=True, timeout=timeout_s
    )


def answer(*arguments: str, workspace: Path, timeout_s: float = 120) -> Any:
    """The JSON document of a command that succeeds."""
    done = understudy("--json", *arguments, workspace=workspace, timeout_s=timeout_s)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Up:
    """`understudy up` in a workspace of its own."""

    def __init__(self, workspace: Path, *arguments: str) -> None:
        self.workspace = workspace
        with workspace.with_suffix(".log").open("w") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "--json", "up", "--workspace", str(workspace), *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, workspace.with_suffix(".log").read_text()
        self.facts = json.loads(line)

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A server that all tests of this file share, without Ray."""
    server = Up(
        tmp_path_factory.mktemp("cli") / "workspace",
        "--set",
        "execution.kind=inline",
        "--set",
        "execution.chunk_frames=4",
    )
    yield server
    server.interrupt()


@pytest.fixture(scope="module")
def workspace(served: Up) -> Path:
    return served.workspace


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return head_clip(tmp_path_factory.mktemp("footage") / "Head Shot.mp4", identity="ada", frame_count=FRAMES)


@pytest.fixture(scope="module")
def clip(workspace: Path, footage: Path) -> dict[str, Any]:
    """A clip in a project of its own, `projects/shot`."""
    answer("project", "create", "shot", "--name", "Shot 1", "--label", "show=x", workspace=workspace)
    added: dict[str, Any] = answer("clip", "add", str(footage), "--project", "shot", workspace=workspace)
    return added


def test_projects(workspace: Path) -> None:
    made = answer("project", "create", "trash-me", "--label", "show=x", workspace=workspace)
    assert made["name"] == "projects/trash-me"
    assert made["labels"] == {"show": "x"}
    assert understudy("project", "create", "trash-me", "--name", "other", workspace=workspace).returncode == 2
    assert answer("project", "delete", "trash-me", workspace=workspace)["delete_time"]
    names = {item["name"] for item in answer("project", "list", workspace=workspace)["projects"]}
    assert "projects/trash-me" not in names
    with_deleted = answer("project", "list", "--deleted", workspace=workspace)["projects"]
    assert "projects/trash-me" in {item["name"] for item in with_deleted}
    assert "delete_time" not in answer("project", "undelete", "trash-me", workspace=workspace)
    assert answer("project", "show", "projects/trash-me", workspace=workspace)["name"] == "projects/trash-me"


def test_clips(workspace: Path, clip: dict[str, Any], footage: Path) -> None:
    assert re.fullmatch(r"projects/shot/clips/head-shot-[0-9a-f]{8}", clip["name"])
    assert clip["display_name"] == footage.name
    assert clip["info"]["frame_count"] == FRAMES
    assert answer("clip", "add", str(footage), "-p", "shot", workspace=workspace)["name"] == clip["name"], "same bytes"
    listed = answer("clip", "list", "-p", "shot", workspace=workspace)["clips"]
    assert [item["name"] for item in listed] == [clip["name"]]
    short = clip["name"].rpartition("/")[2]
    assert answer("clip", "show", short, "-p", "shot", workspace=workspace) == clip
    table = understudy("clip", "list", "-p", "shot", workspace=workspace)
    assert clip["name"] in table.stdout
    assert table.stderr == ""


def test_a_folder_of_pictures_keeps_its_numbers_and_takes_a_rate(
    workspace: Path, clip: dict[str, Any], footage: Path, tmp_path: Path
) -> None:
    plates = tmp_path / "plates"
    plates.mkdir()
    with open_source(footage) as source:
        for number in (1001, 1002, 1004):
            cv2.imwrite(str(plates / f"shot.{number}.png"), source.frame(number - 1001))
    added = answer("clip", "add", str(plates), "--rate", "24000/1001", "-p", "shot", workspace=workspace)
    assert added["info"]["first_frame_number"] == 1001
    assert added["info"]["missing_frame_numbers"] == [1003]
    assert added["info"]["frame_rate"] == {"num": 24000, "den": 1001}
    refused = understudy("clip", "add", str(footage), "--rate", "25", "-p", "shot", workspace=workspace)
    assert refused.returncode == 2


def test_frames(workspace: Path, clip: dict[str, Any], footage: Path, tmp_path: Path) -> None:
    whole, preview = tmp_path / "frame.png", tmp_path / "frame.jpg"
    answer("clip", "frame", clip["name"], "7", "-o", str(whole), workspace=workspace)
    answer("clip", "frame", clip["name"], "7", "-o", str(preview), "--max-side", "100", workspace=workspace)
    with open_source(footage) as source:
        assert (cv2.imread(str(whole)) == source.frame(7)).all()
    assert max(cv2.imread(str(preview)).shape) == 100
    absent = understudy("clip", "frame", clip["name"], "99", "-o", str(tmp_path / "no.png"), workspace=workspace)
    assert absent.returncode == 2
    assert not (tmp_path / "no.png").exists()


def test_extraction_operations_and_facesets(workspace: Path, clip: dict[str, Any]) -> None:
    arguments = ("faceset", "extract", clip["name"], "--id", "heads", "--size", "128", "--frames", "0-7x2,11")
    extracted = answer(*arguments, workspace=workspace)
    assert extracted["faceset"] == "projects/shot/facesets/heads"
    assert extracted["frame_count"] == 5
    assert extracted["face_count"] == 5
    again = answer(*arguments, workspace=workspace)
    assert again["operation"] == extracted["operation"], "the same command finds its work done"

    name = extracted["operation"]
    shown = answer("op", "show", name, workspace=workspace)
    assert shown["state"] == "SUCCEEDED"
    assert (shown["progress"]["done_units"], shown["progress"]["total_units"]) == (5, 5)
    assert shown["progress"]["unit"] == "frames"
    assert name in {item["name"] for item in answer("op", "list", "-p", "shot", workspace=workspace)["operations"]}
    watched = understudy("op", "watch", name, "--json", workspace=workspace)
    assert watched.returncode == 0
    events = [json.loads(line) for line in watched.stdout.splitlines()]
    assert events[-1]["metadata"]["state"] == "SUCCEEDED"
    assert understudy("op", "cancel", name, workspace=workspace).returncode in (0, 2), "it has ended already"

    faceset = answer("faceset", "show", "heads", "-p", "shot", workspace=workspace)
    assert (faceset["face_type"], faceset["face_count"], faceset["revision"]) == ("WHOLE", 5, 1)
    faces = answer("faceset", "faces", "heads", "-p", "shot", "--frames", "2-11", workspace=workspace)["faces"]
    assert [face["record"]["source"]["frame_number"] for face in faces] == [2, 4, 6, 11]
    full = answer("faceset", "faces", "heads", "-p", "shot", "--limit", "1", "--full", workspace=workspace)["faces"]
    assert [len(face["record"]["crop_landmarks_px"]) for face in full] == [136]
    revisions = answer("faceset", "revisions", "heads", "-p", "shot", workspace=workspace)["revisions"]
    assert [revision["number"] for revision in revisions] == [1]


def test_presets_are_listed(workspace: Path) -> None:
    presets = {item["name"]: item for item in answer("run", "presets", workspace=workspace)["presets"]}
    assert presets.keys() >= {"quick96", "demo", "saehd"}
    assert presets["quick96"]["options"]["batch_size"] == 4
    assert answer("run", "list", "-p", "shot", workspace=workspace) == {"runs": []}
    assert answer("model", "list", "-p", "shot", workspace=workspace) == {"models": []}


@pytest.mark.parametrize(
    ("arguments", "exit_code", "reason"),
    [
        (("project", "show", "nothing"), 2, "NOT_FOUND"),
        (("project", "create", "UPPER"), 2, "INVALID_INPUT"),
        (("clip", "show", "nothing", "-p", "shot"), 2, "NOT_FOUND"),
        (("clip", "list", "-p", "no/such"), 2, "INVALID_INPUT"),
        (("op", "show", "nothing", "-p", "shot"), 2, "NOT_FOUND"),
        (("run", "show", "nothing", "-p", "shot"), 2, "NOT_FOUND"),
    ],
)
def test_what_the_server_refuses(
    arguments: tuple[str, ...], exit_code: int, reason: str, workspace: Path, clip: dict[str, Any]
) -> None:
    done = understudy("--json", *arguments, workspace=workspace)
    assert done.returncode == exit_code
    error = json.loads(done.stdout)["error"]
    assert error["reason"] == reason
    assert error["request_id"]
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_no_face_is_failed_work(workspace: Path, clip: dict[str, Any], tmp_path: Path) -> None:
    plates = tmp_path / "grey"
    plates.mkdir()
    cv2.imwrite(str(plates / "grey.0001.png"), np.full((240, 320, 3), 128, np.uint8))
    added = answer("clip", "add", str(plates), "-p", "shot", "--id", "grey", workspace=workspace)
    done = understudy("--json", "faceset", "extract", added["name"], workspace=workspace)
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert error["reason"] == "NO_FACE"
    assert error["work"].startswith("projects/shot/operations/")
    watched = understudy("op", "watch", error["work"], workspace=workspace)
    assert watched.returncode == 3


def test_a_text_file_is_no_video(workspace: Path, clip: dict[str, Any], tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    done = understudy("--json", "clip", "add", str(text), "-p", "shot", workspace=workspace)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["reason"] == "NOT_MEDIA"
    assert "notes.mp4" in done.stderr


def test_a_server_named_by_its_address(served: Up, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    address = ("--address", served.facts["address"])
    good = ("--token-file", served.facts["token_file"])
    assert understudy(*address, *good, "project", "list", "--json", workspace=elsewhere).returncode == 0
    wrong = tmp_path / "token"
    wrong.write_text("guess")
    refused = understudy(*address, "--token-file", str(wrong), "project", "list", "--json", workspace=elsewhere)
    assert refused.returncode == 6
    assert json.loads(refused.stdout)["error"]["code"] == "UNAUTHENTICATED"
    nobody = understudy("--address", "127.0.0.1:1", *good, "project", "list", workspace=elsewhere)
    assert nobody.returncode == 5
    assert "no server answers at 127.0.0.1:1" in nobody.stderr
    assert not elsewhere.exists(), "no workspace is needed"


def test_a_workspace_has_one_server(served: Up) -> None:
    second = understudy("up", workspace=served.workspace)
    assert second.returncode == 2
    assert served.facts["address"] in second.stderr


def test_a_port_that_is_taken(served: Up, tmp_path: Path) -> None:
    port = served.facts["address"].rpartition(":")[2]
    done = understudy("--json", "up", "--port", port, workspace=tmp_path / "other")
    assert done.returncode == 2
    assert port in json.loads(done.stdout)["error"]["message"]
    assert "Traceback" not in done.stderr


def test_a_command_starts_a_server_when_none_runs_and_ctrl_c_stops_one_in_order(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    first = understudy("--json", "project", "create", "kept", workspace=workspace)
    assert first.returncode == 0, first.stderr
    assert "starting a server" in first.stderr
    pid = json.loads((workspace / "server.json").read_text())["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    server = Up(workspace)
    assert server.facts["metrics_address"]
    found = understudy("--json", "project", "list", workspace=workspace)
    assert [item["name"] for item in json.loads(found.stdout)["projects"]] == ["projects/kept"]
    assert found.stderr == "", "the running server was used"
    assert server.interrupt() == 0
    assert not (workspace / "server.json").exists()


def test_ctrl_c_while_watching_leaves_the_work_to_the_server(served: Up, clip: dict[str, Any], tmp_path: Path) -> None:
    long = head_clip(tmp_path / "long.mp4", identity="bruno", frame_count=24, seed=3)
    assert probe(long).frame_count == 24
    added = answer("clip", "add", str(long), "-p", "shot", workspace=served.workspace)
    command = [*COMMAND, "--workspace", str(served.workspace), "--json", "faceset", "extract", added["name"]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()  # the stage has begun
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 4
    assert json.loads(out)["error"]["code"] == "CANCELLED"
    assert "the server keeps what it began" in err
    finished = answer("faceset", "extract", added["name"], workspace=served.workspace)
    assert finished["frame_count"] == 24
