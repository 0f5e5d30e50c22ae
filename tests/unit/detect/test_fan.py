"""FAN: the network's shapes, sub-pixel reading of heat maps, and crops there and back. Weights are random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ml_common.detect.fan import FAN, HourGlass, read_maps
from ml_common.detect.fan_landmarker import CropSquare, FANLandmarker, cut, square_of_detection, square_of_landmarks
from ml_common.detect.types import Detection

CPU = torch.device("cpu")
F64 = np.ndarray[Any, np.dtype[np.float64]]


def _gaussians(centres_M2: F64, sigma: float, height: float = 1.0) -> Tensor:
    y, x = np.mgrid[:64, :64]
    squared = (x - centres_M2[:, 0, None, None]) ** 2 + (y - centres_M2[:, 1, None, None]) ** 2
    return torch.from_numpy((height * np.exp(-squared / (2 * sigma**2))).astype(np.float32))[None]


def _quarter_rule(maps_1MHW: Tensor) -> F64:
    """The published decoding, spec/faceset 8.4, without the half cell to edge-based coordinates."""
    points = []
    for one in maps_1MHW[0].numpy():
        y, x = divmod(int(one.argmax()), 64)
        shift = np.zeros(2)
        if 0 < x < 63 and 0 < y < 63:
            shift = 0.25 * np.sign([one[y, x + 1] - one[y, x - 1], one[y + 1, x] - one[y - 1, x]])
        points.append(np.add([x, y], shift))
    return np.array(points)


def test_published_file_has_945_arrays() -> None:
    with torch.device("meta"):
        names = [name for name in FAN().state_dict() if not name.endswith("num_batches_tracked")]
    assert len(names) == 945
    assert "m.0.b2_plus.b2_plus.b2_plus.b2_plus.conv1.weight" in names
    assert [name for name in names if "down_" in name and name.endswith("conv1.weight")] == [
        "conv2.down_conv1.weight",
        "conv4.down_conv1.weight",
    ]


@torch.inference_mode()
def test_maps_have_a_quarter_of_the_crop() -> None:
    torch.manual_seed(0)
    network = FAN().eval()
    batch = torch.rand(1, 3, 256, 256)
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("conv1", "conv2", "conv3", "conv4", "m.3", "l.0"):
        network.get_submodule(name).register_forward_hook(
            lambda _module, _given, y, name=name: shapes.__setitem__(name, tuple(y.shape[1:]))
        )
    maps = network(batch)
    assert maps.shape == (1, 68, 64, 64)
    assert shapes == {
        "conv1": (64, 128, 128),
        "conv2": (128, 128, 128),
        "conv3": (128, 64, 64),
        "conv4": (256, 64, 64),
        "m.3": (256, 64, 64),
        "l.0": (68, 64, 64),
    }
    # Colours arrive as BGR and are turned for the network.
    assert not torch.allclose(network(batch.flip(1)), maps)


@torch.inference_mode()
def test_hourglass_adds_the_way_through_to_the_way_around() -> None:
    torch.manual_seed(0)
    glass = HourGlass(1).eval()
    x = torch.rand(1, 256, 4, 4)
    pooled = x.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean(dim=(3, 5))
    inner = glass.b3(glass.b2_plus(glass.b2(pooled)))
    torch.testing.assert_close(glass(x), glass.b1(x) + inner.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize("sigma", [1.0, 1.75, 2.5])
def test_gaussian_peaks_are_found_between_cells(sigma: float) -> None:
    centres = np.random.default_rng(2).uniform(4, 59, (68, 2))
    maps = _gaussians(centres, sigma, height=0.8)
    points, peaks = read_maps(maps)
    np.testing.assert_allclose(points[0], centres, atol=0.01)
    assert np.abs(_quarter_rule(maps) - centres).max() > 0.2
    assert ((peaks > 0.6) & (peaks <= 0.8)).all()


def test_noise_does_less_harm_than_to_the_quarter_rule() -> None:
    rng = np.random.default_rng(3)
    centres = rng.uniform(4, 59, (68, 2))
    maps = _gaussians(centres, 1.75, height=0.7) + torch.from_numpy(
        rng.normal(0, 0.02, (68, 64, 64)).astype(np.float32)
    )
    points, _ = read_maps(maps)
    error, quarter = (np.linalg.norm(found - centres, axis=1).mean() for found in (points[0], _quarter_rule(maps)))
    assert error < 0.08
    assert error < quarter / 3


def test_peaks_at_and_beyond_the_border() -> None:
    centres = np.array([[0.0, 0.0], [0.3, 62.8], [63.0, 31.4], [63.4, 63.4], [-0.4, 20.2]])
    points, _ = read_maps(_gaussians(centres, 1.75))
    np.testing.assert_allclose(points[0], centres, atol=0.01)
    outside = np.array([[-6.0, 30.0], [30.0, 80.0]])
    points, _ = read_maps(_gaussians(outside, 1.75))
    assert (np.abs(points[0] - np.clip(outside, 0, 63)) <= 0.5).all()


def test_ties_plateaus_and_empty_maps_give_the_highest_cell() -> None:
    maps = torch.zeros(1, 5, 64, 64)
    maps[0, 1] = 0.4  # flat
    maps[0, 2] = -1.0
    maps[0, 2, 7, 9] = -0.5  # negative everywhere
    maps[0, 3, 20:23, 30:33] = 0.7  # plateau
    maps[0, 4, 10, 12] = 0.6  # a single cell
    points, peaks = read_maps(maps)
    assert np.isfinite(points).all()
    assert points[0, :3].tolist() == [[0, 0], [0, 0], [9, 7]]
    assert (np.abs(points[0, 3] - [30, 20]) <= 0.5).all()
    np.testing.assert_allclose(points[0, 4], [12, 10], atol=1e-6)
    np.testing.assert_allclose(peaks[0], [0, 0.4, -0.5, 0.7, 0.6], atol=1e-6)
    tie = _gaussians(np.array([[20.5, 31.0]]), 1.75)
    np.testing.assert_allclose(read_maps(tie)[0][0], [[20.5, 31.0]], atol=0.01)


def test_first_crop_follows_the_published_rule() -> None:
    # Spec 8.3 with the lowered bottom of 7.3: H = 200 (w + 1.1 h) / 195 about the centre of the lowered box.
    square = square_of_detection(np.array([100.0, 50.0, 200.0, 170.0]), None)
    assert square.centre_xy_px == pytest.approx((150.0, 116.0))
    assert square.side_px == pytest.approx(200 * (100 + 132) / 195)
    assert square.roll_rad == 0.0


def _keypoints(roll: float, *, yaw_share: float = 1.0) -> F64:
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    level = np.array(
        [[-30 * yaw_share, -20], [30 * yaw_share, -20], [0, 0], [0, 40], [-60, -10], [60, -10]], np.float64
    )
    return level @ turn + [300, 400]


@pytest.mark.parametrize("yaw_share", [1.0, 0.0])
@pytest.mark.parametrize("roll", [0.0, 0.5, -2.9, 1.6])
def test_first_crop_lies_level_where_eyes_and_mouth_are_known(roll: float, yaw_share: float) -> None:
    box = np.array([100.0, 50.0, 200.0, 170.0])
    assert square_of_detection(box, _keypoints(roll, yaw_share=yaw_share)).roll_rad == pytest.approx(roll)
    unknown = _keypoints(roll)
    unknown[3] = np.nan
    assert square_of_detection(box, unknown).roll_rad == 0.0


def _face() -> F64:
    """68 points about as on a face 180 px wide, upright, in a frame of 640 x 480."""
    rng = np.random.default_rng(8)
    points = rng.uniform([-60, -40], [60, 60], (68, 2))
    jaw = np.linspace(np.pi, 0, 17)
    points[:17] = np.stack([90 * np.cos(jaw), 95 * np.sin(jaw)], axis=1)
    points[36:42], points[42:48], points[48:68] = [-38.3, -30.7], [38.9, -30.7], [0.5, 45.4]
    return points + np.array([320, 240])


def test_second_crop_turns_with_the_face_and_holds_it() -> None:
    points = _face()
    upright = square_of_landmarks(points)
    extent = np.ptp(points, axis=0)
    assert upright.side_px == pytest.approx(extent.sum(), rel=0.02)
    turn = np.array([[np.cos(0.8), -np.sin(0.8)], [np.sin(0.8), np.cos(0.8)]])
    turned = square_of_landmarks(points @ turn.T)
    assert turned.side_px == pytest.approx(upright.side_px)
    assert turned.roll_rad - upright.roll_rad == pytest.approx(0.8)
    np.testing.assert_allclose(turned.centre_xy_px, turn @ upright.centre_xy_px)


@pytest.mark.parametrize("side", [90.0, 256.0, 900.0])
@pytest.mark.parametrize("roll", [0.0, 0.7])
def test_crop_shows_what_its_matrix_says(side: float, roll: float) -> None:
    ramp = np.zeros((1000, 1000, 3), np.uint8)
    ramp[..., 0] = (np.arange(1000) // 4)[None]
    ramp[..., 1] = (np.arange(1000) // 4)[:, None]
    square = CropSquare((487.3, 520.6), side, roll)
    crop = cut(ramp, square)
    assert crop.shape == (256, 256, 3) and crop.dtype == np.uint8
    for x, y in ((40, 50), (128, 128), (200, 90)):
        there = square.crop_to_frame_23() @ [x, y, 1]
        np.testing.assert_allclose(crop[y, x, :2] * 4.0 + 1.5, there, atol=3.0)


def test_crop_is_black_outside_the_frame_and_its_corners_are_the_squares() -> None:
    crop = cut(np.full((64, 64, 3), 255, np.uint8), CropSquare((31.5, 31.5), 128.0, 0.0))
    assert crop[128, 128].tolist() == [255] * 3
    inside = crop[..., 0] > 127
    assert np.flatnonzero(inside.any(axis=0)).tolist() == list(range(64, 192))
    assert np.flatnonzero(inside.any(axis=1)).tolist() == list(range(64, 192))


class _SpotReader(nn.Module):
    """Stands in for the network: its map k peaks at the k-th of fixed places, wherever the one bright spot of the crop is.

    The place of map k relative to the spot is given in cells, so points must come out at the spot plus that, scaled and
    turned as the crop was.
    """

    def __init__(self, offsets_cells_68x2: F64, height: float) -> None:
        super().__init__()
        self.offsets = offsets_cells_68x2
        self.height = height
        self.spots_px: list[F64] = []

    def forward(self, batch_NCHW: Tensor) -> Tensor:
        assert batch_NCHW.shape[1:] == (3, 256, 256) and batch_NCHW.min() >= 0 and batch_NCHW.max() <= 1
        maps = []
        for crop in batch_NCHW:
            weights = crop[0].double().numpy()  # blue
            y, x = np.mgrid[:256, :256]
            spot = np.array([(x * weights).sum(), (y * weights).sum()]) / weights.sum()
            self.spots_px.append(spot)
            maps.append(_gaussians((spot - 1.5) / 4 + self.offsets, 1.75, self.height)[0])
        return torch.stack(maps)


def _spot_frame(x: float, y: float, width: int = 640, height: int = 480) -> np.ndarray[Any, Any]:
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = (255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 8.0**2))).round()
    return image


def _offsets() -> F64:
    """Places of the 68 points about the spot, in cells: eyes level, mouth below, bounds 30 x 30."""
    return (_face() - [320, 240]) / 6


def _landmarker(network: nn.Module, batch: int = 4) -> FANLandmarker:
    return FANLandmarker("fan2d", network, CPU, version="1+test", batch=batch)  # type: ignore[arg-type]


def test_points_return_to_the_frame() -> None:
    network = _SpotReader(_offsets(), 0.9)
    images = [_spot_frame(300.4, 200.2), _spot_frame(180.0, 260.7)]
    box = np.array([-80.0, -100.0, 80.0, 100.0])
    faces = [Detection(box + np.tile(at, 2), 0.9) for at in ((180, 260), (300, 200), (188, 255))]
    located = _landmarker(network, batch=2).locate(images, [1, 0, 1], faces)
    assert len(network.spots_px) == 6  # two looks at each face
    for one, spot in zip(located, ((180.0, 260.7), (300.4, 200.2), (180.0, 260.7)), strict=True):
        assert one is not None and one.mesh_px_468x3 is None
        assert one.score == pytest.approx(0.87, abs=0.03)
        # The spot's offset to the second crop's middle is known, so its place gives the scale away.
        cells = one.landmarks_px_68x2 - spot
        scale = np.ptp(cells, axis=0) / np.ptp(_offsets(), axis=0)
        assert scale[0] == pytest.approx(scale[1], rel=1e-2)
        np.testing.assert_allclose(cells, _offsets() * scale, atol=0.15)
    # The same face by two boxes: the second crop hardly knows the first.
    a, _, b = (one.landmarks_px_68x2 for one in located if one is not None)
    np.testing.assert_allclose(a, b, atol=0.15)


def test_what_peaks_low_is_no_face() -> None:
    face = Detection(np.array([220.0, 100, 380, 300]), 0.9)
    images = [_spot_frame(300, 200)]

    def sees(height: float, turned: bool) -> bool:
        (one,) = _landmarker(_SpotReader(_offsets(), height)).locate(images, [0], [face], turned=turned)
        return one is not None

    assert [sees(height, False) for height in (0.1, 0.2, 0.3, 0.5)] == [False, False, True, True]
    assert [sees(height, True) for height in (0.3, 0.5)] == [False, True]


def test_no_faces_no_points() -> None:
    assert _landmarker(_SpotReader(_offsets(), 0.9)).locate([], [], []) == []


def test_random_weights_run_through() -> None:
    torch.manual_seed(2)
    network = FAN().eval()
    face = Detection(np.array([-50.0, -30, 90, 120]), 0.9)  # reaches outside the frame
    landmarker = _landmarker(network)
    with torch.inference_mode():
        points, scores = landmarker._place(
            [_spot_frame(40, 40, 100, 90)], [0], [square_of_detection(face.box_px_4, None)]
        )
    assert points.shape == (1, 68, 2) and np.isfinite(points).all()
    assert scores.shape == (1,) and 0 <= scores[0] <= 1
