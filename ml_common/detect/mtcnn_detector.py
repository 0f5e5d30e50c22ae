"""MTCNN over pictures of any size: three networks, each judging what the one before let through.

What a reader would get wrong: the crops of all pictures of a call share batches, but every threshold and every
suppression is within one picture. And it knows upright faces alone, up to about 45 degrees; the finder turns frames.

Source: see ``mtcnn``; thresholds of the stages and of their suppression as in the authors' published program. In place
of crops at whole pixels, boxes are cut where they are, from copies of the picture that were area-averaged first.

Legend: K faces of one picture or of all pictures of a call, HWC picture, 4 = left, top, right, bottom in edge-based px
(see ``mtcnn``), 52 = five points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ml_common import weights
from ml_common.detect.batching import AdaptiveBatch
from ml_common.detect.blazeface import F64Array, U8Array
from ml_common.detect.mtcnn import (
    OUTPUT_PX,
    REFINE_PX,
    Mtcnn,
    boxes_of_cells,
    level_sizes,
    moved,
    normalised,
    squared,
    suppress,
)
from ml_common.detect.types import Detection
from ml_common.detect.weight_keys import filled

ALGORITHM_VERSION = "1"

_SMALLEST_FACE_PX = 40.0
_FACES_ACROSS_FRAME = 48.0  # in a frame above 1080p, a face is sought down to this part of its length
_COARSE_FACES_ACROSS_FRAME = 12.0
_MIN_PROPOSAL, _MIN_REFINED = 0.6, 0.7
_SAME_IN_LEVEL_IOU, _SAME_IOU = 0.5, 0.7
_SAME_FACE_IOU, _SAME_FACE_INSIDE = 0.4, 0.7
_CPU_BATCH, _DEVICE_BATCH = (2, 64), (64, 2048)  # pictures of one size, crops


@dataclass(frozen=True, slots=True)
class _Boxes:
    """Boxes of one picture."""

    boxes_K4: F64Array
    scores_K: F64Array


class MtcnnDetector:
    """See Detector. Not safe for concurrent threads."""

    name = "mtcnn"
    clear_score = 0.99

    def __init__(
        self,
        net: Mtcnn,
        device: torch.device,
        *,
        version: str,
        min_score: float,
        smallest_face_px: float | None = None,
        batch: tuple[int, int] = _CPU_BATCH,
    ) -> None:
        self.version = version
        self._net = net.to(device)
        self._device = device
        self._min_score = min_score
        self._smallest_face_px = smallest_face_px
        self._pictures, self._crops = AdaptiveBatch(batch[0]), AdaptiveBatch(batch[1])

    @torch.inference_mode()
    def detect(self, images_bgr: Sequence[U8Array], *, coarse: bool = False) -> list[list[Detection]]:
        """See Detector. Keypoints are eyes, nose and the middle of the mouth; ears are NaN."""
        copies = [_Copies(image) for image in images_bgr]
        found = self._propose(copies, coarse=coarse)
        found = self._refine(copies, found)
        return self._decide(copies, found)

    def _propose(self, copies: list[_Copies], *, coarse: bool) -> list[_Boxes]:
        per_picture: list[list[_Boxes]] = [[] for _ in copies]
        for size in dict.fromkeys(own.size_xy_px for own in copies):
            mine = [index for index, own in enumerate(copies) if own.size_xy_px == size]
            for level_size in level_sizes(size, self._smallest(size, coarse=coarse)):

                def run(part: slice, mine: list[int] = mine, level_size: tuple[int, int] = level_size) -> list[_Boxes]:
                    return self._propose_level([copies[index] for index in mine[part]], level_size)

                found = [boxes for some in self._pictures.run(len(mine), run) for boxes in some]
                for index, boxes in zip(mine, found, strict=True):
                    per_picture[index].append(boxes)
        return [_thinned(_joined(levels), _SAME_IOU) for levels in per_picture]

    def _propose_level(self, copies: list[_Copies], size_xy_px: tuple[int, int]) -> list[_Boxes]:
        pictures = np.stack([own.resized(size_xy_px) for own in copies])
        belief_NHW, offsets_N4HW = self._net.pnet(self._input(pictures))
        picture_K, row_K, column_K = torch.nonzero(belief_NHW >= _MIN_PROPOSAL, as_tuple=True)
        offsets_K4 = _plain(offsets_N4HW[picture_K, :, row_K, column_K])
        scores_K = _plain(belief_NHW[picture_K, row_K, column_K])
        cells_K2, picture_K = _plain(torch.stack([column_K, row_K], dim=1)), picture_K.cpu()
        found = []
        for index, own in enumerate(copies):
            here = (picture_K == index).numpy()
            ratio = np.asarray(own.size_xy_px) / np.asarray(size_xy_px)
            boxes = boxes_of_cells(cells_K2[here], offsets_K4[here], ratio)
            found.append(_thinned(_Boxes(boxes, scores_K[here]), _SAME_IN_LEVEL_IOU))
        return found

    def _refine(self, copies: list[_Copies], found: list[_Boxes]) -> list[_Boxes]:
        squares = [squared(boxes.boxes_K4) for boxes in found]

        def run(crops_bgr: U8Array) -> tuple[F64Array, F64Array]:
            belief_K, offsets_K4 = self._net.rnet(self._input(crops_bgr))
            return _plain(belief_K), _plain(offsets_K4)

        belief, offsets = self._over_crops(copies, squares, REFINE_PX, run, (np.zeros(0), np.zeros((0, 4))))
        refined = []
        for own, own_belief, own_offsets in zip(
            squares, _split(belief, squares), _split(offsets, squares), strict=True
        ):
            good = own_belief >= _MIN_REFINED
            stay = suppress(own[good], own_belief[good], max_iou=_SAME_IOU)
            refined.append(_Boxes(moved(own[good], own_offsets[good])[stay], own_belief[good][stay]))
        return refined

    def _decide(self, copies: list[_Copies], found: list[_Boxes]) -> list[list[Detection]]:
        squares = [squared(boxes.boxes_K4) for boxes in found]

        def run(crops_bgr: U8Array) -> tuple[F64Array, F64Array, F64Array]:
            belief_K, offsets_K4, points_K52 = self._net.onet(self._input(crops_bgr))
            return _plain(belief_K), _plain(offsets_K4), _plain(points_K52)

        nothing = (np.zeros(0), np.zeros((0, 4)), np.zeros((0, 5, 2)))
        belief, offsets, points = self._over_crops(copies, squares, OUTPUT_PX, run, nothing)
        detections = []
        for own, own_belief, own_offsets, own_points in zip(
            squares, _split(belief, squares), _split(offsets, squares), _split(points, squares), strict=True
        ):
            good = own_belief >= self._min_score
            boxes, scores = moved(own[good], own_offsets[good]), own_belief[good]
            corners, sides = own[good][:, None, :2], (own[good][:, 2:] - own[good][:, :2])[:, None]
            points_px = corners + own_points[good] * sides
            stay = suppress(boxes, scores, max_iou=_SAME_FACE_IOU, max_inside=_SAME_FACE_INSIDE)
            detections.append([_detection(boxes[i], float(scores[i]), points_px[i]) for i in stay])
        return detections

    def _over_crops(
        self,
        copies: list[_Copies],
        squares: list[F64Array],
        side_px: int,
        run: Callable[[U8Array], tuple[F64Array, ...]],
        nothing: tuple[F64Array, ...],
    ) -> list[F64Array]:
        """What a network says of all squares of all pictures, one array per output, in their order."""
        place = [(own, square) for own, boxes in zip(copies, squares, strict=True) for square in boxes]
        parts = self._crops.run(
            len(place), lambda part: run(np.stack([own.crop(square, side_px) for own, square in place[part]]))
        )
        return [np.concatenate(output) for output in zip(nothing, *parts, strict=True)]

    def _smallest(self, size_xy_px: tuple[int, int], *, coarse: bool) -> float:
        # A long, thin frame is judged by its short side: a face cannot be larger than that.
        length = min(max(size_xy_px), 2 * min(size_xy_px))
        if coarse:  # on a copy, whose pixels are not those that the caller's limit counts
            return length / _COARSE_FACES_ACROSS_FRAME
        usual = max(_SMALLEST_FACE_PX, length / _FACES_ACROSS_FRAME)
        return usual if self._smallest_face_px is None else self._smallest_face_px

    def _input(self, pictures_bgr_NHWC: U8Array) -> Tensor:
        return normalised(torch.from_numpy(pictures_bgr_NHWC).to(self._device))


class _Copies:
    """A picture and its copies at half size, a quarter and so on, each made when first asked for."""

    def __init__(self, image_bgr_HWC: U8Array) -> None:
        self._halved = [np.ascontiguousarray(image_bgr_HWC)]
        self.size_xy_px = (image_bgr_HWC.shape[1], image_bgr_HWC.shape[0])

    def resized(self, size_xy_px: tuple[int, int]) -> U8Array:
        """The whole picture at a size, area-averaged where it shrinks."""
        source = self._at_least(min(own / other for own, other in zip(self.size_xy_px, size_xy_px, strict=True)))
        shrinks = size_xy_px[0] < source.shape[1]
        resized = cv2.resize(source, size_xy_px, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        return np.asarray(resized, dtype=np.uint8)

    def crop(self, square_4: F64Array, side_px: int) -> U8Array:
        """A square of the picture at ``side_px``; what lies outside is black, as in training."""
        source = self._at_least(max(float(square_4[2] - square_4[0]) / side_px, 1e-6))
        ratio = np.array([source.shape[1], source.shape[0]]) / self.size_xy_px
        per_px = (square_4[2:] - square_4[:2]) / side_px * ratio
        start = square_4[:2] * ratio + per_px / 2 - 0.5  # where the centre of the crop's first pixel falls
        crop_to_source = np.array([[per_px[0], 0, start[0]], [0, per_px[1], start[1]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(source, crop_to_source, (side_px, side_px), flags=flags), dtype=np.uint8)

    def _at_least(self, shrink: float) -> U8Array:
        """The smallest copy that still has to shrink, or not to grow, when the picture is to be ``shrink`` times smaller."""
        wanted = max(int(np.log2(shrink)), 0)
        while len(self._halved) <= wanted:
            last = self._halved[-1]
            half = (max(last.shape[1] // 2, 1), max(last.shape[0] // 2, 1))
            self._halved.append(np.asarray(cv2.resize(last, half, interpolation=cv2.INTER_AREA), dtype=np.uint8))
        return self._halved[wanted]


def _detection(box_4: F64Array, score: float, points_52: F64Array) -> Detection:
    """From edge-based px to the project's, whose pixel centres are at integers."""
    keypoints = np.full((6, 2), np.nan)
    keypoints[:3] = points_52[:3]
    keypoints[3] = points_52[3:].mean(axis=0)
    return Detection(box_4 - 0.5, score, keypoints - 0.5)


def _joined(parts: list[_Boxes]) -> _Boxes:
    return _Boxes(
        np.concatenate([np.zeros((0, 4)), *(part.boxes_K4 for part in parts)]),
        np.concatenate([np.zeros(0), *(part.scores_K for part in parts)]),
    )


def _thinned(found: _Boxes, max_iou: float) -> _Boxes:
    stay = suppress(found.boxes_K4, found.scores_K, max_iou=max_iou)
    return _Boxes(found.boxes_K4[stay], found.scores_K[stay])


def _split(values_K: F64Array, per_picture: list[F64Array]) -> list[F64Array]:
    return np.split(values_K, np.cumsum([len(own) for own in per_picture])[:-1]) if per_picture else []


def _plain(values: Tensor) -> F64Array:
    return values.cpu().double().numpy()


def load(
    paths: list[Path], device: torch.device, digest: str, min_score: float, smallest_face_px: float | None
) -> MtcnnDetector:
    """See DetectorEntry."""
    return MtcnnDetector(
        filled(Mtcnn, weights.load_tensors(paths[0])),
        device,
        version=f"{ALGORITHM_VERSION}+{digest}",
        min_score=min_score,
        smallest_face_px=smallest_face_px,
        batch=_CPU_BATCH if device.type == "cpu" else _DEVICE_BATCH,
    )
