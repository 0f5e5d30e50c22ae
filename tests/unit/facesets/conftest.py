"""One plain face record for the tests of this folder."""

from __future__ import annotations

import numpy as np
import pytest

from ml_common.facesets import FaceRecord, FaceSource, LandmarkOrigin, ObjectRef, Pose, face_id
from ml_common.geometry import FaceType


@pytest.fixture
def plain_record() -> FaceRecord:
    """A record with plain numbers in every field that has to be there, and a picture."""
    frame_landmarks_68x2 = np.arange(136.0).reshape(68, 2)
    return FaceRecord(
        face_id=face_id(123, 0, "1a2b3c4d" * 8),
        source=FaceSource(clip="projects/p/clips/c", frame_number=123, face_index=0, frame_width=640, frame_height=360),
        face_type=FaceType.WHOLE_FACE,
        size_px=512,
        frame_landmarks_px=frame_landmarks_68x2,
        crop_landmarks_px=frame_landmarks_68x2 * 2 + 1,
        frame_to_face_2x3=np.array([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0]]),
        detection_box_px=np.array([10.0, 20.0, 110.0, 220.0]),
        detection_score=0.5,
        landmark_origin=LandmarkOrigin.MODEL,
        pose=Pose(pitch_deg=1.0, yaw_deg=-2.0, roll_deg=0.0),
        image=ObjectRef(uri="s3://b/k.jpg", sha256="ab" * 32, size_bytes=2**40, media_type="image/jpeg"),
    )
