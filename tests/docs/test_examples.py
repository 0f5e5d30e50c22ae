"""The examples of docs/api.md: Python is run against a real server, grpcurl's requests are parsed as what their methods take."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pool, json_format
from google.protobuf.message_factory import GetMessageClass

from ml_common.media import probe
from tests.docs.pages import DOCS, code_blocks
from tests.support.footage import head_clip
from understudy.local import start_server, stop_server
from understudy.v1 import (  # noqa: F401  importing them makes their services known
    face_service_pb2,
    faceset_service_pb2,
    frame_service_pb2,
    merge_service_pb2,
    operation_pb2,
    project_service_pb2,
    training_service_pb2,
    transfer_service_pb2,
)

FRAMES = 10
_API = DOCS / "api.md"
_VALUES = {"$SHA": "0" * 64, "$SIZE": "1", "$URI": "file:///x", "$OPERATION": "projects/shot-12/operations/extract-1"}
_CALLS = re.findall(r"^rpc \S+ .*$", "\n".join(code_blocks(_API, "sh")), re.MULTILINE)


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on the workspace `.understudy` of the current folder, which also holds src.mp4 and dst.mp4."""
    monkeypatch.chdir(tmp_path)
    head_clip(tmp_path / "src.mp4", identity="ada", frame_count=FRAMES, seed=1)
    head_clip(tmp_path / "dst.mp4", identity="bruno", frame_count=FRAMES, seed=2)
    process, at = start_server(tmp_path / ".understudy", "--set", "execution.kind=inline")
    yield at
    stop_server(process)


@pytest.mark.slow
def test_python_examples_run(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {}
    changes = {"127.0.0.1:50051": address, "iteration=600": "iteration=2", "iterations=600": "iterations=2"}
    source = "\n".join(code_blocks(_API, "python"))
    for written, needed in changes.items():
        assert written in source
        source = source.replace(written, needed)
    exec(compile(source, str(_API), "exec"), namespace)
    for film in ("result.mp4", "swapped.mp4"):
        assert probe(tmp_path / film).frame_count == FRAMES
    printed = capsys.readouterr().out
    assert "STATE_COMPLETED projects/shot-12/runs/first/checkpoints/" in printed
    assert "NOT_FOUND" in printed


def test_there_are_grpcurl_calls() -> None:
    assert len(_CALLS) > 10


@pytest.mark.parametrize("line", _CALLS, ids=[line.split()[1] for line in _CALLS])
def test_grpcurl_requests_are_what_the_methods_take(line: str) -> None:
    item = next(found for found in code_blocks(_API, "sh") if found.startswith("SHA="))
    values = {"$ITEM": shlex.split(item.splitlines()[1])[0].removeprefix("ITEM="), **_VALUES}
    _, name, body = shlex.split(line)
    for variable, value in values.items():
        body = body.replace(variable, value)
    service_name, _, method_name = name.partition("/")
    assert operations_pb2.DESCRIPTOR.name
    method = descriptor_pool.Default().FindServiceByName(service_name).FindMethodByName(method_name)
    json_format.Parse(body, GetMessageClass(method.input_type)())
