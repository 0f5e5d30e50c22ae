"""Tells persons apart by what their faces look like, without a trained network: to pick one person's tracks in a clip.

What a reader would get wrong: this is no face recognition. It compares skin, brows, eyes, lips and the fine relief of
the face in pictures that are alike in kind. It picks a person out of the few in a clip by a picture of the same shoot
or a good portrait; it does not prove who someone is. Make-up, glasses, face paint, a beard, hard or coloured light and
grey pictures change it as much as another person would, siblings and doubles pass, and profiles hardly count.

How. The face is laid flat (``sheet``), its two halves are folded onto each other, each counted by how much of it is
seen, and described twice:

- relief: histograms of gradient orientations in small cells, each set against its neighbourhood (Dalal and Triggs,
  CVPR 2005), so that the strength and direction of light matter little;
- colour: of the cheeks, and of brows, lips, eyes, lids, nose, chin and forehead *relative* to the cheeks, as logarithms
  of linear light, so that exposure and the colour of the light cancel but in the cheeks' own.

What all faces share is subtracted first (``typical_face.npz``, mean and spread over heads rendered by
``ml_common.synthetic``; ``typical_face`` computes it): without that, any two faces are nearly the same.

Measured. The thirty rendered heads that the typical face is of, yaw up to 32 degrees, light, expression and size at
random, found by the default finder; one frontal picture against the mean of eight others: the right head of thirty in
93 %, of five in 98 %; similarity 0.69 for the same head in the middle, above 0.47 for 5 % of other heads. At the default
threshold 3 % of the right heads are missed and 4 % of the others taken; of sixteen heads never seen before, 13 % and
2 %. A few photos and clips of people: 0.7 to 0.97 within one clip; 0.55 to 0.8 for one person on pictures of different
days; different people 0.28 in the middle, above 0.55 for 5 %, with single pairs near 0.8. So the order of a clip's
tracks says more than the threshold, which is not to be trusted with strangers: show the tracks with their similarities.
``tests/bench/bench_tracking.py`` measures it again.

Shape legend: SS3 = square crop, HWC, BGR, uint8; 68x2 = landmarks (x, y) in crop pixels; D = descriptor, R and C = its
parts relief and colour; N = faces.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml_common.geometry import checked_landmarks
from ml_common.tracking.sheet import SHEET_PX, SHEET_POINTS_78x2, lay_flat, on_face, share_of_left_half

F32Array = NDArray[np.float32]
F64Array = NDArray[np.float64]
U8Array = NDArray[np.uint8]
Mask = NDArray[np.bool_]

DEFAULT_MIN_SIMILARITY: Final = 0.5

_CELL_PX, _ORIENTATIONS = 6, 8
_FLAT_RELIEF: Final = 0.02  # gradients (of the root of brightness) this weak are noise
_MOST_OF_A_CELL: Final = 0.4
_COLOR_WEIGHT: Final = 0.75  # of the colour's half of the descriptor; relief has 1
_DARKEST_LINEAR: Final = 0.004  # below, a logarithm tells noise
_MOST_SPREADS: Final = 3.0
_LEAST_SPREAD: Final = 0.05


def describe_face(crop_bgr_SS3: U8Array, crop_landmarks_68x2: ArrayLike) -> F32Array:
    """The descriptor of one face, float32 [D], of length 1.

    ``crop_bgr_SS3``: an aligned full-face or whole-face crop, uint8 HWC BGR of any size from 48 px on; whatever shows
    the face upright from brows to chin will do. ``crop_landmarks_68x2``: its landmarks in crop pixels. ValueError for
    another type or size, or landmarks that are not finite or coincide.
    """
    relief, color = measure(crop_bgr_SS3, crop_landmarks_68x2)
    typical = _typical_face()
    relief = _unit(relief - typical["relief_R"])
    color = (color - typical["color_C"]) / np.maximum(1.2 * typical["color_spread_C"], 1.2 * _LEAST_SPREAD)
    color = _COLOR_WEIGHT * _unit(np.clip(color, -_MOST_SPREADS, _MOST_SPREADS))
    return _unit(np.concatenate((relief, color))).astype(np.float32)


def similarity(a_D: ArrayLike, b_D: ArrayLike) -> float:
    """How alike two descriptors are, 0..1: the cosine between them, 0 where it is negative.

    ``DEFAULT_MIN_SIMILARITY`` is where one person ends and another begins, for a picture against the mean descriptor of
    a track. ValueError for descriptors of different or wrong shape.
    """
    a, b = np.asarray(a_D, dtype=np.float64), np.asarray(b_D, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"descriptors must be two vectors of equal length, got {list(a.shape)} and {list(b.shape)}")
    return float(np.clip(_unit(a) @ _unit(b), 0.0, 1.0))


def mean_descriptor(descriptors_ND: ArrayLike) -> F32Array:
    """The descriptor of a person seen in several pictures, float32 [D], of length 1: what the pictures have in common.

    ValueError for none.
    """
    descriptors = np.asarray(descriptors_ND, dtype=np.float64)
    if descriptors.ndim != 2 or not len(descriptors):
        raise ValueError(f"descriptors must have shape [N >= 1, D], got {list(descriptors.shape)}")
    return _unit(descriptors.mean(axis=0)).astype(np.float32)


def choose_faces(landmarks_px_N68x2: ArrayLike, count: int = 16) -> list[int]:
    """Which faces of a track to describe: positions of the ``count`` that are largest and most frontal, rising.

    Landmarks in frame pixels. Equal faces: the earlier one. ValueError for another shape or a count below 1.
    """
    landmarks = np.asarray(landmarks_px_N68x2, dtype=np.float64)
    if landmarks.ndim != 3 or landmarks.shape[1:] != (68, 2):
        raise ValueError(f"landmarks must have shape [N, 68, 2], got {list(landmarks.shape)}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    extent_N = np.linalg.norm(landmarks - landmarks.mean(axis=1, keepdims=True), axis=(1, 2))
    frontal_N = np.array([1.0 - 2.0 * abs(share_of_left_half(face) - 0.5) for face in landmarks])
    best = np.argsort(-extent_N * frontal_N, kind="stable")[:count]
    return sorted(best.tolist())


def typical_face(relief_NR: F64Array, color_NC: F64Array, person_N: NDArray[np.intp]) -> dict[str, F32Array]:
    """What ``typical_face.npz`` holds, from ``measure`` of many faces of many persons.

    ``relief_R``, ``color_C``: means over persons of their means. ``color_spread_C``: how much one person's colour
    varies, the root of the mean variance.
    """
    persons = [person_N == person for person in np.unique(person_N)]
    return {
        "relief_R": np.mean([relief_NR[mine].mean(axis=0) for mine in persons], axis=0).astype(np.float32),
        "color_C": np.mean([color_NC[mine].mean(axis=0) for mine in persons], axis=0).astype(np.float32),
        "color_spread_C": np.sqrt(np.mean([color_NC[mine].var(axis=0) for mine in persons], axis=0)).astype(np.float32),
    }


def measure(crop_bgr_SS3: U8Array, crop_landmarks_68x2: ArrayLike) -> tuple[F64Array, F64Array]:
    """Relief [R] and colour [C] of one face before anything is subtracted. Arguments as for ``describe_face``."""
    crop: np.ndarray[Any, Any] = np.asarray(crop_bgr_SS3)
    if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3 or min(crop.shape[:2]) < 48:
        raise ValueError(f"a crop must be uint8 [>= 48, >= 48, 3] BGR, got {crop.dtype} of shape {list(crop.shape)}")
    landmarks = checked_landmarks(crop_landmarks_68x2)
    sheet = lay_flat(crop.astype(np.float32) / np.float32(255.0), landmarks)
    left = share_of_left_half(landmarks)
    return _relief(sheet, left), _color(sheet, left)


def _unit(vector: F64Array) -> F64Array:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))


@cache
def _typical_face() -> dict[str, F64Array]:
    with files("ml_common.tracking").joinpath("typical_face.npz").open("rb") as file, np.load(file) as stored:
        return {name: stored[name].astype(np.float64) for name in stored.files}


def _relief(sheet_bgr_SS3: F32Array, left: float) -> F64Array:
    """Orientation histograms of the folded face. A cell's orientation bins, seen in the mirror, run backwards."""
    brightness = np.sqrt(np.maximum(cv2.cvtColor(sheet_bgr_SS3, cv2.COLOR_BGR2GRAY), 0.0))
    across = cv2.Scharr(brightness, cv2.CV_32F, 1, 0) / 32.0
    down = cv2.Scharr(brightness, cv2.CV_32F, 0, 1) / 32.0
    strength = np.hypot(across, down)
    bin_SS = np.arctan2(down, across) % np.pi / np.pi * _ORIENTATIONS
    lower = np.floor(bin_SS).astype(np.intp) % _ORIENTATIONS
    part = bin_SS - np.floor(bin_SS)
    layers = np.zeros((SHEET_PX, SHEET_PX, _ORIENTATIONS), dtype=np.float32)
    np.put_along_axis(layers, lower[..., None], (strength * (1.0 - part))[..., None], axis=2)
    np.put_along_axis(layers, ((lower + 1) % _ORIENTATIONS)[..., None], (strength * part)[..., None], axis=2)
    cells = _cell_means(cv2.GaussianBlur(layers, (0, 0), _CELL_PX / 2.5))
    energy = cv2.blur(np.square(cells).sum(axis=2), (3, 3), borderType=cv2.BORDER_REFLECT)
    cells = np.minimum(cells / np.sqrt(energy + _FLAT_RELIEF**2)[..., None], _MOST_OF_A_CELL)
    half = cells.shape[1] // 2
    mirrored = cells[:, ::-1][:, :half, -np.arange(_ORIENTATIONS) % _ORIENTATIONS]
    folded = left * cells[:, :half] + (1.0 - left) * mirrored
    known = _cell_means(on_face().astype(np.float32))[:, :half] > 0.5
    return np.asarray(folded[known].ravel(), dtype=np.float64)


def _cell_means(sheet: np.ndarray[Any, Any]) -> F32Array:
    cells = SHEET_PX // _CELL_PX
    return np.asarray(sheet.reshape(cells, _CELL_PX, cells, _CELL_PX, *sheet.shape[2:]).mean(axis=(1, 3)))


@cache
def _regions() -> dict[str, tuple[Mask, Mask]]:
    """Parts of the sheet: image-left and image-right."""
    points = SHEET_POINTS_78x2

    def between(a: int, b: int, share: float) -> F64Array:
        return np.asarray(points[a] * (1.0 - share) + points[b] * share)

    def area(corners: list[F64Array]) -> Mask:
        mask = np.zeros((SHEET_PX, SHEET_PX), dtype=np.uint8)
        cv2.fillPoly(mask, [np.round(np.array(corners) * 16).astype(np.int32)], 1, shift=4)
        return mask > 0

    def halves(mask: Mask) -> tuple[Mask, Mask]:
        is_left = np.arange(SHEET_PX) < SHEET_PX // 2
        return mask & is_left, mask & ~is_left

    def with_mirror(left: Mask) -> tuple[Mask, Mask]:
        return left, left[:, ::-1]

    brow = np.zeros((SHEET_PX, SHEET_PX), dtype=np.uint8)
    cv2.polylines(brow, [np.round(points[17:22] * 16).astype(np.int32)], False, 1, 5, shift=4)
    upper_lip = area([*points[48:55], *points[60:65][::-1]])
    lower_lip = area([*points[54:60], points[48], points[60], *points[64:68][::-1]])
    nose = area([points[27], points[31], points[33], points[35]])
    return {
        "cheek": with_mirror(
            area(
                [
                    between(41, 2, 0.3),
                    between(31, 41, 0.3),
                    between(31, 48, 0.3),
                    between(48, 3, 0.5),
                    between(2, 36, 0.4),
                ]
            )
        ),
        "brow": with_mirror(brow > 0),
        "upper_lip": halves(upper_lip),
        "lower_lip": halves(lower_lip),
        "eye": with_mirror(area([*points[36:42]])),
        "moustache": with_mirror(
            area([between(31, 48, 0.25), points[31], points[33], between(33, 51, 0.6), between(49, 31, 0.3)])
        ),
        "chin": with_mirror(
            area([between(57, 8, 0.25), between(8, 57, 0.15), between(6, 48, 0.3), between(48, 5, 0.25)])
        ),
        "lid": with_mirror(
            area(
                [*points[36:40], between(39, 21, 0.5), between(38, 20, 0.5), between(37, 19, 0.5), between(36, 18, 0.5)]
            )
        ),
        "nose": halves(nose),
        "forehead": with_mirror(area([points[18], points[21], between(21, 72, 0.6), between(18, 69, 0.6)])),
    }


def _color(sheet_bgr_SS3: F32Array, left: float) -> F64Array:
    linear = np.where(sheet_bgr_SS3 <= 0.04045, sheet_bgr_SS3 / 12.92, ((sheet_bgr_SS3 + 0.055) / 1.055) ** 2.4)
    light = np.log(np.maximum(linear, _DARKEST_LINEAR)).astype(np.float64)
    weights = (left, 1.0 - left)
    sides = {
        name: [_darker_part(light[mask]) if name == "eye" else np.median(light[mask], axis=0) for mask in masks]
        for name, masks in _regions().items()
    }

    def relative(name: str, to: str) -> F64Array:
        return np.asarray(
            sum(weight * (part - base) for weight, part, base in zip(weights, sides[name], sides[to], strict=True))
        )

    cheeks = np.asarray(sum(weight * cheek for weight, cheek in zip(weights, sides["cheek"], strict=True)))
    colors = [cheeks, relative("brow", "forehead")]
    colors += [relative(name, "cheek") for name in sides if name not in ("cheek", "brow")]
    return np.concatenate([(red - green, blue - green, (blue + green + red) / 3.0) for blue, green, red in colors])


def _darker_part(light_N3: F64Array) -> F64Array:
    """Of an eye, the iris rather than the white."""
    brightness = light_N3.mean(axis=1)
    return np.asarray(light_N3[brightness <= np.quantile(brightness, 0.4)].mean(axis=0))
