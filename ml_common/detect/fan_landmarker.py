"""FAN as a landmarker: a crop of the detector's box says where the face is, a level crop of that where its points are.

What a reader would get wrong: the first crop is the published tools', so its rule speaks of S3FD's box with its bottom
lowered by 10 % (spec/faceset 7.3 and 8.3); a ``Detection`` is the box without that, so it is lowered here. Only the second
crop gives the points: it is cut about the points of the first, lies level whatever the head's tilt, and is the same
whichever detector found the face. Where the detector knows eyes and mouth, the first crop lies level as well.

The second crop is the size of the network's training crops. Those show faces whose points' width and height add up to
1.1 sides of the crop (0.8 to 1.6), about in its middle; ours, 1 and in its middle. Published second passes run the detector
once more and the network five times at offsets of a pixel instead (spec/faceset 8.5).

Crops here have corners between pixels. In the published tools a crop begins 1/256 of its side further in and at a whole
pixel, while its points are read as if it did not: theirs lie, by crops of H px, between 1 - H/256 (left, top) and 1 px
(right, bottom) beside ours, give or take half a pixel that changes from frame to frame.

Legend: K faces, NHWC crops, 68 = iBUG points, 23 = affine 2 x 3, px = frame pixels; cells: see ``fan``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ml_common import weights
from ml_common.detect.batching import AdaptiveBatch
from ml_common.detect.fan import CROP_PX, FAN, LANDMARKS, MAP_CELLS, read_maps
from ml_common.detect.types import Detection, F64Array, Located, U8Array
from ml_common.detect.weight_keys import filled
from ml_common.geometry import align, compose, invert_affine, resize_matrix, transform_points

ALGORITHM_VERSION = "1"

_BOTTOM_LOWERED_BY = 0.1  # of the box's height
_SIDE_PER_EXTENT = 200.0 / 195.0  # crop side over width + height of the lowered box
# Mean height of the 68 peaks. Maps are trained to peak at 1 and come out at about 0.5 to 0.95 on faces. These are set by
# that, not measured.
_MIN_PEAK_FIRST = 0.15  # in the detector's crop
_MIN_PEAK = 0.25  # in the face's own crop
_MIN_PEAK_TURNED = 0.4  # the same for a face that only a turned frame shows
_CPU_BATCH, _DEVICE_BATCH = 4, 64
_RIGHT_EYE, _LEFT_EYE, _MOUTH = slice(36, 42), slice(42, 48), slice(48, 68)


@dataclass(frozen=True, slots=True)
class CropSquare:
    """A turned square in a frame: centre and side in px, direction of its x axis in radians (y down)."""

    centre_xy_px: tuple[float, float]
    side_px: float
    roll_rad: float

    def crop_to_frame_23(self) -> F64Array:
        """Maps pixels of a CROP_PX crop to frame pixels, both with pixel centres at integers."""
        scale = self.side_px / CROP_PX
        cos, sin = scale * np.cos(self.roll_rad), scale * np.sin(self.roll_rad)
        linear = np.array([[cos, -sin], [sin, cos]])
        return np.column_stack([linear, self.centre_xy_px - linear @ np.full(2, (CROP_PX - 1) / 2)])


class FANLandmarker:
    """See Landmarker. Not safe for concurrent threads."""

    def __init__(self, name: str, network: FAN, device: torch.device, *, version: str, batch: int) -> None:
        self.name = name
        self.version = version
        self._network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        self._batch = AdaptiveBatch(batch)

    def locate(
        self,
        images_bgr: Sequence[U8Array],
        frame_of_K: Sequence[int],
        faces_K: Sequence[Detection],
        *,
        turned: bool = False,
    ) -> list[Located | None]:
        """See Landmarker. The score is the mean height of the heat maps' peaks, 0..1; None under 0.25 (0.4 if turned)."""
        squares = [square_of_detection(face.box_px_4, face.keypoints_px_62) for face in faces_K]
        points, scores = self._place(images_bgr, frame_of_K, squares)
        likely = [int(i) for i in np.flatnonzero(scores >= _MIN_PEAK_FIRST)]
        squares = [square_of_landmarks(points[i]) for i in likely]
        points, scores = self._place(images_bgr, [frame_of_K[i] for i in likely], squares)
        located: list[Located | None] = [None] * len(faces_K)
        least = _MIN_PEAK_TURNED if turned else _MIN_PEAK
        for i, landmarks, score in zip(likely, points, scores, strict=True):
            if score >= least:
                located[i] = Located(landmarks, float(score))
        return located

    def _place(
        self, images_bgr: Sequence[U8Array], frame_of_K: Sequence[int], squares_K: Sequence[CropSquare]
    ) -> tuple[F64Array, F64Array]:
        """Points (K, 68, 2, frame px) and scores (K) of what the squares show."""

        def place_some(part: slice) -> tuple[F64Array, F64Array]:
            own = range(part.start, part.stop)
            crops = np.stack([cut(images_bgr[frame_of_K[i]], squares_K[i]) for i in own])
            cells, peaks = self._run(crops)
            points = [to_frame(some, squares_K[i]) for i, some in zip(own, cells, strict=True)]
            return np.stack(points), np.clip(peaks, 0.0, 1.0).mean(axis=1)

        placed = [(np.zeros((0, LANDMARKS, 2)), np.zeros(0)), *self._batch.run(len(squares_K), place_some)]
        return np.concatenate([points for points, _ in placed]), np.concatenate([scores for _, scores in placed])

    @torch.inference_mode()
    def _run(self, crops_bgr_NHWC: U8Array) -> tuple[F64Array, F64Array]:
        batch_NHWC = torch.from_numpy(crops_bgr_NHWC).to(self._device)
        batch_NCHW = batch_NHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
        return read_maps(self._network(batch_NCHW.div_(255.0)))


def square_of_detection(box_px_4: F64Array, keypoints_px_62: F64Array | None) -> CropSquare:
    """The first crop: about the lowered box, turned by eyes and mouth; upright where they are not known."""
    left, top, right, bottom = (float(value) for value in box_px_4)
    bottom += (bottom - top) * _BOTTOM_LOWERED_BY
    roll = 0.0 if keypoints_px_62 is None else _roll(*keypoints_px_62[[0, 1, 3]])
    side = ((right - left) + (bottom - top)) * _SIDE_PER_EXTENT
    return CropSquare(((left + right) / 2, (top + bottom) / 2), max(side, 1.0), roll)


def square_of_landmarks(landmarks_px_68x2: F64Array) -> CropSquare:
    """The second crop: in the face's level axes, about the bounds of the points, as long as their width and height."""
    parts = (landmarks_px_68x2[part].mean(axis=0) for part in (_RIGHT_EYE, _LEFT_EYE, _MOUTH))
    roll = _roll(*parts)
    axes = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    level = landmarks_px_68x2 @ axes.T
    low, high = level.min(axis=0), level.max(axis=0)
    centre = (low + high) / 2 @ axes
    return CropSquare((float(centre[0]), float(centre[1])), max(float((high - low).sum()), 1.0), roll)


def _roll(right_eye_2: F64Array, left_eye_2: F64Array, mouth_2: F64Array) -> float:
    """Direction of a face's x axis in radians, 0 where a point is NaN. From the line between the eyes and the one down to
    the mouth, whichever is longer the more: in profile the eyes lie on each other, and looking down, eyes and mouth do.
    """
    down = mouth_2 - (right_eye_2 + left_eye_2) / 2
    across = left_eye_2 - right_eye_2 + [down[1], -down[0]]
    return float(np.arctan2(across[1], across[0])) if np.isfinite(across).all() else 0.0


def cut(image_bgr_HWC: U8Array, square: CropSquare) -> U8Array:
    """The upright CROP_PX square, uint8 BGR, area-averaged where it shrinks; black outside the frame."""
    return align(image_bgr_HWC, invert_affine(square.crop_to_frame_23()), CROP_PX)


def to_frame(cells_68x2: F64Array, square: CropSquare) -> F64Array:
    """Places in heat maps as frame pixels."""
    return transform_points(cells_68x2, compose(square.crop_to_frame_23(), resize_matrix(CROP_PX / MAP_CELLS)))


def load(name: str, paths: list[Path], device: torch.device, digest: str) -> FANLandmarker:
    """See LandmarkerEntry; ``name`` says which of the two sets of weights it is, `fan2d` or `fan3d`."""
    return FANLandmarker(
        name,
        filled(FAN, weights.load_tensors(paths[0])),
        device,
        version=f"{ALGORITHM_VERSION}+{digest}",
        batch=_CPU_BATCH if device.type == "cpu" else _DEVICE_BATCH,
    )
