"""Resampling: dtypes, borders, antialiasing, windows."""

import cv2
import numpy as np
import pytest

from ml_common.geometry import HEAD_MODEL_68x3, align, alignment_matrix, source_window, transform_points, warp_affine
from ml_common.geometry.face_type import FaceType

IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def similarity(scale, degrees=0.0, x=0.0, y=0.0):
    angle = np.deg2rad(degrees)
    return np.array(
        [[scale * np.cos(angle), -scale * np.sin(angle), x], [scale * np.sin(angle), scale * np.cos(angle), y]]
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1), (40, 50, 3)])
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_keeps_dtype_and_axes(dtype, shape, scale):
    image = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    result = align(image, similarity(scale), 16)
    assert result.dtype == dtype
    assert result.shape == (16, 16, *shape[2:])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_identity_copies(dtype):
    image = (np.random.default_rng(1).random((32, 32, 3)) * 250).astype(dtype)
    np.testing.assert_array_equal(align(image, IDENTITY, 32), image)


@pytest.mark.parametrize("border", ["replicate", "reflect"])
def test_a_constant_picture_stays_constant(border):
    image = np.full((30, 40, 3), 77, dtype=np.uint8)
    assert (warp_affine(image, similarity(0.4, 20, 5, -8), 50, 30, border=border) == 77).all()


def test_constant_border_is_black_outside():
    image = np.full((30, 30, 3), 200, dtype=np.uint8)
    result = align(image, similarity(1.0, 0, 40, 40), 100)
    assert (result[:36] == 0).all()
    assert (result[42:66, 42:66] == 200).all()


def test_shrinking_averages_the_footprint_instead_of_picking_pixels():
    # One-pixel stripes: their mean is grey; point sampling at factor 8 would see only one kind of stripe.
    stripes = np.zeros((256, 256), dtype=np.float32)
    stripes[:, ::2] = 1.0
    inner = (slice(2, -2), slice(2, -2))
    smooth = align(stripes, similarity(1 / 8), 32)[inner]
    picked = align(stripes, similarity(1 / 8), 32, interpolation="cubic")[inner]
    assert np.abs(smooth - 0.5).max() < 0.02
    assert np.abs(picked - 0.5).max() > 0.4


def test_shrinking_by_a_whole_factor_is_the_area_mean():
    image = np.random.default_rng(2).random((64, 64)).astype(np.float32)
    # Sends the centre of each 4x4 block to a pixel centre.
    matrix = np.array([[0.25, 0.0, -0.375], [0.0, 0.25, -0.375]])
    np.testing.assert_allclose(
        align(image, matrix, 16), cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA), atol=1e-5
    )


def test_a_moving_picture_does_not_shimmer():
    # The mean brightness of an antialiased crop must not depend on where between pixels the crop lies.
    rng = np.random.default_rng(3)
    noise = rng.random((400, 400)).astype(np.float32)
    crops = [align(noise, similarity(1 / 6, 7, -10 + s / 7, -12), 40) for s in range(7)]
    points = [align(noise, similarity(1 / 6, 7, -10 + s / 7, -12), 40, interpolation="linear") for s in range(7)]
    assert np.std([c.mean() for c in crops]) < np.std([c.mean() for c in points])
    assert np.std(crops[0]) < 0.35 * np.std(points[0])


def test_only_the_window_matters():
    rng = np.random.default_rng(4)
    image = rng.integers(0, 255, (300, 400, 3), dtype=np.uint8)
    matrix = similarity(0.6, 33, -60, -90)
    left, top, right, bottom = source_window(matrix, 64, 64, 400, 300)
    assert (right - left) * (bottom - top) < image.shape[0] * image.shape[1] / 2
    other = rng.integers(0, 255, image.shape, dtype=np.uint8)
    other[top:bottom, left:right] = image[top:bottom, left:right]
    np.testing.assert_array_equal(align(image, matrix, 64), align(other, matrix, 64))


@pytest.mark.parametrize("interpolation", ["cubic", "linear"])
def test_reference_flavours_are_opencv(interpolation):
    image = np.random.default_rng(5).random((90, 120, 3)).astype(np.float32)
    matrix = similarity(0.7, 15, 3.3, -9.1)
    flag = cv2.INTER_CUBIC if interpolation == "cubic" else cv2.INTER_LINEAR
    expected = cv2.warpAffine(image, matrix, (48, 48), flags=flag)
    # A window shifts OpenCV's fixed-point coordinates (1/32 px) a little.
    assert np.abs(align(image, matrix, 48, interpolation=interpolation) - expected).mean() < 2e-3


def test_flipped_views_and_slices_are_read_right():
    image = np.random.default_rng(6).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    matrix = similarity(0.5, 10)
    np.testing.assert_array_equal(align(image[:, ::-1], matrix, 32), align(image[:, ::-1].copy(), matrix, 32))
    np.testing.assert_array_equal(align(image[::2, ::2], matrix, 16), align(image[::2, ::2].copy(), matrix, 16))


def test_a_crop_entirely_outside_is_black_or_the_edge():
    image = np.full((20, 20), 50, dtype=np.uint8)
    far = similarity(1.0, 0, -500, -500)
    assert (align(image, far, 8) == 0).all()
    assert (align(image, far, 8, border="replicate") == 50).all()


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.float64), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)])
def test_wrong_images_are_refused(bad):
    with pytest.raises(ValueError, match="HW or HWC"):
        align(bad, IDENTITY, 4)


def test_unknown_options_are_refused():
    image = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="unknown interpolation"):
        align(image, IDENTITY, 4, interpolation="nearest")
    with pytest.raises(ValueError, match="at least 1x1"):
        align(image, IDENTITY, 0)


def test_a_face_lands_where_its_landmarks_say():
    landmarks = HEAD_MODEL_68x3[:, :2] * 1.5 + 250
    matrix = alignment_matrix(landmarks, FaceType.WHOLE_FACE, 128)
    frame = np.zeros((500, 500), np.float32)
    x, y = np.rint(landmarks[30]).astype(int)
    frame[y - 2 : y + 3, x - 2 : x + 3] = 1.0
    crop = align(frame, matrix, 128)
    total = crop.sum()
    centroid = [(crop.sum(0) @ np.arange(128)) / total, (crop.sum(1) @ np.arange(128)) / total]
    np.testing.assert_allclose(centroid, transform_points([(x, y)], matrix)[0], atol=0.05)
