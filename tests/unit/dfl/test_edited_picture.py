"""Pictures edited in place are let through; mirrored, turned, cropped and exchanged ones are not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
import pytest

from ml_common.dfl.edited_picture import check_edited
from ml_common.geometry import FaceType, align, alignment_matrix
from ml_common.synthetic import IDENTITIES, FrameState, performance, render

SIDE = 256
Edit = Callable[[np.ndarray], np.ndarray]


@cache
def faces() -> list[list[np.ndarray]]:
    """By person, by moment: every person in the same poses, expressions and lights."""
    states: list[FrameState] = [performance(3, 40, max_yaw_deg=35)[index] for index in (0, 13, 26)]
    people = list(IDENTITIES.values()) if isinstance(IDENTITIES, dict) else list(IDENTITIES)
    return [[_face(who, state) for state in states] for who in people[:3]]


def _face(who, state) -> np.ndarray:
    frame = render(who, state, 320, 320)
    matrix = alignment_matrix(frame.landmarks_px_68x2, FaceType.WHOLE_FACE, SIDE)
    return align(frame.image_bgr_HWC, matrix, SIDE)


def bytes_of(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma)


def vignette(image: np.ndarray) -> np.ndarray:
    y, x = (np.mgrid[:SIDE, :SIDE] - SIDE / 2) / SIDE
    return bytes_of(image * (1 - 1.2 * (x * x + y * y))[..., None])


TEAL = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]])

IN_PLACE: dict[str, Edit] = {
    "nothing": lambda image: image,
    "brighter": lambda image: bytes_of(255 * (image / 255.0) ** 0.5),
    "darker": lambda image: bytes_of(255 * (image / 255.0) ** 2),
    "more contrast": lambda image: bytes_of((image - 128.0) * 1.6 + 128),
    "much less contrast": lambda image: bytes_of((image - 128.0) * 0.3 + 128),
    "tinted": lambda image: bytes_of(image * np.array([0.5, 0.9, 1.4])),
    "graded": lambda image: bytes_of(image @ TEAL.T),
    "black and white": lambda image: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR),
    "vignette": vignette,
    "sharpened": lambda image: bytes_of(image + 2.5 * (image.astype(float) - blurred(image, 2))),
    "blurred": lambda image: blurred(image, 3),
    "denoised": lambda image: cv2.fastNlMeansDenoisingColored(image, None, 10, 10, 7, 21),
    "smoothed skin": lambda image: cv2.bilateralFilter(image, 9, 80, 80),
    "grain": lambda image: bytes_of(image + np.random.default_rng(0).normal(0, 15, image.shape)),
    "poor JPEG": lambda image: jpeg(image, 20),
    "enlarged": lambda image: cv2.resize(image, None, fx=4, fy=4, interpolation=cv2.INTER_LANCZOS4),
    "enlarged coarsely": lambda image: cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST),
    "made smaller": lambda image: cv2.resize(image, (100, 100), interpolation=cv2.INTER_AREA),
    "16 bits": lambda image: image.astype(np.uint16) * 257,
    "float": lambda image: image.astype(np.float32) / 255,
    "several": lambda image: cv2.resize(
        bytes_of(255 * (cv2.bilateralFilter(image, 9, 60, 60) / 255.0) ** 0.7 * [0.8, 1, 1.1]), (640, 640)
    ),
}


def cropped(image: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    return cv2.resize(image[top : SIDE - bottom, left : SIDE - right], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def moved(image: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    return cv2.warpAffine(image, np.array(matrix, np.float64), (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)


FIVE_PERCENT = 13
OUT_OF_PLACE: dict[str, tuple[Edit, str]] = {
    "mirrored": (lambda image: image[:, ::-1], "is mirrored"),
    "mirrored and graded": (lambda image: bytes_of(image[:, ::-1] @ TEAL.T), "is mirrored"),
    "upside down": (lambda image: image[::-1], "is upside down"),
    "turned by 180": (lambda image: image[::-1, ::-1], "is turned by 180 degrees"),
    "turned right": (lambda image: np.rot90(image, -1), "is turned by 90 degrees clockwise"),
    "turned left": (lambda image: np.rot90(image), "is turned by 90 degrees counterclockwise"),
    "transposed": (lambda image: image.transpose(1, 0, 2), "is turned by 90 degrees and mirrored"),
    "cropped by 5 % in the middle": (lambda image: cropped(image, 6, 6, 7, 7), "is cropped"),
    "cropped by 5 % at a corner": (lambda image: cropped(image, FIVE_PERCENT, FIVE_PERCENT, 0, 0), "is cropped"),
    "cropped by 10 %": (lambda image: cropped(image, 13, 13, 13, 13), "is cropped"),
    "cropped by 25 %": (lambda image: cropped(image, 32, 32, 32, 32), "is cropped|shows something else"),
    "cropped and blurred": (lambda image: blurred(cropped(image, 6, 6, 7, 7), 2), "is cropped"),
    "shifted by 5 %": (lambda image: moved(image, [[1, 0, 13], [0, 1, 0]]), "is cropped, shifted|something else"),
    "turned by 5 degrees": (
        lambda image: moved(image, cv2.getRotationMatrix2D((128, 128), 5, 1).tolist()),
        "is cropped, shifted or turned",
    ),
    "made narrower": (lambda image: image[:, 5:-5], "has another shape: 246x256 px cannot come from 256x256 px"),
    "blackened": (lambda image: image * 0, "shows too little"),
}


@pytest.mark.parametrize("name", sorted(IN_PLACE))
def test_edits_in_place_are_let_through(name) -> None:
    for image in (moment for person in faces() for moment in person):
        assert check_edited(image, np.ascontiguousarray(IN_PLACE[name](image))) is None


@pytest.mark.parametrize("name", sorted(OUT_OF_PLACE))
def test_edits_out_of_place_are_named(name) -> None:
    edit, why = OUT_OF_PLACE[name]
    for image in (moment for person in faces() for moment in person):
        reason = check_edited(image, np.ascontiguousarray(edit(image)))
        assert reason is not None
        assert any(part in reason for part in why.split("|")), reason


def test_other_people_are_not_let_through_even_in_the_same_pose_and_light() -> None:
    for moment in range(3):
        for one in range(3):
            for other in range(3):
                reason = check_edited(faces()[one][moment], faces()[other][moment])
                assert (reason is None) is (one == other)


def test_other_moments_are_not_let_through() -> None:
    for person in faces():
        for other in person[1:]:
            assert "shows something else" in check_edited(person[0], other)


@pytest.mark.parametrize("sigma", [4, 8])
def test_a_face_that_was_never_sharp_does_not_pass_for_its_own_crop(sigma) -> None:
    for image in (moment for person in faces() for moment in person):
        soft = blurred(image, sigma)
        assert check_edited(soft, IN_PLACE["graded"](soft)) is None
        assert check_edited(soft, IN_PLACE["sharpened"](soft)) is None
        assert check_edited(soft, blurred(cropped(image, 6, 6, 7, 7), sigma)) is not None
        assert check_edited(soft, np.ascontiguousarray(soft[:, ::-1])) is not None


def test_the_move_is_told() -> None:
    image = faces()[0][0]
    reason = check_edited(image, cropped(image, 13, 13, 13, 13))
    assert 5.0 < float(reason.split(" by ")[1].split("%")[0]) < 6.5


def test_faces_of_any_shape() -> None:
    wide = cv2.resize(faces()[0][0], (300, 200))
    assert check_edited(wide, cv2.resize(wide, (601, 400))) is None
    assert check_edited(wide, cv2.resize(wide, (400, 400))).startswith("has another shape")
    small = cv2.resize(faces()[0][0], (48, 48), interpolation=cv2.INTER_AREA)
    assert check_edited(small, cv2.resize(small, (480, 470), interpolation=cv2.INTER_CUBIC)) is None
