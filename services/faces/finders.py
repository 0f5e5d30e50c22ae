"""The finders that a worker has loaded. Importable without torch: networks come with the first ``get``."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_common.detect import DETECTORS, LANDMARKERS
from ml_common.facesets import LandmarkOrigin, Producer
from ml_common.weights import MissingWeights, digest
from services.faces.crops import Placed
from services.kit import weights
from services.kit.errors import MissingObject
from services.kit.operations.stage import WorkerEnv

if TYPE_CHECKING:
    from ml_common.detect import FaceFinder, FoundFace


class Finders:
    """Loads a finder once for the options that shape it. ``options`` as ``ExtractionOptions.to_json``."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[Any, ...], FaceFinder] = {}

    def get(self, env: WorkerEnv, options: dict[str, Any]) -> FaceFinder:
        """The finder; MissingObject MISSING_WEIGHTS says what to do when a weight file is not there."""
        key = (options["detector"], options["landmarker"], options["min_score"], options["min_face_px"])
        if key not in self._loaded:
            import torch

            from ml_common.detect import load_finder

            weights.ensure(weight_names(options), env.weights_dir, env.store)
            try:
                self._loaded[key] = load_finder(
                    env.weights_dir,
                    torch.device(env.device),
                    detector=options["detector"],
                    landmarker=options["landmarker"],
                    min_score=options["min_score"],
                    smallest_face_px=options["min_face_px"] or None,
                )
            except MissingWeights as error:
                raise MissingObject(
                    str(error), reason="MISSING_WEIGHTS", metadata={"weights_dir": str(env.weights_dir)}
                ) from error
        return self._loaded[key]


def weight_names(options: dict[str, Any]) -> list[str]:
    """Names in ``ml_common.weights`` of the files that a finder needs."""
    return [*DETECTORS[options["detector"]].weights, *LANDMARKERS[options["landmarker"]].weights]


def known_digests(options: dict[str, Any], weights_dir: Path) -> dict[str, str]:
    """SHA-256 of those of a finder's weight files that are in a folder. A server need not have them all; workers do."""
    found = {}
    for name in weight_names(options):
        with contextlib.suppress(MissingWeights):
            found[name] = digest(name, weights_dir)
    return found


def kept(faces: Sequence[FoundFace], options: dict[str, Any]) -> list[FoundFace]:
    """Largest first, without those that are too small or too many."""
    large = [face for face in faces if min(face.box_px_4[2:] - face.box_px_4[:2]) >= options["min_face_px"]]
    return large[: options["max_faces_per_frame"] or None]


def placed(finder: FaceFinder, face: FoundFace) -> Placed:
    """A found face as it is placed in its frame."""
    return Placed(
        landmarks_px_68x2=face.landmarks_px_68x2,
        origin=LandmarkOrigin.MODEL,
        box_px_4=face.box_px_4,
        score=face.score,
        landmark_score=face.landmark_score,
        detector=Producer(name=finder.detector.name, version=finder.detector.version),
        landmarker=Producer(name=finder.landmarker.name, version=finder.landmarker.version),
    )
