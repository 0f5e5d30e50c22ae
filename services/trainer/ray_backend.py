"""Ray Train as backend: TorchTrainer starts the workers, puts them into one process group, and replaces those that die.

The second of the two files that import ray. ``fit`` blocks, imports torch and wants a main thread, so it runs in a Ray task that needs no
CPU: the server keeps out of it and ends it by cancelling the task, with which all its actors go. Checkpoints are ours and in the object
store; Ray's own storage holds no more than its markers.

What one would get wrong: collectives must not time out, because ranks other than 0 wait in one while a person has the run paused. That a
worker died is noticed by Ray, not by a timeout.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from services.kit.config import Settings, load_settings, transportable
from services.kit.execution.executor import open_settings_store, worker_env
from services.kit.execution.ray_executor import start_ray
from services.trainer.backend import WORKER_DIED, Failure, TrainHandle, TrainJob

_LOG = logging.getLogger(__name__)
COLLECTIVE_TIMEOUT_S = 30 * 24 * 3600
HEALTH_CHECK_S = 0.5
MOST_CPUS_PER_GPU = 8


class RayBackend:
    """See TrainBackend."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        start_ray(settings)
        self._fit = ray.remote(num_cpus=0, max_retries=0)(_fit)

    def has_room(self, workers: int) -> bool:
        """See TrainBackend. A cluster may grow when workers wait for it, so there Ray decides."""
        if self._settings.execution.kind == "ray-cluster":
            return True
        wanted, free = self._resources(workers), ray.available_resources()  # type: ignore[no-untyped-call]
        return all(free.get(kind, 0) >= amount * workers for kind, amount in wanted.items())

    def start(self, job: TrainJob) -> TrainHandle:
        """See TrainBackend."""
        return _Task(self._fit.remote(transportable(self._settings), job, self._resources(job.workers)))

    def _resources(self, workers: int) -> dict[str, float]:
        """What one worker gets. A GPU with a few CPUs to decode for it; without GPUs its share of all CPUs of a machine."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        with_gpu = [node for node in nodes if node.get("GPU")]
        device = self._settings.execution.device
        if device.startswith("cuda") or (device == "auto" and with_gpu):
            shares = [node.get("CPU", 1) // node["GPU"] // 2 for node in with_gpu]
            return {"GPU": 1, "CPU": max(1, min([MOST_CPUS_PER_GPU, *shares]))}
        cpus = max(node.get("CPU", 0) for node in nodes)
        workers_a_node = -(-workers // len([node for node in nodes if node.get("CPU", 0) == cpus]))
        # Whole CPUs where there are enough, else a fraction that Ray can count with.
        share = cpus / workers_a_node
        return {"CPU": float(int(share)) if share >= 1 else int(share * 100) / 100}


class _Task:
    """See TrainHandle: the task in which ``fit`` runs."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def wait(self, timeout_s: float) -> bool:
        """See TrainHandle."""
        ready, _ = ray.wait([self._reference], timeout=timeout_s)
        return bool(ready)

    def failure(self) -> Failure | None:
        """See TrainHandle."""
        try:
            failure: Failure | None = ray.get(self._reference)
        except RayTaskError as error:  # ``_fit`` itself failed
            return Failure.of(error.cause)
        except RayError:
            return WORKER_DIED
        return failure

    def kill(self) -> None:
        """See TrainHandle."""
        ray.cancel(self._reference, force=True)


def _fit(settings_values: dict[str, Any], job: TrainJob, resources: dict[str, float]) -> Failure | None:
    """The task: trains until the workers are gone; why, when they did not go by themselves."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(HEALTH_CHECK_S))
    os.environ["RAY_TRAIN_METRICS_ENABLED"] = "0"
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # settings may hold relative paths
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

    settings = load_settings(overrides=settings_values)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"settings": settings_values, "job": job, "threads": max(1, int(resources["CPU"]))},
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=job.workers, use_gpu="GPU" in resources, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=job.run.replace("/", "="),
            failure_config=FailureConfig(max_failures=settings.execution.attempts - 1),
            **_storage(settings),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        _LOG.exception("training %s ended", job.run)
        failures = list(error.worker_failures.values())
        # Ranks that lost a peer fail too, each in its own way: one that died explains the others.
        died = any(
            isinstance(failure, (WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError)) for failure in failures
        )
        return WORKER_DIED if died else Failure.of(failures[0])
    return None


def _storage(settings: Settings) -> dict[str, Any]:
    """Where Ray Train puts its markers: every node of a cluster must see the same place, one machine has its cache folder."""
    store = settings.store
    if settings.execution.kind != "ray-cluster" or store.kind == "folder":
        return {"storage_path": str(store.cache_dir.resolve() / "ray-train")}
    from pyarrow.fs import S3FileSystem

    endpoint = store.endpoint.rpartition("://")[2]
    filesystem = S3FileSystem(
        access_key=store.access_key,
        secret_key=store.secret_key.get_secret_value(),
        region=store.region,
        endpoint_override=endpoint,
        scheme="https" if store.secure else "http",
    )
    return {
        "storage_filesystem": filesystem,
        "storage_path": "/".join(part for part in (store.bucket, store.prefix.strip("/"), "ray-train") if part),
    }


def _worker(config: dict[str, Any]) -> None:
    """One worker of the group; runs in an actor of Ray Train."""
    import ray.train
    import ray.train.torch

    from services.trainer.worker import Place, train_run

    settings = load_settings(overrides=config["settings"])
    context = ray.train.get_context()
    device = str(ray.train.torch.get_device())
    place = Place(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=device,
        threads=config["threads"],
    )
    train_run(worker_env(settings, open_settings_store(settings), device), config["job"], place)
