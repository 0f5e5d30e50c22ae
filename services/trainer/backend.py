"""The TrainBackend port: where the workers of a run live. Here the one for tests and debuggers; Ray Train is in ``ray_backend``.

The one thing to get wrong: a backend knows nothing of states. A run's worker writes how it ended into the record; a backend only says that
the workers are gone, and whether they went by themselves.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Protocol

from services.kit.config import Settings
from services.kit.errors import InvalidInput, UnderstudyError
from services.kit.operations.stage import WorkerEnv

_LOG = logging.getLogger(__name__)
KILL_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One start of a run's workers. ``owner`` is the lease under which they may write."""

    run: str
    owner: str
    workers: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why workers are gone that did not go by themselves: a reason of the API and a sentence for people."""

    reason: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """What is said of an exception: our own speak for themselves, the text of others may name anything and stays in the log."""
        if isinstance(error, UnderstudyError):
            return cls(error.reason, error.message)
        return cls(
            "INTERNAL",
            f"training failed by a mistake of this program ({type(error).__name__}); the worker's log has the details",
        )


WORKER_DIED = Failure(
    "WORKER_LOST", "a worker process died, most likely for want of memory: lower batch_size, or give it more"
)


class TrainHandle(Protocol):
    """Workers that were started."""

    def wait(self, timeout_s: float) -> bool:
        """Waits; whether they are gone."""
        ...

    def failure(self) -> Failure | None:
        """Once they are gone: why, when they did not go by themselves."""
        ...

    def kill(self) -> None:
        """Ends them without a last checkpoint."""
        ...


class TrainBackend(Protocol):
    """Starts workers."""

    def has_room(self, workers: int) -> bool:
        """Whether that many could start now. A run without room waits in its queue rather than in a half-started group."""
        ...

    def start(self, job: TrainJob) -> TrainHandle:
        """Starts the workers and returns at once."""
        ...


class InlineBackend:
    """One worker, a thread of this process."""

    def __init__(self, env: WorkerEnv) -> None:
        self._env = env

    def has_room(self, workers: int) -> bool:
        """See TrainBackend. Torch's threads are the process', so one run at a time would be fair; tests do not mind."""
        return True

    def start(self, job: TrainJob) -> TrainHandle:
        """See TrainBackend."""
        if job.workers != 1:
            raise InvalidInput(f"the inline backend trains with one worker, not {job.workers}: use execution.kind ray")
        return _Thread(self._env, job)


class _Thread:
    def __init__(self, env: WorkerEnv, job: TrainJob) -> None:
        self._failure: Failure | None = None
        self._killed = threading.Event()

        def work() -> None:
            from services.trainer.worker import Place, train_run

            place = Place(rank=0, world_size=1, device=env.device, threads=1)
            try:
                train_run(env, job, place, killed=self._killed.is_set)
            except Exception as error:  # noqa: BLE001  the edge of a thread: the driver reads it
                _LOG.exception("training %s failed", job.run)
                self._failure = Failure.of(error)

        self._thread = threading.Thread(target=work, name=f"train-{job.run}", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """See TrainHandle."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def failure(self) -> Failure | None:
        """See TrainHandle."""
        return self._failure

    def kill(self) -> None:
        """See TrainHandle. A thread cannot be ended from outside: it ends at its next iteration."""
        self._killed.set()
        self._thread.join(KILL_WITHIN_S)


def open_backend(settings: Settings, env: WorkerEnv) -> TrainBackend:
    """The backend that the settings name. Ray is imported here and not before: by the first run that is driven."""
    if settings.execution.kind == "inline":
        return InlineBackend(env)
    from services.trainer.ray_backend import RayBackend

    return RayBackend(settings)
