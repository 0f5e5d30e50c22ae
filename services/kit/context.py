"""What every service is given: settings, store, records, ledger, executor, reconciler, metrics. Made once, by a main.

New fields may be added without changing any service's ``register``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from services.kit.config import Settings
from services.kit.execution.executor import Executor, InlineExecutor, drop_env, open_settings_store, worker_env
from services.kit.metrics import Metrics
from services.kit.operations.driver import drive_operation
from services.kit.operations.ledger import Ledger
from services.kit.operations.reconciler import Reconciler
from services.kit.operations.stage import WorkerEnv
from services.kit.records import Records
from services.kit.storage import ObjectStore

_LOG = logging.getLogger(__name__)


@dataclass
class ServiceContext:
    """Shared by all services of a process."""

    settings: Settings
    store: ObjectStore
    records: Records
    ledger: Ledger
    executor: Executor
    reconciler: Reconciler
    metrics: Metrics
    env: WorkerEnv
    closers: list[Callable[[], None]] = field(default_factory=list)

    def close(self) -> None:
        """Stops driving, lets workers go."""
        self.reconciler.stop()
        for closer in self.closers:
            closer()
        self.executor.close()
        drop_env(self.env)


class _OnFirstUse:
    """An executor that is built when the first chunk wants it: a server that drives nothing never starts Ray."""

    def __init__(self, build: Callable[[], Executor], name: str) -> None:
        self.name = name
        self._build = build
        self._built: Executor | None = None
        self._lock = threading.Lock()

    def _executor(self) -> Executor:
        with self._lock:
            if self._built is None:
                self._built = self._build()
            return self._built

    def run_chunks(self, *args: Any, **kwargs: Any) -> None:
        """See Executor."""
        self._executor().run_chunks(*args, **kwargs)

    def ask(self, stage_path: str, question: dict[str, Any]) -> dict[str, Any]:
        """See Executor."""
        return self._executor().ask(stage_path, question)

    def close(self) -> None:
        """See Executor."""
        if self._built is not None:
            self._built.close()


class OperationWork:
    """Operations, driven in this process. See reconciler.Work."""

    kind = "operation"

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def candidates(self) -> Iterator[str]:
        """See Work."""
        return self._context.ledger.active()

    def claim(self, name: str) -> bool:
        """See Work."""
        return self._context.ledger.claim(name) is not None

    def drive(self, name: str, stopping: Callable[[], bool]) -> None:
        """See Work."""
        context = self._context
        drive_operation(
            name,
            env=context.env,
            ledger=context.ledger,
            executor=context.executor,
            metrics=context.metrics,
            stopping=stopping,
        )


def build_context(settings: Settings, *, store: ObjectStore | None = None) -> ServiceContext:
    """Builds everything from settings. Nothing is started: ``reconciler.start`` is the main's."""
    store = store or open_settings_store(settings)
    records = Records(store)
    metrics = Metrics()
    env = worker_env(settings, store, "cpu")
    context = ServiceContext(
        settings=settings,
        store=store,
        records=records,
        ledger=Ledger(store, records),
        executor=_executor(settings, env),
        reconciler=Reconciler(metrics, parallel=settings.execution.parallel_operations),
        metrics=metrics,
        env=env,
    )
    if settings.execution.kind == "ray-cluster":
        from services.kit.execution.ray_executor import ClusterOperationWork

        context.reconciler.add(ClusterOperationWork(settings, context.ledger))
    else:
        context.reconciler.add(OperationWork(context))
    return context


def _executor(settings: Settings, env: WorkerEnv) -> Executor:
    if settings.execution.kind == "inline":
        return InlineExecutor(env, settings.execution.attempts)

    def build() -> Executor:
        from services.kit.execution.ray_executor import RayExecutor

        return RayExecutor(settings)

    return _OnFirstUse(build, settings.execution.kind)
