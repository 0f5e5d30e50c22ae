"""Ray jobs as drivers, against a job server that a test plays: one job at a time, another when it dies, and an end to trying."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobStatus

from services.kit.config import load_settings
from services.kit.context import ServiceContext
from services.kit.errors import Transient
from services.kit.execution import ray_executor
from services.kit.execution.ray_executor import ClusterOperationWork
from services.kit.operations.driver import drive_operation
from tests.support.contexts import context_in, eventually, submitted
from tests.support.stages import scripted_plan


class JobServer:
    """What JobSubmissionClient talks to. ``doing`` is what a job does; it gets the operation's name."""

    def __init__(self, doing: Callable[[str], None]) -> None:
        self.submitted: list[str] = []
        self.statuses: dict[str, JobStatus] = {}
        self._doing = doing

    def submit_job(self, *, entrypoint: str, submission_id: str) -> str:
        if submission_id in self.statuses:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists.")
        self.submitted.append(submission_id)
        self.statuses[submission_id] = JobStatus.RUNNING
        command, _, name = entrypoint.rpartition(" ")
        assert command == "python -m services drive"

        def job() -> None:
            self._doing(name)
            self.statuses[submission_id] = JobStatus.SUCCEEDED

        threading.Thread(target=job, daemon=True).start()
        return submission_id

    def get_job_status(self, submission_id: str) -> JobStatus:
        return self.statuses[submission_id]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks often."""
    monkeypatch.setattr(ray_executor, "JOB_POLL_S", 0.01)


@pytest.fixture
def context(tmp_path: Path) -> ServiceContext:
    return context_in(tmp_path)


def work_with(context: ServiceContext, server: JobServer) -> ClusterOperationWork:
    settings = load_settings(overrides={"execution.kind": "ray-cluster", "execution.attempts": 2})
    work = ClusterOperationWork(settings, context.ledger)
    work._client = server  # type: ignore[assignment]
    return work


def driving(context: ServiceContext) -> Callable[[str], None]:
    """What `python -m services drive` does."""

    def job(name: str) -> None:
        if context.ledger.claim(name) is not None:
            drive_operation(
                name, env=context.env, ledger=context.ledger, executor=context.executor, metrics=context.metrics
            )

    return job


def test_one_job_takes_an_operation_to_its_end(context: ServiceContext) -> None:
    server = JobServer(driving(context))
    work = work_with(context, server)
    name = submitted(context, scripted_plan({}, {}))
    assert list(work.candidates()) == [name]
    assert work.claim(name)
    work.drive(name, lambda: False)
    assert context.ledger.get(name).body["state"] == "SUCCEEDED"
    assert server.submitted == [f"{name.replace('/', '-')}-1-1"]
    assert not work.claim(name)


def test_servers_submit_the_same_job(context: ServiceContext) -> None:
    server = JobServer(driving(context))
    name = submitted(context, scripted_plan({"do": "gate", "gate": "gates/g"}))
    threads = [threading.Thread(target=work_with(context, server).drive, args=(name, lambda: False)) for _ in range(5)]
    for thread in threads:
        thread.start()
    eventually(lambda: context.ledger.get(name).body["attempt"], "a job begins")
    context.store.put("gates/g", b"")
    for thread in threads:
        thread.join(timeout=60)
    assert len(server.submitted) == 1


def test_what_somebody_drives_needs_no_job(context: ServiceContext) -> None:
    server = JobServer(driving(context))
    name = submitted(context, scripted_plan({}))
    context.ledger.claim(name)
    looks: list[bool] = []

    def stopping() -> bool:
        looks.append(True)
        return len(looks) > 20

    work_with(context, server).drive(name, stopping)
    assert server.submitted == []


def test_jobs_that_never_begin_end_the_operation(context: ServiceContext) -> None:
    """As when the cluster's image lacks what the job needs."""
    server = JobServer(lambda name: None)
    name = submitted(context, scripted_plan({}))
    work_with(context, server).drive(name, lambda: False)
    body = context.ledger.get(name).body
    assert (body["state"], body["error"]["kind"], body["error"]["reason"]) == ("FAILED", "Transient", "WORKER_LOST")
    assert [job[-4:] for job in server.submitted] == ["-1-1", "-1-2"]
    # Asked for again, it is tried again.
    assert submitted(context, scripted_plan({})) == name
    work_with(context, JobServer(driving(context))).drive(name, lambda: False)
    assert context.ledger.get(name).body["state"] == "SUCCEEDED"


def test_a_server_that_stops_leaves_the_job_alone(context: ServiceContext) -> None:
    release = threading.Event()
    server = JobServer(lambda name: bool(release.wait(60)))  # type: ignore[arg-type, return-value]
    name = submitted(context, scripted_plan({}))
    work_with(context, server).drive(name, lambda: bool(server.submitted))
    assert context.ledger.get(name).body["state"] == "QUEUED"
    assert list(server.statuses.values()) == [JobStatus.RUNNING]
    release.set()


@pytest.mark.parametrize("error", [ConnectionError("refused"), RuntimeError("503")])
def test_a_cluster_that_is_away_is_transient(
    context: ServiceContext, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def away(address: str) -> Any:
        raise error

    monkeypatch.setattr(ray_executor, "JobSubmissionClient", away)
    settings = load_settings(overrides={"execution.kind": "ray-cluster", "execution.job_address": "http://head:8265"})
    work = ClusterOperationWork(settings, context.ledger)
    name = submitted(context, scripted_plan({}))
    with pytest.raises(Transient, match="head:8265"):
        work.drive(name, lambda: False)
    assert context.ledger.get(name).body["state"] == "QUEUED"
