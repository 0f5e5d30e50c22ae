"""One bootstrap for every server: health, reflection, metrics, the interceptor, operations, transfer, graceful stop.

A service adds its servicers in ``register(server, context)``. Hosting one service or all of them differs in the list passed here and in
nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from services.kit.calls import CallInterceptor
from services.kit.context import ServiceContext
from services.kit.errors import InvalidInput
from services.kit.operations import rpc as operations_rpc
from services.kit.token import server_token
from services.kit.transfer import rpc as transfer_rpc

_LOG = logging.getLogger(__name__)
MAX_MESSAGE_BYTES = 4 * 2**20  # gRPC's own default, kept as a tripwire: bytes travel beside messages
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.max_connection_age_ms", 300_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
]


@dataclass
class Registrar:
    """What ``register`` adds to: the gRPC server, the full names for health, reflection and capabilities, and the methods served."""

    server: grpc.aio.Server
    service_names: list[str] = field(default_factory=list)
    method_names: list[str] = field(default_factory=list)

    def added(self, full_name: str) -> None:
        """Notes a service by its full name."""
        self.service_names.append(full_name)


class _Asked(NamedTuple):
    """A method looked up in a handler; see grpc.HandlerCallDetails."""

    method: str
    invocation_metadata: tuple[()] = ()


class _NotingServer:
    """A server that notes which methods of a servicer are its own and not those of the generated base class, which refuse."""

    def __init__(self, server: grpc.aio.Server, method_names: list[str]) -> None:
        self._server = server
        self._method_names = method_names

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.ServiceRpcHandler]) -> None:
        for handler in handlers:
            service = descriptor_pool.Default().FindServiceByName(handler.service_name())
            for method in service.methods:
                found: Any = handler.service(
                    cast(grpc.HandlerCallDetails, _Asked(f"/{service.full_name}/{method.name}"))
                )
                behaviour = found and (found.unary_unary or found.unary_stream)
                if behaviour and not behaviour.__module__.endswith("_pb2_grpc"):
                    self._method_names.append(f"{service.full_name}/{method.name}")
        self._server.add_generic_rpc_handlers(handlers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


async def serve(
    context: ServiceContext,
    services: Sequence[ModuleType],
    *,
    on_started: Callable[[str], None] = lambda address: None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serves until SIGTERM, SIGINT or ``stop``; calls ``on_started`` with the address once calls are taken."""
    settings = context.settings.server
    token = await asyncio.to_thread(server_token, settings.token_file)
    interceptor = CallInterceptor(context.metrics, token=token, min_deadline_s=settings.min_deadline_s)
    server = grpc.aio.server(
        interceptors=[interceptor], options=_OPTIONS, maximum_concurrent_rpcs=settings.max_concurrent_calls
    )
    registrar = Registrar(server)
    registrar.server = cast(grpc.aio.Server, _NotingServer(server, registrar.method_names))
    for service in services:
        service.register(registrar, context)
    operations_rpc.register(registrar, context)
    transfer_rpc.register(registrar, context)
    checker = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    reflection.enable_server_reflection(
        [*registrar.service_names, health.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
    address = f"{settings.host}:{settings.port}"
    try:
        port = (
            server.add_secure_port(address, _credentials(context))
            if settings.tls_certificate
            else server.add_insecure_port(address)
        )
    except RuntimeError as error:  # all that grpc says of a port that is taken
        raise InvalidInput(
            f"cannot listen on {address}: choose another server.port, or 0 for a free one",
            fields={"server.port": "cannot be listened on"},
        ) from error
    if settings.metrics_port >= 0:
        context.closers.append(_serve_metrics(context))
    await server.start()
    context.reconciler.start()
    for name in ["", *registrar.service_names]:
        await checker.set(name, health_pb2.HealthCheckResponse.SERVING)
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
        except (NotImplementedError, RuntimeError):
            _LOG.debug("no signal handlers here: not the main thread, or not POSIX")
    _LOG.info("serving %s on %s:%d", ", ".join(registrar.service_names), settings.host, port)
    on_started(f"{settings.host}:{port}")
    try:
        await stop.wait()
    finally:
        await checker.enter_graceful_shutdown()
        await server.stop(settings.stop_grace_s)
        await asyncio.to_thread(context.close)
        _LOG.info("stopped")


def _serve_metrics(context: ServiceContext) -> Callable[[], None]:
    settings = context.settings.server
    try:
        http, _ = start_http_server(settings.metrics_port, addr=settings.host, registry=context.metrics.registry)
    except OSError as error:
        raise InvalidInput(
            f"cannot listen on {settings.host}:{settings.metrics_port} for metrics: choose another "
            "server.metrics_port, 0 for a free one, or -1 for none",
            fields={"server.metrics_port": "cannot be listened on"},
        ) from error
    context.metrics.address = f"{settings.host}:{http.server_port}"

    def close() -> None:
        http.shutdown()
        http.server_close()

    return close


def _credentials(context: ServiceContext) -> grpc.ServerCredentials:
    settings = context.settings.server
    assert settings.tls_certificate and settings.tls_key
    pair = (Path(settings.tls_key).read_bytes(), Path(settings.tls_certificate).read_bytes())
    if settings.tls_client_ca is None:
        return grpc.ssl_server_credentials([pair])
    return grpc.ssl_server_credentials(
        [pair], root_certificates=settings.tls_client_ca.read_bytes(), require_client_auth=True
    )
