"""MTCNN: its weights, the geometry between its networks by planted outputs, and faces with the real weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ml_common import weights
from ml_common.detect import FaceFinder, load_finder
from ml_common.detect.mtcnn import (
    Mtcnn,
    OutputNet,
    ProposalNet,
    RefineNet,
    boxes_of_cells,
    level_sizes,
    moved,
    normalised,
    squared,
    suppress,
)
from ml_common.detect.mtcnn_detector import MtcnnDetector, _Copies
from ml_common.detect.mtcnn_keys import PARTS, convert, recognise_part, shapes_of
from ml_common.synthetic import IDENTITIES, FrameState, render

Array = np.ndarray[Any, Any]
CPU = torch.device("cpu")


def _published(seed: int = 0) -> dict[str, dict[str, Array]]:
    random = np.random.default_rng(seed)
    return {
        part: {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes_of(part).items()}
        for part in PARTS
    }


def _random_net() -> Mtcnn:
    net = Mtcnn()
    net.load_state_dict({name: torch.from_numpy(array) for name, array in convert(_published()).items()})
    return net.eval()


def test_published_files_become_our_state_dict() -> None:
    published = _published()
    state = convert(published)
    ours = Mtcnn().state_dict()
    assert {name: array.shape for name, array in state.items()} == {name: tuple(t.shape) for name, t in ours.items()}
    assert all(array.dtype == np.float32 for array in state.values())
    maps_NCHW = torch.rand(2, 64, 3, 3)
    theirs = maps_NCHW.permute(0, 3, 2, 1).flatten(1).numpy() @ published["rnet"]["dense4.weight"].T
    np.testing.assert_allclose(maps_NCHW.flatten(1).numpy() @ state["rnet.dense4.weight"].T, theirs, atol=1e-5)


def test_parts_are_recognised_by_their_shapes() -> None:
    for part in PARTS:
        assert recognise_part(shapes_of(part)) == part
    assert recognise_part({**shapes_of("pnet"), "conv1.weight": (10, 1, 3, 3)}) is None
    assert recognise_part({**shapes_of("pnet"), "more": (1,)}) is None
    incomplete = _published()
    del incomplete["onet"]["dense5.bias"]
    with pytest.raises(ValueError, match="onet"):
        convert(incomplete)
    with pytest.raises(ValueError, match="rnet"):
        convert({"pnet": incomplete["pnet"]})


def test_outputs_have_the_shapes_that_the_cascade_expects() -> None:
    net = _random_net()
    with torch.inference_mode():
        belief, offsets = net.pnet(torch.rand(2, 3, 41, 30))
        assert belief.shape == (2, 16, 10)  # one window of 12 px every 2 px, the last reaching over the edge
        assert offsets.shape == (2, 4, 16, 10)
        belief, offsets = net.rnet(torch.rand(5, 3, 24, 24))
        assert belief.shape == (5,)
        assert offsets.shape == (5, 4)
        belief, offsets, points = net.onet(torch.rand(5, 3, 48, 48))
        assert (belief.shape, offsets.shape, points.shape) == ((5,), (5, 4), (5, 5, 2))
        assert 0 <= belief.min() <= belief.max() <= 1


def test_five_points_come_as_all_x_then_all_y() -> None:
    net = OutputNet().eval()
    nn.init.zeros_(net.dense6_3.weight)
    net.dense6_3.bias.data = torch.arange(10.0)
    with torch.inference_mode():
        points = net(torch.zeros(1, 3, 48, 48))[2]
    assert points.tolist() == [[[0, 5], [1, 6], [2, 7], [3, 8], [4, 9]]]


def test_one_window_sees_what_the_network_sees() -> None:
    """The belief at a cell of a large picture is that of its 12 px window alone: the geometry of stride and cell."""
    net = _random_net().pnet
    picture = torch.rand(1, 3, 40, 50)
    with torch.inference_mode():
        belief, _ = net(picture)
        for row, column in ((0, 0), (3, 7), (13, 18)):
            alone, _ = net(picture[:, :, 2 * row : 2 * row + 12, 2 * column : 2 * column + 12])
            assert alone.shape == (1, 1, 1)
            torch.testing.assert_close(alone[0, 0, 0], belief[0, row, column])


def test_normalisation_is_of_rgb() -> None:
    tiles = np.zeros((1, 2, 2, 3), np.uint8)
    tiles[..., 2] = 255  # red, in BGR
    batch = normalised(torch.from_numpy(tiles))
    assert batch[0, :, 0, 0].tolist() == [127.5 / 128, -127.5 / 128, -127.5 / 128]


def test_levels_go_from_the_smallest_face_to_the_whole_picture() -> None:
    sizes = level_sizes((1920, 1080), 40)
    assert sizes[0] == (576, 324)
    assert min(sizes[-1]) >= 12
    assert min(sizes[-1]) * 0.709 < 12
    for larger, smaller in pairwise(sizes):
        assert smaller[0] / larger[0] == pytest.approx(0.709, abs=0.02)
    assert level_sizes((1920, 1080), 6)[0] == (3840, 2160)
    assert level_sizes((39, 400), 40) == []
    assert level_sizes((1, 1), 40) == []


def test_boxes_of_cells_by_numbers() -> None:
    boxes = boxes_of_cells(
        np.array([[0.0, 0.0], [3.0, 5.0]]), np.array([[0, 0, 0, 0], [0.25, -0.5, -0.25, 0.5]]), np.array([10.0, 20.0])
    )
    assert boxes.tolist() == [[0, 0, 120, 240], [90, 80, 150, 560]]


def test_offsets_are_shares_of_the_boxs_sides() -> None:
    assert moved(np.array([[10.0, 20.0, 20.0, 60.0]]), np.array([[0.1, 0.1, -0.1, 0.5]])).tolist() == [[11, 24, 19, 80]]


def test_squares_keep_the_centre_and_the_longer_side() -> None:
    assert squared(np.array([[0.0, 0.0, 10.0, 30.0], [5.0, 5.0, 25.0, 15.0]])).tolist() == [
        [-10, 0, 20, 30],
        [5, 0, 25, 20],
    ]
    assert squared(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize(("max_iou", "max_inside"), [(0.5, 1.0), (0.3, 0.7), (0.7, 1.0)])
def test_suppression_agrees_with_one_box_after_another(max_iou: float, max_inside: float) -> None:
    random = np.random.default_rng(3)
    corners = random.uniform(0, 60, (400, 2))
    boxes = np.concatenate([corners, corners + random.uniform(5, 40, (400, 2))], axis=1)
    scores = random.uniform(0, 1, 400).round(2)  # with ties
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        for other in kept:
            low, high = np.maximum(boxes[index, :2], boxes[other, :2]), np.minimum(boxes[index, 2:], boxes[other, 2:])
            inner = np.prod(np.maximum(high - low, 0))
            area, others = (np.prod(boxes[i, 2:] - boxes[i, :2]) for i in (index, other))
            if inner > max_iou * (area + others - inner) or inner > max_inside * min(area, others):
                break
        else:
            kept.append(int(index))
    assert suppress(boxes, scores, max_iou=max_iou, max_inside=max_inside).tolist() == kept
    assert suppress(np.zeros((0, 4)), np.zeros(0), max_iou=0.5).tolist() == []


@pytest.mark.parametrize(
    ("left", "side", "gain", "tolerance_px"),
    [(3.3, 24.0, 8, 0.1), (2.7, 20.5, 8, 0.1), (10.0, 12.0, 8, 0.1), (20.7, 60.5, 1, 1.0), (10.2, 150.4, 1, 1.0)],
)
def test_crops_lie_where_their_square_is(left: float, side: float, gain: int, tolerance_px: float) -> None:
    """In a picture whose value says its column, each pixel of a crop says where it was taken."""
    ramp = np.tile(np.arange(0, 256, gain, dtype=np.uint8), (200, 1))
    crop = _Copies(cv2.merge([ramp] * 3)).crop(np.array([left, 4, left + side, 4 + side]), 24)
    expected = left + (np.arange(24) + 0.5) * side / 24 - 0.5
    assert np.abs(crop[:, :, 0] / gain - expected).max() <= tolerance_px


def test_crops_are_black_outside() -> None:
    crop = _Copies(np.full((100, 100, 3), 200, np.uint8)).crop(np.array([-50.0, -50.0, 50.0, 50.0]), 24)
    assert crop[:11].max() == 0
    assert crop[13:, 13:].min() == 200


class _BrightProposal(nn.Module):
    """Sure of windows that are bright in good part."""

    def forward(self, batch_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        share = (nn.functional.avg_pool2d(batch_NCHW.mean(dim=1), 12, 2) + 1) / 2
        return ((share > 0.3) & (share < 0.9)).float(), torch.zeros(len(batch_NCHW), 4, *share.shape[1:])


class _BrightRefine(nn.Module):
    """Sure of everything, and makes boxes a fifth larger."""

    def forward(self, batch_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones(len(batch_NCHW)), torch.tensor([-0.1, -0.1, 0.1, 0.1]).expand(len(batch_NCHW), 4)


class _BrightOutput(nn.Module):
    """Sure of crops with all of something bright in them, frames it exactly, and points at fixed places of the crop."""

    def forward(self, batch_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bright = ((batch_NCHW.mean(dim=1) + 1) / 2).clamp(0, 1)
        whole = torch.ones(len(bright))
        edges = []
        for profile in (bright.amax(dim=1), bright.amax(dim=2)):
            middle = (profile * (torch.arange(48) + 0.5)).sum(dim=1) / profile.sum(dim=1)
            half = profile.sum(dim=1) / 2
            edges.append(((middle - half) / 48, (middle + half) / 48 - 1))
            whole *= (profile[:, [0, -1]].amax(dim=1) < 0.05).float()
        offsets = torch.stack([edges[0][0], edges[1][0], edges[0][1], edges[1][1]], dim=1)
        points = torch.tensor([[0.2, 0.3], [0.8, 0.3], [0.5, 0.5], [0.3, 0.8], [0.7, 0.8]])
        return whole, offsets, points.expand(len(batch_NCHW), 5, 2)


def _planted(**settings: Any) -> MtcnnDetector:
    net = Mtcnn()
    net.pnet, net.rnet, net.onet = _BrightProposal(), _BrightRefine(), _BrightOutput()  # type: ignore[assignment]
    return MtcnnDetector(net, CPU, version="planted", min_score=0.9, **settings)


def _square(size_xy: tuple[int, int], left: int, top: int, side: int) -> Array:
    picture = np.zeros((size_xy[1], size_xy[0], 3), np.uint8)
    picture[top : top + side, left : left + side] = 255
    return picture


@pytest.mark.parametrize(("left", "top", "side"), [(100, 60, 42), (200, 90, 130), (330, 40, 85), (31, 77, 201)])
def test_a_planted_face_is_found_where_it_is(left: int, top: int, side: int) -> None:
    (found,) = _planted().detect([_square((640, 360), left, top, side)])
    (face,) = found
    truth = np.array([left, top, left + side, top + side]) - 0.5  # the outer edges of its pixels
    assert np.abs(face.box_px_4 - truth).max() < 0.02 * side


def test_keypoints_are_shares_of_the_crop_that_the_last_network_saw() -> None:
    seen: list[Tensor] = []

    class Watched(_BrightOutput):
        def forward(self, batch_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            seen.append(batch_NCHW)
            return super().forward(batch_NCHW)

    detector = _planted()
    detector._net.onet = Watched()  # type: ignore[assignment]
    ((face,),) = detector.detect([_square((640, 360), 200, 90, 130)])
    points = face.keypoints_px_62
    assert points is not None
    assert np.isnan(points[4:]).all()
    # The planted points span 0.6 of the crop across and 0.5 down; the mouth is the middle of its corners.
    across, down = (points[1] - points[0])[0] / 0.6, (points[3] - points[0])[1] / 0.5
    assert across == pytest.approx(down)
    corner = points[0] - np.array([0.2, 0.3]) * across
    np.testing.assert_allclose(points[2:4], corner + np.array([[0.5, 0.5], [0.5, 0.8]]) * across)
    # That square shows the bright one where one of the crops did.
    share = 130 / across
    assert any(abs((((crop.mean(dim=0) + 1) / 2).mean().sqrt()) - share) < 0.03 for crop in torch.cat(seen))


def test_pictures_of_a_call_do_not_touch_each_other() -> None:
    pictures = [
        _square((320, 240), 40, 50, 60),
        np.zeros((30, 30, 3), np.uint8),
        _square((200, 500), 20, 300, 90),
        _square((320, 240), 150, 20, 45),
        np.full((1, 1, 3), 255, np.uint8),
    ]
    detector = _planted()
    together = detector.detect(pictures)
    for picture, faces in zip(pictures, together, strict=True):
        (alone,) = detector.detect([picture])
        assert [face.box_px_4.tolist() for face in alone] == [face.box_px_4.tolist() for face in faces]
    assert [bool(faces) for faces in together] == [True, False, True, True, False]
    assert detector.detect([]) == []


def test_coarse_and_smallest_say_how_small_faces_may_be() -> None:
    picture = _square((960, 540), 300, 200, 40)
    assert _planted().detect([picture])[0]
    assert not _planted().detect([picture], coarse=True)[0]
    assert not _planted(smallest_face_px=76).detect([picture])[0]
    small = _square((960, 540), 300, 200, 20)
    assert not _planted().detect([small])[0]
    assert _planted(smallest_face_px=20).detect([small])[0]


def test_out_of_memory_makes_batches_smaller() -> None:
    class Small(_BrightRefine):
        def forward(self, batch_NCHW: Tensor) -> tuple[Tensor, Tensor]:
            if len(batch_NCHW) > 3:
                raise MemoryError
            return super().forward(batch_NCHW)

    picture = _square((640, 360), 200, 90, 130)
    (expected,) = _planted().detect([picture])
    detector = _planted()
    detector._net.rnet = Small()  # type: ignore[assignment]
    (found,) = detector.detect([picture])
    assert [face.box_px_4.tolist() for face in found] == [face.box_px_4.tolist() for face in expected]


def test_modules_have_no_more_than_the_published_layers() -> None:
    for part, module in (("pnet", ProposalNet()), ("rnet", RefineNet()), ("onet", OutputNet())):
        assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == shapes_of(part)


@pytest.fixture(scope="module")
def mtcnn(weights_dir: Path) -> FaceFinder:
    if weights.status("mtcnn", weights_dir).state != "ok":
        pytest.skip("MTCNN's weights are not here: `understudy weights fetch --with mtcnn` brings them")
    return load_finder(weights_dir, CPU, detector="mtcnn")


@pytest.mark.parametrize(("name", "yaw_deg"), [("ada", 0.0), ("chidi", 30.0), ("mei", -30.0)])
def test_rendered_heads_are_found(mtcnn: FaceFinder, name: str, yaw_deg: float) -> None:
    frame = render(IDENTITIES[name], FrameState(yaw_deg=yaw_deg), 640, 480)
    truth = frame.landmarks_px_68x2
    (faces,) = mtcnn.detector.detect([frame.image_bgr_HWC])
    assert len(faces) == 1
    assert faces[0].score > mtcnn.detector.clear_score
    points = np.array(
        [truth[36:42].mean(axis=0), truth[42:48].mean(axis=0), truth[30], (truth[48] + truth[54]) / 2],
    )
    assert faces[0].keypoints_px_62 is not None
    errors = np.linalg.norm(faces[0].keypoints_px_62[:4] - points, axis=1) / np.linalg.norm(truth[36] - truth[45])
    assert errors.mean() < 0.1
    slack = 0.05 * (faces[0].box_px_4[2] - faces[0].box_px_4[0])
    assert (faces[0].box_px_4[:2] < truth[17:].min(axis=0) + slack).all()
    assert (faces[0].box_px_4[2:] > truth[17:].max(axis=0) - slack).all()


def test_the_finder_turns_frames_for_it(mtcnn: FaceFinder) -> None:
    frame = render(IDENTITIES["bruno"], FrameState(), 480, 360)
    lying = np.ascontiguousarray(np.rot90(frame.image_bgr_HWC))
    (faces,) = mtcnn.find([lying])
    assert len(faces) == 1
    x, y = frame.landmarks_px_68x2[30]
    assert np.linalg.norm(faces[0].landmarks_px_68x2[30] - [y, 479 - x]) < 12


def test_real_faces_are_found(mtcnn: FaceFinder, annotated: list[tuple[str, Array, Array]]) -> None:
    images = [image for _, image, _ in annotated]
    found = mtcnn.detector.detect(images)
    for (name, _, truth), faces in zip(annotated, found, strict=True):
        middle = (truth[17:].min(axis=0) + truth[17:].max(axis=0)) / 2
        hits = [f for f in faces if (f.box_px_4[:2] < middle).all() and (middle < f.box_px_4[2:]).all()]
        assert hits, name
