"""The batched HSV shift against OpenCV and against the original's output."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ml_common.augment import AugmentationBatch, AugmentSpec, augment_batch, draw_augmentation, shift_hsv

GOLDEN = Path(__file__).parents[2] / "golden" / "augment"


@pytest.mark.parametrize("shift", [(0, 0, 0), (37, 0.1, -0.05), (-120, -0.4, 0.3), (359, 0.9, 0.9), (5, -1.0, 0.0)])
def test_shift_is_opencvs(shift: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    image = rng.random((40, 50, 3), np.float32)
    image[:5] = 0.5  # grey: no hue
    image[5:10] = 0.0
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    hsv[..., 0] = (hsv[..., 0] + shift[0]) % 360
    hsv[..., 1:] = np.clip(hsv[..., 1:] + shift[1:], 0, 1)
    expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR).clip(0, 1)
    batch = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    shifted = shift_hsv(batch, torch.tensor([shift], dtype=torch.float32))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(shifted, expected, atol=2e-5)


def test_reference_flavour_draws_and_applies_the_originals_shift() -> None:
    golden = np.load(GOLDEN / "sample_processor.npz")
    stored = cv2.imread(str(GOLDEN / "face_1.jpg")).astype(np.float32) / 255
    image = cv2.resize(stored, (64, 64), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    spec = AugmentSpec(resolution=64, flavour="reference", flip=True, scale_range=0.15, hsv_power=0.1)
    draws = AugmentationBatch.stack([draw_augmentation(327741615, spec)], torch.device("cpu"))
    batch = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    out = augment_batch(batch, torch.zeros(1, 2, 64, 64), draws, warp=False, hsv=True)
    error = np.abs(out.input_NCHW[0].permute(1, 2, 0).numpy() - golden["hsv01"])
    assert error.mean() < 1e-3 and error.max() < 0.02
