"""BlazeFace over frames of any size: two graphs over a pyramid of tiles.

What a reader would get wrong: two detectors share the work. The full-range graph is sure of faces that fill 8 to 50 % of
its tile, so it runs over tiles of finer and finer levels; the short-range graph, of 20 to 100 %, so it sees the whole
frame and the frame with a border. Both know faces up to about 60 degrees from upright.

Legend: K faces of one picture or of all pictures of a call, HWC picture, 62 = six (x, y) keypoints, px = frame pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ml_common.detect.batching import AdaptiveBatch
from ml_common.detect.blazeface import (
    FULL_RANGE,
    SHORT_RANGE,
    BlazeFace,
    F64Array,
    U8Array,
    iou,
    overlap_areas,
)
from ml_common.detect.graph_module import load_graph
from ml_common.detect.pyramid import Level, cut_tiles, gather_faces, padded_level, plan_levels
from ml_common.detect.types import Detection

ALGORITHM_VERSION = "3"

_SMALLEST_SHARE = 0.08  # of a tile's side; measured on scaled photos, see tests/bench/bench_detect.py
_SMALLEST_FACE_PX = 40.0
_FACES_ACROSS_FRAME = 40.0  # in a large frame, a face is sought down to this part of its length
_BORDER_ZOOMS = (1.0, 1.6)  # for the short-range graph: the frame as it is, and with a border
_SAME_FACE_IOU = 0.3
_SAME_FACE_INSIDE = 0.75  # a box this much inside a better one is a part of the same face
_CPU_BATCH, _DEVICE_BATCH = 8, 128  # beyond 8 the activations leave the CPU's cache and malloc's reuse


class BlazeFaceDetector:
    """See Detector. Not safe for concurrent threads."""

    name = "blazeface"
    # Faces that lie or hang are sometimes seen upright, and then meshed wrongly, but with a lower score.
    clear_score = 0.88

    def __init__(
        self,
        full_range: BlazeFace,
        short_range: BlazeFace,
        *,
        version: str,
        batch: int,
        smallest_face_px: float | None = None,
    ) -> None:
        self.version = version
        self._full_range = full_range
        self._short_range = short_range
        self._batch = AdaptiveBatch(batch)
        self._smallest_face_px = smallest_face_px

    def detect(self, images_bgr: Sequence[U8Array], *, coarse: bool = False) -> list[list[Detection]]:
        """See Detector."""
        sizes = [(image.shape[1], image.shape[0]) for image in images_bgr]
        side = self._full_range.layout.side_px
        fine = [
            plan_levels(size, side, smallest_face_px=self._smallest(size), smallest_share=_SMALLEST_SHARE)
            for size in sizes
        ]
        if coarse:
            fine = [levels[-1:] for levels in fine]
        whole = [
            [padded_level(size, self._short_range.layout.side_px, zoom) for zoom in _BORDER_ZOOMS] for size in sizes
        ]
        boxes_fine = self._run(self._full_range, images_bgr, fine)
        boxes_whole = self._run(self._short_range, images_bgr, whole)
        return [
            _merge(*(np.concatenate(pair) for pair in zip(a, b, strict=True)))
            for a, b in zip(boxes_fine, boxes_whole, strict=True)
        ]

    def _smallest(self, size_xy_px: tuple[int, int]) -> float:
        if self._smallest_face_px is not None:
            return self._smallest_face_px
        # A long, thin frame is judged by its short side: a face cannot be larger than that.
        return max(_SMALLEST_FACE_PX, min(max(size_xy_px), 2 * min(size_xy_px)) / _FACES_ACROSS_FRAME)

    def _run(
        self, graph: BlazeFace, images: Sequence[U8Array], levels_per_image: list[list[Level]]
    ) -> list[tuple[F64Array, F64Array, F64Array]]:
        side = graph.layout.side_px
        own = [cut_tiles(image, levels, side) for image, levels in zip(images, levels_per_image, strict=True)]
        tiles = np.concatenate([np.zeros((0, side, side, 3), np.uint8), *own])
        batches = self._batch.run(len(tiles), lambda part: graph.detect_tiles(tiles[part]))
        faces = iter([face for batch in batches for face in batch])
        found = []
        for image, levels, cut in zip(images, levels_per_image, own, strict=True):
            size = (image.shape[1], image.shape[0])
            found.append(gather_faces(size, levels, side, list(islice(faces, len(cut)))))
        return found


def _merge(boxes_K4: F64Array, keypoints_K62: F64Array, scores_k: F64Array) -> list[Detection]:
    """Keeps of boxes that show the same face the best one; best first. Equal scores keep their order, so the result is
    deterministic.
    """
    order = np.argsort(-scores_k, kind="stable")
    kept: list[Detection] = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(Detection(boxes_K4[best], float(scores_k[best]), keypoints_K62[best]))
        inner, _, area = overlap_areas(boxes_K4[best : best + 1], boxes_K4[rest])
        same = (iou(boxes_K4[best : best + 1], boxes_K4[rest])[0] > _SAME_FACE_IOU) | (
            inner[0] > _SAME_FACE_INSIDE * area
        )
        order = rest[~same]
    return kept


def load(
    paths: list[Path], device: torch.device, digest: str, min_score: float, smallest_face_px: float | None
) -> BlazeFaceDetector:
    """See DetectorEntry. ``paths``: the full-range graph, then the short-range one."""
    full, short = (load_graph(path) for path in paths)
    return BlazeFaceDetector(
        BlazeFace(full, FULL_RANGE, device, min_score=min_score),
        BlazeFace(short, SHORT_RANGE, device, min_score=min_score),
        version=f"{ALGORITHM_VERSION}+{digest}",
        batch=_CPU_BATCH if device.type == "cpu" else _DEVICE_BATCH,
        smallest_face_px=smallest_face_px,
    )
