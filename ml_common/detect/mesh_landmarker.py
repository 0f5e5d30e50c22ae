"""Face Mesh as a landmarker: the mesh twice, then 68 points.

What a reader would get wrong: the first mesh only says where to crop. It is fitted in the detector's box, the second in
the box of the first, once as it is and once mirrored, and only the mean of these two is used.

Legend: K faces, 68 = iBUG points, px = frame pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ml_common.detect.facemesh import FaceMesh, region_of_detection, region_of_mesh
from ml_common.detect.graph_module import load_graph
from ml_common.detect.mesh68 import landmarks_of_mesh
from ml_common.detect.types import Detection, Located, U8Array

ALGORITHM_VERSION = "3"

_MIN_PRESENCE_FIRST = 0.5  # of the mesh in the detector's crop
_MIN_PRESENCE = 0.8  # of the mesh in its own crop
# The same for a face that only a turned frame shows: rare in films, and hair likes to pose as one.
_MIN_PRESENCE_TURNED = 0.97
_CPU_BATCH, _DEVICE_BATCH = 8, 128  # beyond 8 the activations leave the CPU's cache and malloc's reuse


class MeshLandmarker:
    """See Landmarker. Not safe for concurrent threads."""

    name = "facemesh"

    def __init__(self, mesh: FaceMesh, *, version: str) -> None:
        self.version = version
        self._mesh = mesh

    def locate(
        self,
        images_bgr: Sequence[U8Array],
        frame_of_K: Sequence[int],
        faces_K: Sequence[Detection],
        *,
        turned: bool = False,
    ) -> list[Located | None]:
        """See Landmarker. The score is the network's belief that its crop holds a face."""
        regions = [region_of_detection(face.box_px_4, face.keypoints_px_62) for face in faces_K]
        meshes, presences = self._mesh.fit(images_bgr, frame_of_K, regions)
        likely = [int(i) for i in np.flatnonzero(presences >= _MIN_PRESENCE_FIRST)]
        regions = [region_of_mesh(meshes[i, :, :2]) for i in likely]
        meshes, presences = self._mesh.fit(images_bgr, [frame_of_K[i] for i in likely], regions, both_ways=True)
        landmarks = landmarks_of_mesh(meshes)
        located: list[Located | None] = [None] * len(faces_K)
        least = _MIN_PRESENCE_TURNED if turned else _MIN_PRESENCE
        for i, mesh, points, presence in zip(likely, meshes, landmarks, presences, strict=True):
            if presence >= least:
                located[i] = Located(points, float(presence), mesh.astype(np.float32))
        return located


def load(paths: list[Path], device: torch.device, digest: str) -> MeshLandmarker:
    """See LandmarkerEntry."""
    batch = _CPU_BATCH if device.type == "cpu" else _DEVICE_BATCH
    return MeshLandmarker(FaceMesh(load_graph(paths[0]), device, batch=batch), version=f"{ALGORITHM_VERSION}+{digest}")
