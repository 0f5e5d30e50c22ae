"""The loop: learns, resumes to the bit, obeys, and never leaves something half-saved."""

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ml_common.nets import build_model
from ml_common.training.checkpoint import checkpoint_files, read_checkpoint
from ml_common.training.context import (
    CheckpointPublished,
    LossesReported,
    OptionsApplied,
    OptionsRejected,
    PreviewRendered,
    TrainingFinished,
)
from ml_common.training.loop import TrainingDiverged, run_training

SRC, DST = (120, 150, 220), (60, 90, 150)


@pytest.fixture
def train(make_faces, tmp_path: Path):
    src, dst = make_faces(6, SRC, 1), make_faces(6, DST, 2)
    return lambda config, context: run_training(config, src, dst, context, scratch_dir=tmp_path / "scratch")


def test_losses_fall_on_a_handful_of_faces(train, tiny_config, make_context) -> None:
    context = make_context()
    train(tiny_config(target_iteration=40), context)
    losses = context.of_kind(LossesReported)
    assert [event.iteration for event in losses] == list(range(5, 41, 5))
    assert losses[-1].src_loss < 0.4 * losses[0].src_loss
    assert losses[-1].dst_loss < 0.4 * losses[0].dst_loss
    assert losses[0].eta_s > losses[-1].eta_s == 0.0
    assert all(event.samples_per_s > 0 and event.gradient_norm > 0 for event in losses)
    assert all(0 <= event.data_wait_ratio <= 1 for event in losses)
    assert context.events[-1] == TrainingFinished(iteration=40, reason="target")


def test_the_rate_warms_up_and_follows_the_cosine(train, tiny_config, make_context) -> None:
    context = make_context()
    options = {"learning_rate": 1e-3, "lr_warmup_iterations": 4, "lr_cosine_period": 20, "report_every_iterations": 1}
    train(tiny_config(**options), context)
    rates = [event.learning_rate for event in context.of_kind(LossesReported)]
    swing = [(np.cos(2 * np.pi * iteration / 20) + 1) / 2 for iteration in range(10)]
    warm = [min(1.0, (iteration + 1) / 5) for iteration in range(10)]
    np.testing.assert_allclose(rates, 1e-3 * np.multiply(swing, warm))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "rmsprop", "lr_dropout": 0.3, "lr_cosine_period": 7, "unwarped_every": 3, "clipgrad": True},
        {"model": {"arch": "liae-ud"}, "random_hsv_power": 0.2, "uniform_yaw": True, "eyes_mouth_prio": True},
    ],
)
def test_resuming_is_exact(train, tiny_config, make_context, options: dict[str, object]) -> None:
    straight = train(tiny_config(target_iteration=15, **options), make_context())
    context = make_context()
    train(tiny_config(target_iteration=10, **options), context)
    assert context.latest_checkpoint() is not None
    resumed = train(tiny_config(target_iteration=15, **options), context)
    assert resumed.iteration == 15
    assert checkpoint_files(resumed) == checkpoint_files(straight)


def test_stop_saves_where_it_stands(train, tiny_config, make_context) -> None:
    context = make_context(stop_at_iteration=7)
    train(tiny_config(target_iteration=0), context)
    assert context.events[-1] == TrainingFinished(iteration=7, reason="stopped")
    assert read_checkpoint(context.published[-1]).iteration == 7


def test_a_finished_run_that_is_run_again_does_nothing(train, tiny_config, make_context) -> None:
    context = make_context()
    train(tiny_config(), context)
    context.events.clear()
    train(tiny_config(), context)
    assert context.events == [TrainingFinished(iteration=10, reason="target")]
    assert len(context.published) == 1


def test_saves_come_by_count_by_time_and_on_demand(train, tiny_config, make_context, tmp_path: Path) -> None:
    by_count = make_context()
    train(tiny_config(save_every_iterations=4), by_count)
    assert [event.iteration for event in by_count.of_kind(CheckpointPublished)] == [4, 8, 10]
    on_demand = make_context(saves_wished=1)
    train(tiny_config(), on_demand)
    # The wish comes before the first iteration, when there is nothing new to save.
    assert [event.iteration for event in on_demand.of_kind(CheckpointPublished)] == [10]
    by_time = make_context()
    train(tiny_config(save_every_s=20.0), by_time)
    assert len(by_time.of_kind(CheckpointPublished)) > 1
    assert not any((tmp_path / "scratch").iterdir())


def test_options_change_at_a_boundary_and_bad_ones_are_reported(train, tiny_config, make_context) -> None:
    wishes = {3: {"learning_rate": 1e-5, "batch_size": 2}, 5: {"seed": 9}, 6: {"lr": 1}, 7: {"batch_size": 0}}
    context = make_context(wishes=wishes)
    state = train(tiny_config(), context)
    assert context.of_kind(OptionsApplied) == [
        OptionsApplied(iteration=3, changes={"learning_rate": 1e-5, "batch_size": 2})
    ]
    assert [event.iteration for event in context.of_kind(OptionsRejected)] == [5, 6, 7]
    assert "seed cannot change" in context.of_kind(OptionsRejected)[0].reason
    assert state.config.learning_rate == 1e-5 and state.optimizer.param_groups[0]["lr"] == 1e-5
    assert state.position == 3 * 4 + 7 * 2
    assert read_checkpoint(context.published[-1]).config.batch_size == 2


def test_turning_the_warp_off_freezes_inter_ab_only_in_the_reference_rule(train, tiny_config, make_context) -> None:
    for freeze in (False, True):
        options = {"model": {"arch": "liae"}, "random_warp": False, "freeze_inter_ab_without_warp": freeze}
        state = train(tiny_config(target_iteration=1, **options), make_context())
        trained = {name.partition(".")[0] for name, p in state.model.named_parameters() if p in state.optimizer.state}
        assert ("inter_AB" in trained) is not freeze and "encoder" in trained


def test_divergence_is_an_error_and_saves_nothing(train, tiny_config, make_context) -> None:
    context = make_context()
    train(tiny_config(target_iteration=5), context)
    before = checkpoint_files_on_disk(context.published[-1])
    with pytest.raises(TrainingDiverged, match=r"iteration 10.*nan.*last checkpoint is of iteration 5.*learning_rate"):
        poisoned = tiny_config(target_iteration=20, learning_rate=1.0)
        import ml_common.training.loop as loop

        with pytest.MonkeyPatch.context() as patch:
            original = loop.train_step

            def step(state, batch, **options):
                report = original(state, batch, **options)
                nan = torch.tensor(float("nan")) if state.iteration > 7 else torch.tensor(0.0)
                return replace(report, src_loss_sum=report.src_loss_sum + nan)

            patch.setattr(loop, "train_step", step)
            train(poisoned, context)
    assert len(context.published) == 1
    assert checkpoint_files_on_disk(context.published[-1]) == before


def test_weights_that_are_not_finite_are_never_saved(train, tiny_config, make_context, monkeypatch) -> None:
    import ml_common.training.loop as loop

    original = loop.train_step

    def step(state, batch, **options):
        report = original(state, batch, **options)
        if state.iteration == 10:
            next(state.model.parameters()).data.fill_(float("inf"))
        return report

    monkeypatch.setattr(loop, "train_step", step)
    context = make_context()
    with pytest.raises(TrainingDiverged, match="weights are not finite"):
        train(tiny_config(), context)
    assert not context.published


def checkpoint_files_on_disk(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_previews_are_labelled_grids_of_fixed_faces(train, tiny_config, make_context) -> None:
    context = make_context()
    train(tiny_config(preview_every_iterations=5), context)
    previews = context.of_kind(PreviewRendered)
    assert [event.iteration for event in previews] == [0, 5, 10]
    grids = [
        [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in (e.plain_jpeg, e.masked_jpeg)]
        for e in previews
    ]
    for plain, masked in grids:
        assert plain.shape == masked.shape == (20 + 4 * 32, 5 * 32, 3)  # a header, 4 rows, columns S SS D DD SD
        assert plain[:20].max() > 150
        assert masked[20:, 64:96].mean() < plain[20:, 64:96].mean()  # D with its background in black
    source_columns = [grid[0][20:, :32].astype(int) for grid in grids]
    assert np.abs(source_columns[0] - source_columns[2]).mean() < 3  # the faces stay the same
    predicted = [grid[0][20:, 32:64].astype(int) for grid in grids]
    assert np.abs(predicted[0] - predicted[2]).mean() > 3  # what is made of them does not


def test_bfloat16_trains_too(train, tiny_config, make_context) -> None:
    context = make_context()
    state = train(tiny_config(precision="bfloat16", target_iteration=20), context)
    losses = context.of_kind(LossesReported)
    assert losses[-1].src_loss < losses[0].src_loss
    assert all(parameter.dtype == torch.float32 for parameter in state.model.parameters())


def _worker(rank: int, folder: str, config, faces, contexts) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/rendezvous", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    context = contexts[rank]
    state = run_training(config, *faces, context, scratch_dir=Path(folder) / "scratch")
    torch.save({name: p.detach() for name, p in state.model.named_parameters()}, f"{folder}/{rank}.pt")
    assert (len(context.events) > 0) is (rank == 0)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_the_model_that_one_would(
    train, make_faces, tiny_config, make_context, tmp_path: Path
) -> None:
    config = tiny_config(batch_size=5, clipgrad=True, target_iteration=3)  # uneven shares: 2 and 3
    alone = train(config, make_context())
    faces = make_faces(6, SRC, 1), make_faces(6, DST, 2)
    contexts = [make_context(rank=rank, world_size=2) for rank in range(2)]
    mp.spawn(_worker, (str(tmp_path), config, faces, contexts), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    start = build_model(config.model, seed=config.seed)
    trained, apart, moved = alone.model.state_dict(), 0.0, 0.0
    for name, first in start.state_dict().items():
        apart += float((ranks[0][name] - trained[name]).square().sum())
        moved += float((trained[name] - first).square().sum())
    # Not equal to the bit: a weight whose gradient is mere rounding takes a step of full length, either way.
    assert apart < 0.02**2 * moved
