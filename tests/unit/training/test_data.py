"""Batches: a function of position and options, whoever prepares them and however they are shared."""

import pytest
import torch

from ml_common.geometry import FaceType
from ml_common.training.data import Batch, TrainingData, plan_batch
from ml_common.training.samples import SampleSet

CPU = torch.device("cpu")


@pytest.fixture
def make_data(make_faces, tiny_config):
    opened = []

    def make(config=None, threads: int = 2) -> TrainingData:
        config = config or tiny_config()
        sets = [
            SampleSet(make_faces(7, skin, seed), face_type=FaceType.WHOLE_FACE, resolution=32)
            for seed, skin in ((1, (120, 150, 220)), (2, (60, 90, 150)))
        ]
        opened.append(TrainingData(*sets, config, device=CPU, threads=threads))
        return opened[-1]

    yield make
    for data in opened:
        data.close()


def tensors(batch: Batch) -> list[torch.Tensor]:
    sides = (batch.src, batch.dst)
    return [t for side in sides for t in (side.input_NCHW, side.target_NCHW, side.mask_N1HW, side.eyes_mouth_N1HW)]


def test_shapes_and_ranges(make_data) -> None:
    batch = make_data().next_batch(0, warp=True)
    assert [tuple(t.shape) for t in tensors(batch)] == 2 * [
        (4, 3, 32, 32),
        (4, 3, 32, 32),
        (4, 1, 32, 32),
        (4, 1, 32, 32),
    ]
    assert all(t.dtype == torch.float32 and t.min() >= 0 and t.max() <= 1 for t in tensors(batch))
    assert batch.src.mask_N1HW.max() > 0.9 and batch.src.eyes_mouth_N1HW.max() == pytest.approx(1.0)


def test_a_batch_is_the_same_after_a_jump_and_with_other_threads(make_data) -> None:
    walked, jumped = make_data(threads=1), make_data(threads=3)
    for start in range(0, 24, 4):
        batch = walked.next_batch(start, warp=True)
    assert all(map(torch.equal, tensors(batch), tensors(jumped.next_batch(20, warp=True))))


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_share_exactly_what_one_would_get(make_data, world_size: int) -> None:
    data = make_data()
    whole = data.next_batch(8, warp=True)
    shares = [data.next_batch(8, warp=True, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert all(share.global_size == 4 for share in shares)
    for together, *parts in zip(tensors(whole), *(tensors(share) for share in shares), strict=True):
        torch.testing.assert_close(together, torch.cat(parts))
    with pytest.raises(ValueError, match="batch_size"):
        data.next_batch(8, warp=True, rank=0, world_size=5)


def test_an_unwarped_repeat_shows_the_previous_samples(make_data, tiny_config) -> None:
    config = tiny_config(unwarped_every=3)
    data = make_data(config)
    position, plans = 0, []
    for iteration in range(7):
        plans.append(plan_batch(config, iteration, position))
        position = plans[-1].next_position
    assert [plan.start for plan in plans] == [0, 4, 8, 8, 12, 16, 16]
    assert [plan.warp for plan in plans] == [True, True, True, False, True, True, False]
    warped, repeat = data.next_batch(8, warp=True), data.next_batch(8, warp=False)
    assert torch.equal(warped.src.target_NCHW, repeat.src.target_NCHW)
    assert torch.equal(repeat.src.input_NCHW, repeat.src.target_NCHW)
    assert not torch.equal(warped.src.input_NCHW, repeat.src.input_NCHW)


def test_reconfigure_takes_effect_with_the_next_batch(make_data, tiny_config) -> None:
    data = make_data()
    before = data.next_batch(0, warp=True)
    data.reconfigure(tiny_config(scale_range=0.4))
    after = data.next_batch(4, warp=True)
    assert not torch.equal(after.src.target_NCHW, before.src.target_NCHW)
    fresh = make_data(tiny_config(scale_range=0.4)).next_batch(4, warp=True)
    assert torch.equal(after.src.target_NCHW, fresh.src.target_NCHW)


def test_only_src_input_is_recoloured(make_data, tiny_config) -> None:
    plain = make_data().next_batch(0, warp=True)
    coloured = make_data(tiny_config(random_hsv_power=0.3)).next_batch(0, warp=True)
    assert not torch.allclose(plain.src.input_NCHW, coloured.src.input_NCHW, atol=1e-2)
    assert torch.equal(plain.src.target_NCHW, coloured.src.target_NCHW)
    assert torch.equal(plain.dst.input_NCHW, coloured.dst.input_NCHW)


def test_uniform_yaw_chooses_other_samples(make_data, tiny_config) -> None:
    uniform, by_yaw = make_data(), make_data(tiny_config(uniform_yaw=True))
    assert not torch.equal(
        uniform.next_batch(0, warp=True).src.mask_N1HW, by_yaw.next_batch(0, warp=True).src.mask_N1HW
    )


def test_an_unusable_face_surfaces_from_the_thread(make_data, make_faces, tiny_config) -> None:
    broken = [*make_faces(1, (0, 0, 0), 0)]
    object.__setattr__(broken[0], "image", b"broken")
    sets = [SampleSet(broken, face_type=FaceType.WHOLE_FACE, resolution=32) for _ in range(2)]
    with TrainingData(*sets, tiny_config(), device=CPU) as data, pytest.raises(ValueError, match="face 0/0"):
        data.next_batch(0, warp=True)


def test_resolution_must_be_the_models(make_faces, tiny_config) -> None:
    samples = SampleSet(make_faces(1, (0, 0, 0), 0), face_type=FaceType.WHOLE_FACE, resolution=48)
    with pytest.raises(ValueError, match="48 px"):
        TrainingData(samples, samples, tiny_config(), device=CPU)


def test_preview_faces_are_the_same_every_time_and_not_augmented(make_data) -> None:
    first, again = make_data().preview_faces("src", 3), make_data().preview_faces("src", 3)
    assert torch.equal(first.image_NCHW, again.image_NCHW)
    assert first.image_NCHW.shape == (3, 3, 32, 32) and first.mask_N1HW.shape == (3, 1, 32, 32)
    assert make_data().preview_faces("dst", 99).image_NCHW.shape[0] == 7
