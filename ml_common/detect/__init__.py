"""Finding faces and their landmarks: boxes, 68 points and, where the landmarker has one, a mesh, from pictures of any size.

What a reader would get wrong: the weights are not here. ``load_finder`` takes a folder that ``understudy weights`` fills.
Names are imported on first use: a server checks the name of a detector without loading torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_common.lazy_names import lazy_names

if TYPE_CHECKING:
    from ml_common.detect.finder import FaceFinder
    from ml_common.detect.port import Detector, Landmarker
    from ml_common.detect.registry import DEFAULT_DETECTOR, DEFAULT_LANDMARKER, DETECTORS, LANDMARKERS, load_finder
    from ml_common.detect.types import Detection, FoundFace, Located

_HOMES = {
    "DEFAULT_DETECTOR": "registry",
    "DEFAULT_LANDMARKER": "registry",
    "DETECTORS": "registry",
    "LANDMARKERS": "registry",
    "Detection": "types",
    "Detector": "port",
    "FaceFinder": "finder",
    "FoundFace": "types",
    "Landmarker": "port",
    "Located": "types",
    "load_finder": "registry",
}

__all__ = [
    "DEFAULT_DETECTOR",
    "DEFAULT_LANDMARKER",
    "DETECTORS",
    "LANDMARKERS",
    "Detection",
    "Detector",
    "FaceFinder",
    "FoundFace",
    "Landmarker",
    "Located",
    "load_finder",
]

__getattr__ = lazy_names(__name__, _HOMES)
