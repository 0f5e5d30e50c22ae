"""One worker, in this process: how it ends when something is wrong, and what it leaves behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import ml_common.training.loop as loop
from services.kit.checkpoint_store import CheckpointStore
from services.kit.claims import Leaseholder
from services.kit.errors import QuotaOrCapacity, Transient
from services.kit.faceset_store import FacesetStore
from services.kit.operations.stage import WorkerEnv
from services.trainer.backend import TrainJob
from services.trainer.events import EventLog
from services.trainer.run import COMPLETED, FAILED, RUNNING, STARTING, STOPPED, STOPPING
from services.trainer.worker import KEPT_CHECKPOINTS, Place, train_run

RUN = "projects/p/runs/r"
PLACE = Place(rank=0, world_size=1, device="cpu", threads=1)
MakeRun = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.usefixtures("with_facesets")


def train(env: WorkerEnv) -> dict[str, Any]:
    train_run(env, TrainJob(RUN, Leaseholder().owner, 1), PLACE)
    return env.records.get(RUN).body


def iterations(env: WorkerEnv) -> list[int]:
    return [checkpoint.iteration for checkpoint in CheckpointStore(env.store).newest_first(RUN)]


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """at_step(n, act): ``act`` is called before iteration n."""

    def arrange(number: int, act: Callable[[], None]) -> None:
        original = loop.train_step

        def step(state: Any, batch: Any, **options: Any) -> Any:
            if state.iteration + 1 == number:
                act()
            return original(state, batch, **options)

        monkeypatch.setattr(loop, "train_step", step)

    return arrange


def test_automatic_checkpoints_are_pruned_and_the_last_becomes_the_model(env: WorkerEnv, make_run: MakeRun) -> None:
    make_run({"save_every_iterations": 1, "target_iteration": 6})
    body = train(env)
    assert body["state"] == COMPLETED and body["attempt"] == 1
    assert iterations(env) == [6, 5, 4][:KEPT_CHECKPOINTS]
    model = env.records.get("projects/p/models/r").body
    assert model["checkpoint"]["name"] == body["checkpoint"]["name"]
    assert CheckpointStore(env.store).prune(RUN, newest=1)
    assert iterations(env) == [6]
    assert not list(env.scratch_dir.iterdir()), "nothing is left in the scratch folder"


def test_a_kept_checkpoint_outlives_pruning(env: WorkerEnv, make_run: MakeRun) -> None:
    make_run({"save_every_iterations": 1, "target_iteration": 2})
    train(env)
    env.records.update(
        RUN, lambda body: {**body, "state": STARTING, "options": {**body["options"], "target_iteration": 8}}
    )
    train(env)
    assert iterations(env) == [8, 7, 6, 2]


def test_a_run_at_its_target_only_writes_its_end(env: WorkerEnv, make_run: MakeRun) -> None:
    make_run()
    first = train(env)
    env.records.delete("projects/p/models/r")
    env.records.update(RUN, lambda body: {**body, "state": STARTING})
    second = train(env)
    assert (second["state"], second["attempt"]) == (COMPLETED, 2)
    assert second["checkpoint"] == first["checkpoint"]
    assert env.records.get("projects/p/models/r").body["checkpoint"] == first["checkpoint"]


def test_divergence_fails_the_run_and_keeps_the_checkpoint_before(
    env: WorkerEnv, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.train_step

    def step(state: Any, batch: Any, **options: Any) -> Any:
        report = original(state, batch, **options)
        nan = torch.tensor(float("nan") if state.iteration > 4 else 0.0)
        return replace(report, src_loss_sum=report.src_loss_sum + nan)

    monkeypatch.setattr(loop, "train_step", step)
    make_run({"save_every_iterations": 2})
    body = train(env)
    assert (body["state"], body["errorReason"]) == (FAILED, "TRAINING_DIVERGED")
    assert "last checkpoint is of iteration 4" in body["errorMessage"]
    assert body["checkpoint"]["iteration"] == "4" and iterations(env) == [4, 2]


def test_an_unreadable_face_is_named(env: WorkerEnv, make_run: MakeRun) -> None:
    table = FacesetStore(env.store, env.records).table("projects/p/facesets/dst")[1]
    for key in table.column("image_key"):
        env.store.put(key, b"no picture", media_type="image/jpeg")
    make_run()
    body = train(env)
    assert (body["state"], body["errorReason"]) == (FAILED, "INVALID_INPUT")
    assert "projects/p/facesets/dst/faces/f00000" in body["errorMessage"]


def test_a_full_store_fails_the_run_and_leaves_no_half_checkpoint(
    env: WorkerEnv, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = env.store.put

    def full(key: str, *args: Any, **options: Any) -> Any:
        if "/checkpoints/" in key and key.endswith("weights.safetensors"):
            raise QuotaOrCapacity("the store is full")
        return put(key, *args, **options)

    monkeypatch.setattr(env.store, "put", full)
    make_run()
    body = train(env)
    assert (body["state"], body["errorReason"]) == (FAILED, "CAPACITY")
    assert iterations(env) == []


def test_a_store_out_of_reach_is_for_another_attempt(
    env: WorkerEnv, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_args: Any, **_options: Any) -> Any:
        raise Transient("the store cannot be reached")

    make_run()
    monkeypatch.setattr(CheckpointStore, "publish", unreachable)
    with pytest.raises(Transient):
        train(env)
    assert env.records.get(RUN).body["state"] == RUNNING


def test_a_worker_whose_run_was_given_away_writes_nothing_more(
    env: WorkerEnv, make_run: MakeRun, at_step: Callable[[int, Callable[[], None]], None]
) -> None:
    def give_away() -> None:
        env.records.update(RUN, lambda body: {**body, "lease": {"owner": "another:1:1", "expires_s": time.time() + 60}})

    make_run()
    at_step(3, give_away)
    body = train(env)
    assert body["state"] == RUNNING and body["lease"]["owner"] == "another:1:1"
    assert "checkpoint" not in body


def test_stopping_saves_and_what_is_stopping_does_not_begin(
    env: WorkerEnv, make_run: MakeRun, at_step: Callable[[int, Callable[[], None]], None]
) -> None:
    def stop() -> None:
        env.records.update(RUN, lambda body: {**body, "state": STOPPING})
        time.sleep(0.8)  # so that the link has looked

    make_run({"target_iteration": 0})
    at_step(3, stop)
    body = train(env)
    assert body["state"] == STOPPED and iterations(env) == [int(body["iteration"])]
    env.records.update(RUN, lambda body: {**body, "state": STOPPING})
    assert train(env)["attempt"] == 1


def test_options_reach_the_loop_and_are_told(
    env: WorkerEnv, make_run: MakeRun, at_step: Callable[[int, Callable[[], None]], None]
) -> None:
    def change() -> None:
        env.records.update(RUN, lambda body: {**body, "options": {**body["options"], "learning_rate": 5e-5}})
        time.sleep(0.8)

    make_run({"learning_rate": 3e-4, "lr_warmup_iterations": 0, "lr_cosine_period": 0})
    at_step(3, change)
    train(env)
    events = EventLog(env.store, RUN).read(0)
    assert [event["log"]["text"] for event in events if "log" in event] == [
        "from iteration 4 on: learning_rate = 5e-05"
    ]
    rates = [event["report"]["learningRate"] for event in events if "report" in event]
    assert rates[0] == 3e-4 and rates[-1] == 5e-5


def test_a_worker_can_be_ended_from_outside(env: WorkerEnv, make_run: MakeRun) -> None:
    make_run({"target_iteration": 0})
    killed = threading.Event()
    thread = threading.Thread(
        target=train_run,
        args=(env, TrainJob(RUN, Leaseholder().owner, 1), PLACE),
        kwargs={"killed": killed.is_set},
    )
    thread.start()
    end = time.monotonic() + 60
    while env.records.get(RUN).body["state"] != RUNNING and time.monotonic() < end:
        time.sleep(0.05)
    killed.set()
    thread.join(30)
    assert not thread.is_alive() and iterations(env) == []
