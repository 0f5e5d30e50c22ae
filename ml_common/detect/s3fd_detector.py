"""S3FD as a detector: frames of one size through the network together, boxes back to frame pixels.

What a reader would get wrong: the network does not see the frame but a copy of it, of 640 px along the long side from
1280 px on, of half the size below. It knows faces from about 16 px of that copy on, so the default finds faces from about
1/40 of a large frame's length on; a smaller ``smallest_face_px`` makes the copy larger, up to more than the frame.

Two things are better than in the published tools (spec/faceset 7.2, 7.3 and 21 item 14): boxes keep their fractions of a
pixel, which there were cut off at the copy's resolution and made crops tremble; and the copy is area-averaged. Boxes move
by half a frame pixel less half a copy pixel against theirs, since ours count from pixel centres. There is no limit of
40 px and the bottom is not lowered by 10 %: the first is ``smallest_face_px``'s business, the second the landmarker's.

Legend: K boxes of one picture or of all pictures of a call, NHWC pictures, px = frame pixels, network px: see ``s3fd``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from ml_common import weights
from ml_common.detect.batching import AdaptiveBatch
from ml_common.detect.s3fd import S3FD, decode, suppress
from ml_common.detect.types import Detection, F64Array, U8Array
from ml_common.detect.weight_keys import filled

ALGORITHM_VERSION = "1"

_LARGE_FRAME_PX, _LARGE_COPY_PX, _SMALLEST_COPY_PX = 1280, 640, 64  # long sides
_SMALLEST_FACE_COPY_PX = 16.0  # the finest anchor
_COARSE_COPY_PX = 12 * _SMALLEST_FACE_COPY_PX  # long side that shows faces of 1/12 of it
_CPU_BATCH_PX, _DEVICE_BATCH_PX = 2 * 640 * 360, 16 * 640 * 360  # a convolution of 64 channels takes 256 bytes a pixel


class S3FDDetector:
    """See Detector. Boxes reach from the forehead to the chin; there are no keypoints. Not safe for concurrent threads."""

    name = "s3fd"
    # It also sees faces that lie, but is less sure of them. Not measured: clear upright faces score about 0.99.
    clear_score = 0.9

    def __init__(
        self,
        network: S3FD,
        device: torch.device,
        *,
        version: str,
        min_score: float,
        batch_px: int,
        smallest_face_px: float | None = None,
    ) -> None:
        """``batch_px``: how many pixels the network sees at once, at the most (one picture, however large, passes)."""
        self.version = version
        self._network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        self._min_score = min_score
        self._batch_px = batch_px
        self._smallest_face_px = smallest_face_px
        self._batch_of_size: dict[tuple[int, int], AdaptiveBatch] = {}

    def detect(self, images_bgr: Sequence[U8Array], *, coarse: bool = False) -> list[list[Detection]]:
        """See Detector."""
        sizes = [copy_size((image.shape[1], image.shape[0]), self._smallest_face_px, coarse) for image in images_bgr]
        found: list[list[Detection]] = [[] for _ in images_bgr]
        for size in dict.fromkeys(sizes):
            own = [index for index, other in enumerate(sizes) if other == size]
            for index, faces in zip(own, self._detect_at([images_bgr[i] for i in own], size), strict=True):
                found[index] = faces
        return found

    def _detect_at(self, images_bgr: Sequence[U8Array], size_xy_px: tuple[int, int]) -> list[list[Detection]]:
        """Faces of pictures whose copies have the same size."""
        per_batch = max(1, self._batch_px // (size_xy_px[0] * size_xy_px[1]))
        batch = self._batch_of_size.setdefault(size_xy_px, AdaptiveBatch(per_batch))

        def detect_some(part: slice) -> list[list[Detection]]:
            images = images_bgr[part]
            copies = np.stack([_resized(image, size_xy_px) for image in images])
            return [
                self._detections(image, size_xy_px, boxes, scores)
                for image, (boxes, scores) in zip(images, self._run(copies), strict=True)
            ]

        return [faces for some in batch.run(len(images_bgr), detect_some) for faces in some]

    @torch.inference_mode()
    def _run(self, copies_bgr_NHWC: U8Array) -> list[tuple[F64Array, F64Array]]:
        """Boxes (network px) and scores per copy, suppressed, best first."""
        batch_NHWC = torch.from_numpy(copies_bgr_NHWC).to(self._device)
        batch_NCHW = batch_NHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
        # Suppression goes by falling score, so what is under the threshold never took anything with it.
        picture_K, boxes_K4, scores_K = decode(self._network(batch_NCHW), self._min_score)
        picture, boxes, scores = (
            picture_K.cpu().numpy(),
            boxes_K4.cpu().double().numpy(),
            scores_K.cpu().double().numpy(),
        )
        faces = []
        for index in range(len(copies_bgr_NHWC)):
            own_boxes, own_scores = boxes[picture == index], scores[picture == index]
            kept = suppress(own_boxes, own_scores)
            faces.append((own_boxes[kept], own_scores[kept]))
        return faces

    def _detections(
        self, image_bgr_HWC: U8Array, size_xy_px: tuple[int, int], boxes_K4: F64Array, scores_K: F64Array
    ) -> list[Detection]:
        height, width = image_bgr_HWC.shape[:2]
        per_px = np.tile([width / size_xy_px[0], height / size_xy_px[1]], 2)
        boxes = boxes_K4 * per_px - 0.5
        shorter = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
        least = 0.0 if self._smallest_face_px is None else self._smallest_face_px
        return [
            Detection(box, float(score))
            for box, score, side in zip(boxes, scores_K, shorter, strict=True)
            if side >= least
        ]


def copy_size(size_xy_px: tuple[int, int], smallest_face_px: float | None, coarse: bool) -> tuple[int, int]:
    """(width, height) of the copy that the network sees, by the rule of spec/faceset 7.2 or, for smaller faces, larger."""
    long_px = max(size_xy_px)
    target = _LARGE_COPY_PX if long_px >= _LARGE_FRAME_PX else long_px / 2
    if coarse:
        target = min(target, _COARSE_COPY_PX)
    elif smallest_face_px is not None:
        target = max(target, long_px * _SMALLEST_FACE_COPY_PX / smallest_face_px)
    scale = max(target, _SMALLEST_COPY_PX) / long_px
    width, height = (max(1, int(length * scale + 1e-9)) for length in size_xy_px)
    return width, height


def _resized(image_bgr_HWC: U8Array, size_xy_px: tuple[int, int]) -> U8Array:
    shrinks = size_xy_px[0] <= image_bgr_HWC.shape[1]
    resized = cv2.resize(image_bgr_HWC, size_xy_px, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)


def load(
    paths: list[Path], device: torch.device, digest: str, min_score: float, smallest_face_px: float | None
) -> S3FDDetector:
    """See DetectorEntry."""
    return S3FDDetector(
        filled(S3FD, weights.load_tensors(paths[0])),
        device,
        version=f"{ALGORITHM_VERSION}+{digest}",
        min_score=min_score,
        batch_px=_CPU_BATCH_PX if device.type == "cpu" else _DEVICE_BATCH_PX,
        smallest_face_px=smallest_face_px,
    )
