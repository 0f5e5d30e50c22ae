"""Faces to train on: compressed in memory, decoded and framed on demand, masks made once.

The one thing a reader would get wrong: pixels are brought to the model's resolution and framing here, antialiased and
before any augmentation, so that augmentation works on small crops. Landmarks and masks belong to the stored crop, not
to that result.

Legend: R the model's resolution, HWC rows, columns, channels (blue, green, red). Images and masks here are uint8, 0
to 255.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_common.geometry import FaceType, alignment_matrix, compose, invert_affine, resize_matrix, warp_affine
from ml_common.masks import eyes_mouth_mask, soft_hull_mask

DEFAULT_CACHE_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class FaceSample:
    """One aligned face.

    image: a square crop, as an encoded JPEG or PNG, or as uint8 BGR HWC. landmarks_px_68x2: in that crop's pixels.
    mask: encoded one-channel image of the whole face (any square size, same framing), or None for the hull of the
    landmarks, drawn with `eyebrows_expand`. yaw_rad: positive = nose to image-left; used by uniform_yaw alone. name:
    for error messages.
    """

    image: bytes | NDArray[np.uint8]
    landmarks_px_68x2: NDArray[np.float32]
    face_type: FaceType
    mask: bytes | None = None
    yaw_rad: float = 0.0
    eyebrows_expand: float = 1.0
    name: str = ""


@dataclass(frozen=True)
class PreparedSample:
    """A sample as the model sees it: `image_bgr_RR3` and `masks_RR2` (face; eyes and mouth), uint8."""

    image_bgr_RR3: NDArray[np.uint8]
    masks_RR2: NDArray[np.uint8]


class SampleSet:
    """A faceset for one framing and resolution. `prepared` may be called from several threads.

    Prepared samples are kept up to `cache_bytes`; beyond that an image is decoded at every use, but its masks are
    kept as PNG, because drawing them costs more than anything else here.
    """

    def __init__(
        self,
        samples: Sequence[FaceSample],
        *,
        face_type: FaceType,
        resolution: int,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        if not samples:
            raise ValueError("this faceset has no faces to train on; extract faces first")
        self._samples = list(samples)
        self._face_type = face_type
        self._resolution = resolution
        self._prepared: dict[int, PreparedSample] = {}
        self._prepared_that_fit = cache_bytes // (resolution * resolution * 5)
        self._masks_png: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def resolution(self) -> int:
        """Side of every prepared sample, in pixels."""
        return self._resolution

    @property
    def yaw_rad(self) -> list[float]:
        """The yaw of every sample, in order."""
        return [sample.yaw_rad for sample in self._samples]

    def prepared(self, index: int) -> PreparedSample:
        """The sample at `index` in the model's framing. Raises ValueError naming the face that cannot be used."""
        kept = self._prepared.get(index)
        if kept is not None:
            return kept
        sample = self._samples[index]
        masks_png = self._masks_png.get(index)
        try:
            native = _decoded(sample.image, cv2.IMREAD_COLOR)
            stored_to_model = _stored_to_model(sample, native.shape, self._face_type, self._resolution)
            image = warp_affine(native, stored_to_model, self._resolution, self._resolution, border="replicate")
            if masks_png is None:
                masks = _masks(sample, native.shape[0], stored_to_model, self._resolution)
            else:
                masks = _unpack_masks(masks_png)
        except ValueError as error:
            raise ValueError(f"face {sample.name or index}: {error}") from error
        prepared = PreparedSample(image, masks)
        if len(self._prepared) < self._prepared_that_fit:
            self._prepared[index] = prepared
        elif masks_png is None:
            self._masks_png[index] = _pack_masks(masks)
        return prepared


def _decoded(image: bytes | NDArray[np.uint8], flags: int) -> NDArray[np.uint8]:
    if not isinstance(image, bytes):
        return image
    decoded = cv2.imdecode(np.frombuffer(image, np.uint8), flags) if image else None
    if decoded is None:
        raise ValueError("its image cannot be decoded; it must be a JPEG or PNG")
    return np.asarray(decoded, np.uint8)


def _stored_to_model(
    sample: FaceSample, shape: tuple[int, ...], face_type: FaceType, resolution: int
) -> NDArray[np.float64]:
    if len(shape) != 3 or shape[0] != shape[1] or shape[2] != 3:
        raise ValueError(f"its image must be a square of three channels, got {list(shape)}")
    if sample.face_type is face_type:
        return resize_matrix(resolution / shape[0])
    return alignment_matrix(sample.landmarks_px_68x2, face_type, resolution)


def _masks(
    sample: FaceSample, native_size: int, stored_to_model: NDArray[np.float64], resolution: int
) -> NDArray[np.uint8]:
    """Face mask and eyes-mouth mask in the model's framing, drawn at the stored crop's own size. uint8 (R, R, 2)."""
    if sample.mask is None:
        face_native = soft_hull_mask(sample.landmarks_px_68x2, native_size, native_size, sample.eyebrows_expand)
        face_RR = warp_affine(face_native, stored_to_model, resolution, resolution)
    else:
        grey = _decoded(sample.mask, cv2.IMREAD_GRAYSCALE)
        if grey.shape[0] != grey.shape[1]:
            raise ValueError(f"its mask must be square, got {list(grey.shape)}")
        stored = grey.astype(np.float32) / np.float32(255.0)
        mask_to_stored = invert_affine(resize_matrix(stored.shape[0] / native_size))
        face_RR = warp_affine(stored, compose(stored_to_model, mask_to_stored), resolution, resolution)
        resized = cv2.resize(stored, (native_size, native_size), interpolation=cv2.INTER_LINEAR)
        face_native = np.asarray(resized, np.float32)
    eyes_mouth_native = eyes_mouth_mask(sample.landmarks_px_68x2, native_size, native_size) * (face_native > 0)
    eyes_mouth_RR = warp_affine(eyes_mouth_native, stored_to_model, resolution, resolution)
    masks_RR2 = np.stack([face_RR, eyes_mouth_RR], axis=-1)
    return np.rint(masks_RR2.clip(0.0, 1.0) * 255.0).astype(np.uint8)


def _pack_masks(masks_RR2: NDArray[np.uint8]) -> bytes:
    """As one grey PNG, the two masks side by side."""
    encoded, png = cv2.imencode(".png", np.concatenate([masks_RR2[..., 0], masks_RR2[..., 1]], axis=1))
    if not encoded:
        raise ValueError("its masks cannot be encoded")
    return png.tobytes()


def _unpack_masks(masks_png: bytes) -> NDArray[np.uint8]:
    side_by_side = _decoded(masks_png, cv2.IMREAD_GRAYSCALE)
    return np.stack(np.split(side_by_side, 2, axis=1), axis=-1)
