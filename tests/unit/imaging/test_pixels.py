"""What a decoder may hand over, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from ml_common.imaging import as_bgr_u8

BGR = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def test_every_kind_of_the_same_picture_is_the_same() -> None:
    assert np.shares_memory(as_bgr_u8(BGR), BGR)
    np.testing.assert_array_equal(as_bgr_u8(BGR.astype(np.uint16) * 257), BGR)
    np.testing.assert_array_equal(as_bgr_u8(BGR.astype(np.float32) / 255), BGR)
    with_alpha = np.concatenate([BGR, BGR[..., :1]], axis=2)
    np.testing.assert_array_equal(as_bgr_u8(with_alpha), BGR)
    np.testing.assert_array_equal(as_bgr_u8(BGR[::-1]), BGR[::-1])


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_grey_fills_all_three_channels(dtype: type, white: int) -> None:
    grey = (BGR[..., 0] * (white / 255)).astype(dtype)
    for picture in (grey, grey[..., None]):
        np.testing.assert_array_equal(as_bgr_u8(picture), np.repeat(BGR[..., :1], 3, axis=2))


def test_floats_are_clipped_and_nan_is_black() -> None:
    picture = np.array([[[-1.0, 2.0, np.nan], [np.inf, -np.inf, 0.5]]], dtype=np.float32)
    np.testing.assert_array_equal(as_bgr_u8(picture), [[[0, 255, 0], [255, 0, 128]]])


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5, 2), np.uint8),
        np.zeros((4, 4, 3), np.int32),
        np.zeros(7, np.uint8),
    ],
)
def test_others_are_refused(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="picture"):
        as_bgr_u8(picture)
