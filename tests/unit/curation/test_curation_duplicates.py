"""Duplicates at four strengths, on copies whose difference is known."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from ml_common.curation import DUPLICATE_COLUMNS, STRENGTHS, Columns, find_duplicates, measure_face
from ml_common.curation.fingerprint import perceptual_hash, thumbnail
from tests.unit.curation.columns_of import columns_of


def _recompressed(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)


def _resized(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA)


def _shifted(pixels: float) -> Callable[[np.ndarray], np.ndarray]:
    matrix = np.array([[1, 0, pixels], [0, 1, 0]], np.float64)
    return lambda image: cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def _brighter(image: np.ndarray) -> np.ndarray:
    return cv2.convertScaleAbs(image, alpha=1.04)


# Each change of a rendered face of 256 pixels, and the lowest strength that has to see through it.
CHANGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "copied": (np.copy, 1),
    "recompressed": (_recompressed, 1),
    "resized": (_resized, 1),
    "shifted by half a pixel": (_shifted(0.5), 2),
    "shifted by a pixel and a half": (_shifted(1.5), 3),
    "brighter": (_brighter, 3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_from_its_strength_on(rendered, change) -> None:
    face = rendered["open"]
    changed, lowest = CHANGES[change]
    copy = changed(face.image)
    scale = copy.shape[0] / 256
    table = columns_of([measure_face(face.image, face.landmarks), measure_face(copy, face.landmarks * scale)])
    for strength in STRENGTHS:
        groups = find_duplicates(table, strength)
        assert len(groups) == (strength >= lowest), strength
        if groups:
            assert groups[0].strengths.tolist() == [lowest]


def test_a_blink_is_no_duplicate_at_the_first_two_strengths(rendered) -> None:
    faces = [rendered["open"], rendered["blink"]]
    table = columns_of([measure_face(face.image, face.landmarks) for face in faces])
    # The hash alone takes them for the same.
    assert int(table["perceptual_hash"][0] ^ table["perceptual_hash"][1]).bit_count() <= STRENGTHS[2].hash_bits
    assert not find_duplicates(table, 1)
    assert not find_duplicates(table, 2)


def test_a_turned_head_is_no_duplicate_below_the_loosest(rendered) -> None:
    faces = [rendered["open"], rendered["turned"]]
    table = columns_of([measure_face(face.image, face.landmarks) for face in faces])
    assert not find_duplicates(table, 3)


def test_the_sharpest_stays(rendered) -> None:
    face = rendered["open"]
    soft = cv2.GaussianBlur(face.image, (0, 0), 0.8)
    table = columns_of([measure_face(image, face.landmarks) for image in (soft, face.image, _recompressed(soft))])
    (group,) = find_duplicates(table, 3)
    assert group.kept == 1
    assert sorted(group.duplicates) == [0, 2]


def _drifting(count: int, step: float) -> Columns:
    """A slow brightening: each face is like the next, the last is not like the first."""
    base = np.random.default_rng(0).integers(40, 120, (32, 32, 3))
    thumbnails = np.stack([(base + step * i).clip(0, 255).astype(np.uint8) for i in range(count)])
    return Columns(
        {
            "cpbd": np.linspace(0.9, 0.1, count),
            "edge_width_px": np.ones(count),
            "thumbnail_bgr": thumbnails.reshape(count, -1),
            "perceptual_hash": np.zeros(count, dtype=np.uint64),
        }
    )


def test_a_shot_is_not_swallowed_link_by_link() -> None:
    table = _drifting(60, 1.0)
    groups = find_duplicates(table, 3)
    thumbnails = table["thumbnail_bgr"].astype(int)
    assert len(groups) >= 8
    for group in groups:
        for duplicate in group.duplicates:
            assert np.abs(thumbnails[duplicate] - thumbnails[group.kept]).mean() <= STRENGTHS[3].mean_levels


@pytest.mark.parametrize("strength", STRENGTHS)
def test_groups_are_the_plain_ones(strength) -> None:
    rng = np.random.default_rng(strength)
    count = 300
    bases = rng.integers(0, 255, (12, 8, 8, 3)).astype(np.uint8)
    scenes = [cv2.resize(bases[i % 12], (64, 64), interpolation=cv2.INTER_CUBIC) for i in range(count)]
    noisy = [(scene + rng.normal(0, rng.uniform(0, 30), (64, 64, 3))).clip(0, 255).astype(np.uint8) for scene in scenes]
    table = Columns(
        {
            "cpbd": rng.random(count).round(1),
            "edge_width_px": rng.random(count) + 1,
            "thumbnail_bgr": np.stack([thumbnail(image).ravel() for image in noisy]),
            "perceptual_hash": np.array([perceptual_hash(image[..., 1]) for image in noisy], dtype=np.uint64),
        }
    )
    found = {group.kept: group.duplicates.tolist() for group in find_duplicates(table, strength)}
    assert found == _plain_groups(table, strength)
    assert found


def _plain_groups(table: Columns, strength: int) -> dict[int, list[int]]:
    """The definition: the sharpest takes all left that are alike to it."""
    asked = STRENGTHS[strength]
    pixels = table["thumbnail_bgr"].astype(int).reshape(len(table), -1, 3)
    hashes = [int(value) for value in table["perceptual_hash"]]
    order = sorted(range(len(table)), key=lambda i: (-table["cpbd"][i], table["edge_width_px"][i]))
    groups: dict[int, list[int]] = {}
    left = list(order)
    while left:
        kept, *others = left
        alike = [
            other
            for other in others
            if (hashes[kept] ^ hashes[other]).bit_count() <= asked.hash_bits
            and np.abs(pixels[kept] - pixels[other]).mean() <= asked.mean_levels
            and np.abs(pixels[kept] - pixels[other]).mean(axis=1).max() <= asked.peak_levels
        ]
        if alike:
            groups[kept] = alike
        left = [other for other in others if other not in alike]
    return groups


def test_a_thousand_copies_are_one_group() -> None:
    one = _drifting(1, 1.0)
    table = Columns({name: np.repeat(one[name], 1000, axis=0) for name in DUPLICATE_COLUMNS})
    (group,) = find_duplicates(table, 1)
    assert group.kept == 0
    assert group.duplicates.tolist() == list(range(1, 1000))
    assert set(group.strengths) == {1}


def test_bad_requests_are_refused() -> None:
    table = _drifting(3, 1.0)
    with pytest.raises(ValueError, match="strength must be one of"):
        find_duplicates(table, 5)
    with pytest.raises(ValueError, match="perceptual_hash"):
        find_duplicates(Columns({name: table[name] for name in DUPLICATE_COLUMNS[:-1]}), 1)
    assert find_duplicates(Columns({name: table[name][:0] for name in DUPLICATE_COLUMNS}), 4) == []
