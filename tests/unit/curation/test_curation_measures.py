"""What is measured on a face: the original's numbers, what ours differ in, and the columns they are kept in."""

from __future__ import annotations

import io
from dataclasses import fields, replace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_common.curation import MEASURE_COLUMNS, Measures, measure_face, measures_table
from ml_common.curation.sharpness import edge_sharpness

# Where the golden values are the original's own arithmetic; pose crosses OpenCV releases, so yaw and pitch are looser.
GOLDEN_VALUES = {
    "blur": ("reference_cpbd", 1e-12),
    "motion-blur": ("reference_laplacian_variance", 1e-12),
    "brightness": ("value_mean", 1e-12),
    "hue": ("reference_hue", 1e-12),
    "black": ("reference_black_values", 0.0),
    "face-source-rect-size": ("source_area_px", 0.0),
}


@pytest.mark.parametrize("method", GOLDEN_VALUES)
def test_values_are_the_originals(golden, method) -> None:
    column, tolerance = GOLDEN_VALUES[method]
    expected = golden.expected[method]
    positions = [golden.names.index(name) for name in expected["order"]]
    np.testing.assert_allclose(golden.table[column][positions], expected["value"], rtol=tolerance)


@pytest.mark.parametrize(("method", "column"), [("face-yaw", "yaw_deg"), ("face-pitch", "pitch_deg")])
def test_poses_are_the_originals(golden, method, column) -> None:
    expected = golden.expected[method]
    positions = [golden.names.index(name) for name in expected["order"]]
    np.testing.assert_allclose(np.radians(golden.table[column][positions]), expected["value"], atol=1e-5)


def test_our_sharpness_falls_with_blur_where_the_originals_may_rise(rendered) -> None:
    face = rendered["open"]
    noisy = np.clip(face.image + np.random.default_rng(0).normal(0, 3, face.image.shape), 0, 255).astype(np.uint8)
    blurred = [noisy, *(cv2.GaussianBlur(noisy, (0, 0), sigma) for sigma in (0.7, 1.0, 1.5, 3.0))]
    measures = [measure_face(image, face.landmarks) for image in blurred]
    cpbd = [face.cpbd for face in measures]
    assert cpbd[0] > cpbd[1] > cpbd[2] >= cpbd[3] >= cpbd[4]
    # The share saturates; the width of the edges still tells the last ones apart.
    assert measures[2].edge_width_px < measures[3].edge_width_px < measures[4].edge_width_px
    variance = [face.laplacian_variance for face in measures]
    assert variance == sorted(variance, reverse=True)
    assert variance[-1] < 0.2 * variance[0]
    # The outline that the original cuts holds its value up.
    assert measures[-1].reference_laplacian_variance > 0.3 * measures[0].reference_laplacian_variance
    assert measures[-1].reference_cpbd > measures[-2].reference_cpbd


def test_a_step_is_sharp_and_widens_as_it_is_blurred() -> None:
    # One pixel in between, because of two equally strong neighbours neither counts as the edge.
    step = np.tile(np.concatenate([np.full(31, 40), [100], np.full(32, 200)]).astype(np.uint8), (64, 1))
    found = [
        edge_sharpness(step if sigma == 0 else cv2.GaussianBlur(step, (0, 0), sigma), np.ones((64, 64), dtype=bool))
        for sigma in (0, 0.6, 1.0, 2.0, 3.0)
    ]
    assert [edge.cpbd for edge in found] == [1.0, 0.0, 0.0, 0.0, 0.0]
    widths = [edge.edge_width_px for edge in found]
    assert widths[0] == 2.0
    # Counted to where the grey stops changing, about three sigma to each side.
    assert widths[1:] == pytest.approx([4, 6, 12, 18], abs=2)


def test_a_face_without_edges_has_no_sharpness(golden) -> None:
    flat = measure_face(np.full((128, 128, 3), 90, np.uint8), golden.landmarks[0])
    assert (flat.cpbd, flat.edge_width_px, flat.laplacian_variance) == (0.0, 0.0, 0.0)


def test_a_face_outside_its_picture_has_no_sharpness(golden) -> None:
    away = measure_face(golden.pictures[0], golden.landmarks[0] + 1000.0)
    assert (away.cpbd, away.laplacian_variance, away.reference_cpbd) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("bgr", "hue_deg"),
    [((0, 0, 200), 0), ((0, 200, 200), 60), ((0, 200, 0), 120), ((200, 0, 0), 240), ((80, 80, 80), 0)],
)
def test_hue_is_the_colours_angle(golden, bgr, hue_deg) -> None:
    image = np.full((128, 128, 3), bgr, np.uint8)
    assert measure_face(image, golden.landmarks[0]).hue_deg == pytest.approx(hue_deg, abs=1e-9)


def test_hue_of_reds_on_both_sides_of_zero_is_red(golden) -> None:
    image = np.full((128, 128, 3), (20, 0, 200), np.uint8)
    image[:64] = (0, 20, 200)
    measured = measure_face(image, golden.landmarks[0])
    assert min(measured.hue_deg, 360 - measured.hue_deg) < 0.5
    assert measured.reference_hue > 80  # the plain mean of 3 and 177 says cyan


def test_black_counts_pixels_and_the_originals_counts_values(golden) -> None:
    image = np.full((128, 128, 3), (0, 10, 10), np.uint8)
    image[:32] = 0
    measured = measure_face(image, golden.landmarks[0])
    assert measured.black_fraction == 0.25
    assert measured.reference_black_values == 32 * 128 * 3 + 96 * 128


def test_histograms_count_every_pixel(golden) -> None:
    measured, image = golden.measures[3], golden.pictures[3]
    assert (measured.histogram_bgr.reshape(3, 256).sum(axis=1) == 128 * 128).all()
    np.testing.assert_array_equal(measured.histogram_bgr[256:512], np.bincount(image[..., 1].ravel(), minlength=256))
    assert measured.histogram_grey.sum() == measured.histogram_face_grey.sum() == 128 * 128
    assert measured.histogram_face_grey[0] > measured.histogram_grey[0]


@pytest.mark.parametrize("size", [(20, 20), (63, 200), (200, 63), (97, 131), (2, 2)])
def test_any_size_can_be_measured(golden, size) -> None:
    height, width = size
    image = cv2.resize(golden.pictures[0], (width, height), interpolation=cv2.INTER_AREA)
    measured = measure_face(image, golden.landmarks[0] * (width / 128, height / 128))
    assert measured.thumbnail_bgr.shape == (32 * 32 * 3,)
    assert all(np.isfinite(getattr(measured, f.name)) for f in fields(Measures) if f.type == "float")


def test_equal_pictures_measure_equal_and_one_pixel_shows(golden) -> None:
    image, points = golden.pictures[5], golden.landmarks[5]
    again, other = image.copy(), image.copy()
    other[60, 60, 1] ^= 1
    first, second, third = (measure_face(picture, points) for picture in (image, again, other))
    assert measures_table(["a"], [first]).equals(measures_table(["a"], [second]))
    assert first.pixel_digest == second.pixel_digest != third.pixel_digest
    # A view with gaps between its rows is the same picture.
    wide = np.concatenate([image, image], axis=1)
    assert measure_face(wide[:, :128], points).pixel_digest == first.pixel_digest


def test_a_hash_outlives_recompression_and_resizing(rendered) -> None:
    face, turned = rendered["open"], rendered["turned"]
    again = cv2.imdecode(cv2.imencode(".jpg", face.image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR)
    small = cv2.resize(face.image, (128, 128), interpolation=cv2.INTER_AREA)

    def bits(image: np.ndarray, scale: float = 1.0) -> int:
        first = measure_face(face.image, face.landmarks).perceptual_hash
        return (first ^ measure_face(image, face.landmarks * scale).perceptual_hash).bit_count()

    assert bits(again) <= 3
    assert bits(small, 0.5) <= 3
    assert bits(turned.image) > bits(again)


@pytest.mark.parametrize(
    "image", [np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3), np.float32), np.zeros((0, 64, 3), np.uint8)]
)
def test_another_kind_of_picture_is_refused(golden, image) -> None:
    with pytest.raises(ValueError, match="uint8 H x W x 3"):
        measure_face(image, golden.landmarks[0])


def test_unusable_landmarks_are_refused(golden) -> None:
    with pytest.raises(ValueError, match="68"):
        measure_face(golden.pictures[0], golden.landmarks[0][:5])


def test_measures_survive_parquet(golden) -> None:
    table = measures_table(golden.names, golden.measures)
    assert table.schema.equals(MEASURE_COLUMNS, check_metadata=True)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    read = pq.read_table(io.BytesIO(buffer.getvalue()))
    assert read.equals(table)
    row = read.slice(7, 1).to_pylist()[0]
    for field in fields(Measures):
        np.testing.assert_array_equal(row[field.name], getattr(golden.measures[7], field.name))


def test_a_table_needs_a_name_a_face(golden) -> None:
    with pytest.raises(ValueError, match="3 face ids"):
        measures_table(["a", "b", "c"], golden.measures[:2])
    assert measures_table([], []).equals(MEASURE_COLUMNS.empty_table())


def test_values_beyond_a_column_are_refused(golden) -> None:
    with pytest.raises((pa.ArrowException, OverflowError)):
        measures_table(["a"], [replace(golden.measures[0], perceptual_hash=1 << 64)])
