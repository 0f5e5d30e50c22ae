"""Framing and masks of samples, against the original's sample processor where it gives numbers."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ml_common.augment import AugmentationBatch, AugmentSpec, augment_batch, draw_augmentation
from ml_common.geometry import FaceType
from ml_common.training.samples import FaceSample, SampleSet

GOLDEN = Path(__file__).parents[2] / "golden" / "augment"
STORED = {0: FaceType.WHOLE_FACE, 1: FaceType.FULL}


def golden_face(index: int) -> FaceSample:
    numbers = np.load(GOLDEN / "sample_processor.npz")
    return FaceSample(
        image=(GOLDEN / f"face_{index}.jpg").read_bytes(),
        landmarks_px_68x2=numbers[f"s{index}_landmarks"],
        face_type=STORED[index],
        mask=(GOLDEN / "face_0_mask.png").read_bytes() if index == 0 else None,
        eyebrows_expand=float(numbers[f"s{index}_eyebrows_expand"]),
    )


@pytest.mark.parametrize("index", [0, 1])
def test_a_sample_comes_out_as_the_original_makes_it(index: int) -> None:
    """Face 0 is reframed from whole to full face with a stored mask; face 1 is only resized and uses its hull."""
    golden = np.load(GOLDEN / "sample_processor.npz")
    prepared = SampleSet([golden_face(index)], face_type=FaceType.FULL, resolution=64).prepared(0)
    spec = AugmentSpec(resolution=64, flavour="reference", flip=True, scale_range=0.15)
    draw = draw_augmentation(int(golden[f"s{index}_seed_drawn"]), spec)
    batch = augment_batch(
        torch.from_numpy(prepared.image_bgr_RR3).permute(2, 0, 1)[None] / 255.0,
        torch.from_numpy(prepared.masks_RR2).permute(2, 0, 1)[None] / 255.0,
        AugmentationBatch.stack([draw], torch.device("cpu")),
        warp=True,
        hsv=False,
    )

    def error(out: torch.Tensor, name: str) -> np.ndarray:
        return np.abs(out[0].permute(1, 2, 0).numpy() - golden[f"s{index}_{name}"])

    # The original shrinks without antialiasing: edges differ, areas do not.
    assert error(batch.target_NCHW, "target").mean() < 0.012
    assert error(batch.input_NCHW, "warped").mean() < 0.015
    assert error(batch.mask_N1HW, "mask").mean() < 0.015
    assert error(batch.eyes_mouth_N1HW, "em").mean() < 0.006
    both = (batch.mask_N1HW[0, 0].numpy() > 0.5) & (golden[f"s{index}_mask"][..., 0] > 0.5)
    either = (batch.mask_N1HW[0, 0].numpy() > 0.5) | (golden[f"s{index}_mask"][..., 0] > 0.5)
    assert both.sum() / either.sum() > 0.96


def test_masks_are_soft_ordered_and_inside_the_face(make_faces) -> None:
    prepared = SampleSet(make_faces(1, (120, 150, 220), 0), face_type=FaceType.WHOLE_FACE, resolution=64).prepared(0)
    face, eyes_mouth = prepared.masks_RR2[..., 0], prepared.masks_RR2[..., 1]
    assert 0.1 < (face > 127).mean() < 0.6
    assert 0.002 < (eyes_mouth > 127).mean() < 0.1
    assert not eyes_mouth[face == 0].any()


def test_arrays_and_encoded_bytes_are_the_same_face(make_faces) -> None:
    sample = make_faces(1, (120, 150, 220), 0)[0]
    pixels = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR)
    sets = [
        SampleSet([variant], face_type=FaceType.FULL, resolution=48)
        for variant in (sample, replace(sample, image=pixels))
    ]
    assert np.array_equal(sets[0].prepared(0).image_bgr_RR3, sets[1].prepared(0).image_bgr_RR3)


def test_without_a_cache_a_sample_is_the_same_every_time(make_faces) -> None:
    samples = make_faces(3, (120, 150, 220), 0)
    kept = SampleSet(samples, face_type=FaceType.WHOLE_FACE, resolution=32)
    dropped = SampleSet(samples, face_type=FaceType.WHOLE_FACE, resolution=32, cache_bytes=0)
    for index in (0, 2, 0):
        assert np.array_equal(kept.prepared(index).image_bgr_RR3, dropped.prepared(index).image_bgr_RR3)
        assert np.array_equal(kept.prepared(index).masks_RR2, dropped.prepared(index).masks_RR2)


def test_unusable_samples_are_named(make_faces) -> None:
    good = make_faces(1, (120, 150, 220), 0)[0]
    oblong = cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    bad = {
        "cannot be decoded": replace(good, image=b"not a picture", name="a.jpg"),
        "square": replace(good, image=oblong, name="a.jpg"),
        "mask must be square": replace(good, mask=oblong, name="a.jpg"),
    }
    for message, sample in bad.items():
        with pytest.raises(ValueError, match=rf"a\.jpg.*{message}"):
            SampleSet([sample], face_type=FaceType.WHOLE_FACE, resolution=32).prepared(0)
    with pytest.raises(ValueError, match="no faces"):
        SampleSet([], face_type=FaceType.WHOLE_FACE, resolution=32)
