"""The 468-point Face Mesh: an upright crop of one face in, points in frame pixels and a presence score out; many faces
at once.

What a reader would get wrong: the crop is turned so that the eyes are level and is 1.5 times the face's box. The
network is only as good as that crop, so a second pass crops again by the mesh of the first, which is steadier than the
detector's box. And the network has a left and a right of its own: a mirrored crop does not give the mirrored mesh, so
the mean of both is nearer to the truth and an eighth to a quarter steadier (``faces.synthetic.*`` in
tests/bench/bench_detect.py).

Sources: Y. Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs", arXiv:1907.06724;
the region's rule: mediapipe/modules/face_landmark/*.pbtxt (Apache-2.0).

Legend: K faces, 468 mesh vertices of (x, y, z), HWC/NHWC images, 23 = affine 2 x 3, c = a crop's pixels, px = frame
pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from ml_common.detect.batching import AdaptiveBatch
from ml_common.detect.blazeface import F64Array, U8Array

F32Array = np.ndarray[Any, np.dtype[np.float32]]

SIDE_PX = 192
VERTICES = 468
RIGHT_EYE_OUTER, LEFT_EYE_OUTER = 33, 263  # vertices that define the roll
_REGION_PER_BOX = 1.5

# Vertices on the middle line; of the others, the right half comes first (below 248), then the left in the same order.
_MIDDLE = (*range(3), 4, 5, 6, *range(8, 20), 94, 151, 152, 164, 168, 175, 195, 197, 199, 200)
_LEFT_FROM = 248


def _mirrored_vertices() -> np.ndarray[Any, np.dtype[np.intp]]:
    right = np.setdiff1d(np.arange(_LEFT_FROM), _MIDDLE)
    mirrored = np.arange(VERTICES)
    mirrored[right], mirrored[_LEFT_FROM:] = np.arange(_LEFT_FROM, VERTICES), right
    return mirrored


MIRROR_468 = _mirrored_vertices()
"""MIRROR_468[i] is the vertex that vertex i becomes in a mirrored picture."""


@dataclass(frozen=True, slots=True)
class Region:
    """A turned square in a frame: centre (pixel centres at integers), side, and the direction of its x axis in radians
    (y down).
    """

    centre_xy_px: tuple[float, float]
    side_px: float
    roll_rad: float

    def crop_to_frame_23(self) -> F64Array:
        """Maps pixels of a SIDE_PX crop to frame pixels, both with pixel centres at integers."""
        scale = self.side_px / SIDE_PX
        cos, sin = scale * np.cos(self.roll_rad), scale * np.sin(self.roll_rad)
        linear = np.array([[cos, -sin], [sin, cos]])
        middle = np.full(2, (SIDE_PX - 1) / 2)
        return np.concatenate([linear, (self.centre_xy_px - linear @ middle)[:, None]], axis=1)


def region_of_detection(box_px_4: F64Array, keypoints_px_62: F64Array | None) -> Region:
    """The region of a detector's box, turned by its two eye keypoints; upright where it knows none."""
    left, top, right, bottom = (float(v) for v in box_px_4)
    across = np.zeros(2) if keypoints_px_62 is None else np.nan_to_num(keypoints_px_62[1] - keypoints_px_62[0])
    side = max(right - left, bottom - top) * _REGION_PER_BOX
    return Region(((left + right) / 2, (top + bottom) / 2), side, float(np.arctan2(across[1], across[0])))


def region_of_mesh(mesh_px_468x2: F64Array) -> Region:
    """The region of a mesh: the box of its points in the face's own upright axes, turned by the outer eye corners."""
    across = mesh_px_468x2[LEFT_EYE_OUTER] - mesh_px_468x2[RIGHT_EYE_OUTER]
    roll = float(np.arctan2(across[1], across[0]))
    axes = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    upright = mesh_px_468x2 @ axes.T
    low, high = upright.min(axis=0), upright.max(axis=0)
    centre = (low + high) / 2 @ axes
    return Region((float(centre[0]), float(centre[1])), float((high - low).max()) * _REGION_PER_BOX, roll)


class FaceMesh:
    """The Face Mesh graph: K x 3 x 192 x 192 RGB in 0..1 to 1404 coordinates in crop pixels and one presence logit."""

    def __init__(self, graph: nn.Module, device: torch.device, *, batch: int) -> None:
        self._graph = graph.to(device)
        self._device = device
        self._batch = AdaptiveBatch(batch)

    def fit(
        self,
        images_bgr: Sequence[U8Array],
        frame_of_K: Sequence[int],
        regions_K: Sequence[Region],
        *,
        both_ways: bool = False,
    ) -> tuple[F64Array, F64Array]:
        """Meshes (K x 468 x 3, frame px; z in the same unit, smaller is nearer) and presence (K, 0..1) of faces.

        ``frame_of_K`` says which of ``images_bgr`` (uint8 HWC BGR) each region lies in. ``both_ways``: the mean of what
        the crop and its mirror image give, for twice the work.
        """
        views = 2 if both_ways else 1  # of a crop; they lie next to each other in a batch

        def fit_some(part: slice) -> tuple[F64Array, F64Array]:
            own = range(part.start // views, -(-part.stop // views))
            crops = {i: crop_region(images_bgr[frame_of_K[i]], regions_K[i]) for i in own}
            batch = [
                crops[j // views][:, ::-1] if j % views else crops[j // views] for j in range(part.start, part.stop)
            ]
            return self._run(np.stack(batch))

        fitted = [
            (np.zeros((0, VERTICES, 3)), np.zeros(0)),
            *self._batch.run(len(regions_K) * views, fit_some),
        ]
        mesh_c = np.concatenate([mesh for mesh, _ in fitted]).reshape(-1, views, VERTICES, 3)
        presence = np.concatenate([presence for _, presence in fitted]).reshape(-1, views)
        if both_ways:
            mesh_c[:, 1] = mesh_c[:, 1, MIRROR_468] * (-1.0, 1.0, 1.0) + (SIDE_PX, 0.0, 0.0)
        in_frame = [_to_frame(mesh, region) for mesh, region in zip(mesh_c.mean(axis=1), regions_K, strict=True)]
        return np.array(in_frame).reshape(-1, VERTICES, 3), presence.mean(axis=1)

    @torch.inference_mode()
    def _run(self, crops_bgr_NHWC: U8Array) -> tuple[F64Array, F64Array]:
        crops = cv2.cvtColor(crops_bgr_NHWC.reshape(-1, SIDE_PX, 3), cv2.COLOR_BGR2RGB).reshape(crops_bgr_NHWC.shape)
        batch_NHWC = torch.from_numpy(crops).to(self._device)
        points, logits = self._graph(batch_NHWC.permute(0, 3, 1, 2).to(torch.float32).div_(255.0))
        mesh = points.reshape(-1, VERTICES, 3).cpu().double().numpy()
        return mesh, torch.sigmoid(logits.reshape(-1)).cpu().double().numpy()


def crop_region(image_bgr_HWC: U8Array, region: Region) -> U8Array:
    """The upright SIDE_PX square of a region, uint8 BGR; outside the frame its edge is repeated. Area-averaged where it
    shrinks.
    """
    crop_to_frame = region.crop_to_frame_23()
    image, shrink = image_bgr_HWC, int(region.side_px / SIDE_PX)
    if shrink > 1:
        image, frame_to_image = _shrunk_part(image_bgr_HWC, region, shrink)
        crop_to_frame = _compose(frame_to_image, crop_to_frame)
    crop = cv2.warpAffine(
        image,
        crop_to_frame,
        (SIDE_PX, SIDE_PX),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(crop, dtype=np.uint8)


def _shrunk_part(image_bgr_HWC: U8Array, region: Region, shrink: int) -> tuple[U8Array, F64Array]:
    """The part of a frame around a region at 1/shrink of its size, and the 2x3 from frame pixels to that part's."""
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * (SIDE_PX - 1.0)
    matrix = region.crop_to_frame_23()
    corners_px = corners @ matrix[:, :2].T + matrix[:, 2]
    height, width = image_bgr_HWC.shape[:2]
    spans = []
    for low, high, length in zip(corners_px.min(axis=0), corners_px.max(axis=0), (width, height), strict=True):
        start = int(np.clip(np.floor(low) - shrink, 0, length - 1))
        stop = int(np.clip(np.ceil(high) + shrink + 1, start + 1, length))
        spans.append((start, stop))
    (left, right), (top, bottom) = spans
    size = tuple(max(1, round((stop - start) / shrink)) for start, stop in spans)
    part = cv2.resize(image_bgr_HWC[top:bottom, left:right], size, interpolation=cv2.INTER_AREA)
    scale = np.array([size[0] / (right - left), size[1] / (bottom - top)])
    offset = (0.5 - np.array([left, top])) * scale - 0.5
    return np.asarray(part, dtype=np.uint8), np.concatenate([np.diag(scale), offset[:, None]], axis=1)


def _compose(b_to_c_23: F64Array, a_to_b_23: F64Array) -> F64Array:
    linear = b_to_c_23[:, :2] @ a_to_b_23[:, :2]
    return np.concatenate([linear, (b_to_c_23[:, :2] @ a_to_b_23[:, 2] + b_to_c_23[:, 2])[:, None]], axis=1)


def _to_frame(mesh_c_468x3: F64Array, region: Region) -> F64Array:
    matrix = region.crop_to_frame_23()
    # The graph counts from the crop's edge, the project from the first pixel's centre.
    points = (mesh_c_468x3[:, :2] - 0.5) @ matrix[:, :2].T + matrix[:, 2]
    depth = mesh_c_468x3[:, 2:] * (region.side_px / SIDE_PX)
    return np.concatenate([points, depth], axis=1)
