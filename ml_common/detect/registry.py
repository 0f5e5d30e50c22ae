"""Detectors and landmarkers by name.

What a reader would get wrong: this module imports no torch, so that a server can check a name; what a name stands for is
imported when it is loaded. The default pair works out of the box; the others need weight files that a user adds
(``understudy weights add``), since their licences do not let us bring them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ml_common import weights

if TYPE_CHECKING:
    import torch

    from ml_common.detect.finder import FaceFinder
    from ml_common.detect.port import Detector, Landmarker

E = TypeVar("E")

DEFAULT_DETECTOR = "blazeface"
DEFAULT_LANDMARKER = "facemesh"


@dataclass(frozen=True, slots=True)
class DetectorEntry:
    """One detector. ``load(paths, device, version, min_score, smallest_face_px)`` makes it from its weight files, which are
    those that ``weights`` names in ``ml_common.weights``, in that order."""

    weights: tuple[str, ...]
    min_score: float
    load: Callable[[list[Path], torch.device, str, float, float | None], Detector]
    note: str


@dataclass(frozen=True, slots=True)
class LandmarkerEntry:
    """One landmarker, as DetectorEntry."""

    weights: tuple[str, ...]
    load: Callable[[list[Path], torch.device, str], Landmarker]
    note: str


def _load_blazeface(
    paths: list[Path], device: torch.device, digest: str, min_score: float, smallest_face_px: float | None
) -> Detector:
    from ml_common.detect import blazeface_detector

    return blazeface_detector.load(paths, device, digest, min_score, smallest_face_px)


def _load_s3fd(
    paths: list[Path], device: torch.device, digest: str, min_score: float, smallest_face_px: float | None
) -> Detector:
    from ml_common.detect import s3fd_detector

    return s3fd_detector.load(paths, device, digest, min_score, smallest_face_px)


def _load_mtcnn(
    paths: list[Path], device: torch.device, digest: str, min_score: float, smallest_face_px: float | None
) -> Detector:
    from ml_common.detect import mtcnn_detector

    return mtcnn_detector.load(paths, device, digest, min_score, smallest_face_px)


def _load_facemesh(paths: list[Path], device: torch.device, digest: str) -> Landmarker:
    from ml_common.detect import mesh_landmarker

    return mesh_landmarker.load(paths, device, digest)


def _load_fan(name: str, paths: list[Path], device: torch.device, digest: str) -> Landmarker:
    from ml_common.detect import fan_landmarker

    return fan_landmarker.load(name, paths, device, digest)


DETECTORS: Mapping[str, DetectorEntry] = {
    "blazeface": DetectorEntry(
        ("blazeface_full_range", "blazeface_short_range"), 0.5, _load_blazeface, "quick; works out of the box"
    ),
    "s3fd": DetectorEntry(("s3fd",), 0.5, _load_s3fd, "sees covered and blurred faces; wants a GPU and a file you add"),
    "mtcnn": DetectorEntry(
        ("mtcnn",), 0.7, _load_mtcnn, "three small networks; `understudy weights fetch --with mtcnn`"
    ),
}

LANDMARKERS: Mapping[str, LandmarkerEntry] = {
    "facemesh": LandmarkerEntry(("face_mesh_468",), _load_facemesh, "468 vertices, mapped to 68; works out of the box"),
    "fan2d": LandmarkerEntry(
        ("fan2d",), partial(_load_fan, "fan2d"), "68 points as seen; wants a GPU and a file you add"
    ),
    "fan3d": LandmarkerEntry(
        ("fan3d",), partial(_load_fan, "fan3d"), "68 points as projected, for heads and profiles; as fan2d"
    ),
}


def load_finder(
    weights_dir: Path,
    device: torch.device,
    *,
    detector: str = DEFAULT_DETECTOR,
    landmarker: str = DEFAULT_LANDMARKER,
    min_score: float | None = None,
    smallest_face_px: float | None = None,
) -> FaceFinder:
    """A finder with its weights from ``weights_dir`` (see ``understudy weights``) on ``device``.

    ``min_score``: the detector's threshold, over 0 and under 1; None: its own default. ``smallest_face_px``: faces from
    this size on are sought; None: the detector's default. Smaller takes longer. Raises ValueError for an unknown name,
    ``ml_common.weights.MissingWeights`` where a file is missing or changed.
    """
    from ml_common.detect.finder import FaceFinder

    eyes, points = _entry("detector", DETECTORS, detector), _entry("landmarker", LANDMARKERS, landmarker)
    threshold = eyes.min_score if min_score is None else min_score
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"min_score must lie between 0 and 1, got {threshold}")
    if smallest_face_px is not None and smallest_face_px <= 0:
        raise ValueError(f"smallest_face_px must be above 0, got {smallest_face_px}")
    eye_paths, point_paths = _located(eyes.weights, weights_dir), _located(points.weights, weights_dir)
    return FaceFinder(
        eyes.load(eye_paths, device, _digest(eyes.weights, weights_dir), threshold, smallest_face_px),
        points.load(point_paths, device, _digest(points.weights, weights_dir)),
    )


def _entry(kind: str, entries: Mapping[str, E], name: str) -> E:
    if name not in entries:
        raise ValueError(f"unknown {kind} {name!r}; known are {', '.join(entries)}")
    return entries[name]


def _located(names: tuple[str, ...], weights_dir: Path) -> list[Path]:
    return [weights.locate(name, weights_dir) for name in names]


def _digest(names: tuple[str, ...], weights_dir: Path) -> str:
    """Names the weights in use: 12 hex digits over the digests of the files."""
    digests = "".join(weights.digest(name, weights_dir) for name in names)
    return hashlib.sha256(digests.encode()).hexdigest()[:12]
