"""A service as a process of its own, on a folder store, with a client; to be stopped gently or killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from understudy.client import Client, connect

REPOSITORY = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 120.0


class ServerProcess:
    """`python -m <module>` on ``workspace``. Use as a context manager; it is stopped, or killed if it does not stop."""

    def __init__(self, workspace: Path, *, module: str = "services", **settings: str) -> None:
        workspace.mkdir(parents=True, exist_ok=True)
        ready = workspace / "ready.json"
        ready.unlink(missing_ok=True)
        values = {
            "store.root": str(workspace / "objects"),
            "store.cache_dir": str(workspace / "cache"),
            "server.token_file": str(workspace / "token"),
            "server.metrics_port": "-1",
            **{name.replace("__", "."): value for name, value in settings.items()},
        }
        flags = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
        self.log_path = workspace / "server.log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, "--ready-file", str(ready), "--stop-with-stdin", *flags],
                cwd=REPOSITORY,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + READY_WITHIN_S
        while not ready.exists():
            assert self.process.poll() is None, self.log_path.read_text()
            assert time.monotonic() < end, self.log_path.read_text()
            time.sleep(0.05)
        self.client: Client = connect(json.loads(ready.read_text())["address"], token_file=workspace / "token")

    def kill(self) -> None:
        """As `kill -9` does: nothing is written any more."""
        self.client.close()
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """As its parent's end does."""
        self.client.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
