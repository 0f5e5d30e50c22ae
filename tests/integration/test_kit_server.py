"""The bootstrap that every server shares, over real gRPC: in this process, and as a process that is killed."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.kit.claims import is_alive
from services.kit.operations.keys import chunk_prefix
from services.kit.storage import open_store
from tests.support.contexts import PROJECT, eventually
from tests.support.probe_service import (
    NAME,
    REPOSITORY,
    Server,
    connected,
    ended,
    server_in_process,
    server_process,
    start_server,
    state_of,
    stop_server,
)
from tests.support.stages import SECRET, runs_of, scripted_plan
from understudy.errors import UnderstudyError, from_rpc_error
from understudy.v1 import (
    common_pb2,
    face_service_pb2,
    face_service_pb2_grpc,
    operation_pb2,
    operation_pb2_grpc,
    transfer_service_pb2,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that leave it as it was."""
    with server_in_process(tmp_path_factory.mktemp("server")) as running:
        yield running


def refused(call: Callable[[], Any]) -> UnderstudyError:
    """The error of a call, as a client reads it."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return from_rpc_error(caught.value)


def samples(server: Server) -> dict[str, float]:
    """The metrics that the server serves."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name[:1] != "#"}


# -- what every server offers -------------------------------------------------------------------------------------------


def test_health_by_service_without_a_token(server: Server) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    for name in ("", NAME, "google.longrunning.Operations", "understudy.v1.TransferService"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    error = refused(lambda: stub.Check(health_pb2.HealthCheckRequest(service="no.Such"), timeout=30))
    assert error.code == "NOT_FOUND"


def test_reflection_lists_and_describes_services(server: Server) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="understudy.v1.OperationWatchService"),
    ]
    listed, described = stub.ServerReflectionInfo(iter(requests), timeout=30)
    names = {service.name for service in listed.list_services_response.service}
    assert {
        NAME,
        "google.longrunning.Operations",
        "understudy.v1.OperationWatchService",
        "understudy.v1.TransferService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    } == names
    assert described.file_descriptor_response.file_descriptor_proto


def test_capabilities(server: Server) -> None:
    with server.client() as client:
        answer = client.transfer.GetCapabilities(transfer_service_pb2.GetCapabilitiesRequest())
    assert answer.version
    assert {NAME, "understudy.v1.TransferService"} <= set(answer.services)
    assert "google.longrunning.Operations/CancelOperation" in answer.methods
    assert "understudy.v1.OperationWatchService/WatchOperation" in answer.methods
    assert (answer.max_message_bytes, answer.max_page_size) == (4 * 2**20, 1000)
    assert (answer.executor, answer.store) == ("inline", "folder")


def test_capabilities_name_only_methods_that_are_served(tmp_path: Path) -> None:
    with server_in_process(tmp_path) as running, running.client() as client:
        served = set(client.transfer.GetCapabilities(transfer_service_pb2.GetCapabilitiesRequest()).methods)
    assert not {method for method in served if method.startswith("understudy.v1.FaceService")}
    import services.faces
    from services.kit.server import Registrar, _NotingServer

    class Grpc:
        def add_generic_rpc_handlers(self, handlers: Any) -> None: ...
        def add_registered_method_handlers(self, service: str, handlers: Any) -> None: ...

    registrar = Registrar(None)  # type: ignore[arg-type]
    registrar.server = _NotingServer(Grpc(), registrar.method_names)  # type: ignore[arg-type, assignment]
    assert running.context is not None
    services.faces.register(registrar, running.context)
    assert "understudy.v1.FaceService/ExtractFaceset" in registrar.method_names
    declared = face_service_pb2.DESCRIPTOR.services_by_name["FaceService"].methods_by_name
    undone = set(declared) - {name.partition("/")[2] for name in registrar.method_names}
    rpc_class = face_service_pb2_grpc.FaceServiceServicer
    from services.faces.rpc import FaceRpc

    assert undone == {name for name in declared if getattr(FaceRpc, name) is getattr(rpc_class, name)}


def test_metrics_count_calls_and_streams_by_code(server: Server) -> None:
    before = samples(server)

    def grown(name: str, **labels: str) -> float:
        inside = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        return samples(server).get(f"{name}{{{inside}}}", 0) - before.get(f"{name}{{{inside}}}", 0)

    server.unary("Echo")
    refused(lambda: server.unary("Refuse"))
    refused(lambda: server.unary("Break"))
    assert len(list(server.stream("Count", "3"))) == 3
    refused(lambda: list(server.stream("RefuseSecond")))
    for method, code in (
        ("Echo", "OK"),
        ("Refuse", "INVALID_ARGUMENT"),
        ("Break", "INTERNAL"),
        ("Count", "OK"),
        ("RefuseSecond", "INVALID_ARGUMENT"),
    ):
        assert grown("understudy_rpc_handled_total", service=NAME, method=method, code=code) == 1, (method, code)
        assert grown("understudy_rpc_started_total", service=NAME, method=method) == 1
        assert grown("understudy_rpc_seconds_count", service=NAME, method=method) == 1
    assert grown("understudy_rpc_stream_messages_total", service=NAME, method="Count") == 3
    assert grown("understudy_rpc_stream_messages_total", service=NAME, method="RefuseSecond") == 1


# -- what happens around a call -----------------------------------------------------------------------------------------


def test_the_request_id_is_echoed_bound_and_in_errors(server: Server) -> None:
    sent = (*server.metadata, ("x-request-id", "my-request-1"))
    response, call = server.unary("Echo", "hello", metadata=sent)
    assert dict(call.initial_metadata())["x-request-id"] == "my-request-1"
    assert json.loads(response.value) == ["hello", "local", {"request_id": "my-request-1"}]
    assert refused(lambda: server.unary("Refuse", metadata=sent)).request_id == "my-request-1"
    assert refused(lambda: server.unary("Break", metadata=sent)).request_id == "my-request-1"
    assert refused(lambda: list(server.stream("RefuseSecond", metadata=sent))).request_id == "my-request-1"


@pytest.mark.parametrize("given", ["", "short", "a" * 65, "with spaces in it", 'quote"newline'])
def test_a_strange_request_id_is_replaced(server: Server, given: str) -> None:
    response, call = server.unary("Echo", metadata=(*server.metadata, ("x-request-id", given)))
    used = dict(call.initial_metadata())["x-request-id"]
    assert used != given
    assert len(used) == 32
    assert json.loads(response.value)[2] == {"request_id": used}


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "Bearer wrong"),),
        (("authorization", "Bearer "),),
        (("authorization", ""),),
        (("authorization", "Basic abc"),),
    ],
)
def test_a_token_is_needed(server: Server, metadata: Any) -> None:
    for call in (
        lambda: server.unary("Echo", metadata=metadata),
        lambda: list(server.stream("Count", "1", metadata=metadata)),
        lambda: operations_pb2_grpc.OperationsStub(server.channel).ListOperations(
            operations_pb2.ListOperationsRequest(name=PROJECT), metadata=metadata, timeout=30
        ),
    ):
        error = refused(call)
        assert (error.code, error.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
        assert server.token not in str(error)


def test_too_near_a_deadline_is_refused_before_anything_begins(tmp_path: Path) -> None:
    with server_in_process(tmp_path, **{"server.min_deadline_s": 20}) as running:
        for call in (
            lambda: running.unary("Wait", "0", timeout=10),
            lambda: list(running.stream("Count", "1", timeout=10)),
        ):
            error = refused(call)
            assert (error.code, error.reason) == ("DEADLINE_EXCEEDED", "DEADLINE")
            assert "nothing was begun" in error.message
        assert running.unary("Wait", "0", timeout=60)[0].value == "waited"
        assert running.unary("Wait", "0", timeout=None)[0].value == "waited"


def test_messages_over_4_mib_are_refused_both_ways(server: Server) -> None:
    fits = 4 * 2**20 - 100
    response, _ = server.unary("Big", str(fits))
    assert len(response.value) == fits
    with grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", -1)]) as channel:
        wide = Server(server.address, server.token, "", channel)
        assert refused(lambda: wide.unary("Big", str(4 * 2**20 + 1))).code == "RESOURCE_EXHAUSTED"
        assert refused(lambda: wide.unary("Echo", "x" * (4 * 2**20 + 1))).code == "RESOURCE_EXHAUSTED"
    assert server.unary("Echo", "x")[0].value, "the server lives"


# -- errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["Refuse", "RefuseSecond"])
def test_refusals_carry_their_details(server: Server, method: str) -> None:
    """A unary call, and a stream that fails on its second message."""
    received: list[str] = []

    def call() -> None:
        if method == "Refuse":
            server.unary("Refuse")
        else:
            received.extend(message.value for message in server.stream("RefuseSecond"))

    error = refused(call)
    assert received == ([] if method == "Refuse" else ["first"])
    assert (error.code, error.reason, error.message.strip()) == ("INVALID_ARGUMENT", "NO_FACE", "refused")
    assert (error.metadata, error.fields) == ({"clip": "c"}, {"name": "is wrong"})
    assert error.request_id


@pytest.mark.parametrize("method", ["Break", "BreakSecond"])
def test_mistakes_are_internal_without_their_text(
    server: Server, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    call = server.unary if method == "Break" else server.stream
    error = refused(lambda: list(call(method)))
    assert (error.code, error.reason) == ("INTERNAL", "INTERNAL")
    assert SECRET not in f"{error} {error.metadata} {error.fields}"
    assert error.request_id in error.message
    assert SECRET in caplog.text, "the log has it"


def test_methods_that_are_not_served_say_so(server: Server) -> None:
    error = refused(lambda: server.unary("Undone"))
    assert (error.code, error.reason) == ("UNIMPLEMENTED", "UNIMPLEMENTED")
    assert f"{NAME}/Undone" in error.message
    assert refused(lambda: server.unary("NoSuchMethod")).code == "UNIMPLEMENTED"


def test_long_texts_arrive_shortened(server: Server) -> None:
    """Errors are HTTP/2 headers: one of many kilobytes would not arrive at all."""
    error = refused(lambda: server.unary("Refuse", "20000"))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "NO_FACE")
    assert error.message.startswith("refused refused")
    assert error.message.endswith("...")


def test_a_caller_who_goes_away_in_the_middle_of_a_stream(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    stream = server.stream("Count", "1000000")
    next(stream)
    stream.cancel()
    method = f'method="Count",service="{NAME}"'
    eventually(
        lambda: samples(server).get(f'understudy_rpc_handled_total{{code="CANCELLED",{method}}}'), "the call is ended"
    )
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# -- operations ---------------------------------------------------------------------------------------------------------


def test_an_operation_from_submission_to_result(server: Server) -> None:
    plan = scripted_plan({}, {"do": "fail_items"}, seed=10)
    with server.client() as client:
        begun = server.submit(plan)
        response = client.result(begun, common_pb2.Digest())
        assert response == common_pb2.Digest(sha256="10:0,10:1", size_bytes=8)
        again = server.submit(plan)
        metadata = operation_pb2.OperationMetadata()
        again.metadata.Unpack(metadata)
        assert again.done
        assert metadata.from_cache
        assert metadata.state == operation_pb2.OPERATION_STATE_PARTIALLY_SUCCEEDED
        listed = client.operations.ListOperations(operations_pb2.ListOperationsRequest(name=PROJECT))
        assert begun.name in [entry.name for entry in listed.operations]
        client.operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=begun.name))
        with pytest.raises(UnderstudyError) as caught:
            client.operations.GetOperation(operations_pb2.GetOperationRequest(name=begun.name))
        assert caught.value.code == "NOT_FOUND"


def test_a_failed_operation_carries_the_whole_error(server: Server) -> None:
    with server.client() as client, pytest.raises(UnderstudyError) as caught:
        client.result(server.submit(scripted_plan({"do": "refuse"}, seed=11)), common_pb2.Digest())
    error = caught.value
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "CORRUPT_FRAME")
    assert (error.metadata, error.fields) == ({"frame_index": "3"}, {"ranges": "bad frame"})


def test_lists_are_paged(tmp_path: Path) -> None:
    with server_in_process(tmp_path) as running, running.client() as client:
        names = {running.submit(scripted_plan({}, seed=seed)).name for seed in range(5)}
        found: list[str] = []
        token = ""
        while True:
            page = client.operations.ListOperations(
                operations_pb2.ListOperationsRequest(name=PROJECT, page_size=2, page_token=token)
            )
            assert len(page.operations) <= 2
            found += [entry.name for entry in page.operations]
            if not (token := page.next_page_token):
                break
        assert len(found) == 5
        assert set(found) == names
        for wrong in ({"page_size": -1}, {"page_token": "../x"}, {"name": "projects/../p"}):
            with pytest.raises(UnderstudyError) as caught:
                client.operations.ListOperations(
                    operations_pb2.ListOperationsRequest(**{"name": PROJECT, **wrong})  # type: ignore[arg-type]
                )
            assert caught.value.code == "INVALID_ARGUMENT"


def test_waiting_ends_with_the_timeout_or_the_operation(server: Server) -> None:
    assert server.context is not None
    begun = server.submit(scripted_plan({"do": "gate", "gate": "gates/wait"}, seed=12))
    with server.client() as client:
        request = operations_pb2.WaitOperationRequest(name=begun.name, timeout=Duration(nanos=300_000_000))
        assert not client.operations.WaitOperation(request).done
        server.context.store.put("gates/wait", b"")
        request.timeout.FromSeconds(60)
        assert client.operations.WaitOperation(request).done


def watch(server: Server, name: str, after: int = 0) -> Any:
    stub = operation_pb2_grpc.OperationWatchServiceStub(server.channel)
    request = operation_pb2.WatchOperationRequest(name=name, after_sequence=after)
    return stub.WatchOperation(request, metadata=server.metadata, timeout=120)


def test_a_watch_is_taken_up_where_it_broke(server: Server) -> None:
    assert server.context is not None
    begun = server.submit(scripted_plan({"do": "raise_once"}, {"do": "gate", "gate": "gates/watch"}, {}, seed=13))
    first = watch(server, begun.name)
    seen: list[operation_pb2.WatchOperationResponse] = []
    for event in first:
        seen.append(event)
        if event.WhichOneof("event") == "log":
            break
    first.cancel()
    state = server.context.ledger.get(begun.name)
    assert state.body["state"] not in ("SUCCEEDED", "FAILED"), "dropping a watch cancels nothing"
    server.context.store.put("gates/watch", b"")
    seen += list(watch(server, begun.name, after=seen[-1].sequence))
    sequences = [event.sequence for event in seen]
    assert sequences == sorted(sequences)
    logs = [event.log.text for event in seen if event.WhichOneof("event") == "log"]
    assert logs == ["chunk 0 is tried again: RuntimeError"], "each line once"
    states = [event.metadata.state for event in seen if event.WhichOneof("event") == "metadata"]
    assert states[-1] == operation_pb2.OPERATION_STATE_SUCCEEDED
    final = seen[-1].metadata
    assert (final.progress.done_units, final.chunks_done) == (12, 3)


def test_watching_what_has_ended_or_never_was(server: Server) -> None:
    begun = server.submit(scripted_plan({}, seed=14))
    ended(server, begun.name)
    events = list(watch(server, begun.name))
    assert [event.WhichOneof("event") for event in events] == ["metadata"]
    # A client that has seen everything still learns that it ended.
    again = list(watch(server, begun.name, after=events[-1].sequence))
    assert again[-1].metadata.state == operation_pb2.OPERATION_STATE_SUCCEEDED
    assert refused(lambda: list(watch(server, f"{PROJECT}/operations/none"))).code == "NOT_FOUND"
    assert refused(lambda: list(watch(server, "projects/../operations/x"))).code == "INVALID_ARGUMENT"


def test_cancelling(server: Server) -> None:
    assert server.context is not None
    plan = scripted_plan({"do": "gate", "gate": "gates/cancel"}, {}, seed=15)
    begun = server.submit(plan)
    eventually(lambda: runs_of(server.context.store, plan)[0], "it begins")  # type: ignore[union-attr]
    with server.client() as client:
        request = operations_pb2.CancelOperationRequest(name=begun.name)
        client.operations.CancelOperation(request)
        with pytest.raises(UnderstudyError) as caught:
            client.result(begun, common_pb2.Digest())
        assert (caught.value.code, caught.value.reason) == ("CANCELLED", "CANCELLED")
        client.operations.CancelOperation(request)  # nothing happens to what has ended
    assert runs_of(server.context.store, plan) == [1, 0]


# -- stopping, dying, starting ------------------------------------------------------------------------------------------


def test_a_graceful_stop_finishes_calls_under_way(tmp_path: Path) -> None:
    results: list[Any] = []
    with contextlib.ExitStack() as stack:
        with server_in_process(tmp_path, **{"server.stop_grace_s": 30}) as running:
            # A channel that outlives the block, whose end stops the server.
            channel = stack.enter_context(grpc.insecure_channel(running.address))
            own = Server(running.address, running.token, "", channel)
            thread = threading.Thread(target=lambda: results.append(own.unary("Wait", "1.5")[0].value))
            thread.start()
            label = f'{{method="Wait",service="{NAME}"}}'
            eventually(lambda: samples(running).get(f"understudy_rpc_started_total{label}"), "the call is under way")
        thread.join(timeout=60)
    assert results == ["waited"]


def test_sigterm_ends_a_process_well(tmp_path: Path) -> None:
    process = start_server(tmp_path, "--set", "execution.kind=inline")
    try:
        with connected(process, tmp_path) as running:
            running.unary("Echo")
            slow = running.channel.unary_unary(f"/{NAME}/Wait").future(
                b"\n\x031.0", metadata=running.metadata, timeout=60
            )
            label = f'{{method="Wait",service="{NAME}"}}'
            eventually(lambda: samples(running).get(f"understudy_rpc_started_total{label}"), "the call is under way")
            process.send_signal(signal.SIGTERM)
            assert slow.result(timeout=60) == b"\n\x06waited"
        assert process.wait(timeout=60) == 0
        assert "stopped" in (tmp_path / "server.log").read_text()
    finally:
        process.kill()
        process.wait()


def test_an_ending_parent_ends_the_process(tmp_path: Path) -> None:
    process = start_server(tmp_path, "--set", "execution.kind=inline")
    with connected(process, tmp_path):
        pass
    assert stop_server(process) == 0


@pytest.mark.parametrize("setting", ["server.port", "server.metrics_port"])
def test_a_port_that_is_taken_is_named(server: Server, tmp_path: Path, setting: str) -> None:
    taken = {"server.port": server.address, "server.metrics_port": server.metrics_address}[setting].rpartition(":")[2]
    command = [sys.executable, "-m", "tests.support.probe_server", "--set", f"{setting}={taken}"]
    command += ["--set", f"server.token_file={tmp_path / 'token'}", "--set", f"store.root={tmp_path / 'objects'}"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert taken in result.stderr
    assert setting in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("kind", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_killed_server_is_gone_on_from(tmp_path: Path, kind: str) -> None:
    """kill -9 in the middle of a chunk; the next server takes the work up at once and no chunk is done twice."""
    plan = scripted_plan({}, {}, {"do": "gate", "gate": "gates/open"}, {}, {})
    store = open_store("folder", root=tmp_path / "objects")
    process = start_server(tmp_path, "--set", f"execution.kind={kind}", "--set", "execution.workers=1")
    try:
        with connected(process, tmp_path) as running:
            name = running.submit(plan).name
            eventually(lambda: runs_of(store, plan)[2], "the third chunk begins")
            process.kill()
            process.wait()
        manifests = {info.key: info.modified_s for info in store.list(chunk_prefix(plan.action_key)).objects}
        assert len(manifests) == 2
        worker = int(store.list(f"ran/{plan.action_key}/2/").objects[0].key.rpartition("/")[2].partition("-")[0])
        eventually(lambda: not is_alive(worker), "its workers end with it")
        store.put("gates/open", b"")
        with server_process(tmp_path, "--set", "execution.kind=inline") as running:
            finished = ended(running, name)
            metadata = operation_pb2.OperationMetadata()
            state_of(running, name).metadata.Unpack(metadata)
    finally:
        process.kill()
        process.wait()
    response = common_pb2.Digest()
    assert finished.response.Unpack(response)
    assert response == common_pb2.Digest(sha256="0:0,0:1,0:2,0:3,0:4", size_bytes=20)
    assert metadata.attempt == 2
    assert runs_of(store, plan) == [1, 1, 2, 1, 1], "only the chunk that was under way is begun again"
    after = store.list(chunk_prefix(plan.action_key)).objects
    assert [info.key for info in after] == [f"{chunk_prefix(plan.action_key)}{index:06d}.json" for index in range(5)]
    assert {info.key: info.modified_s for info in after if info.key in manifests} == manifests
