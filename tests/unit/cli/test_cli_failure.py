"""How commands end when something is wrong: codes, sentences, and the JSON object."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

import click
import pytest
from click.testing import Result

from tests.unit.cli.conftest import FakeClient, document
from understudy.cli.failure import report
from understudy.errors import UnderstudyError

CODES = {
    "INVALID_ARGUMENT": 2,
    "NOT_FOUND": 2,
    "ALREADY_EXISTS": 2,
    "FAILED_PRECONDITION": 2,
    "OUT_OF_RANGE": 2,
    "CANCELLED": 4,
    "UNAVAILABLE": 5,
    "DEADLINE_EXCEEDED": 5,
    "UNAUTHENTICATED": 6,
    "PERMISSION_DENIED": 6,
    "INTERNAL": 1,
    "UNKNOWN": 1,
    "ABORTED": 1,
    "DATA_LOSS": 1,
    "UNIMPLEMENTED": 1,
    "RESOURCE_EXHAUSTED": 1,
}


@pytest.mark.parametrize(("code", "exit_code"), CODES.items())
def test_a_refused_call_by_its_code(code: str, exit_code: int, client: FakeClient, run: Callable[..., Result]) -> None:
    client.projects.answers("GetProject", UnderstudyError("it is wrong", code=code, reason="WHY", request_id="r-1"))
    result = run("project", "show", "a")
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert result.stderr.startswith("error: it is wrong\n")
    assert "Traceback" not in result.stderr


def test_json_errors_carry_everything(client: FakeClient, run: Callable[..., Result]) -> None:
    wrong = UnderstudyError(
        "bad id", code="INVALID_ARGUMENT", reason="INVALID_INPUT", fields={"project_id": "a-z only"}, request_id="r-7"
    )
    client.projects.answers("CreateProject", wrong)
    result = run("--json", "project", "create", "A")
    assert result.exit_code == 2
    assert document(result) == {
        "error": {
            "code": "INVALID_ARGUMENT",
            "reason": "INVALID_INPUT",
            "message": "bad id",
            "fields": {"project_id": "a-z only"},
            "request_id": "r-7",
        }
    }
    assert "  project_id: a-z only\n" in result.stderr


@pytest.mark.parametrize(
    ("code", "exit_code"), [("INVALID_ARGUMENT", 3), ("INTERNAL", 3), ("UNAVAILABLE", 3), ("CANCELLED", 4)]
)
def test_failed_work_is_not_a_refused_call(
    code: str, exit_code: int, client: FakeClient, run: Callable[..., Result]
) -> None:
    failed = UnderstudyError("no face", code=code, reason="NO_FACE", work="projects/p/operations/o")
    client.faces.answers("ExtractFaceset", failed)
    result = run("faceset", "extract", "projects/p/clips/c", "--json")
    assert result.exit_code == exit_code
    assert document(result)["error"]["work"] == "projects/p/operations/o"


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("project", "show"),
        ("project", "show", "a", "--frobnicate"),
        ("clip", "show", "short-name-without-project"),
        ("faceset", "faces", "f", "-p", "p", "--frames", "9-1"),
        ("swap", "absent.mp4", "absent.mp4", "-o", "x.mp4"),
        ("project", "list", "--address", "127.0.0.1:1"),
    ],
)
def test_bad_usage(arguments: tuple[str, ...], run: Callable[..., Result]) -> None:
    plain = run(*arguments)
    assert plain.exit_code == 2
    assert plain.stdout == ""
    assert plain.stderr.startswith("error: ")
    as_json = run(*arguments, "--json")
    assert as_json.exit_code == 2
    assert document(as_json)["error"]["code"] == "INVALID_ARGUMENT"


def test_an_unexpected_error_shows_where_it_was(client: FakeClient, run: Callable[..., Result]) -> None:
    client.projects.answers("GetProject", RuntimeError("boom"))
    result = run("project", "show", "a", "--json")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert document(result)["error"]["message"] == "unexpected RuntimeError: boom"


def test_ctrl_c_says_that_the_server_goes_on(client: FakeClient, run: Callable[..., Result]) -> None:
    client.projects.answers("GetProject", KeyboardInterrupt())
    result = run("project", "show", "a", "--json")
    assert result.exit_code == 4
    assert "keeps what it began" in result.stderr
    assert document(result)["error"]["code"] == "CANCELLED"


def test_sigterm_ends_a_command_as_ctrl_c_does(client: FakeClient, run: Callable[..., Result]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    client.projects.answers("GetProject", lambda request: os.kill(os.getpid(), signal.SIGTERM))
    assert run("project", "show", "a").exit_code == 4
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_unreachable_server_is_named(client: FakeClient, run: Callable[..., Result]) -> None:
    client.projects.answers("GetProject", UnderstudyError("failed to connect to all addresses", code="UNAVAILABLE"))
    result = run("project", "show", "a")
    assert result.exit_code == 5
    assert "no server answers at 127.0.0.1:1" in result.stderr


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "/root/x"), 1),
        (click.Abort(), 4),
    ],
)
def test_the_file_system_is_expected_to_fail(
    error: Exception, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error, as_json=False) == exit_code
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said
