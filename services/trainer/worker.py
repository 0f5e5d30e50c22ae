"""What one worker of a run does: begin where the newest good checkpoint stands, train, publish, write how it ended.

The same on a thread of a test, in one Ray actor, and in many. Importable without torch. Rank 0 reads the record and shares what it read, so
that all ranks begin alike; only rank 0 has a line to the store afterwards. The one thing to get wrong: an error that another attempt would
meet again is written into the record and ends the run; an error that may pass (a store out of reach, a machine lost) is raised, and the
backend starts the worker again.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.kit.checkpoint_store import CheckpointInfo, CheckpointStore
from services.kit.errors import AlreadyExists, Corrupt, NotFound, Transient, UnderstudyError
from services.kit.operations.stage import WorkerEnv
from services.trainer.backend import TrainJob
from services.trainer.events import EventLog
from services.trainer.faces import load_faces
from services.trainer.link import Beginning, RunLink
from services.trainer.run import (
    ENDED,
    PAUSED,
    STARTING,
    STOPPING,
    Superseded,
    checkpoint_json,
    duration_json,
    end_badly,
    guarded,
    now_json,
)

if TYPE_CHECKING:
    import torch

    from ml_common.training.config import TrainConfig
    from ml_common.training.context import LossesReported, TrainEvent

_LOG = logging.getLogger(__name__)
KEPT_CHECKPOINTS = 3


@dataclass(frozen=True, slots=True)
class Place:
    """A worker's place in its group. With several, torch.distributed has been initialised. ``threads`` are the CPUs it may use."""

    rank: int
    world_size: int
    device: str
    threads: int


def train_run(env: WorkerEnv, job: TrainJob, place: Place, *, killed: Callable[[], bool] = lambda: False) -> None:
    """Trains until the run ends, or until it is another worker's. Raises what another attempt may survive.

    ``killed`` turns true when the worker shall end at its next iteration without saving.
    """
    import torch

    # One CPU is left to decoding, the server and Ray: threads that meet at every operation wait for the one whose core is taken. Measured
    # on two cores with one of them busy, demo preset: 0.30 s an iteration on two threads, 0.08 s on one.
    torch.set_num_threads(max(1, place.threads - 1))
    with tempfile.TemporaryDirectory(prefix="train-", dir=env.scratch_dir) as scratch:
        try:
            begun = _begin_together(env, job, place, Path(scratch))
            if begun is not None:
                _train(env, begun, place, Path(scratch), killed)
        except Superseded as error:
            _LOG.warning("this worker ends: %s", error)


def _begin_together(env: WorkerEnv, job: TrainJob, place: Place, scratch: Path) -> tuple[Beginning, Path | None] | None:
    """Rank 0 begins and tells the others; the checkpoint lies in a local folder then. None when there is nothing to do."""
    if place.world_size == 1:
        return _begin(env, job, scratch)
    import torch.distributed as dist

    begun = _begin(env, job, scratch) if place.rank == 0 else None
    shared: list[Any] = [begun[0] if begun else None]
    dist.broadcast_object_list(shared, src=0)
    beginning = shared[0]
    if place.rank == 0 or beginning is None:
        return begun
    folder = None
    if beginning.checkpoint:
        checkpoints = CheckpointStore(env.store)
        folder = checkpoints.fetch(checkpoints.get(beginning.checkpoint), scratch / "begin")
    return beginning, folder


def _begin(env: WorkerEnv, job: TrainJob, scratch: Path) -> tuple[Beginning, Path | None] | None:
    body = env.records.get(job.run).body
    if body["state"] in ENDED or body["state"] in (STOPPING, PAUSED) or body["lease"].get("leaving"):
        return None
    checkpoint, folder, passed_over = _newest_good(env, job.run, scratch)

    def change(body: dict[str, Any]) -> None:
        body["attempt"] += 1
        body["state"] = STARTING if body["state"] not in ENDED | {STOPPING, PAUSED} else body["state"]
        body["iteration"] = str(checkpoint.iteration if checkpoint else 0)
        if checkpoint is None:
            body.pop("checkpoint", None)
        else:
            body["checkpoint"] = checkpoint_json(env.store, checkpoint)
        for stale in ("eta", "samplesPerS"):
            body.pop(stale, None)

    body = guarded(env.records, job.run, owner=job.owner, attempt=body["attempt"], change=change).body
    sequence = int(body.get("sequence", 0))
    if passed_over:
        log = EventLog(env.store, job.run)
        lines = [{"time": now_json(), "log": {"severity": "SEVERITY_WARNING", "text": text}} for text in passed_over]
        sequence = log.append(lines, log.last(sequence))
    beginning = Beginning(
        run=job.run,
        owner=job.owner,
        attempt=body["attempt"],
        src=(body["srcFaceset"], int(body["srcRevision"])),
        dst=(body["dstFaceset"], int(body["dstRevision"])),
        options=body["options"],
        checkpoint=checkpoint.name if checkpoint else "",
        sequence=sequence,
        saves_asked=body.get("savesAsked", 0),
    )
    return beginning, folder


def _newest_good(env: WorkerEnv, run: str, scratch: Path) -> tuple[CheckpointInfo | None, Path | None, list[str]]:
    """The newest checkpoint whose files are what its manifest says, as a folder; and a sentence for each that is not."""
    checkpoints = CheckpointStore(env.store)
    passed_over: list[str] = []
    for checkpoint in checkpoints.newest_first(run):
        try:
            return checkpoint, checkpoints.fetch(checkpoint, scratch / f"begin-{checkpoint.number}"), passed_over
        except (Corrupt, NotFound) as error:
            text = f"the checkpoint of iteration {checkpoint.iteration} is damaged and was passed over: {error.message}"
            _LOG.warning(text)
            passed_over.append(text)
    return None, None, passed_over


def _train(
    env: WorkerEnv, begun: tuple[Beginning, Path | None], place: Place, scratch: Path, killed: Callable[[], bool]
) -> None:
    import torch

    from ml_common.training.config import TrainConfig
    from ml_common.training.loop import TrainingDiverged, run_training

    beginning, folder = begun
    link = RunLink(env, beginning, killed) if place.rank == 0 else None
    failure: tuple[str, str] | None = None
    try:
        config = TrainConfig.from_dict(beginning.options)
        context = StoreTrainContext(env, beginning, folder, place, link, config)
        src, dst = (load_faces(env.store, env.records, *side) for side in (beginning.src, beginning.dst))
        with link.open() if link else contextlib.nullcontext():
            run_training(config, src, dst, context, scratch_dir=scratch, threads=place.threads)
    except (Superseded, Transient):
        raise
    except TrainingDiverged as error:
        failure = ("TRAINING_DIVERGED", str(error))
    except UnderstudyError as error:
        failure = (error.reason, error.message)
    except torch.OutOfMemoryError as error:
        failure = ("CAPACITY", f"the device has too little memory for these options: lower batch_size ({error})")
    except ValueError as error:  # what the loop promises for unusable faces, options and checkpoints, with what to do
        failure = ("INVALID_INPUT", str(error))
    if failure is not None:
        _LOG.warning("%s: %s", *failure)
    if link is None:
        if failure is not None:  # the first rank that finds it says so; the others end with the group
            _fail_from_afar(env, beginning, failure)
            raise RuntimeError(failure[1])
    elif failure is not None:
        link.fail(*failure)
    else:
        if context.checkpoint is not None:
            _publish_model(env, beginning, config, context.checkpoint)
        link.finish(reached_target=context.reached_target)


def _fail_from_afar(env: WorkerEnv, beginning: Beginning, failure: tuple[str, str]) -> None:
    def change(body: dict[str, Any]) -> None:
        if body["state"] not in ENDED:
            end_badly(body, *failure)

    guarded(env.records, beginning.run, owner=beginning.owner, attempt=beginning.attempt, change=change)


def _publish_model(env: WorkerEnv, beginning: Beginning, config: TrainConfig, checkpoint: CheckpointInfo) -> None:
    """The model of the run's name now stands at its last checkpoint, which stays for as long as the store does."""
    project, _, run_id = beginning.run.partition("/runs/")
    CheckpointStore(env.store).keep(checkpoint.name)
    name = f"{project}/models/{run_id}"
    body = {
        "name": name,
        "family": config.model.family,
        "config": config.model.to_dict(),
        "run": beginning.run,
        "checkpoint": checkpoint_json(env.store, checkpoint),
        "createTime": now_json(),
    }
    try:
        env.records.create(name, body)
    except AlreadyExists:
        env.records.update(
            name,
            lambda known: {**known, "checkpoint": body["checkpoint"]} if known["run"] == beginning.run else None,
        )


class StoreTrainContext:
    """See ml_common.training.context.TrainContext. ``link`` is None on ranks other than 0.

    A pause is a save at which ``publish_checkpoint`` does not return until the run goes on: so a paused run has lost nothing should its
    machine die. When there is nothing new to save the loop does not save, trains one more iteration, and then holds.
    """

    def __init__(
        self,
        env: WorkerEnv,
        beginning: Beginning,
        folder: Path | None,
        place: Place,
        link: RunLink | None,
        config: TrainConfig,
    ) -> None:
        import torch

        self.rank = place.rank
        self.world_size = place.world_size
        self.device: torch.device = torch.device(place.device)
        self.reached_target = False
        self._env = env
        self._checkpoints = CheckpointStore(env.store)
        # A run that was killed between its last checkpoint and its end only has its end left to write.
        self.checkpoint = self._checkpoints.get(beginning.checkpoint) if beginning.checkpoint else None
        self._beginning = beginning
        self._folder = folder
        self._maybe_link = link
        self._config = config
        self._saves_done = beginning.saves_asked
        self._has_started = False
        self._keep_next = False
        self._held_s = 0.0
        self._losses = _Losses(begins_after=self.checkpoint.iteration if self.checkpoint else 0)

    @property
    def _link(self) -> RunLink:
        if self._maybe_link is None:
            raise AssertionError("the loop asks rank 0 alone")
        return self._maybe_link

    def report(self, event: TrainEvent) -> None:
        """See TrainContext. CheckpointPublished is not passed on: ``publish_checkpoint`` has told it already, before any pause."""
        from ml_common.training.context import (
            LossesReported,
            OptionsApplied,
            OptionsRejected,
            PreviewRendered,
            TrainingFinished,
        )

        match event:
            case LossesReported():
                self._report_losses(event)
            case PreviewRendered():
                self._link.emit_preview(event.iteration, event.plain_jpeg, event.masked_jpeg)
            case OptionsApplied():
                self._config = self._config.with_options(event.changes)
                named = ", ".join(f"{name} = {value}" for name, value in sorted(event.changes.items()))
                self._link.emit_line("INFO", f"from iteration {event.iteration + 1} on: {named}")
            case OptionsRejected():
                self._link.emit_line("WARNING", f"options were refused at iteration {event.iteration}: {event.reason}")
            case TrainingFinished():
                self.reached_target = event.reason == "target"

    def should_stop(self) -> bool:
        """See TrainContext."""
        self._link.check()
        if not self._has_started:
            self._has_started = True
            self._link.started()
            if self._folder is not None:
                shutil.rmtree(self._folder)  # it was read; a run of days need not keep a copy
        stop = self._link.must_stop
        self._keep_next |= stop
        return stop

    def pending_options(self) -> dict[str, Any]:
        """See TrainContext."""
        return self._link.take_option_changes()

    def save_requested(self) -> bool:
        """See TrainContext."""
        asked, paused = self._link.saves_asked, self._link.is_paused
        wanted = paused or asked > self._saves_done
        self._saves_done = asked
        self._keep_next |= wanted
        return wanted

    def publish_checkpoint(self, directory: Path, iteration: int) -> None:
        """See TrainContext."""
        self._link.check()
        self._link.flush()
        checkpoint = self._checkpoints.publish(
            self._beginning.run, directory, iteration=iteration, losses=self._losses.mean()
        )
        if self._keep_next or iteration == self._config.target_iteration:
            self._checkpoints.keep(checkpoint.name)
        self._keep_next = False
        self._losses = _Losses(begins_after=iteration)
        self._link.checkpointed(checkpoint_json(self._env.store, checkpoint))
        self.checkpoint = checkpoint
        self._checkpoints.prune(self._beginning.run, newest=KEPT_CHECKPOINTS)
        began_s = time.monotonic()
        self._link.hold_while_paused()
        self._held_s += time.monotonic() - began_s

    def latest_checkpoint(self) -> Path | None:
        """See TrainContext."""
        return self._folder

    def clock(self) -> float:
        """See TrainContext. Time in a pause does not count: neither as training nor towards the next checkpoint."""
        return time.monotonic() - self._held_s

    def _report_losses(self, event: LossesReported) -> None:
        losses = {"src": event.src_loss, "dst": event.dst_loss}
        self._losses.add(event.iteration, losses)
        timing: dict[str, Any] = {"samplesPerS": 2 * event.samples_per_s}  # the loop counts one side
        if event.eta_s is not None:
            timing["eta"] = duration_json(event.eta_s)
        report = {
            "iteration": str(event.iteration),
            "losses": losses,
            **timing,
            "learningRate": event.learning_rate,
            "dataWaitRatio": event.data_wait_ratio,
        }
        if math.isfinite(event.gradient_norm):  # JSON has no infinity; a gradient that has it shows in the losses soon
            report["gradientNorm"] = event.gradient_norm
        self._link.emit("report", report)
        self._link.progress({"iteration": str(event.iteration), "losses": losses, **timing})


class _Losses:
    """Mean losses since a checkpoint, from means since the report before."""

    def __init__(self, *, begins_after: int) -> None:
        self._last = begins_after
        self._iterations = 0
        self._sums: dict[str, float] = {}

    def add(self, iteration: int, means: dict[str, float]) -> None:
        count, self._last = iteration - self._last, iteration
        self._iterations += count
        for name, mean in means.items():
            self._sums[name] = self._sums.get(name, 0.0) + mean * count

    def mean(self) -> dict[str, float]:
        return {name: total / self._iterations for name, total in self._sums.items()} if self._iterations else {}
