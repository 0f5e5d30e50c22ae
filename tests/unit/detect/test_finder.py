"""The finder as a whole: on any size, on real photos, alone and in company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ml_common.detect import FaceFinder, FoundFace, load_finder
from ml_common.synthetic import IDENTITIES, FrameState, render
from ml_common.weights import MissingWeights

Annotated = list[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def _nme(points: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], first: int = 17) -> float:
    """Mean error of the points from ``first`` on over the distance between the outer eye corners."""
    error = np.linalg.norm(points[first:] - truth[first:], axis=1).mean()
    return float(error / np.linalg.norm(truth[36] - truth[45]))


def _best(faces: list[FoundFace], truth: np.ndarray[Any, Any]) -> float:
    return min((_nme(face.landmarks_px_68x2, truth) for face in faces), default=np.inf)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (700, 2), (64, 64), (130, 2100)])
def test_any_size_without_a_face_gives_nothing(finder: FaceFinder, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert finder.find([noise, np.zeros_like(noise)]) == [[], []]


def test_no_pictures_no_faces(finder: FaceFinder) -> None:
    assert finder.find([]) == []


def test_bad_pictures_and_settings_are_refused(finder: FaceFinder, weights_dir: Path) -> None:
    with pytest.raises(ValueError, match="picture"):
        finder.find([np.zeros((4, 4, 3), np.int64)])
    with pytest.raises(ValueError, match="min_score"):
        load_finder(weights_dir, torch.device("cpu"), min_score=1.0)
    with pytest.raises(ValueError, match="smallest_face_px"):
        load_finder(weights_dir, torch.device("cpu"), smallest_face_px=0)


def test_without_weights_the_remedy_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="understudy weights fetch"):
        load_finder(tmp_path, torch.device("cpu"))


def test_annotated_faces_are_found_and_their_points_are_near(finder: FaceFinder, annotated: Annotated) -> None:
    errors = [
        _best(faces, truth)
        for faces, (_, _, truth) in zip(finder.find([image for _, image, _ in annotated]), annotated, strict=True)
    ]
    assert max(errors) < 0.1, "a face was missed or its points are far off"
    assert np.mean(errors) < 0.041
    assert np.median(errors) < 0.034


def test_company_does_not_change_a_face(finder: FaceFinder, annotated: Annotated) -> None:
    images = [image for _, image, _ in annotated[:5]] + [np.zeros((90, 300, 3), np.uint8)]
    together = finder.find(images[::-1])[::-1]
    for image, faces in zip(images, together, strict=True):
        (alone,) = finder.find([image])
        assert len(alone) == len(faces)
        for a, b in zip(alone, faces, strict=True):
            np.testing.assert_allclose(a.landmarks_px_68x2, b.landmarks_px_68x2, atol=0.02)
            np.testing.assert_allclose(a.box_px_4, b.box_px_4, atol=0.02)
            assert a.score == pytest.approx(b.score, abs=1e-4)
            assert a.landmark_score == pytest.approx(b.landmark_score, abs=1e-4)


def test_depth_alpha_and_grey_do_not_matter(finder: FaceFinder, annotated: Annotated) -> None:
    _, image, truth = annotated[3]
    alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
    kinds = [
        image.astype(np.uint16) * 257,
        image.astype(np.float32) / 255,
        np.concatenate([image, alpha], axis=2),
        cv2.cvtColor(image, cv2.COLOR_BGR2GRAY),
    ]
    for faces in finder.find(kinds):
        assert _best(faces, truth) < 0.05


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turned_frames_turn_the_points(finder: FaceFinder, annotated: Annotated, quarters: int) -> None:
    _, image, truth = annotated[9]
    height, width = image.shape[:2]
    turned = {
        1: np.stack([truth[:, 1], width - 1 - truth[:, 0]], axis=1),
        2: np.array([width - 1, height - 1]) - truth,
        3: np.stack([height - 1 - truth[:, 1], truth[:, 0]], axis=1),
    }[quarters]
    (faces,) = finder.find([np.ascontiguousarray(np.rot90(image, quarters))])
    assert _best(faces, turned) < 0.05


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_large_frame_is_turned_as_a_small_copy_and_in_full(finder: FaceFinder, quarters: int) -> None:
    """An odd size that no factor brings to the copy's: places must come back to the pixel."""
    frame = render(IDENTITIES["ada"], FrameState(yaw_deg=10, face_height=0.4, center_x=0.3), 1601, 1203)
    truth, (height, width) = frame.landmarks_px_68x2, frame.image_bgr_HWC.shape[:2]
    turned = {
        1: np.stack([truth[:, 1], width - 1 - truth[:, 0]], axis=1),
        2: np.array([width - 1, height - 1]) - truth,
        3: np.stack([height - 1 - truth[:, 1], truth[:, 0]], axis=1),
    }[quarters]
    (faces,) = finder.find([np.ascontiguousarray(np.rot90(frame.image_bgr_HWC, quarters))])
    assert _best(faces, turned) < 0.04
    (upright,) = finder.find([frame.image_bgr_HWC])
    assert abs(_best(upright, truth) - _best(faces, turned)) < 0.004
    low, high = faces[0].box_px_4.reshape(2, 2)
    assert (low < turned.mean(axis=0)).all() and (turned.mean(axis=0) < high).all()


def test_mirrored_frame_mirrors_the_points(finder: FaceFinder, annotated: Annotated) -> None:
    from ml_common.detect.mesh68 import MIRROR_68

    _, image, _ = annotated[3]
    (straight,), (mirrored,) = finder.find([image, np.ascontiguousarray(image[:, ::-1])])
    back = mirrored.landmarks_px_68x2[list(MIRROR_68)] * [-1, 1] + [image.shape[1] - 1, 0]
    assert _nme(back, straight.landmarks_px_68x2, first=0) < 0.04


def test_a_small_face_in_a_large_plate_is_found(finder: FaceFinder, annotated: Annotated) -> None:
    _, image, truth = annotated[4]
    scale = 105 / np.ptp(truth, axis=0).max()
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    plate = np.random.default_rng(2).normal(90, 6, (2160, 3840, 3)).astype(np.uint8)
    top, left = 1300, 2950
    plate[top : top + small.shape[0], left : left + small.shape[1]] = small
    (faces,) = finder.find([plate])
    assert len(faces) == 1
    assert _best(faces, (truth + 0.5) * scale - 0.5 + [left, top]) < 0.06


def test_a_face_that_fills_the_frame_is_found(finder: FaceFinder, annotated: Annotated) -> None:
    for _, image, truth in annotated[:3]:
        left, top = np.maximum(truth.min(axis=0) - 4, 0).astype(int)
        right, bottom = truth.max(axis=0).astype(int) + 4
        (faces,) = finder.find([image[top:bottom, left:right]])
        assert _best(faces, truth - [left, top]) < 0.08


def test_groups_and_nobody(finder: FaceFinder, data: Path) -> None:
    def read(name: str) -> np.ndarray[Any, Any]:
        return cv2.imread(str(data / name))

    group = finder.find([read("groups/human_group-5.jpg"), read("groups/human_group-2.jpg")])
    assert [len(faces) for faces in group] == [7, 3]
    for faces in group:
        areas = [np.prod(face.box_px_4[2:] - face.box_px_4[:2]) for face in faces]
        assert areas == sorted(areas, reverse=True)
        assert all(face.landmark_score > 0.8 and face.score > 0.5 for face in faces)
        assert all(face.mesh_px_468x3.shape == (468, 3) and face.mesh_px_468x3.dtype == np.float32 for face in faces)
    nobody = [read("portraits/dlib_dogs_noface.jpg"), read("portraits/face_alignment_grass_noface.jpg")]
    assert finder.find(nobody) == [[], []]
    assert finder.detector.detect(nobody[1:]) == [[]]
