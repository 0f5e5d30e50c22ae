"""What is drawn: the reference flavour number for number, the default flavour by its properties."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ml_common.augment import AugmentationBatch, AugmentSpec, draw_augmentation, sampling_positions
from ml_common.augment.parameters import reference_warp_nodes

GOLDEN = Path(__file__).parents[2] / "golden" / "augment"


def reference_map_x(seed: int, size: int) -> np.ndarray:
    """The horizontal warp map as the original makes it: nodes, enlarged by a cell, cropped by half a cell all round."""
    nodes, _ = reference_warp_nodes(seed, size)
    cell = size // (len(nodes) - 1)
    enlarged = cv2.resize(nodes, (size + cell, size + cell))
    return enlarged[cell // 2 : -(cell // 2), cell // 2 : -(cell // 2)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_reference_map_is_the_originals_to_one_unit_in_the_last_place(seed: int) -> None:
    golden = np.load(GOLDEN / "warp.npz")[f"s{seed}_r64_mapx"]
    # The map was recorded with OpenCV 4.10; resize in OpenCV 5 rounds the last bit of some pixels the other way.
    assert np.abs(reference_map_x(seed, 64) - golden).max() <= np.spacing(np.float32(63.0))


def test_reference_map_at_256_pixels_has_the_specifications_values() -> None:
    row = reference_map_x(5, 256)[64, [0, 64, 128, 192]]
    np.testing.assert_allclose(row, [0.498961, 63.216945, 128.470901, 194.885117], atol=2e-5)
    assert reference_map_x(7, 256)[128, 128] == pytest.approx(142.35617, abs=2e-5)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("size", [64, 96, 128, 224])
def test_reference_affine_is_the_originals(seed: int, size: int) -> None:
    golden = np.load(GOLDEN / "warp.npz")
    spec = AugmentSpec(resolution=size, flavour="reference", flip=True, scale_range=0.15)
    output_to_crop = draw_augmentation(seed, spec).output_to_crop_2x3.copy()
    if golden[f"s{seed}_r64_flip"]:
        output_to_crop[:, 2] += output_to_crop[:, 0] * (size - 1)
        output_to_crop[:, 0] *= -1
    crop_to_output = cv2.invertAffineTransform(output_to_crop)
    np.testing.assert_allclose(crop_to_output, golden[f"s{seed}_r{size}_rmat"], atol=1e-10)


@pytest.mark.parametrize("seed", range(6))
def test_nine_by_nine_nodes_reproduce_the_reference_map_whatever_its_cell(seed: int) -> None:
    spec = AugmentSpec(resolution=64, flavour="reference", scale_range=0.0)
    draw = draw_augmentation(seed, spec)
    upright = AugmentationBatch(
        output_to_crop_N23=torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]),
        nodes_px_N299=torch.from_numpy(draw.nodes_px_2x9x9)[None],
        hsv_shift_N3=torch.zeros(1, 3),
        warp_bias_px=draw.warp_bias_px,
    )
    _, positions_NHW2 = sampling_positions(upright, 64)
    np.testing.assert_allclose(positions_NHW2[0, :, :, 0], reference_map_x(seed, 64), atol=1e-4)
    np.testing.assert_allclose(positions_NHW2[0, :, :, 1], reference_map_x(seed, 64).T, atol=1e-4)


def test_default_displacement_has_the_references_amplitude_and_independent_axes() -> None:
    spec = AugmentSpec(resolution=128)
    nodes = np.stack([draw_augmentation(seed, spec).nodes_px_2x9x9 for seed in range(3000)])
    reference = np.stack(
        [
            draw_augmentation(seed, AugmentSpec(resolution=128, flavour="reference")).nodes_px_2x9x9
            for seed in range(3000)
        ]
    )
    middle, middle_reference = nodes[:, :, 4, 4], reference[:, :, 4, 4]
    assert middle[:, 0].std() == pytest.approx(middle_reference[:, 0].std(), rel=0.06)
    assert middle[:, 1].std() == pytest.approx(middle_reference[:, 1].std(), rel=0.06)
    assert abs(middle.mean()) < 0.4
    assert abs(np.corrcoef(middle[:, 0], middle[:, 1])[0, 1]) < 0.06
    assert np.corrcoef(middle_reference[:, 0], middle_reference[:, 1])[0, 1] > 0.99  # the defect that is mended
    assert not nodes[:, :, [0, 8], :].any() and not nodes[:, :, :, [0, 8]].any()  # the border stands still


def test_default_affine_stays_in_its_ranges_and_flips_half_of_the_time() -> None:
    size = 96
    draws = [draw_augmentation(seed, AugmentSpec(resolution=size, flip=True, scale_range=0.2)) for seed in range(2000)]
    linear = np.stack([np.linalg.inv(draw.output_to_crop_2x3[:, :2]) for draw in draws])
    determinant = np.linalg.det(linear)
    scale = np.sqrt(np.abs(determinant))
    rotation = np.degrees(np.arctan2(linear[:, 0, 1], linear[:, 1, 1]))
    assert 1 / 1.2 - 1e-9 <= scale.min() < 0.85 and 1.18 < scale.max() <= 1.2 + 1e-9
    assert np.abs(rotation).max() <= 10.0 + 1e-6 and np.abs(rotation).max() > 9.5
    assert 0.45 < (determinant < 0).mean() < 0.55
    centre = np.full(2, (size - 1) / 2)
    moved = np.stack([draw.output_to_crop_2x3[:, :2] @ centre + draw.output_to_crop_2x3[:, 2] for draw in draws])
    # The centre moves by the shift alone, divided by the scale: the rotation is about it.
    assert np.abs(moved - centre).max() <= np.sqrt(2) * 0.05 * size * 1.2 + 1e-6


def test_a_draw_depends_on_nothing_but_seed_and_spec() -> None:
    spec = AugmentSpec(resolution=64, flip=True, hsv_power=0.1)
    np.random.seed(1)
    first = draw_augmentation(11, spec)
    np.random.seed(2)
    again, other = draw_augmentation(11, spec), draw_augmentation(12, spec)
    assert np.array_equal(first.nodes_px_2x9x9, again.nodes_px_2x9x9)
    assert np.array_equal(first.output_to_crop_2x3, again.output_to_crop_2x3)
    assert np.array_equal(first.hsv_shift_3, again.hsv_shift_3)
    assert not np.array_equal(first.output_to_crop_2x3, other.output_to_crop_2x3)


def test_switching_flip_or_hsv_leaves_the_rest_of_the_draw_alone() -> None:
    bare = draw_augmentation(5, AugmentSpec(resolution=64))
    full = draw_augmentation(5, AugmentSpec(resolution=64, flip=True, hsv_power=0.3))
    assert np.array_equal(bare.nodes_px_2x9x9, full.nodes_px_2x9x9)
    assert np.linalg.det(bare.output_to_crop_2x3[:, :2]) == pytest.approx(
        abs(np.linalg.det(full.output_to_crop_2x3[:, :2]))
    )


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"resolution": 100}, "multiple of 16"),
        ({"resolution": 48, "flavour": "reference"}, "64"),
        ({"resolution": 64, "flavour": "other"}, "flavour"),
        ({"resolution": 64, "scale_range": -0.1}, "scale_range"),
        ({"resolution": 64, "hsv_power": 2.0}, "hsv_power"),
    ],
)
def test_a_bad_spec_is_refused_by_name(options: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        AugmentSpec(**options)


def test_flavours_do_not_mix_in_a_batch() -> None:
    draws = [draw_augmentation(0, AugmentSpec(resolution=64, flavour=flavour)) for flavour in ("default", "reference")]
    with pytest.raises(ValueError, match="one flavour"):
        AugmentationBatch.stack(draws, torch.device("cpu"))
