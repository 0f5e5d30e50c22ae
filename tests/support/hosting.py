"""Services in a thread of this process, over real gRPC, on a folder store and the inline executor; and a client of them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from services.kit.context import ServiceContext, build_context
from services.kit.server import serve
from tests.support.contexts import eventually, settings_in
from understudy.client import Client, connect


@dataclass(frozen=True)
class Hosted:
    """A running server: its client, and its inside."""

    client: Client
    context: ServiceContext


@contextlib.contextmanager
def hosted(folder: Path, services: Sequence[ModuleType], **overrides: Any) -> Iterator[Hosted]:
    """``services`` as packages with ``register``; ``overrides`` of settings."""
    settings = settings_in(folder, **{"server.stop_grace_s": 5, "server.metrics_port": -1, **overrides})
    context = build_context(settings)
    started: dict[str, Any] = {}

    async def run() -> None:
        started["loop"], started["stop"] = asyncio.get_running_loop(), asyncio.Event()
        await serve(context, services, on_started=lambda address: started.update(address=address), stop=started["stop"])

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="server")
    thread.start()
    try:
        address = eventually(lambda: started.get("address") or not thread.is_alive(), "the server starts")
        assert isinstance(address, str), "the server did not start"
        with connect(address, token_file=settings.server.token_file) as client:
            yield Hosted(client, context)
    finally:
        if "stop" in started and thread.is_alive():
            started["loop"].call_soon_threadsafe(started["stop"].set)
        thread.join(timeout=60)
        assert not thread.is_alive(), "the server did not stop"
