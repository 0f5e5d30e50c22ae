"""One bootstrap for every server: health, reflection, metrics, the interceptor, operations, transfer, graceful stop.

A service adds its servicers in ``register(server, context)``. Hosting one service or all of them differs in the list passed here and in
nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from services.kit.calls import CallInterceptor
from services.kit.context import ServiceContext
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
    """What ``register`` adds to: the gRPC server, and the full names for health, reflection and capabilities."""

    server: grpc.aio.Server
    service_names: list[str]

    def added(self, full_name: str) -> None:
        """Notes a service by its full name."""
        self.service_names.append(full_name)


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
    registrar = Registrar(server, [])
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
    port = (
        server.add_secure_port(address, _credentials(context))
        if settings.tls_certificate
        else server.add_insecure_port(address)
    )
    if settings.metrics_port >= 0:
        start_http_server(settings.metrics_port, addr=settings.host, registry=context.metrics.registry)
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


def _credentials(context: ServiceContext) -> grpc.ServerCredentials:
    settings = context.settings.server
    assert settings.tls_certificate and settings.tls_key
    pair = (Path(settings.tls_key).read_bytes(), Path(settings.tls_certificate).read_bytes())
    if settings.tls_client_ca is None:
        return grpc.ssl_server_credentials([pair])
    return grpc.ssl_server_credentials(
        [pair], root_certificates=settings.tls_client_ca.read_bytes(), require_client_auth=True
    )
