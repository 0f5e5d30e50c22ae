"""The default finder: BlazeFace over a pyramid, then the Face Mesh twice, then 68 points.

What a reader would get wrong: each image's result is its own. Tiles and crops of all images share batches for speed,
but nothing compares one image with another, so a face is the same (to float tolerance) whether its frame comes alone or
among hundreds.

Two detectors share the work: the full-range graph is sure of faces that fill 8 to 50 % of its tile, so it runs over
tiles of finer and finer levels; the short-range graph, of 20 to 100 %, so it sees the whole frame and the frame with a
border.

Both know faces up to about 60 degrees from upright. A frame without a clear face is looked at again lying on either
side and upside down, for faces from about 1/12 of its length on; where two looks show one face, the better score wins.

Legend: K faces of one image or of all images of a call, HWC image, 62 = six (x, y) keypoints, px = frame pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ml_common import weights
from ml_common.detect.blazeface import FULL_RANGE, SHORT_RANGE, BlazeFace, F64Array, U8Array, iou, overlap_areas
from ml_common.detect.facemesh import FaceMesh, region_of_detection, region_of_mesh
from ml_common.detect.graph_module import load_graph
from ml_common.detect.mesh68 import landmarks_of_mesh
from ml_common.detect.pyramid import Level, cut_tiles, gather_faces, padded_level, plan_levels
from ml_common.detect.types import Detection, FoundFace
from ml_common.imaging import as_bgr_u8

ALGORITHM_VERSION = "2"
FULL_RANGE_WEIGHTS, SHORT_RANGE_WEIGHTS, MESH_WEIGHTS = "blazeface_full_range", "blazeface_short_range", "face_mesh_468"

_SMALLEST_SHARE = 0.08  # of a tile's side; measured on scaled photos, see tests/bench/bench_detect.py
_SMALLEST_FACE_PX = 40.0
_FACES_ACROSS_FRAME = 40.0  # in a large frame, a face is sought down to this part of its length
_BORDER_ZOOMS = (1.0, 1.6)  # for the short-range graph: the frame as it is, and with a border
_SAME_FACE_IOU = 0.3
_SAME_FACE_INSIDE = 0.75  # a box this much inside a better one is a part of the same face
_MIN_PRESENCE_FIRST = 0.5  # of the mesh in the detector's crop
_MIN_PRESENCE = 0.8  # of the mesh in its own crop
_MIN_PRESENCE_TURNED = (
    0.97  # the same for a face that only a turned frame shows: rare in films, and hair likes to pose as one
)
_CLEAR_SCORE = (
    0.88  # faces that lie or hang are sometimes seen upright, and then meshed wrongly, but with a lower score
)
_OTHER_TURNS = (1, 2, 3)  # quarter turns to try where no face is clear
_TWIN_IOU = 0.35  # of the extents of two sets of landmarks
_CPU_BATCH, _DEVICE_BATCH = 8, 128  # beyond 8 the activations leave the CPU's cache and malloc's reuse


class FaceFinder:
    """Finds faces and their landmarks in pictures of any size. Build one with ``load_default_finder``; not safe for
    concurrent threads.
    """

    name = "blazeface-facemesh"

    def __init__(
        self,
        full_range: BlazeFace,
        short_range: BlazeFace,
        mesh: FaceMesh,
        *,
        version: str,
        batch: int,
        smallest_face_px: float | None = None,
    ) -> None:
        if smallest_face_px is not None and smallest_face_px <= 0:
            raise ValueError(f"smallest_face_px must be above 0, got {smallest_face_px}")
        self.version = version
        self._full_range = full_range
        self._short_range = short_range
        self._mesh = mesh
        self._batch = batch
        self._smallest_face_px = smallest_face_px

    def find(self, images_bgr: Sequence[np.ndarray[Any, Any]]) -> list[list[FoundFace]]:
        """Faces with 68 landmarks and the mesh, per image, the largest box first.

        ``images_bgr``: HWC BGR (also grey or BGRA), uint8, uint16 or float32 0..1, any sizes mixed. Raises ValueError
        for anything else.
        """
        images = [as_bgr_u8(image) for image in images_bgr]
        found = self._confirm(images, self._detect(images, all_levels=True), _MIN_PRESENCE)
        unclear = [frame for frame, faces in enumerate(found) if all(face.score < _CLEAR_SCORE for face in faces)]
        for turns in _OTHER_TURNS:
            turned = self._find_turned([images[frame] for frame in unclear], turns)
            for frame, faces in zip(unclear, turned, strict=True):
                found[frame] += faces
        return [_without_twins(faces) for faces in found]

    def _find_turned(self, images: list[U8Array], turns: int) -> list[list[FoundFace]]:
        turned = [np.ascontiguousarray(np.rot90(image, turns)) for image in images]
        detections = [
            [_turned_back(face, turns, image.shape) for face in faces]
            for image, faces in zip(images, self._detect(turned, all_levels=False), strict=True)
        ]
        return self._confirm(images, detections, _MIN_PRESENCE_TURNED)

    def _confirm(
        self, images: list[U8Array], detections: list[list[Detection]], min_presence: float
    ) -> list[list[FoundFace]]:
        frame_of_K = [frame for frame, faces in enumerate(detections) for _ in faces]
        faces_K = [face for faces in detections for face in faces]
        regions = [region_of_detection(face.box_px_4, face.keypoints_px_62) for face in faces_K]
        meshes, presences = self._mesh.fit(images, frame_of_K, regions)
        likely = np.flatnonzero(presences >= _MIN_PRESENCE_FIRST)
        frame_of_K, faces_K = [frame_of_K[i] for i in likely], [faces_K[i] for i in likely]
        regions = [region_of_mesh(meshes[i, :, :2]) for i in likely]
        meshes, presences = self._mesh.fit(images, frame_of_K, regions)
        landmarks = landmarks_of_mesh(meshes)
        found: list[list[FoundFace]] = [[] for _ in images]
        for frame, face, mesh, points, presence in zip(frame_of_K, faces_K, meshes, landmarks, presences, strict=True):
            if presence >= min_presence:
                found[frame].append(
                    FoundFace(face.box_px_4, face.score, float(presence), points, mesh.astype(np.float32))
                )
        return found

    def detect(self, images_bgr: Sequence[np.ndarray[Any, Any]]) -> list[list[Detection]]:
        """Boxes and six keypoints alone, per image, best score first: what ``find`` starts from, before the mesh
        confirms a face.
        """
        return self._detect([as_bgr_u8(image) for image in images_bgr], all_levels=True)

    def _detect(self, images: list[U8Array], *, all_levels: bool) -> list[list[Detection]]:
        sizes = [(image.shape[1], image.shape[0]) for image in images]
        side = FULL_RANGE.side_px
        fine = [
            plan_levels(size, side, smallest_face_px=self._smallest(size), smallest_share=_SMALLEST_SHARE)
            for size in sizes
        ]
        if not all_levels:
            fine = [levels[-1:] for levels in fine]
        coarse = [[padded_level(size, SHORT_RANGE.side_px, zoom) for zoom in _BORDER_ZOOMS] for size in sizes]
        boxes_fine = self._run(self._full_range, images, fine)
        boxes_coarse = self._run(self._short_range, images, coarse)
        return [
            _merge(*(np.concatenate(pair) for pair in zip(a, b, strict=True)))
            for a, b in zip(boxes_fine, boxes_coarse, strict=True)
        ]

    def _smallest(self, size_xy_px: tuple[int, int]) -> float:
        if self._smallest_face_px is not None:
            return self._smallest_face_px
        # A long, thin frame is judged by its short side: a face cannot be larger than that.
        return max(_SMALLEST_FACE_PX, min(max(size_xy_px), 2 * min(size_xy_px)) / _FACES_ACROSS_FRAME)

    def _run(
        self, detector: BlazeFace, images: list[U8Array], levels_per_image: list[list[Level]]
    ) -> list[tuple[F64Array, F64Array, F64Array]]:
        side = detector.layout.side_px
        found, waiting = [], []
        for image, levels in zip(images, levels_per_image, strict=True):
            waiting.append(cut_tiles(image, levels, side))
        tiles = np.concatenate([np.zeros((0, side, side, 3), np.uint8), *waiting])
        faces = iter(
            [f for i in range(0, len(tiles), self._batch) for f in detector.detect_tiles(tiles[i : i + self._batch])]
        )
        for image, levels, own in zip(images, levels_per_image, waiting, strict=True):
            size = (image.shape[1], image.shape[0])
            found.append(gather_faces(size, levels, side, list(islice(faces, len(own)))))
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


def _turned_back(face: Detection, turns: int, shape_HWC: tuple[int, ...]) -> Detection:
    """A detection in ``np.rot90(image, turns)`` as one in the image."""
    last_y, last_x = shape_HWC[0] - 1.0, shape_HWC[1] - 1.0

    def back(points_K2: F64Array) -> F64Array:
        x, y = points_K2[:, 0], points_K2[:, 1]
        turned = {1: (last_x - y, x), 2: (last_x - x, last_y - y), 3: (y, last_y - x)}[turns]
        return np.stack(turned, axis=1)

    corners = back(face.box_px_4.reshape(2, 2))
    box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    return Detection(box, face.score, back(face.keypoints_px_62))


def _without_twins(faces: list[FoundFace]) -> list[FoundFace]:
    """Two boxes can end on one face once the mesh has settled; the better score stays. The largest box comes first."""
    kept: list[FoundFace] = []
    for face in sorted(faces, key=lambda f: -f.score):
        extent = _extent(face)
        if all(iou(extent, _extent(other))[0, 0] < _TWIN_IOU for other in kept):
            kept.append(face)
    return sorted(kept, key=lambda f: -float(np.prod(f.box_px_4[2:] - f.box_px_4[:2])))


def _extent(face: FoundFace) -> F64Array:
    points = face.landmarks_px_68x2
    return np.concatenate([points.min(axis=0), points.max(axis=0)])[None]


def load_default_finder(
    weights_dir: Path, device: torch.device, *, min_score: float = 0.5, smallest_face_px: float | None = None
) -> FaceFinder:
    """The default finder with its weights from ``weights_dir`` (filled by ``understudy weights fetch``) on ``device``.

    ``min_score``: the detector's threshold, 0..1. ``smallest_face_px``: faces from this size on are sought; None: 40
    px, in large frames 1/40 of the frame. Smaller means more tiles, so more time. Raises
    ``ml_common.weights.MissingWeights`` where a file is missing or changed.
    """
    batch = _CPU_BATCH if device.type == "cpu" else _DEVICE_BATCH
    names = (FULL_RANGE_WEIGHTS, SHORT_RANGE_WEIGHTS, MESH_WEIGHTS)
    full, short, mesh = (load_graph(weights.locate(name, weights_dir)) for name in names)
    digest = hashlib.sha256("".join(weights.entry(name).sha256 for name in names).encode()).hexdigest()[:12]
    return FaceFinder(
        BlazeFace(full, FULL_RANGE, device, min_score=min_score),
        BlazeFace(short, SHORT_RANGE, device, min_score=min_score),
        FaceMesh(mesh, device, batch=batch),
        version=f"{ALGORITHM_VERSION}+{digest}",
        batch=batch,
        smallest_face_px=smallest_face_px,
    )
