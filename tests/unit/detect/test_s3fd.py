"""S3FD: the network's shapes, what its heads mean, and frames through the detector. Weights are random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ml_common.detect.s3fd import S3FD, STRIDES_PX, Heads, L2Norm, decode, face_logit, suppress
from ml_common.detect.s3fd_detector import S3FDDetector, copy_size

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> S3FD:
    torch.manual_seed(1)
    return S3FD().eval()


def _map_sides(side_px: int) -> list[int]:
    """What spec/faceset 7.1 says of one side: halvings drop the odd pixel, fc6 adds 4, the last two halve upwards."""
    f3, f4, f5 = side_px // 4, side_px // 8, side_px // 16
    f7 = f5 // 2 + 4
    f6_2 = (f7 + 1) // 2
    return [f3, f4, f5, f7, f6_2, (f6_2 + 1) // 2]


def test_published_file_has_65_arrays(network: S3FD) -> None:
    assert len(list(network.parameters())) == 65
    assert sorted(set(network.state_dict()) - {name for name, _ in network.named_parameters()}) == ["mean_BGR"]


@torch.inference_mode()
def test_maps_have_the_sizes_of_the_specification(network: S3FD) -> None:
    batch = torch.rand(2, 3, 70, 101) * 255
    taps, heads = network.taps(batch), network(batch)
    assert [tap.shape[1] for tap in taps] == [256, 512, 512, 1024, 512, 256]
    for rows, columns, tap, (logits, loc) in zip(_map_sides(70), _map_sides(101), taps, heads, strict=True):
        assert tap.shape[2:] == logits.shape[1:] == loc.shape[2:] == (rows, columns)
        assert logits.shape[0] == 2 and loc.shape[:2] == (2, 4)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 1), (64, 1), (3, 50)])
def test_tiny_pictures_pass_filled_up_with_the_mean(network: S3FD, size: tuple[int, int]) -> None:
    batch = torch.rand(1, 3, *size) * 255
    full = network.mean_BGR[:, None, None].expand(1, 3, max(32, size[0]), max(32, size[1])).clone()
    full[..., : size[0], : size[1]] = batch
    for (logits, loc), (whole_logits, whole_loc) in zip(network(batch), network(full), strict=True):
        torch.testing.assert_close(logits, whole_logits)
        torch.testing.assert_close(loc, whole_loc)


def test_first_head_takes_the_best_of_three_backgrounds() -> None:
    scores = torch.tensor([[0.1, 2.0, -1.0, 2.5], [3.0, 0.0, 0.0, 2.5]])[:, :, None, None]
    torch.testing.assert_close(face_logit(scores)[:, 0, 0], torch.tensor([0.5, -0.5]))
    two = torch.tensor([[0.3, 1.0]])[:, :, None, None]
    assert torch.sigmoid(face_logit(two)).item() == pytest.approx(torch.softmax(two, 1)[0, 1].item())


def test_l2_norm_scales_every_pixel_to_the_weights() -> None:
    norm = L2Norm(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([10.0, 10.0, 5.0]))
        y = norm(torch.tensor([3.0, 0.0, 4.0])[None, :, None, None])
        assert torch.equal(norm(torch.zeros(1, 3, 2, 2)), torch.zeros(1, 3, 2, 2))
    torch.testing.assert_close(y[0, :, 0, 0], torch.tensor([6.0, 0.0, 4.0]))


def _empty_heads(height: int, width: int, pictures: int = 1) -> Heads:
    sides = zip(_map_sides(height), _map_sides(width), strict=True)
    return [(torch.full((pictures, h, w), -20.0), torch.zeros(pictures, 4, h, w)) for h, w in sides]


def _plant(heads: Heads, level: int, picture: int, box: tuple[float, ...], score: float) -> None:
    """Writes a box into the cell whose anchor is nearest: the inverse of the decoding, from the specification."""
    stride = STRIDES_PX[level]
    left, top, right, bottom = box
    column, row = (round((a + b) / 2 / stride - 0.5) for a, b in ((left, right), (top, bottom)))
    logits, loc = heads[level]
    logits[picture, row, column] = float(np.log(score / (1 - score)))
    for channel, (low, high, cell) in enumerate(((left, right, column), (top, bottom, row))):
        loc[picture, channel, row, column] = ((low + high) / 2 - (cell * stride + stride / 2)) / (0.1 * 4 * stride)
        loc[picture, channel + 2, row, column] = float(np.log((high - low) / (4 * stride)) / 0.2)


@pytest.mark.parametrize("level", range(6))
def test_planted_boxes_are_read_back(level: int) -> None:
    heads = _empty_heads(640, 640, pictures=3)
    side = 4.0 * STRIDES_PX[level]
    box = (201.3, 160.7, 201.3 + side * 0.9, 160.7 + side * 1.3)
    _plant(heads, level, 1, box, 0.8)
    picture, boxes, scores = decode(heads, 0.5)
    assert picture.tolist() == [1]
    np.testing.assert_allclose(boxes[0].numpy(), box, atol=1e-3)
    assert scores.item() == pytest.approx(0.8, abs=1e-6)
    assert len(decode(heads, 0.81)[0]) == 0


def test_suppression_counts_the_last_pixel() -> None:
    # Sides 10: IoU by plain sides 5 x 10 / 150 = 1/3; with one pixel more 6 x 11 / (242 - 66) = 0.375. By 6 px: 4/16 = 0.25
    # against 55 / 187 = 0.294; by 5.8 px the two rules disagree about 0.3.
    first = [0.0, 0.0, 10.0, 10.0]
    boxes = np.array([first, [5.8, 0, 15.8, 10], [6.2, 0, 16.2, 10], [30, 30, 40, 40]], dtype=np.float64)
    assert suppress(boxes[[0, 1]], np.array([0.9, 0.8])).tolist() == [0]
    assert suppress(boxes[[0, 2]], np.array([0.8, 0.9])).tolist() == [1, 0]
    assert suppress(boxes, np.array([0.6, 0.9, 0.7, 0.7])).tolist() == [1, 3]
    assert suppress(np.zeros((0, 4)), np.zeros(0)).tolist() == []


def test_what_is_suppressed_suppresses_nothing() -> None:
    chain = np.array([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    assert suppress(chain, np.array([0.9, 0.8, 0.7])).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("size", "smallest", "coarse", "expected"),
    [
        ((1920, 1080), None, False, (640, 360)),
        ((3840, 2160), None, False, (640, 360)),
        ((1279, 400), None, False, (639, 200)),
        ((1080, 1920), None, False, (360, 640)),
        ((100, 50), None, False, (64, 32)),
        ((20, 3), None, False, (64, 9)),
        ((3000, 1), None, False, (640, 1)),
        ((3840, 2160), 32.0, False, (1920, 1080)),
        ((1920, 1080), 8.0, False, (3840, 2160)),
        ((1920, 1080), 500.0, False, (640, 360)),
        ((1920, 1080), 8.0, True, (192, 108)),
        ((200, 200), None, True, (100, 100)),
    ],
)
def test_size_of_the_copy(
    size: tuple[int, int], smallest: float | None, coarse: bool, expected: tuple[int, int]
) -> None:
    assert copy_size(size, smallest, coarse) == expected


class _Planted(nn.Module):
    """Stands in for the network: the same boxes in every picture, and a box at its brightest pixel."""

    def __init__(self, plant: Callable[[Heads, int], None]) -> None:
        super().__init__()
        self.plant = plant
        self.seen: list[tuple[int, ...]] = []

    def forward(self, batch_NCHW: Tensor) -> Heads:
        self.seen.append(tuple(batch_NCHW.shape))
        heads = _empty_heads(batch_NCHW.shape[2], batch_NCHW.shape[3], len(batch_NCHW))
        for picture, channels in enumerate(batch_NCHW):
            where = int(channels.sum(dim=0).argmax())
            row, column = divmod(where, batch_NCHW.shape[3])
            x, y = column + 0.5, row + 0.5
            _plant(heads, 1, picture, (x - 15, y - 20, x + 15, y + 20), 0.7)
            self.plant(heads, picture)
        return heads


def _detector(
    network: nn.Module, *, smallest_face_px: float | None = None, batch_px: int = 2 * 640 * 360
) -> S3FDDetector:
    return S3FDDetector(
        network,  # type: ignore[arg-type]
        CPU,
        version="1+test",
        min_score=0.5,
        batch_px=batch_px,
        smallest_face_px=smallest_face_px,
    )


def _dot(width: int, height: int, x: int, y: int, side: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[y : y + side, x : x + side] = 255
    return image


def test_boxes_return_to_the_frame_around_what_the_network_saw() -> None:
    network = _Planted(lambda heads, picture: None)
    # Dots of 3 px fill one pixel of the copy exactly, so its centre is theirs: 900 + 1, 300 + 1.
    images = [_dot(1920, 1080, 900, 300, 3), _dot(512, 512, 100, 200, 2), _dot(1920, 1080, 30, 600, 3)]
    faces = _detector(network).detect(images)
    assert network.seen == [(2, 3, 360, 640), (1, 3, 256, 256)]
    for (face,), centre, factor in zip(faces, ((901, 301), (100.5, 200.5), (31, 601)), (3, 2, 3), strict=True):
        half = np.array([15, 20]) * factor
        np.testing.assert_allclose(face.box_px_4, np.concatenate([centre - half, centre + half]), atol=1e-3)
        assert face.score == pytest.approx(0.7) and face.keypoints_px_62 is None


def test_best_first_and_twins_gone() -> None:
    def plant(heads: Heads, picture: int) -> None:
        _plant(heads, 2, picture, (100.0, 100, 170, 180), 0.9)
        _plant(heads, 3, picture, (102.0, 104, 173, 181), 0.85)

    (faces,) = _detector(_Planted(plant)).detect([_dot(1920, 1080, 1500, 900, 3)])
    assert [round(face.score, 3) for face in faces] == [0.9, 0.7]


def test_smallest_face_enlarges_the_copy_and_limits_the_boxes() -> None:
    frames = [_dot(1920, 1080, 960, 540, 3)]
    network = _Planted(lambda heads, picture: None)
    assert (
        len(_detector(network, smallest_face_px=16.0).detect(frames)[0]) == 1
    )  # 30 px of a copy as large as the frame
    assert network.seen == [(1, 3, 1080, 1920)]
    assert _detector(network, smallest_face_px=91.0).detect(frames) == [[]]  # 30 px of a third of it are 90 px


def test_batches_hold_so_many_pixels() -> None:
    network = _Planted(lambda heads, picture: None)
    frames = [_dot(1920, 1080, 30 * i, 600, 3) for i in range(5)]
    _detector(network, batch_px=2 * 640 * 360).detect(frames)
    _detector(network, batch_px=1).detect(frames[:2], coarse=True)
    assert [seen[0] for seen in network.seen] == [2, 2, 1, 1, 1]
    assert network.seen[-1][2:] == (108, 192)


def test_company_and_size_do_not_matter(network: S3FD) -> None:
    rng = np.random.default_rng(4)
    images = [
        rng.integers(0, 256, size, dtype=np.uint8) for size in ((90, 120, 3), (60, 200, 3), (90, 120, 3), (1, 1, 3))
    ]
    detector = _detector(network)
    together = detector.detect(images)
    for image, faces in zip(images, together, strict=True):
        (alone,) = detector.detect([image])
        assert len(alone) == len(faces)
        for a, b in zip(alone, faces, strict=True):
            np.testing.assert_allclose(a.box_px_4, b.box_px_4, atol=1e-3)
    assert detector.detect([]) == []
    assert sum(len(faces) for faces in together) > 0, "random weights should fire somewhere, or this shows nothing"
