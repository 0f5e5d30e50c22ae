"""Training over gRPC: a server process of its own, watched, steered, killed, and taken up again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import field_mask_pb2, json_format

from services.kit.storage import ObjectStore, open_store
from tests.support.facesets import store_faceset
from tests.support.servers import ServerProcess
from understudy.client import Client
from understudy.errors import UnderstudyError
from understudy.v1 import training_service_pb2 as messages

State = messages.TrainingRun.State
PARENT = "projects/p"
SRC, DST = f"{PARENT}/facesets/src", f"{PARENT}/facesets/dst"
TINY_MODEL = {"arch": "df", "resolution": 32, "ae_dims": 8, "e_dims": 4, "d_dims": 4, "d_mask_dims": 4}
OPTIONS: dict[str, Any] = {
    "model": TINY_MODEL,
    "batch_size": 2,
    "learning_rate": 1e-3,
    "lr_warmup_iterations": 0,
    "lr_cosine_period": 0,
    "report_every_iterations": 2,
    "preview_every_iterations": 10,
    "save_every_s": 0,
    "target_iteration": 0,
}
PATIENCE_S = 240.0


def store_of(workspace: Path) -> ObjectStore:
    return open_store("folder", root=workspace / "objects")


def store_facesets(workspace: Path) -> None:
    store = store_of(workspace)
    store_faceset(store, SRC, count=5, skin_bgr=(120, 150, 220), seed=1)
    store_faceset(store, DST, count=4, skin_bgr=(60, 90, 150), seed=2)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trainer")
    store_facesets(folder)
    return folder


@pytest.fixture(scope="module")
def client(workspace: Path) -> Iterator[Client]:
    with ServerProcess(workspace, module="services.trainer", execution__kind="inline") as server:
        yield server.client


def a_run(options: dict[str, Any] | None = None, **fields: Any) -> messages.TrainingRun:
    run = messages.TrainingRun(**{"src_faceset": SRC, "dst_faceset": DST, "preset": "demo", **fields})
    json_format.ParseDict({**OPTIONS, **(options or {})}, run.options)
    return run


def create(client: Client, run_id: str, options: dict[str, Any] | None = None, **fields: Any) -> messages.TrainingRun:
    request = messages.CreateRunRequest(parent=PARENT, run_id=run_id, run=a_run(options, **fields))
    return client.training.CreateRun(request)


def get(client: Client, name: str) -> messages.TrainingRun:
    return client.training.GetRun(messages.GetRunRequest(name=name))


def update(client: Client, name: str, **options: Any) -> messages.TrainingRun:
    run = messages.TrainingRun(name=name)
    json_format.ParseDict(options, run.options)
    return client.training.UpdateRun(messages.UpdateRunRequest(run=run))


def checkpoints(client: Client, name: str) -> list[messages.Checkpoint]:
    return list(client.training.ListCheckpoints(messages.ListCheckpointsRequest(parent=name)).checkpoints)


def wait_for(client: Client, name: str, what: Callable[[messages.TrainingRun], bool]) -> messages.TrainingRun:
    end = time.monotonic() + PATIENCE_S
    while not what(run := get(client, name)):
        assert time.monotonic() < end, f"still {run}"
        assert run.state != State.STATE_FAILED, run.error_message
        time.sleep(0.1)
    return run


def is_in(state: State.ValueType) -> Callable[[messages.TrainingRun], bool]:
    return lambda run: run.state == state


class Watch:
    """The events of a run, collected on a thread until the stream ends."""

    def __init__(self, client: Client, name: str, after: int = 0) -> None:
        self.events: list[messages.WatchRunResponse] = []
        request = messages.WatchRunRequest(name=name, after_sequence=after)
        self._stream = client.training.WatchRun(request)
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        for event in self._stream:  # one by one: a test may look while the stream lasts
            self.events.append(event)

    def to_the_end(self) -> list[messages.WatchRunResponse]:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the stream does not end"
        return self.events


def kinds(events: list[messages.WatchRunResponse]) -> set[str]:
    return {str(event.WhichOneof("event")) for event in events}


def test_a_run_is_watched_paused_saved_stopped_and_completed(client: Client, workspace: Path) -> None:
    name = create(client, "life").name
    watch = Watch(client, name)
    wait_for(client, name, lambda run: run.iteration >= 4)

    client.training.PauseRun(messages.PauseRunRequest(name=name))
    held = wait_for(client, name, lambda run: bool(run.checkpoint.name) and run.checkpoint.iteration == run.iteration)
    assert held.state == State.STATE_PAUSED
    time.sleep(1.5)
    assert get(client, name).iteration == held.iteration
    update(client, name, learning_rate=5e-4)
    with pytest.raises(UnderstudyError) as locked:
        update(client, name, model={"resolution": 64})
    assert (locked.value.code, locked.value.reason) == ("FAILED_PRECONDITION", "OPTION_LOCKED")
    assert "model" in locked.value.message

    resumed = client.training.ResumeRun(messages.ResumeRunRequest(name=name))
    assert resumed.state == State.STATE_RUNNING
    wait_for(client, name, lambda run: run.iteration > held.iteration)
    before = len(checkpoints(client, name))
    client.training.SaveCheckpoint(messages.SaveCheckpointRequest(name=name))
    wait_for(client, name, lambda run: len(checkpoints(client, name)) > before)

    client.training.StopRun(messages.StopRunRequest(name=name))
    events = watch.to_the_end()
    stopped = get(client, name)
    assert stopped.state == State.STATE_STOPPED and stopped.attempt == 1
    assert stopped.checkpoint.iteration == stopped.iteration
    assert {"run", "report", "preview", "checkpoint", "log"} <= kinds(events)
    assert events[0].HasField("run") and events[-1].run.state == State.STATE_STOPPED
    kept = [event for event in events if event.WhichOneof("event") not in ("run", "heartbeat")]
    assert [event.sequence for event in kept] == list(range(1, len(kept) + 1))
    reports = [event.report for event in kept if event.HasField("report")]
    assert [report.learning_rate for report in (reports[0], reports[-1])] == [1e-3, 5e-4]
    assert all(report.losses["src"] > 0 and report.samples_per_s > 0 for report in reports)
    picture = next(event.preview for event in kept if event.HasField("preview"))
    store = store_of(workspace)
    assert all(
        store.get(store.key_of(image.uri)).startswith(b"\xff\xd8") for image in (picture.image, picture.masked_image)
    )

    half = len(kept) // 2
    again = Watch(client, name, after=half).to_the_end()
    assert [event.sequence for event in again if not event.HasField("run")] == list(range(half + 1, len(kept) + 1))

    target = stopped.iteration + 6
    client.training.UpdateRun(messages.UpdateRunRequest(run=messages.TrainingRun(name=name, target_iteration=target)))
    client.training.ResumeRun(messages.ResumeRunRequest(name=name))
    after_stop = [
        event.report for event in Watch(client, name, after=kept[-1].sequence).to_the_end() if event.HasField("report")
    ]
    completed = get(client, name)
    assert completed.state == State.STATE_COMPLETED and completed.iteration == target and completed.attempt == 2
    assert after_stop[0].iteration > stopped.iteration, "it went on from its checkpoint"
    with pytest.raises(UnderstudyError) as refused:
        client.training.ResumeRun(messages.ResumeRunRequest(name=name))
    assert refused.value.reason == "WRONG_STATE" and "raise it" in refused.value.message

    listed = checkpoints(client, name)
    assert [checkpoint.iteration for checkpoint in listed] == sorted((c.iteration for c in listed), reverse=True)
    assert listed[0] == completed.checkpoint
    model = client.training.GetModel(messages.GetModelRequest(name=f"{PARENT}/models/life"))
    assert (model.run, model.family, model.checkpoint.name) == (name, "df", completed.checkpoint.name)
    assert name in [run.name for run in client.training.ListRuns(messages.ListRunsRequest(parent=PARENT)).runs]


def test_creating_again_finds_the_same_run(client: Client) -> None:
    options = {"target_iteration": 2}
    first = create(client, "twice", options)
    assert create(client, "twice", options).create_time == first.create_time
    with pytest.raises(UnderstudyError) as refused:
        create(client, "twice", {"target_iteration": 3})
    assert refused.value.code == "ALREADY_EXISTS"
    wait_for(client, first.name, is_in(State.STATE_COMPLETED))
    assert create(client, "twice", options).state == State.STATE_COMPLETED


@pytest.mark.parametrize(
    ("options", "fields", "reason", "field"),
    [
        ({}, {"preset": "best"}, "UNKNOWN_NAME", "run.preset"),
        ({"learning_rat": 1}, {}, "UNKNOWN_NAME", "run.options.learning_rat"),
        ({"learning_rate": -1}, {}, "INVALID_INPUT", "run.options.learning_rate"),
        ({"batch_size": 2.5}, {}, "INVALID_INPUT", "run.options.batch_size"),
        ({"model": {**TINY_MODEL, "resolution": 33}}, {}, "INVALID_INPUT", "run.options.model.resolution"),
        ({}, {"workers": 3}, "INVALID_INPUT", "run.workers"),
        ({"target_iteration": 5}, {"target_iteration": 6}, "INVALID_INPUT", "run.target_iteration"),
        ({}, {"src_faceset": "src"}, "INVALID_INPUT", "run.src_faceset"),
        ({}, {"src_faceset": f"{PARENT}/facesets/none"}, "NOT_FOUND", None),
        ({}, {"dst_faceset": f"{PARENT}/facesets/empty"}, "NO_FACE", "run.dst_faceset"),
    ],
)
def test_a_wrong_request_is_refused_with_the_field_and_makes_nothing(
    client: Client, workspace: Path, options: dict[str, Any], fields: dict[str, Any], reason: str, field: str | None
) -> None:
    if fields.get("dst_faceset"):
        store_faceset(store_of(workspace), fields["dst_faceset"], count=2, skin_bgr=(9, 9, 9), seed=3, trashed=True)
    with pytest.raises(UnderstudyError) as refused:
        create(client, "wrong", options, **fields)
    assert refused.value.reason == reason
    assert field is None or field in refused.value.fields
    with pytest.raises(UnderstudyError, match="no record"):
        get(client, f"{PARENT}/runs/wrong")


def test_presets_are_listed_with_what_may_change(client: Client) -> None:
    presets = {preset.name: preset for preset in client.training.ListPresets(messages.ListPresetsRequest()).presets}
    assert {"demo", "quick96", "saehd"} <= set(presets)
    assert presets["quick96"].options["model"]["resolution"] == 96 and presets["quick96"].description
    assert "learning_rate" in presets["demo"].mutable_options and "model" not in presets["demo"].mutable_options


def test_what_may_be_updated_is_said(client: Client) -> None:
    name = create(client, "masks", {"target_iteration": 1}).name
    mask = field_mask_pb2.FieldMask(paths=["workers"])
    with pytest.raises(UnderstudyError) as refused:
        client.training.UpdateRun(messages.UpdateRunRequest(run=messages.TrainingRun(name=name), update_mask=mask))
    assert "update_mask" in refused.value.fields
    labelled = messages.TrainingRun(name=name, labels={"shot": "010"})
    assert client.training.UpdateRun(messages.UpdateRunRequest(run=labelled)).labels == {"shot": "010"}
    wait_for(client, name, is_in(State.STATE_COMPLETED))
    with pytest.raises(UnderstudyError, match="COMPLETED and cannot be paused"):
        client.training.PauseRun(messages.PauseRunRequest(name=name))


def test_a_damaged_checkpoint_is_passed_over(client: Client, workspace: Path) -> None:
    options = {"save_every_iterations": 4, "target_iteration": 10}
    name = create(client, "damaged", options).name
    completed = wait_for(client, name, is_in(State.STATE_COMPLETED))
    assert [checkpoint.iteration for checkpoint in checkpoints(client, name)] == [10, 8, 4]
    (workspace / "objects" / completed.checkpoint.name / "weights.safetensors").write_bytes(b"not weights")
    run = messages.TrainingRun(name=name, target_iteration=12)
    client.training.UpdateRun(messages.UpdateRunRequest(run=run))
    client.training.ResumeRun(messages.ResumeRunRequest(name=name))
    events = Watch(client, name).to_the_end()
    warnings = [event.log.text for event in events if event.log.text]
    assert len(warnings) == 1 and "iteration 10 is damaged" in warnings[0]
    assert get(client, name).iteration == 12
    second_life = [event.report.iteration for event in events if event.HasField("report")][5:]
    assert second_life == [10, 12], "it went on from iteration 8"


def test_a_killed_server_is_taken_up_and_comes_to_the_same_weights(client: Client, tmp_path: Path) -> None:
    options = {"save_every_iterations": 10, "target_iteration": 60, "preview_every_iterations": 0}
    straight = wait_for(client, create(client, "straight", options).name, is_in(State.STATE_COMPLETED))
    store_facesets(tmp_path)
    server = ServerProcess(tmp_path, module="services.trainer", execution__kind="inline")
    name = create(server.client, "killed", options).name
    wait_for(server.client, name, lambda run: run.checkpoint.iteration >= 20)
    server.kill()
    with ServerProcess(tmp_path, module="services.trainer", execution__kind="inline") as server:
        interrupted = get(server.client, name)
        assert interrupted.checkpoint.iteration < 60, "it was killed too late to prove anything"
        events = Watch(server.client, name).to_the_end()
        killed = get(server.client, name)
        assert killed.state == State.STATE_COMPLETED and killed.iteration == 60 and killed.attempt == 2
        reports = [event.report.iteration for event in events if event.HasField("report")]
        begins_again = interrupted.checkpoint.iteration + 2
        assert begins_again in reports and set(range(2, 61, 2)) <= set(reports)
    assert tensors(killed) == tensors(straight)
    assert set(tensors(killed)) == {"weights.safetensors", "optimizer.safetensors"}


def tensors(run: messages.TrainingRun) -> dict[str, bytes]:
    folder = Path(run.checkpoint.manifest.uri.removeprefix("file://")).parent
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_a_server_that_ends_saves_its_runs_and_the_next_goes_on(tmp_path: Path) -> None:
    store_facesets(tmp_path)
    with ServerProcess(tmp_path, module="services.trainer", execution__kind="inline") as server:
        running, paused = create(server.client, "running").name, create(server.client, "paused").name
        wait_for(server.client, paused, lambda run: run.iteration >= 2)
        client_paused = server.client.training.PauseRun(messages.PauseRunRequest(name=paused))
        assert client_paused.state == State.STATE_PAUSED
        wait_for(server.client, running, lambda run: run.iteration >= 2)
    with ServerProcess(tmp_path, module="services.trainer", execution__kind="inline") as server:
        going_on = wait_for(server.client, running, lambda run: run.attempt == 2 and run.state == State.STATE_RUNNING)
        assert going_on.checkpoint.iteration >= 2
        still = get(server.client, paused)
        assert still.state == State.STATE_PAUSED and still.attempt == 1 and still.checkpoint.iteration >= 2
        resumed = server.client.training.ResumeRun(messages.ResumeRunRequest(name=paused))
        assert resumed.state == State.STATE_QUEUED
        server.client.training.StopRun(messages.StopRunRequest(name=running))
        wait_for(server.client, running, is_in(State.STATE_STOPPED))
        server.client.training.StopRun(messages.StopRunRequest(name=paused))
        wait_for(server.client, paused, is_in(State.STATE_STOPPED))


def _ray_train_workers(server_pid: int) -> list[int]:
    """Training workers among the descendants of a server."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked

    def descends(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == server_pid:
                return True
        return False

    return [pid for pid, title in titles.items() if "TrainWorker" in title and descends(pid)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the worker to kill in /proc")
def test_ray_train_survives_a_lost_worker_and_a_killed_server(tmp_path: Path) -> None:
    store_facesets(tmp_path)
    options = {"save_every_iterations": 10, "target_iteration": 0, "preview_every_iterations": 0}
    server = ServerProcess(tmp_path, module="services.trainer", execution__kind="ray")
    name = create(server.client, "ray", options).name
    wait_for(server.client, name, lambda run: run.checkpoint.iteration >= 10)
    (worker,) = _ray_train_workers(server.process.pid)
    os.kill(worker, signal.SIGKILL)
    lost_at = get(server.client, name).checkpoint.iteration
    second = wait_for(server.client, name, lambda run: run.attempt == 2 and run.state == State.STATE_RUNNING)
    assert second.iteration >= lost_at
    wait_for(server.client, name, lambda run: run.checkpoint.iteration > lost_at)
    server.kill()
    with ServerProcess(tmp_path, module="services.trainer", execution__kind="ray") as server:
        left_at = get(server.client, name).checkpoint.iteration
        update(server.client, name, target_iteration=left_at + 20)
        completed = wait_for(server.client, name, is_in(State.STATE_COMPLETED))
        assert completed.attempt == 3 and completed.iteration == left_at + 20
        events = Watch(server.client, name).to_the_end()
        reports = [event.report.iteration for event in events if event.HasField("report")]
        assert set(range(2, completed.iteration + 1, 2)) <= set(reports), "no iteration is missing"
