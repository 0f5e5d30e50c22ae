"""One suite over every executor of this machine: inline, and Ray, which is started once for all tests here.

What only makes sense with worker processes (dying, sharing, letting go) runs on Ray alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from services.kit.claims import is_alive
from services.kit.config import Settings
from services.kit.errors import Cancelled, InvalidInput, MissingObject, Transient, UnderstudyError
from services.kit.execution.executor import Executor, InlineExecutor, drop_env, open_settings_store, worker_env
from services.kit.operations.chunk import done_indices, read_manifests
from services.kit.operations.keys import plan_key
from services.kit.operations.plan import ChunkManifest, Plan
from services.kit.storage import ObjectStore
from tests.support.contexts import eventually, settings_in
from tests.support.stages import OTHER_STAGE, SECRET, STAGE, runs_of, scripted_plan

ATTEMPTS = 3


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_in(tmp_path_factory.mktemp("executor"), **{"execution.kind": "ray", "execution.attempts": ATTEMPTS})


@pytest.fixture(scope="module")
def store(settings: Settings) -> ObjectStore:
    return open_settings_store(settings)


@pytest.fixture(scope="module")
def ray_executor(settings: Settings) -> Iterator[Executor]:
    import ray

    from services.kit.execution import ray_executor as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "POOL_IDLE_S", 0.5)
        executor = module.RayExecutor(settings)
        yield executor
        warm = executor.ask(STAGE, {})["pid"]
        executor.close()
    assert not ray.is_initialized(), "closing ends the Ray that it started"
    eventually(lambda: not is_alive(warm), "its workers have ended")


@pytest.fixture(scope="module")
def inline_executor(settings: Settings, store: ObjectStore) -> Iterator[Executor]:
    env = worker_env(settings, store, "cpu")
    yield InlineExecutor(env, ATTEMPTS)
    drop_env(env)


@pytest.fixture(params=["inline", "ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    """Each of them. Tests name their plans by ``request.node.name``, so that no two share work."""
    made: Executor = request.getfixturevalue(f"{request.param}_executor")
    return made


class Run:
    """One call of ``run_chunks`` and what came of it."""

    def __init__(
        self, executor: Executor, store: ObjectStore, plan: Plan, check: Callable[[], None] = lambda: None
    ) -> None:
        self.done: list[ChunkManifest] = []
        self.progress: list[tuple[int, int]] = []
        self.retries: list[tuple[int, str]] = []
        self.checks = 0
        self.threads: set[int] = set()
        self.error: BaseException | None = None
        self._check = check
        self._executor, self._plan = executor, plan
        if not store.list(plan_key(plan.action_key)).objects:
            store.put(plan_key(plan.action_key), plan.to_bytes())

    def __call__(self) -> Run:
        """Runs all chunks of the plan here."""

        def noted(record: Callable[..., Any]) -> Callable[..., None]:
            def callback(*args: Any) -> None:
                self.threads.add(threading.get_ident())
                record(*args)

            return callback

        def check() -> None:
            self.checks += 1
            self._check()

        self._executor.run_chunks(
            self._plan,
            self._plan.chunks,
            on_done=noted(self.done.append),
            on_progress=noted(lambda index, units: self.progress.append((index, units))),
            on_retry=noted(lambda index, why: self.retries.append((index, why))),
            check=noted(check),
        )
        return self

    def in_thread(self) -> threading.Thread:
        """Runs them in a thread; an error lands in ``error``."""

        def body() -> None:
            try:
                self()
            except BaseException as error:  # noqa: BLE001  the test looks at it
                self.error = error

        thread = threading.Thread(target=body)
        thread.start()
        return thread


def seed_of(request: pytest.FixtureRequest) -> str:
    return request.node.name


def test_results_are_the_same_everywhere(
    executor: Executor, store: ObjectStore, request: pytest.FixtureRequest
) -> None:
    plan = scripted_plan({}, {"do": "fail_items"}, {}, {}, {}, name=seed_of(request))
    run = Run(executor, store, plan)()
    assert sorted(manifest.index for manifest in run.done) == [0, 1, 2, 3, 4]
    manifests = read_manifests(store, plan)
    assert sorted(run.done, key=lambda manifest: manifest.index) == manifests
    assert [manifest.units for manifest in manifests] == [4] * 5
    assert manifests[1].failures[0].name == "frame 1"
    assert [store.get(manifest.summary["output"]) for manifest in manifests] == [f"0:{i}".encode() for i in range(5)]
    assert runs_of(store, plan) == [1] * 5
    assert run.retries == []
    assert run.threads == {threading.get_ident()}, "callbacks come from the calling thread"


def test_no_chunks_no_work(executor: Executor, store: ObjectStore, request: pytest.FixtureRequest) -> None:
    assert Run(executor, store, scripted_plan(name=seed_of(request)))().done == []


def test_progress_arrives_while_a_chunk_runs(
    executor: Executor, store: ObjectStore, request: pytest.FixtureRequest
) -> None:
    gate = f"gates/{seed_of(request).replace('[', '-').replace(']', '')}"
    plan = scripted_plan({"do": "gate", "gate": gate}, units=10, name=seed_of(request))
    run = Run(executor, store, plan)

    def open_when_seen() -> None:
        if (0, 5) in run.progress:
            store.put(gate, b"")

    run._check = open_when_seen
    run()
    assert (0, 5) in run.progress
    assert run.done[0].units == 10


@pytest.mark.parametrize(
    ("script", "kind", "reason", "metadata"),
    [
        ("refuse", InvalidInput, "CORRUPT_FRAME", {"frame_index": "3"}),
        ("missing", MissingObject, "MISSING_WEIGHTS", {"uri": "file:///w"}),
        ("cancel", Cancelled, "CANCELLED", {}),
    ],
)
def test_our_errors_keep_class_reason_and_metadata(
    executor: Executor,
    store: ObjectStore,
    request: pytest.FixtureRequest,
    script: str,
    kind: type[UnderstudyError],
    reason: str,
    metadata: dict[str, str],
) -> None:
    plan = scripted_plan({"do": script}, name=seed_of(request))
    run = Run(executor, store, plan)
    with pytest.raises(UnderstudyError) as caught:
        run()
    error = caught.value
    assert (type(error), error.reason, error.metadata) == (kind, reason, metadata)
    if isinstance(error, InvalidInput):
        assert error.fields == {"ranges": "bad frame"}
    assert run.retries == [], "what is wrong with the request is not tried again"
    assert runs_of(store, plan) == [1]


@pytest.mark.parametrize("script", ["raise_once", "raise_nothing_said"])
def test_a_mistake_is_tried_again(
    executor: Executor, store: ObjectStore, request: pytest.FixtureRequest, script: str
) -> None:
    plan = scripted_plan({}, {"do": script}, {}, name=seed_of(request))
    run = Run(executor, store, plan)()
    assert run.retries == [(1, "RuntimeError")]
    assert runs_of(store, plan) == [1, 2, 1]
    assert done_indices(store, plan) == {0, 1, 2}


def test_a_mistake_that_stays_is_internal_and_its_text_stays_here(
    executor: Executor, store: ObjectStore, request: pytest.FixtureRequest
) -> None:
    plan = scripted_plan({"do": "raise"}, name=seed_of(request))
    run = Run(executor, store, plan)
    with pytest.raises(UnderstudyError) as caught:
        run()
    assert (caught.value.code, caught.value.reason) == ("INTERNAL", "INTERNAL")
    assert "RuntimeError" in caught.value.message
    assert SECRET not in caught.value.message + str(run.retries)
    assert runs_of(store, plan) == [ATTEMPTS]


class _Enough(Exception):
    """What a check raises."""


def test_a_check_that_raises_stops_the_work(
    executor: Executor, store: ObjectStore, request: pytest.FixtureRequest
) -> None:
    plan = scripted_plan({"do": "gate", "gate": "gates/never"}, *[{}] * 30, name=seed_of(request))

    def check() -> None:
        if runs_of(store, plan)[0]:
            raise _Enough

    with pytest.raises(_Enough):
        Run(executor, store, plan, check)()
    assert sum(runs_of(store, plan)) < 31
    # The executor takes other work at once.
    other = scripted_plan({}, name=seed_of(request) + " after")
    assert len(Run(executor, store, other)().done) == 1


def test_checks_go_on_while_nothing_happens(ray_executor: Executor, store: ObjectStore) -> None:
    """Leases are renewed there: a long chunk must not keep them waiting."""
    plan = scripted_plan({"do": "gate", "gate": "gates/checks"}, name="checks")
    run = Run(ray_executor, store, plan)
    run._check = lambda: store.put("gates/checks", b"") if run.checks == 10 else None  # type: ignore[func-returns-value]
    assert len(run().done) == 1
    assert run.checks >= 10


def test_questions_are_answered(executor: Executor) -> None:
    first = executor.ask(STAGE, {"size": 7, "nested": {"x": [1, None, "ä"]}})
    assert first["echo"] == {"size": 7, "nested": {"x": [1, None, "ä"]}}
    assert executor.ask(STAGE, {})["pid"] == first["pid"], "from a warm worker"


def test_refused_questions_keep_everything(executor: Executor) -> None:
    with pytest.raises(InvalidInput) as caught:
        executor.ask(STAGE, {"do": "refuse"})
    error = caught.value
    assert (error.reason, error.metadata, error.fields) == ("NO_FACE", {"clip": "c"}, {"images": "none"})


# -- worker processes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["die_once", "exit_once"])
def test_a_worker_that_dies_is_replaced(ray_executor: Executor, store: ObjectStore, script: str) -> None:
    plan = scripted_plan({}, {"do": script}, {}, {}, name=script)
    run = Run(ray_executor, store, plan)()
    assert [index for index, _ in run.retries] == [1]
    assert "died" in run.retries[0][1]
    assert runs_of(store, plan) == [1, 2, 1, 1]
    assert len(read_manifests(store, plan)) == 4


def test_a_chunk_that_kills_every_worker_ends_the_work(ray_executor: Executor, store: ObjectStore) -> None:
    plan = scripted_plan({"do": "die"}, name="die")
    run = Run(ray_executor, store, plan)
    with pytest.raises(Transient) as caught:
        run()
    assert caught.value.reason == "WORKER_LOST"
    assert "chunk 0" in caught.value.message
    assert runs_of(store, plan) == [ATTEMPTS]
    assert len(run.retries) == ATTEMPTS - 1


def test_a_dead_answerer_is_named_and_replaced(ray_executor: Executor) -> None:
    with pytest.raises(Transient) as caught:
        ray_executor.ask(STAGE, {"do": "die"})
    assert caught.value.reason == "WORKER_LOST"
    assert ray_executor.ask(STAGE, {"x": 1})["echo"] == {"x": 1}


def free_cpus() -> tuple[float, float]:
    import ray

    return ray.available_resources().get("CPU", 0.0), ray.cluster_resources()["CPU"]


def test_idle_workers_give_their_cpus_back(ray_executor: Executor, store: ObjectStore) -> None:
    """Else a training run on a small machine would wait for ever."""
    Run(ray_executor, store, scripted_plan({}, {}, name="idle"))()
    eventually(lambda: free_cpus()[0] == free_cpus()[1], "all CPUs are free again")


def test_workers_of_stopped_work_give_their_cpus_back(ray_executor: Executor, store: ObjectStore) -> None:
    plan = scripted_plan(*[{"do": "gate", "gate": "gates/never"}] * 4, name="stopped")

    def check() -> None:
        if sum(runs_of(store, plan)):
            raise _Enough

    with pytest.raises(_Enough):
        Run(ray_executor, store, plan, check)()
    eventually(lambda: free_cpus()[0] == free_cpus()[1], "all CPUs are free again", within_s=30)


def test_operations_of_one_stage_share_the_workers(ray_executor: Executor, store: ObjectStore) -> None:
    """The second must not wait until the first, which may last for hours, has no more chunks."""
    first = scripted_plan(
        {"do": "gate", "gate": "gates/first"}, *[{"do": "gate", "gate": "gates/share"}] * 40, name="a"
    )
    second = scripted_plan({}, {}, name="b")
    long, short = Run(ray_executor, store, first), Run(ray_executor, store, second)
    opened = threading.Event()

    def slowly() -> None:
        # The first goes on chunk by chunk, never free of work, while the second comes in.
        if short.done and not opened.is_set():
            opened.set()
            store.put("gates/share", b"")

    long._check = slowly
    thread = long.in_thread()
    try:
        eventually(lambda: sum(runs_of(store, first)), "the first begins")
        other = short.in_thread()
        time.sleep(0.5)  # the second has joined
        store.put("gates/first", b"")  # one worker comes free: it is the second's turn
        other.join(timeout=60)
        assert len(short.done) == 2
        assert len(long.done) < 41, "the first was still at work"
    finally:
        store.put("gates/first", b"")
        store.put("gates/share", b"")
        thread.join(timeout=60)
    assert long.error is None
    assert short.error is None
    assert len(long.done) == 41


def test_operations_of_different_stages_both_end(ray_executor: Executor, store: ObjectStore) -> None:
    runs = [
        Run(ray_executor, store, scripted_plan(*[{}] * 6, stage=stage, name="both")) for stage in (STAGE, OTHER_STAGE)
    ]
    threads = [run.in_thread() for run in runs]
    for thread in threads:
        thread.join(timeout=120)
    assert [len(run.done) for run in runs] == [6, 6]
