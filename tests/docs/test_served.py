"""Over the wire, docs/map.md tells the truth: every RPC that it calls served answers, and the rest says UNIMPLEMENTED, with a reason.

Requests name things that do not exist, so that nothing heavy begins; what is checked is that the answer is meant for a caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass

from tests.docs.pages import names, table
from understudy.client import Client, connect
from understudy.errors import UnderstudyError, from_rpc_error
from understudy.local import start_server, stop_server
from understudy.v1 import common_pb2, project_service_pb2, transfer_service_pb2

_ROWS = [row for row in table("map.md", "Feature") if names(row[1])]
_SERVED = {names(row[1])[0]: row[2] != "not in this release" for row in _ROWS}
_NAMES = {
    "name": "projects/p",
    "parent": "projects/p",
    "clip": "projects/p/clips/none",
    "faceset": "projects/p/facesets/none",
    "session": "projects/p/sessions/none",
    "project_id": "p",
}
_OF_SERVICE = {
    "FrameService": "projects/p/clips/none",
    "FacesetService": "projects/p/facesets/none",
    "TrainingService": "projects/p/runs/none",
    "MergeService": "projects/p/sessions/none",
    "Operations": "projects/p/operations/none",
    "OperationWatchService": "projects/p/operations/none",
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps everything, its token too."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def client(workspace: Path) -> Iterator[Client]:
    """A client of a server with one empty project, `projects/p`."""
    process, address = start_server(workspace, "--set", "execution.kind=inline")
    with connect(address, token_file=workspace / "token") as connected:
        connected.projects.CreateProject(project_service_pb2.CreateProjectRequest(project_id="p"))
        yield connected
    stop_server(process)


@pytest.fixture(scope="module")
def caller(client: Client, workspace: Path) -> Iterator[Any]:
    """Calls any method by its full name, as a tool that knows only the descriptors would."""
    token = (("authorization", f"Bearer {(workspace / 'token').read_text()}"),)
    with grpc.insecure_channel(client.address) as channel:

        def call(service_name: str, method_name: str, request: Any) -> None:
            method = descriptor_pool.Default().FindServiceByName(service_name).FindMethodByName(method_name)
            response_class = GetMessageClass(method.output_type)
            path = f"/{service_name}/{method_name}"
            kind = channel.unary_stream if method.server_streaming else channel.unary_unary
            multi = kind(
                path,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=response_class.FromString,
            )
            try:
                answer = multi(request, timeout=60, metadata=token)
                if method.server_streaming:
                    next(iter(answer))
            except grpc.RpcError as error:
                raise from_rpc_error(error) from None

        yield call


@pytest.mark.parametrize("rpc", sorted(_SERVED))
def test_methods_answer_as_the_map_says(caller: Any, rpc: str) -> None:
    service, _, method_name = rpc.partition(".")
    full_service = f"google.longrunning.{service}" if service == "Operations" else f"understudy.v1.{service}"
    method = descriptor_pool.Default().FindServiceByName(full_service).FindMethodByName(method_name)
    request = GetMessageClass(method.input_type)()
    for field in method.input_type.fields:
        if field.name in _NAMES and field.type == field.TYPE_STRING:
            setattr(request, field.name, _NAMES[field.name])
        if field.name == "name" and method_name != "ListOperations":
            request.name = _OF_SERVICE.get(service, "projects/p")
    code = reason = "OK"
    try:
        caller(full_service, method_name, request)
    except UnderstudyError as error:
        code, reason = error.code, error.reason
    if _SERVED[rpc]:
        assert code not in ("UNIMPLEMENTED", "INTERNAL", "UNKNOWN"), reason
    else:
        assert (code, reason) == ("UNIMPLEMENTED", "UNIMPLEMENTED")


def test_capabilities_name_what_is_there(client: Client) -> None:
    found = client.transfer.GetCapabilities(transfer_service_pb2.GetCapabilitiesRequest())
    services = {name.rpartition(".")[2] for name in found.services}
    assert services == {rpc.partition(".")[0] for rpc in _SERVED}
    own = {
        name.removeprefix("understudy.v1.").replace("/", ".")
        for name in found.methods
        if name.startswith("understudy.")
    }
    assert own == {rpc for rpc, served in _SERVED.items() if served and not rpc.startswith("Operations.")}
    assert (found.executor, found.store) == ("inline", "folder")


def test_a_foreign_object_is_refused(client: Client) -> None:
    outside = common_pb2.ObjectRef(uri="file:///etc/passwd")
    request = transfer_service_pb2.CreateDownloadUrlsRequest(parent="projects/p", objects=[outside])
    with pytest.raises(UnderstudyError) as caught:
        client.transfer.CreateDownloadUrls(request)
    assert caught.value.code == "INVALID_ARGUMENT"
