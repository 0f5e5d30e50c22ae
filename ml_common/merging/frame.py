"""Merging predicted faces into a frame: the one call that the merge service is built around.

What a reader would get wrong: a pixel whose alpha is 0 is not "blended with weight 0" but not touched at all: it comes
out bit for bit as it went in, in the frame's own dtype, including float values below 0 and above 1.

`flavour="reference"` reproduces DeepFaceLab (golden frames within 0.12 grey levels of 255 on average, single pixels on
hard edges within 9; tests/unit/merging names the exceptions). The default differs:

* 16-bit and float frames keep their precision; integers are rounded, not truncated (specification: merge, 13.1).
* Colour statistics count the face only, weighted by its mask and limited to what lies within the frame, instead of
  counting everything else as black (13.3). Flat pictures are moved, never divided by zero. The random transfers draw
  from a seed that the settings hold.
* The crop and the pasted face are antialiased where they shrink (13.7); the face's edge pixels continue beyond its
  square, so that soft masks do not fade to black there.
* The `dst` mask has subpixel corners and smooth edges, so it does not step from pixel to pixel.
* Mask and face use the same pixel geometry; DeepFaceLab's mask sits 3/8 of a model pixel off the face, and its even
  erosion kernels move it by another 1/8.
* Where faces overlap, each is blended once: DeepFaceLab applies the alpha of all but the first twice (13.5).
* Wide erosions and blurs are computed with fewer samples per model pixel (1 or 2 instead of 4): invisible, far quicker.
* Faint and tiny faces are merged like any other, so that a face does not pop in and out as its mask nears a threshold.
* The mix of two masks is 1 - (1 - a)(1 - b), not their clipped sum.

Shape legend: HWC = BGR frame, HW = mask, hw = window of the frame around one face.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_common.geometry import FaceType
from ml_common.merging.layer import FaceLayer, MergeFace, face_layer
from ml_common.merging.pixels import Frame, checked_frame, from_unit, to_unit
from ml_common.merging.reference import reference_face_layer
from ml_common.merging.settings import MergeSettings


@dataclass(frozen=True, slots=True)
class MergedFrame:
    """image_bgr_HWC: the merged frame in the dtype of the input; mask_HW: union of the faces' masks, float32 0 to 1."""

    image_bgr_HWC: Frame
    mask_HW: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Blended:
    """A window of the result in float, after one more face. `touched` is where it differs from the footage."""

    left: int
    top: int
    pixels_hw3: NDArray[np.float32]
    touched_hw: NDArray[np.bool_]


def merge_frame(
    frame_bgr_HWC: Frame, faces: Sequence[MergeFace], face_type: FaceType, settings: MergeSettings
) -> MergedFrame:
    """Merges the faces into the frame, later ones over earlier ones; the input is not changed.

    Every face is compared with the original frame, never with a face merged before it. Without faces the result equals
    the input. ValueError for frames that are not BGR uint8, uint16 or float32, and for degenerate landmarks.
    """
    checked_frame(frame_bgr_HWC)
    reference = settings.flavour == "reference"
    make_layer = reference_face_layer if reference else face_layer
    image = frame_bgr_HWC.copy()
    mask_HW = np.zeros(frame_bgr_HWC.shape[:2], dtype=np.float32)
    blended: list[_Blended] = []
    for face in faces:
        layer = make_layer(frame_bgr_HWC, face, face_type, settings)
        if layer is None:
            continue
        _add_matte(mask_HW, layer, reference)
        if layer.image_bgr_hw3 is None:
            continue
        result = _blend(frame_bgr_HWC, layer, layer.image_bgr_hw3, blended, twice=reference and bool(blended))
        blended.append(result)
        rows, columns = _window(result.left, result.top, result.touched_hw)
        pixels = from_unit(result.pixels_hw3, frame_bgr_HWC.dtype, truncate=reference)
        np.copyto(image[rows, columns], pixels, where=result.touched_hw[..., None])
    return MergedFrame(image, mask_HW)


def _blend(
    frame_bgr_HWC: Frame,
    layer: FaceLayer,
    image_hw3: NDArray[np.float32],
    earlier: Sequence[_Blended],
    *,
    twice: bool,
) -> _Blended:
    """The layer over the frame and the earlier faces; `twice` is the reference's way with all faces but the first."""
    rows, columns = _window(layer.left, layer.top, layer.alpha_hw)
    footage = to_unit(frame_bgr_HWC[rows, columns])
    touched = layer.alpha_hw != 0
    pixels = footage.copy() if earlier else footage
    for other in earlier:
        # Overlapping faces go on from each other's floats: going through the frame's dtype would round in between.
        here, there = _overlap(layer, other)
        np.copyto(pixels[here], other.pixels_hw3[there], where=other.touched_hw[there][..., None])
        touched[here] |= other.touched_hw[there]
    if twice:
        image_hw3 = footage + layer.alpha_hw[..., None] * (image_hw3 - footage)
    weight = layer.matte_hw if twice else layer.alpha_hw
    difference = image_hw3 - pixels
    difference *= weight[..., None]
    pixels += difference
    return _Blended(layer.left, layer.top, pixels, touched)


def _add_matte(mask_HW: NDArray[np.float32], layer: FaceLayer, reference: bool) -> None:
    view = mask_HW[_window(layer.left, layer.top, layer.matte_hw)]
    if reference:
        np.minimum(view + layer.matte_hw, 1.0, out=view)
    else:
        view += layer.matte_hw * (1.0 - view)


def _window(left: int, top: int, array_hw: NDArray[np.generic]) -> tuple[slice, slice]:
    return slice(top, top + array_hw.shape[0]), slice(left, left + array_hw.shape[1])


def _overlap(layer: FaceLayer, other: _Blended) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The rectangle two windows share, in the coordinates of each; empty slices if there is none."""
    here, there = [], []
    for start, size, other_start, other_size in (
        (layer.top, layer.alpha_hw.shape[0], other.top, other.touched_hw.shape[0]),
        (layer.left, layer.alpha_hw.shape[1], other.left, other.touched_hw.shape[1]),
    ):
        first = max(start, other_start)
        stop = max(first, min(start + size, other_start + other_size))
        here.append(slice(first - start, stop - start))
        there.append(slice(first - other_start, stop - other_start))
    return (here[0], here[1]), (there[0], there[1])
