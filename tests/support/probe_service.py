"""A service for tests of the kit, hosted like any other, and a client of it: methods that fail in every way, and scripted operations.

Its .proto is made here: requests and responses are well-known wrappers, which is enough to go through every layer of the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, wrappers_pb2

from services.kit.calls import current_actor
from services.kit.context import ServiceContext, build_context
from services.kit.errors import InvalidInput
from services.kit.logs import bound_facts
from services.kit.operations.convert import operation
from services.kit.operations.plan import Plan
from services.kit.server import Registrar, serve
from tests.support.contexts import eventually, settings_in, submission
from tests.support.stages import SECRET
from understudy.client import Client, connect

NAME = "tests.Probe"
REPOSITORY = Path(__file__).resolve().parents[2]
Text = wrappers_pb2.StringValue


UNARY = ("Echo", "Refuse", "Break", "Wait", "Big", "Undone")
STREAMS = ("Count", "RefuseSecond", "BreakSecond")


def _describe() -> None:
    """Puts the service into the descriptor pool, where reflection and capabilities find it."""
    file = descriptor_pb2.FileDescriptorProto(name="tests/probe.proto", package="tests", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    service = file.service.add(name="Probe")
    for name in (*UNARY, *STREAMS):
        service.method.add(
            name=name,
            input_type=".google.protobuf.StringValue",
            output_type=".google.protobuf.StringValue",
            server_streaming=name in STREAMS,
        )
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


_describe()


class Probe:
    """The servicer."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def Echo(self, request: Text, _context: Any) -> Text:
        """The text, who asked, and what is bound for logs."""
        return Text(value=json.dumps([request.value, current_actor(), bound_facts()]))

    async def Refuse(self, request: Text, _context: Any) -> Text:
        """An error for the caller, with all its details; the request says how long its text is."""
        raise InvalidInput(
            "refused " * int(request.value or 1), reason="NO_FACE", metadata={"clip": "c"}, fields={"name": "is wrong"}
        )

    async def Break(self, _request: Text, _context: Any) -> Text:
        """A mistake of the server."""
        raise RuntimeError(SECRET)

    async def Wait(self, request: Text, _context: Any) -> Text:
        """Answers after as many seconds."""
        await asyncio.sleep(float(request.value))
        return Text(value="waited")

    async def Big(self, request: Text, _context: Any) -> Text:
        """As many bytes."""
        return Text(value="x" * int(request.value))

    async def Undone(self, _request: Text, _context: Any) -> Text:
        """As a generated servicer does what it does not implement."""
        raise NotImplementedError("Method not implemented!")

    async def Count(self, request: Text, _context: Any) -> AsyncIterator[Text]:
        """As many messages."""
        for number in range(int(request.value)):
            yield Text(value=str(number))

    async def RefuseSecond(self, _request: Text, _context: Any) -> AsyncIterator[Text]:
        """One message, then an error for the caller."""
        yield Text(value="first")
        raise InvalidInput("refused", reason="NO_FACE", metadata={"clip": "c"}, fields={"name": "is wrong"})

    async def BreakSecond(self, _request: Text, _context: Any) -> AsyncIterator[Text]:
        """One message, then a mistake of the server."""
        yield Text(value="first")
        raise RuntimeError(SECRET)

    async def Submit(self, request: wrappers_pb2.BytesValue, _context: Any) -> operations_pb2.Operation:
        """Has a plan done, the way services do."""
        plan = Plan.from_bytes(request.value)
        record, cached = await asyncio.to_thread(self._context.ledger.submit, submission(plan))
        self._context.reconciler.poke()
        return operation(record, from_cache=cached)


def register(registrar: Registrar, context: ServiceContext) -> None:
    """Adds the service, as services do."""
    probe = Probe(context)
    coders = {"request_deserializer": Text.FromString, "response_serializer": Text.SerializeToString}
    handlers = {name: grpc.unary_unary_rpc_method_handler(getattr(probe, name), **coders) for name in UNARY}
    handlers |= {name: grpc.unary_stream_rpc_method_handler(getattr(probe, name), **coders) for name in STREAMS}
    handlers["Submit"] = grpc.unary_unary_rpc_method_handler(
        probe.Submit,
        request_deserializer=wrappers_pb2.BytesValue.FromString,
        response_serializer=operations_pb2.Operation.SerializeToString,
    )
    registrar.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
    registrar.added(NAME)


@dataclass(frozen=True)
class Server:
    """A running server. ``channel`` has neither token nor retries: what comes back is what was sent."""

    address: str
    token: str
    metrics_address: str
    channel: grpc.Channel
    context: ServiceContext | None = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What opens it."""
        return (("authorization", f"Bearer {self.token}"),)

    def unary(self, name: str, value: str = "", **options: Any) -> Any:
        """Calls a method of the probe; returns (response, call)."""
        method = self.channel.unary_unary(f"/{NAME}/{name}", Text.SerializeToString, Text.FromString)
        return method.with_call(Text(value=value), **{"metadata": self.metadata, "timeout": 60, **options})

    def stream(self, name: str, value: str = "", **options: Any) -> Any:
        """Calls a stream of the probe."""
        method = self.channel.unary_stream(f"/{NAME}/{name}", Text.SerializeToString, Text.FromString)
        return method(Text(value=value), **{"metadata": self.metadata, "timeout": 60, **options})

    def submit(self, plan: Plan) -> operations_pb2.Operation:
        """Has a plan done."""
        method = self.channel.unary_unary(
            f"/{NAME}/Submit", wrappers_pb2.BytesValue.SerializeToString, operations_pb2.Operation.FromString
        )
        return method(wrappers_pb2.BytesValue(value=plan.to_bytes()), metadata=self.metadata, timeout=60)

    def client(self) -> Client:
        """The SDK's client of it."""
        return connect(self.address, token=self.token)


@contextlib.contextmanager
def server_in_process(folder: Path, **overrides: Any) -> Iterator[Server]:
    """A server in a thread of this process."""
    settings = settings_in(folder, **{"server.stop_grace_s": 5, **overrides})
    context = build_context(settings)
    started: dict[str, Any] = {}

    async def run() -> None:
        started["loop"], started["stop"] = asyncio.get_running_loop(), asyncio.Event()
        this_module = sys.modules[__name__]
        await serve(
            context,
            [this_module],
            on_started=lambda address: started.update(address=address),
            stop=started["stop"],
        )

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="server")
    thread.start()
    try:
        address = eventually(lambda: started.get("address") or not thread.is_alive(), "the server starts")
        assert isinstance(address, str), "the server did not start"
        token = settings.server.token_file.read_text()
        with grpc.insecure_channel(address) as channel:
            yield Server(address, token, context.metrics.address, channel, context)
    finally:
        if "stop" in started and thread.is_alive():
            started["loop"].call_soon_threadsafe(started["stop"].set)
        thread.join(timeout=60)
        assert not thread.is_alive(), "the server did not stop"


def start_server(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A server as a process of its own, which ends with this one. Its log is `server.log` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "server.json").unlink(missing_ok=True)
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.probe_server"),
                *("--set", f"store.root={folder / 'objects'}"),
                *("--set", f"server.token_file={folder / 'token'}"),
                *("--ready-file", str(folder / "server.json"), "--stop-with-stdin", *arguments),
            ],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )


@contextlib.contextmanager
def connected(process: subprocess.Popen[bytes], folder: Path) -> Iterator[Server]:
    """A connection to a server that ``start_server`` started, once it takes calls."""

    def ready() -> dict[str, Any] | None:
        assert process.poll() is None, (folder / "server.log").read_text()
        path = folder / "server.json"
        return json.loads(path.read_text()) if path.exists() else None

    facts = eventually(ready, "the server takes calls")
    with grpc.insecure_channel(facts["address"]) as channel:
        yield Server(facts["address"], (folder / "token").read_text(), facts["metrics_address"], channel)


def stop_server(process: subprocess.Popen[bytes]) -> int:
    """Stops it gracefully, by its own handle; returns its exit code."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        return process.wait(timeout=60)
    finally:
        process.kill()


@contextlib.contextmanager
def server_process(folder: Path, *arguments: str) -> Iterator[Server]:
    """A server as a process of its own."""
    process = start_server(folder, *arguments)
    try:
        with connected(process, folder) as server:
            yield server
        stop_server(process)
    finally:
        process.kill()
        process.wait()


def state_of(server: Server, name: str) -> Any:
    """An operation as it stands."""
    with server.client() as client:
        return client.operations.GetOperation(operations_pb2.GetOperationRequest(name=name))


def ended(server: Server, name: str) -> Any:
    """An operation once it has ended."""

    def look() -> Any:
        found = state_of(server, name)
        return found if found.done else None

    return eventually(look, f"{name} ends", within_s=120)
