"""Finds faces with their landmarks: any detector, then any landmarker, in frames that may lie or stand on their head.

What a reader would get wrong: a frame without a clear face is looked at again lying on either side and upside down,
for faces from about 1/12 of its length on; where two looks show one face, the better score wins.

Legend: K faces of one picture or of all pictures of a call, HWC picture, px = frame pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from ml_common.detect.blazeface import F64Array, iou
from ml_common.detect.port import Detector, Landmarker
from ml_common.detect.pyramid import resized
from ml_common.detect.types import Detection, FoundFace, U8Array
from ml_common.geometry import rect_from_landmarks
from ml_common.imaging import as_bgr_u8

# Quarter turns, counterclockwise, to try where no face is clear.
_QUARTER_TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
_TURNED_LENGTH_PX = 640  # of the copies that are turned; a face of 1/12 of it is as small as detectors like
_TWIN_IOU = 0.35  # of the extents of two sets of landmarks
_BOX_INSET = 0.15  # of the full-face square on each side: what detectors frame


class FaceFinder:
    """Finds faces and their landmarks in pictures of any size. Made by ``registry.load_finder``; not safe for
    concurrent threads.
    """

    def __init__(self, detector: Detector, landmarker: Landmarker) -> None:
        self.detector = detector
        self.landmarker = landmarker

    def find(self, images_bgr: Sequence[np.ndarray[Any, Any]]) -> list[list[FoundFace]]:
        """Faces with 68 landmarks, per image, the largest box first.

        ``images_bgr``: HWC BGR (also grey or BGRA), uint8, uint16 or float32 0..1, any sizes mixed. Raises ValueError
        for anything else.
        """
        images = [as_bgr_u8(image) for image in images_bgr]
        found = self._located(images, self.detector.detect(images), turned=False)
        clear = self.detector.clear_score
        unclear = [frame for frame, faces in enumerate(found) if all(face.score < clear for face in faces)]
        if unclear and clear > 0:
            turned = self._find_turned([images[frame] for frame in unclear])
            for frame, faces in zip(unclear, turned, strict=True):
                found[frame] += faces
        return [_without_twins(faces) for faces in found]

    def refine(self, image_bgr: np.ndarray[Any, Any], landmarks_px_K68x2: Sequence[F64Array]) -> list[FoundFace | None]:
        """What the landmarker makes of faces whose points are about known: None where it sees none there.

        The box is the full-face square of the given points, the score that of the landmarker.
        """
        image = as_bgr_u8(image_bgr)
        faces = [_detection_of(points) for points in landmarks_px_K68x2]
        located = self.landmarker.locate([image], [0] * len(faces), faces)
        return [
            None
            if one is None
            else FoundFace(face.box_px_4, one.score, one.score, one.landmarks_px_68x2, one.mesh_px_468x3)
            for face, one in zip(faces, located, strict=True)
        ]

    def _find_turned(self, images: list[U8Array]) -> list[list[FoundFace]]:
        """Faces that lie or hang. What is sought is large, so small copies are turned and looked at, all at once; a
        frame is turned in full only for the landmarks of what they show."""
        looks = [(frame, turns) for frame in range(len(images)) for turns in _QUARTER_TURNS]
        small = [resized(image, _small_size(image)) for image in images]
        shown = self.detector.detect([_turned(small[frame], turns) for frame, turns in looks], coarse=True)
        found: list[list[FoundFace]] = [[] for _ in images]
        for (frame, turns), faces in zip(looks, shown, strict=True):
            if faces:
                image = images[frame]
                grown = [_scaled(face, max(image.shape[:2]) / max(small[frame].shape[:2])) for face in faces]
                (located,) = self._located([_turned(image, turns)], [grown], turned=True)
                found[frame] += [_turned_back(face, turns, image.shape) for face in located]
        return found

    def _located(
        self, images: list[U8Array], detections: list[list[Detection]], *, turned: bool
    ) -> list[list[FoundFace]]:
        frame_of_K = [frame for frame, faces in enumerate(detections) for _ in faces]
        faces_K = [face for faces in detections for face in faces]
        found: list[list[FoundFace]] = [[] for _ in images]
        located = self.landmarker.locate(images, frame_of_K, faces_K, turned=turned)
        for frame, face, one in zip(frame_of_K, faces_K, located, strict=True):
            if one is not None:
                found[frame].append(
                    FoundFace(face.box_px_4, face.score, one.score, one.landmarks_px_68x2, one.mesh_px_468x3)
                )
        return found


def _detection_of(landmarks_px_68x2: F64Array) -> Detection:
    """A detection as a detector would give it, from landmarks: box about brows to chin, eyes and mouth as keypoints."""
    points = np.asarray(landmarks_px_68x2, np.float64)
    left, top, right, bottom = rect_from_landmarks(points)
    across, down = (right - left) * _BOX_INSET, (bottom - top) * _BOX_INSET
    keypoints = np.full((6, 2), np.nan)
    keypoints[:4] = points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[30], points[48:68].mean(axis=0)
    return Detection(np.array([left + across, top + down, right - across, bottom - down]), 1.0, keypoints)


def _small_size(image_HWC: U8Array) -> tuple[int, int]:
    height, width = image_HWC.shape[:2]
    scale = min(_TURNED_LENGTH_PX / max(height, width), 1.0)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _turned(image_HWC: U8Array, turns: int) -> U8Array:
    return np.asarray(cv2.rotate(image_HWC, _QUARTER_TURNS[turns]), dtype=np.uint8)


def _scaled(face: Detection, scale: float) -> Detection:
    """A face of a picture in a copy ``scale`` times as large."""
    keypoints = None if face.keypoints_px_62 is None else (face.keypoints_px_62 + 0.5) * scale - 0.5
    return Detection((face.box_px_4 + 0.5) * scale - 0.5, face.score, keypoints)


def _turned_back(face: FoundFace, turns: int, shape_HWC: tuple[int, ...]) -> FoundFace:
    """A face in ``np.rot90(image, turns)`` as one in the image."""
    last_y, last_x = shape_HWC[0] - 1.0, shape_HWC[1] - 1.0

    def back(points_K2: F64Array) -> F64Array:
        x, y = points_K2[:, 0], points_K2[:, 1]
        turned = {1: (last_x - y, x), 2: (last_x - x, last_y - y), 3: (y, last_y - x)}[turns]
        return np.stack(turned, axis=1)

    corners = back(face.box_px_4.reshape(2, 2))
    box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    mesh = face.mesh_px_468x3
    if mesh is not None:
        mesh = np.column_stack([back(mesh[:, :2].astype(np.float64)), mesh[:, 2]]).astype(np.float32)
    return FoundFace(box, face.score, face.landmark_score, back(face.landmarks_px_68x2), mesh)


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
