"""Stages for tests: each chunk says in its ``data`` what shall happen to it. Importable by Ray workers and servers, so no pytest here.

Every run of a chunk leaves an object of its own below ``ran/``, so that a test can count how often a chunk was begun. What one would get
wrong: a chunk that waits for a gate must report meanwhile, or nobody could cancel it.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from services.kit.errors import AlreadyExists, Cancelled, InvalidInput, MissingObject, NotFound, WrongState
from services.kit.operations.keys import output_prefix
from services.kit.operations.plan import Chunk, ChunkManifest, ItemFailure, Plan, action_key
from services.kit.operations.stage import ChunkOutcome, Resources, Response, Stage, WorkerEnv
from services.kit.storage import ObjectStore

STAGE = "tests.support.stages:ScriptedStage"
OTHER_STAGE = "tests.support.stages:OtherStage"
SECRET = "the-text-of-an-unknown-exception"
GATE_TIMEOUT_S = 60.0


class ScriptedStage(Stage):
    """Does what ``chunk.data["do"]`` says; see the methods ``_do_...``."""

    version = "7"
    resources = Resources(cpus=1)

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage."""
        env.store.put(f"ran/{plan.action_key}/{chunk.index}/{os.getpid()}-{uuid.uuid4().hex}", b"")
        failures = getattr(self, f"_do_{chunk.data.get('do', 'count')}")(env, plan, chunk, report) or ()
        key = f"{output_prefix(plan.action_key)}{chunk.index:06d}"
        env.store.put(key, f"{plan.params.get('seed', 0)}:{chunk.index}".encode())
        return ChunkOutcome({"output": key, "units": chunk.units}, tuple(failures))

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """A Digest: how many units, and the outputs joined, instead of a hash."""
        if plan.params.get("finish") == "refuse":
            raise WrongState("the stage refuses to finish")
        joined = b",".join(env.store.get(manifest.summary["output"]) for manifest in manifests).decode()
        size = sum(manifest.summary["units"] for manifest in manifests)
        return Response("understudy.v1.Digest", {"sha256": joined, "sizeBytes": str(size)})

    def answer(self, env: WorkerEnv, question: dict[str, Any]) -> dict[str, Any]:
        """Echoes, refuses or dies."""
        if question.get("do") == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if question.get("do") == "refuse":
            raise InvalidInput("no", reason="NO_FACE", metadata={"clip": "c"}, fields={"images": "none"})
        return {"echo": question, "pid": os.getpid()}

    def _do_count(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> None:
        for done in range(1, chunk.units + 1):
            report(done)

    def _do_gate(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> None:
        """Waits until the object ``data["gate"]`` exists, half done."""
        end = time.monotonic() + GATE_TIMEOUT_S
        while not exists(env.store, chunk.data["gate"]):
            if time.monotonic() > end:
                raise TimeoutError("nobody opened the gate")
            report(chunk.units // 2)
            time.sleep(0.02)

    def _do_die_once(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> None:
        """The worker process kills itself at the first try."""
        if first_time(env.store, plan, chunk):
            os.kill(os.getpid(), signal.SIGKILL)

    def _do_exit_once(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> None:
        """The worker process ends at the first try, as after a crash in a native library."""
        if first_time(env.store, plan, chunk):
            os._exit(11)

    def _do_die(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _do_raise_once(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> None:
        if first_time(env.store, plan, chunk):
            raise RuntimeError(SECRET)

    def _do_raise_nothing_said(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> None:
        if first_time(env.store, plan, chunk):
            raise RuntimeError

    def _do_raise(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> None:
        raise RuntimeError(SECRET)

    def _do_refuse(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> None:
        raise InvalidInput(
            "chunk refused", reason="CORRUPT_FRAME", metadata={"frame_index": "3"}, fields={"ranges": "bad frame"}
        )

    def _do_missing(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> None:
        raise MissingObject("weights are missing", reason="MISSING_WEIGHTS", metadata={"uri": "file:///w"})

    def _do_wrong_state(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> None:
        raise WrongState("the stage found a wrong state")

    def _do_cancel(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> None:
        raise Cancelled("the stage cancelled")

    def _do_fail_items(
        self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]
    ) -> list[ItemFailure]:
        return [ItemFailure(f"frame {chunk.index}", "CORRUPT_FRAME", "cannot be decoded")]


class OtherStage(ScriptedStage):
    """The same under another name, for another pool of workers."""


def scripted_plan(*scripts: dict[str, Any], seed: int = 0, stage: str = STAGE, units: int = 4, **params: Any) -> Plan:
    """A plan with one chunk a script."""
    chunks = tuple(Chunk(index, units, dict(script)) for index, script in enumerate(scripts))
    settings = {"seed": seed, **params}
    key = action_key("tests/Scripted", stage, "7", {**settings, "chunks": [chunk.data for chunk in chunks]})
    return Plan(action_key=key, stage=stage, params=settings, chunks=chunks, unit="frames")


def runs_of(store: ObjectStore, plan: Plan) -> list[int]:
    """How often each chunk of a plan was begun."""
    return [len(store.list(f"ran/{plan.action_key}/{chunk.index}/").objects) for chunk in plan.chunks]


def exists(store: ObjectStore, key: str) -> bool:
    """Whether an object is there."""
    try:
        store.stat(key)
    except NotFound:
        return False
    return True


def first_time(store: ObjectStore, plan: Plan, chunk: Chunk) -> bool:
    """True once for a chunk, whichever process asks."""
    try:
        store.put(f"first/{plan.action_key}/{chunk.index}", b"", if_absent=True)
    except AlreadyExists:
        return False
    return True
