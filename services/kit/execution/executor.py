"""The Executor port, the environment of a worker, and the inline executor."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from services.kit.claims import is_alive
from services.kit.config import Settings
from services.kit.errors import Transient, UnderstudyError
from services.kit.operations.chunk import run_chunk
from services.kit.operations.plan import Chunk, ChunkManifest, Plan
from services.kit.operations.stage import Stage, WorkerEnv, load_stage
from services.kit.records import Records
from services.kit.storage import ObjectStore, open_store

_LOG = logging.getLogger(__name__)
_SCRATCH_PREFIX = f"understudy-worker-{socket.gethostname()}-"


class Executor(Protocol):
    """Runs chunks somewhere and answers interactive calls from warm workers."""

    name: str

    def run_chunks(
        self,
        plan: Plan,
        chunks: Sequence[Chunk],
        *,
        on_done: Callable[[ChunkManifest], None],
        on_progress: Callable[[int, int], None],
        on_retry: Callable[[int, str], None],
        check: Callable[[], None],
    ) -> None:
        """Runs ``chunks`` in any order; returns when all have manifests.

        ``check`` is called a few times a second and ends the work by raising. An UnderstudyError of a chunk is raised at once; other
        failures, and the death of a worker, are tried again (``on_retry``) and then raised as ``given_up`` says. Callbacks come from
        the calling thread.
        """
        ...

    def ask(self, stage_path: str, question: dict[str, Any]) -> dict[str, Any]:
        """One interactive call on a warm worker of a stage."""
        ...

    def close(self) -> None:
        """Lets workers go."""
        ...


def given_up(index: int, attempts: int, why: str, *, worker_died: bool) -> UnderstudyError:
    """What is raised for a chunk that failed as often as it may be tried."""
    if worker_died:
        return Transient(
            f"the worker process of chunk {index} died {attempts} times, most likely for want of memory: give it more, or smaller chunks",
            reason="WORKER_LOST",
        )
    return UnderstudyError(
        f"chunk {index} failed {attempts} times by a mistake of this program ({why}); the worker's log has the details"
    )


def open_settings_store(settings: Settings) -> ObjectStore:
    """The store that the settings name."""
    store = settings.store
    if store.kind == "folder":
        return open_store("folder", root=store.root)
    return open_store(
        "s3",
        endpoint=store.endpoint,
        bucket=store.bucket,
        access_key=store.access_key,
        secret_key=store.secret_key.get_secret_value(),
        region=store.region,
        secure=store.secure,
        prefix=store.prefix,
        cache_dir=store.cache_dir,
        cache_bytes=store.cache_bytes,
    )


def worker_env(settings: Settings, store: ObjectStore, device: str) -> WorkerEnv:
    """The environment of one worker process."""
    _drop_left_over()
    scratch = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH_PREFIX}{os.getpid()}-"))
    decoder = settings.execution.video_decoder
    return WorkerEnv(
        store=store,
        records=Records(store),
        weights_dir=settings.weights_dir,
        device=device,
        scratch_dir=scratch,
        video_decoder=None if decoder == "cpu" else decoder,
    )


def _drop_left_over() -> None:
    """Removes the scratch folders of dead processes: workers are killed, not asked, and frames would fill the disk."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH_PREFIX}*"):
        pid = folder.name.removeprefix(_SCRATCH_PREFIX).partition("-")[0]
        if pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def drop_env(env: WorkerEnv) -> None:
    """Removes what ``worker_env`` made."""
    shutil.rmtree(env.scratch_dir, ignore_errors=True)


class _Ended(BaseException):
    """A check raised inside of a stage. No Exception: neither the stage nor the retries may take it for a failed chunk."""


class InlineExecutor:
    """Everything in the calling thread, one chunk after another. For tests and for a debugger; it loads torch into the server."""

    name = "inline"

    def __init__(self, env: WorkerEnv, attempts: int = 1) -> None:
        self._env = env
        self._attempts = attempts
        self._stages: dict[str, Stage] = {}
        self._lock = threading.Lock()

    def run_chunks(
        self,
        plan: Plan,
        chunks: Sequence[Chunk],
        *,
        on_done: Callable[[ChunkManifest], None],
        on_progress: Callable[[int, int], None],
        on_retry: Callable[[int, str], None],
        check: Callable[[], None],
    ) -> None:
        """See Executor."""
        stage = self._stage(plan.stage)
        try:
            for chunk in chunks:

                def report(units: int, index: int = chunk.index) -> None:
                    on_progress(index, units)
                    try:
                        check()
                    except Exception as error:
                        raise _Ended from error

                check()
                on_done(self._tried(stage, plan, chunk, report, on_retry))
        except _Ended as ended:
            assert ended.__cause__ is not None
            raise ended.__cause__ from None

    def ask(self, stage_path: str, question: dict[str, Any]) -> dict[str, Any]:
        """See Executor."""
        return self._stage(stage_path).answer(self._env, question)

    def close(self) -> None:
        """Nothing to let go."""

    def _tried(
        self,
        stage: Stage,
        plan: Plan,
        chunk: Chunk,
        report: Callable[[int], None],
        on_retry: Callable[[int, str], None],
    ) -> ChunkManifest:
        for attempt in range(1, self._attempts + 1):
            try:
                return run_chunk(self._env, stage, plan, chunk, report)
            except UnderstudyError:
                raise
            except Exception as error:
                _LOG.warning("chunk %d failed", chunk.index, exc_info=True)
                why = type(error).__name__  # its text may name anything; it stays in the log
                if attempt == self._attempts:
                    raise given_up(chunk.index, attempt, why, worker_died=False) from error
                on_retry(chunk.index, why)
        raise AssertionError("the loop returns or raises")

    def _stage(self, path: str) -> Stage:
        with self._lock:
            if path not in self._stages:
                stage = load_stage(path)
                stage.setup(self._env)
                self._stages[path] = stage
            return self._stages[path]
