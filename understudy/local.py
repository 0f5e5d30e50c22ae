"""The server of this machine: find the one that serves a workspace, or start one for as long as it is needed.

A workspace is a folder (`.understudy` by default) with the store, the token, and `server.json` while a server runs on it.
Two servers on one workspace are harmless (leases keep them from driving the same work), only wasteful.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from understudy.client import Client, connect
from understudy.errors import UnderstudyError

READY_WITHIN_S = 60.0
Starting = Callable[[], None]


def default_workspace() -> Path:
    """`$UNDERSTUDY_WORKSPACE`, or `.understudy` in the current folder."""
    return Path(os.environ.get("UNDERSTUDY_WORKSPACE", ".understudy"))


def workspace_settings(workspace: Path) -> dict[str, str]:
    """Settings that keep everything of a server inside a workspace."""
    return {
        "store.root": str(workspace / "objects"),
        "store.cache_dir": str(workspace / "cache"),
        "server.token_file": str(workspace / "token"),
    }


def ready_file(workspace: Path) -> Path:
    """Where a server says that it serves a workspace."""
    return workspace / "server.json"


@contextlib.contextmanager
def connected(workspace: Path, *, on_start: Starting = lambda: None) -> Iterator[Client]:
    """A client of the workspace's server; starts one (after ``on_start``), for as long as the block lasts, when none runs."""
    workspace = workspace.resolve()
    address = running_server(workspace)
    if address:
        with _client(workspace, address) as client:
            yield client
        return
    on_start()
    process, address = start_server(workspace)
    try:
        with _client(workspace, address) as client:
            yield client
    finally:
        stop_server(process)


def _client(workspace: Path, address: str) -> Client:
    token_file = Path(_ready(workspace).get("token_file", workspace / "token"))
    try:
        return connect(address, token_file=token_file)
    except PermissionError:
        raise UnderstudyError(
            f"{token_file} belongs to someone else: ask the owner of {workspace} for a token, or use another workspace",
            code="PERMISSION_DENIED",
            reason="DENIED",
        ) from None


def _ready(workspace: Path) -> dict[str, Any]:
    """What the ready file says; empty when there is none."""
    try:
        ready = json.loads(ready_file(workspace).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return ready if isinstance(ready, dict) else {}


def running_server(workspace: Path) -> str | None:
    """Address of the server that serves a workspace now, or None."""
    ready = _ready(workspace)
    try:
        os.kill(ready["pid"], 0)
    except PermissionError:
        pass  # another person's server: the token decides
    except (KeyError, ProcessLookupError):
        return None
    channel = grpc.insecure_channel(ready["address"])
    try:
        grpc.channel_ready_future(channel).result(timeout=3)
    except grpc.FutureTimeoutError:
        return None
    finally:
        channel.close()
    return str(ready["address"])


def start_server(workspace: Path, *extra: str) -> tuple[subprocess.Popen[bytes], str]:
    """Starts all services as a child process that ends when this process does. Returns it and its address."""
    workspace = workspace.resolve()
    workspace.mkdir(parents=True, exist_ok=True)
    ready = ready_file(workspace)
    ready.unlink(missing_ok=True)
    settings = [part for item in workspace_settings(workspace).items() for part in ("--set", "=".join(item))]
    log_path = workspace / "server.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "services",
                *settings,
                "--ready-file",
                str(ready),
                "--stop-with-stdin",
                *extra,
            ],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for this process: it ends the server in order
        )
    end = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < end:
        if process.poll() is not None:
            tail = log_path.read_text(errors="replace").strip().splitlines()[-1:]
            raise UnderstudyError(
                f"the server did not start: {''.join(tail) or 'no message'} (all of it: {log_path})",
                code="UNAVAILABLE",
                reason="UNAVAILABLE",
            )
        if ready.exists():
            return process, str(_ready(workspace)["address"])
        time.sleep(0.05)
    process.kill()
    raise UnderstudyError(
        f"the server was not ready within {READY_WITHIN_S:.0f} s; see {log_path}",
        code="UNAVAILABLE",
        reason="UNAVAILABLE",
    )


def stop_server(process: subprocess.Popen[bytes]) -> None:
    """Ends a server that ``start_server`` started, gracefully, by its own pid."""
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
