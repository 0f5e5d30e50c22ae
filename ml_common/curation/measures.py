"""Everything that sorting, choosing and finding duplicates need to know of one face's pixels, measured once and kept.

What a reader would get wrong: where the original's definition is defective, the plain name is the mended one and the
original's number stands beside it as `reference_...`. Both are kept, because a sort must be repeatable either way without
the pictures.

Legend: HWC = aligned face [height, width, BGR] uint8, 68x2 = landmarks (x, y) in its pixels.
Specification: faceset, section 16; golden values: tests/unit/curation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from ml_common.curation.fingerprint import DIGEST_BYTES, THUMBNAIL_PX, perceptual_hash, pixel_digest, thumbnail
from ml_common.curation.sharpness import (
    edge_sharpness,
    laplacian_variance,
    reference_edge_sharpness,
    reference_laplacian_variance,
)
from ml_common.masks import hull_mask

_FORMAT_KEY, _FORMAT = b"understudy.format", b"face-measures"
_VERSION_KEY, _VERSION = b"understudy.schema_version", b"1"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measures:
    """What was measured on one face.

    cpbd: share of the edges within the face that look sharp, 0 to 1; edge_width_px: their mean width, 0 where there are no
    edges. laplacian_variance: of an 11x11 Laplacian within the face; low for blur of any kind. value_mean: mean V of HSV,
    0 to 255. hue_deg: hue of the mean colour, 0 up to 360, which is the mean of all hues on the colour circle weighted by
    how colourful they are; 0 for grey. black_fraction: share of pixels that are wholly black, 0 to 1.
    reference_cpbd, reference_laplacian_variance: with everything outside the face blackened. reference_hue: plain mean of
    8-bit hues, 0 to 180. reference_black_values: zeros among all channel values.
    histogram_bgr: pixel counts uint32 [768], 256 each of B, G and R. histogram_grey: [256] of the whole picture.
    histogram_face_grey: [256] with everything outside the face black, counted too.
    thumbnail_bgr: uint8 [3072], 32x32 area means, row by row, B, G, R. perceptual_hash: 64 bits. pixel_digest: 16 bytes.
    """

    cpbd: float
    edge_width_px: float
    laplacian_variance: float
    value_mean: float
    hue_deg: float
    black_fraction: float
    reference_cpbd: float
    reference_laplacian_variance: float
    reference_hue: float
    reference_black_values: int
    histogram_bgr: NDArray[np.uint32]
    histogram_grey: NDArray[np.uint32]
    histogram_face_grey: NDArray[np.uint32]
    thumbnail_bgr: NDArray[np.uint8]
    perceptual_hash: int
    pixel_digest: bytes


_COLUMN_TYPES = {
    "reference_black_values": pa.int64(),
    "histogram_bgr": pa.list_(pa.uint32(), 3 * 256),
    "histogram_grey": pa.list_(pa.uint32(), 256),
    "histogram_face_grey": pa.list_(pa.uint32(), 256),
    "thumbnail_bgr": pa.list_(pa.uint8(), THUMBNAIL_PX * THUMBNAIL_PX * 3),
    "perceptual_hash": pa.uint64(),
    "pixel_digest": pa.binary(DIGEST_BYTES),
}

MEASURE_COLUMNS = pa.schema(
    [
        pa.field("face_id", pa.string(), nullable=False),
        *(
            pa.field(field.name, _COLUMN_TYPES.get(field.name, pa.float64()), nullable=False)
            for field in fields(Measures)
        ),
    ],
    metadata={_FORMAT_KEY: _FORMAT, _VERSION_KEY: _VERSION},
)
"""One row a face: face_id, then the fields of Measures; arrays are lists of fixed size."""


def measure_face(
    image_bgr_HWC: NDArray[np.uint8], crop_landmarks_px_68x2: ArrayLike, *, eyebrows_expand: float = 1.0
) -> Measures:
    """Measures an aligned face. ValueError when the picture is not uint8 BGR or the landmarks are not usable.

    Landmarks outside the picture are allowed; a face that lies wholly outside has sharpness 0.
    """
    image = image_bgr_HWC
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"a face is measured as uint8 H x W x 3 (BGR), not {image.dtype} {image.shape}; convert it first"
        )
    image = np.ascontiguousarray(image)
    height, width = image.shape[:2]
    inside_HW = hull_mask(crop_landmarks_px_68x2, height, width, eyebrows_expand) > 0
    grey_HW: NDArray[np.uint8] = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
    masked_HWC = cv2.bitwise_and(image, image, mask=inside_HW.view(np.uint8))
    masked_grey_HW: NDArray[np.uint8] = grey_HW * inside_HW
    hsv_HWC = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    edges = edge_sharpness(grey_HW, inside_HW)
    black_pixels = np.count_nonzero(hsv_HWC[..., 2] == 0)
    return Measures(
        cpbd=edges.cpbd,
        edge_width_px=edges.edge_width_px,
        laplacian_variance=laplacian_variance(image, inside_HW),
        value_mean=cv2.mean(hsv_HWC)[2],
        hue_deg=_hue_deg(*cv2.mean(image)[:3]),
        black_fraction=black_pixels / (height * width),
        reference_cpbd=reference_edge_sharpness(masked_grey_HW).cpbd,
        reference_laplacian_variance=reference_laplacian_variance(np.asarray(masked_HWC, dtype=np.uint8)),
        reference_hue=cv2.mean(hsv_HWC)[0],
        reference_black_values=image.size - int(np.count_nonzero(image)),
        histogram_bgr=np.concatenate([_histogram(image, channel) for channel in range(3)]),
        histogram_grey=_histogram(grey_HW, 0),
        histogram_face_grey=_histogram(masked_grey_HW, 0),
        thumbnail_bgr=thumbnail(image).ravel(),
        perceptual_hash=perceptual_hash(grey_HW),
        pixel_digest=pixel_digest(image),
    )


def measures_table(face_ids: Sequence[str], measures: Sequence[Measures]) -> pa.Table:
    """The measures of many faces in the columns MEASURE_COLUMNS. ValueError when the lengths differ."""
    if len(face_ids) != len(measures):
        raise ValueError(f"{len(face_ids)} face ids need as many measures, got {len(measures)}")
    columns = [pa.array(face_ids, pa.string())]
    for field in list(MEASURE_COLUMNS)[1:]:
        values = [getattr(face, field.name) for face in measures]
        if pa.types.is_fixed_size_list(field.type):
            flat = np.concatenate(values) if values else np.empty(0, field.type.value_type.to_pandas_dtype())
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat, field.type.value_type), type=field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=MEASURE_COLUMNS)


def _histogram(image: NDArray[np.uint8], channel: int) -> NDArray[np.uint32]:
    # OpenCV counts in float32, which is exact up to 2^24 pixels: pictures of 4096 x 4096.
    return np.asarray(cv2.calcHist([image], [channel], None, [256], [0, 256])).ravel().astype(np.uint32)


def _hue_deg(blue: float, green: float, red: float) -> float:
    angle = math.degrees(math.atan2(math.sqrt(3.0) * (green - blue), 2.0 * red - green - blue))
    # A tiny negative angle plus 360 rounds to 360 itself.
    return angle % 360.0 % 360.0
