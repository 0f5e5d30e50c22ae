"""Ray as executor: pools of actors that hold a set-up stage, and one Ray job an operation on a cluster.

Ray distributes and nothing else: actors read and write the object store themselves, no pixel passes through Ray. One of the two files that
import ray; servers import it on first use, so that starting a server stays quick. What one would get wrong: an actor pool keeps its
logical CPUs while it lives, so an idle pool is let go after a moment, else a training run on a small machine would wait for ever.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from services.kit import errors
from services.kit.config import Settings, load_settings, transportable
from services.kit.errors import Transient, UnderstudyError
from services.kit.execution.executor import given_up, open_settings_store, worker_env
from services.kit.operations.chunk import find_chunk, load_plan, run_chunk
from services.kit.operations.ledger import TERMINAL, Ledger
from services.kit.operations.plan import Chunk, ChunkManifest, Plan
from services.kit.operations.stage import Resources, Stage, load_stage

_LOG = logging.getLogger(__name__)
POOL_IDLE_S = 3.0
WARM_IDLE_S = 120.0
POLL_S = 0.25
JOB_POLL_S = 1.0
# Operations and training runs may want Ray at the same moment, and it refuses to be started twice.
_STARTING = threading.Lock()
_STOPPED = threading.Event()


def start_ray(settings: Settings) -> None:
    """Connects to the cluster that the settings name, or starts Ray on this machine, loopback only. Does nothing when connected."""
    with _STARTING:
        if ray.is_initialized():
            return
        # Linux kills Ray's processes when the *thread* that started them ends. A driver's thread would take Ray with it in the midst of
        # a shutdown, which then hangs for a minute; so a thread that does nothing else keeps it.
        _STOPPED.clear()
        started: Future[None] = Future()
        threading.Thread(target=_keep_ray, args=(settings, started), name="ray-keeper", daemon=True).start()
        started.result()


def stop_ray() -> None:
    """Ends the Ray that this process started, and its workers."""
    with _STARTING:
        ray.shutdown()
        _STOPPED.set()


def _keep_ray(settings: Settings, started: Future[None]) -> None:
    try:
        _init_ray(settings)
    except BaseException as error:  # noqa: BLE001  raised in the thread that waits
        started.set_exception(error)
        return
    started.set_result(None)
    _STOPPED.wait()


def _init_ray(settings: Settings) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if settings.execution.kind == "ray-cluster":
        ray.init(address=settings.execution.address or "auto", log_to_driver=False, logging_level=logging.ERROR)
        return
    ray.init(
        address="local",  # without it Ray joins whatever cluster someone else started on this machine
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=128 * 2**20,  # references only: nothing large passes through
        _node_ip_address="127.0.0.1",
    )


class _Worker:
    """The actor: one process, one stage, set up at the first call so that its errors are ours."""

    def __init__(self, settings_values: dict[str, Any], stage_path: str) -> None:
        self._settings = load_settings(overrides=settings_values)
        self._stage_path = stage_path
        self._stage: Stage | None = None
        self._plans: dict[str, Plan] = {}
        self._progress: tuple[str, int, int] = ("", 0, 0)

    def run(self, action_key: str, index: int) -> tuple[str, Any]:
        """Runs a chunk: ("manifest", bytes) or ("error", fields)."""

        def work() -> bytes:
            env, stage = self._ready()
            if action_key not in self._plans:
                self._plans = {action_key: load_plan(env.store, action_key)}
            plan = self._plans[action_key]

            def report(units: int) -> None:
                self._progress = (action_key, index, units)

            return run_chunk(env, stage, plan, find_chunk(plan, index), report).to_bytes()

        return _as_data("manifest", work)

    def ask(self, question: dict[str, Any]) -> tuple[str, Any]:
        """One interactive call: ("answer", dict) or ("error", fields)."""

        def work() -> dict[str, Any]:
            env, stage = self._ready()
            return stage.answer(env, question)

        return _as_data("answer", work)

    def progress(self) -> tuple[str, int, int]:
        """Action key, chunk index and units done of the chunk under way."""
        return self._progress

    def _ready(self) -> tuple[Any, Stage]:
        if self._stage is None:
            device = self._settings.execution.device
            if device == "auto":
                device = "cuda" if ray.get_runtime_context().get_accelerator_ids().get("GPU") else "cpu"
            self._env = worker_env(self._settings, open_settings_store(self._settings), device)
            stage = load_stage(self._stage_path)
            stage.setup(self._env)
            self._stage = stage
        return self._env, self._stage


def _as_data(kind: str, work: Callable[[], Any]) -> tuple[str, Any]:
    # Our exceptions carry keyword arguments that pickle would lose, so they cross as data.
    try:
        return kind, work()
    except UnderstudyError as error:
        return "error", error.to_json()


def _unwrapped(outcome: tuple[str, Any]) -> Any:
    kind, value = outcome
    if kind == "error":
        raise errors.from_json(value)
    return value


@dataclass
class _Pool:
    """Actors of one stage, shared by the operations that need it at the same time."""

    stage_path: str
    limit: int
    options: dict[str, Any]
    users: int = 0
    size: int = 0
    free: list[Any] = field(default_factory=list)
    idle_since: float = 0.0


class RayExecutor:
    """See Executor. Safe to use from several driver threads."""

    name = "ray"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pools: dict[str, _Pool] = {}
        self._warm: dict[str, tuple[Any, float]] = {}
        self._lock = threading.RLock()
        self._actor_class = ray.remote(_Worker)
        self._closed = threading.Event()
        start_ray(settings)
        threading.Thread(target=self._let_idle_go, name="ray-idle", daemon=True).start()

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
        pool = self._join(plan.stage)
        queue = deque((chunk, 1) for chunk in chunks)
        pending: dict[Any, tuple[Any, Chunk, int]] = {}
        try:
            while queue or pending:
                check()
                while queue and (actor := self._acquire(pool, len(pending))) is not None:
                    chunk, attempt = queue.popleft()
                    pending[actor.run.remote(plan.action_key, chunk.index)] = (actor, chunk, attempt)
                if not pending:
                    time.sleep(POLL_S)  # another operation of the same stage has all workers
                    continue
                ready, _ = ray.wait(list(pending), num_returns=1, timeout=POLL_S)
                for reference in ready:
                    actor, chunk, attempt = pending.pop(reference)
                    failure = self._collect(pool, actor, reference, on_done)
                    if failure is None:
                        continue
                    why, worker_died = failure
                    if attempt >= self._settings.execution.attempts:
                        raise given_up(chunk.index, attempt, why, worker_died=worker_died)
                    on_retry(chunk.index, why)
                    queue.append((chunk, attempt + 1))
                self._read_progress(plan, pending, on_progress)
        finally:
            for actor, _, _ in pending.values():
                self._discard(pool, actor)
            self._leave(pool)

    def ask(self, stage_path: str, question: dict[str, Any]) -> dict[str, Any]:
        """See Executor. The warm worker takes no logical CPU, so it never keeps other work waiting."""
        with self._lock:
            actor, _ = self._warm.get(stage_path, (None, 0.0))
            if actor is None:
                actor = self._actor_class.options(num_cpus=0, max_concurrency=1).remote(
                    transportable(self._settings), stage_path
                )
            self._warm[stage_path] = (actor, time.monotonic())
        try:
            answer = _unwrapped(ray.get(actor.ask.remote(question)))
        except RayActorError as error:
            with self._lock:
                self._warm.pop(stage_path, None)
            raise Transient(f"the worker that answers {stage_path} died: {error}", reason="WORKER_LOST") from error
        assert isinstance(answer, dict)
        return answer

    def close(self) -> None:
        """Kills idle and warm actors; Ray itself ends with the process that started it."""
        self._closed.set()
        with self._lock:
            actors = [actor for pool in self._pools.values() for actor in pool.free] + [
                actor for actor, _ in self._warm.values()
            ]
            self._pools.clear()
            self._warm.clear()
        for actor in actors:
            ray.kill(actor)
        if self._settings.execution.kind == "ray":
            stop_ray()

    def _collect(
        self, pool: _Pool, actor: Any, reference: Any, on_done: Callable[[ChunkManifest], None]
    ) -> tuple[str, bool] | None:
        """Takes a finished call in. Returns why it must be tried again, and whether the worker died; or None."""
        try:
            outcome = ray.get(reference)
        except RayActorError as error:
            self._discard(pool, actor)
            return f"its worker process died ({type(error).__name__})", True
        except Exception as error:  # noqa: BLE001  whatever a stage may raise: tried again, then reported
            self._release(pool, actor)
            _LOG.warning("a chunk failed", exc_info=True)
            return type(getattr(error, "cause", None) or error).__name__, False  # its text may name anything
        self._release(pool, actor)
        on_done(ChunkManifest.from_bytes(_unwrapped(outcome)))
        return None

    def _read_progress(
        self, plan: Plan, pending: dict[Any, tuple[Any, Chunk, int]], on_progress: Callable[[int, int], None]
    ) -> None:
        questions = [actor.progress.remote() for actor, _, _ in pending.values()]
        if not questions:
            return
        answered, _ = ray.wait(questions, num_returns=len(questions), timeout=POLL_S)  # the others are starting
        for question in answered:
            try:
                action_key, index, units = ray.get(question)
            except RayActorError:
                continue  # dead: the wait for its chunk says so
            if action_key == plan.action_key:
                on_progress(index, units)

    def _join(self, stage_path: str) -> _Pool:
        with self._lock:
            pool = self._pools.get(stage_path)
            if pool is None:
                limit, options = self._size(load_stage(stage_path).resources)
                pool = self._pools[stage_path] = _Pool(stage_path, limit, options)
            pool.users += 1
            return pool

    def _size(self, wanted: Resources) -> tuple[int, dict[str, Any]]:
        have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        options: dict[str, Any] = {
            "num_cpus": wanted.cpus,
            "max_concurrency": 2,
        }  # one thread for chunks, one for progress
        limit = int(have.get("CPU", 1) // max(wanted.cpus, 0.01))
        gpus = self._settings.execution.gpu_share or wanted.gpus
        if wanted.gpus and have.get("GPU"):
            options["num_gpus"] = gpus
            limit = int(have["GPU"] / gpus + 1e-9)
        if self._settings.execution.workers:
            limit = min(limit, self._settings.execution.workers)
        return max(limit, 1), options

    def _acquire(self, pool: _Pool, held: int) -> Any:
        """A worker, or None when none is free or the caller, who holds ``held``, has its share of those that others want too."""
        with self._lock:
            if held >= -(-pool.limit // pool.users):
                return None
            if pool.free:
                return pool.free.pop()
            if pool.size >= pool.limit:
                return None
            pool.size += 1
        return self._actor_class.options(**pool.options).remote(transportable(self._settings), pool.stage_path)

    def _release(self, pool: _Pool, actor: Any) -> None:
        with self._lock:
            pool.free.append(actor)

    def _discard(self, pool: _Pool, actor: Any) -> None:
        ray.kill(actor)
        with self._lock:
            pool.size -= 1

    def _leave(self, pool: _Pool) -> None:
        with self._lock:
            pool.users -= 1
            pool.idle_since = time.monotonic()

    def _let_idle_go(self) -> None:
        while not self._closed.wait(1.0):
            now = time.monotonic()
            with self._lock:
                idle = [pool for pool in self._pools.values() if not pool.users and now - pool.idle_since > POOL_IDLE_S]
                for pool in idle:
                    del self._pools[pool.stage_path]
                cold = [path for path, (_, used) in self._warm.items() if now - used > WARM_IDLE_S]
                actors = [actor for pool in idle for actor in pool.free] + [self._warm.pop(path)[0] for path in cold]
            for actor in actors:
                ray.kill(actor)


class ClusterOperationWork:
    """Operations as Ray jobs: the job holds the lease and drives; this server only sees to it that a job is there.

    Every server of the cluster looks after every operation. Jobs are named after the operation and its attempt, so that all of them
    submit the same one, and nobody submits while a job holds the lease.
    """

    kind = "operation"

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._client: JobSubmissionClient | None = None
        self._lock = threading.Lock()

    def candidates(self) -> Iterator[str]:
        """See Work."""
        return self._ledger.active()

    def claim(self, name: str) -> bool:
        """See Work. The lease is the job's to take; this only says whether one is needed."""
        if self._ledger.get(name).body["state"] in TERMINAL:
            self._ledger.claim(name)  # clears the marker that a crash left
            return False
        return True

    def drive(self, name: str, stopping: Callable[[], bool]) -> None:
        """Has jobs drive the operation until it ends: one that dies is followed by another once its lease is free."""
        idle_jobs = 0  # that ended without taking the lease
        while not stopping() and (body := self._ledger.get(name).body)["state"] not in TERMINAL:
            if self._ledger.is_driven(name):
                time.sleep(JOB_POLL_S)
                continue
            if idle_jobs >= self._settings.execution.attempts:
                self._give_up(name, idle_jobs)
                return
            self._run_job(name, f"{name.replace('/', '-')}-{body['attempt'] + 1}-{idle_jobs + 1}", stopping)
            idle_jobs = idle_jobs + 1 if self._ledger.get(name).body["attempt"] == body["attempt"] else 0

    def _run_job(self, name: str, submission_id: str, stopping: Callable[[], bool]) -> None:
        """Submits a job unless it was before, and waits until it, or the operation, has ended or the lease is taken."""
        jobs = self._jobs()
        try:
            jobs.submit_job(entrypoint=f"python -m services drive {name}", submission_id=submission_id)
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise Transient(f"the Ray cluster does not take jobs now: {error}") from error
        ended = (JobStatus.FAILED, JobStatus.STOPPED, JobStatus.SUCCEEDED)
        while not stopping() and not self._ledger.is_driven(name) and jobs.get_job_status(submission_id) not in ended:
            time.sleep(JOB_POLL_S)

    def _give_up(self, name: str, jobs: int) -> None:
        if self._ledger.claim(name) is not None:
            self._ledger.fail(
                name,
                Transient(
                    f"{jobs} Ray jobs ended before they began to work: look into their logs (`ray job logs`); most often the "
                    "cluster's image or its UNDERSTUDY_* settings differ from this server's",
                    reason="WORKER_LOST",
                ),
            )

    def _jobs(self) -> JobSubmissionClient:
        with self._lock:
            if self._client is None:
                address = self._settings.execution.job_address or self._settings.execution.address
                try:
                    self._client = JobSubmissionClient(address)
                except (ConnectionError, RuntimeError, RayError) as error:
                    raise Transient(f"the Ray cluster's job server {address!r} does not answer us: {error}") from error
            return self._client
