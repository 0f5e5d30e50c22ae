"""White stays white from depth to depth, and nothing is lost on the way to a deeper one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ml_common.imaging.depth import as_depth

U8 = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
U16 = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)


@pytest.mark.parametrize(
    ("image", "over"), [(U8, np.uint16), (U8, np.float32), (U16, np.float32), (U8, np.uint8), (U16, np.uint16)]
)
def test_there_and_back(image: np.ndarray[Any, Any], over: type) -> None:
    there = as_depth(image, over)
    assert there.dtype == over
    assert np.array_equal(as_depth(there, image.dtype), image)


def test_rounds_to_nearest() -> None:
    assert as_depth(np.array([[[128, 129, 65535 - 128]]], np.uint16), np.uint8).ravel().tolist() == [0, 1, 255]
    assert as_depth(np.array([[[0.5]]], np.float32), np.uint8).item() == 128


def test_clips_what_whole_numbers_do_not_hold() -> None:
    odd = np.array([[[np.nan, -1, 7, np.inf, 1]]], np.float32)
    assert as_depth(odd, np.uint16).ravel().tolist() == [0, 0, 65535, 65535, 65535]
    assert as_depth(odd, np.float32) is odd


@pytest.mark.parametrize(("image", "wanted"), [(U8, np.float64), (U8.astype(np.int32), np.uint8)])
def test_other_types_are_refused(image: np.ndarray[Any, Any], wanted: type) -> None:
    with pytest.raises(ValueError, match="uint8, uint16 or float32"):
        as_depth(image, wanted)
