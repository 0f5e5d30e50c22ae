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
from collections.abc import Iterator
from pathlib import Path

import grpc

from understudy.client import Client, connect
from understudy.errors import UnderstudyError

READY_WITHIN_S = 60.0


def default_workspace() -> Path:
    """`$UNDERSTUDY_WORKSPACE`, or `.understudy` in the current folder."""
    return Path(os.environ.get("UNDERSTUDY_WORKSPACE", ".understudy"))


def server_arguments(workspace: Path) -> list[str]:
    """Settings that keep everything of a server inside a workspace."""
    return [
        "--set",
        f"store.root={workspace / 'objects'}",
        "--set",
        f"server.token_file={workspace / 'token'}",
        "--set",
        f"store.cache_dir={workspace / 'cache'}",
    ]


@contextlib.contextmanager
def connected(workspace: Path) -> Iterator[Client]:
    """A client of the workspace's server; starts one, for as long as the block lasts, when none runs."""
    workspace = workspace.resolve()
    running = running_server(workspace)
    if running:
        with connect(running, token_file=workspace / "token") as client:
            yield client
        return
    process, address = start_server(workspace)
    try:
        with connect(address, token_file=workspace / "token") as client:
            yield client
    finally:
        stop_server(process)


def running_server(workspace: Path) -> str | None:
    """Address of the server that serves a workspace now, or None."""
    try:
        ready = json.loads((workspace / "server.json").read_text())
        os.kill(ready["pid"], 0)
    except (FileNotFoundError, ProcessLookupError, PermissionError, ValueError, KeyError):
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
    ready_file = workspace / "server.json"
    ready_file.unlink(missing_ok=True)
    log_path = workspace / "server.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "services",
                *server_arguments(workspace),
                "--ready-file",
                str(ready_file),
                "--stop-with-stdin",
                *extra,
            ],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
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
        if ready_file.exists():
            return process, str(json.loads(ready_file.read_text())["address"])
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
