"""Golden faces and rendered ones.

tests/golden/curation: the 24 pictures and `expected.json` are sort/ of the golden vectors (recorded from the original program); `faces.npz`
holds, in the order of the file names, what their metadata says: landmarks, box in the frame, name of the frame.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ml_common.curation import Columns, Measures, measure_face
from ml_common.geometry import pose_pitch_yaw_roll
from ml_common.synthetic import IDENTITIES, Expression, FrameState, render
from tests.unit.curation.columns_of import columns_of

GOLDEN = Path(__file__).parents[2] / "golden" / "curation"


@dataclass(frozen=True)
class GoldenFaces:
    """expected: the original's answers. table: ours, measured, with pose, size and names."""

    names: list[str]
    pictures: list[np.ndarray]
    landmarks: np.ndarray
    measures: list[Measures]
    table: Columns
    expected: dict[str, Any]


@pytest.fixture(scope="session")
def golden() -> GoldenFaces:
    facts = np.load(GOLDEN / "faces.npz")
    landmarks = facts["landmarks_px_N68x2"]
    names = sorted(path.name for path in GOLDEN.glob("*.jpg"))
    pictures = [cv2.imread(str(GOLDEN / name)) for name in names]
    measures = [measure_face(picture, points) for picture, points in zip(pictures, landmarks, strict=True)]
    poses = np.degrees([pose_pitch_yaw_roll(points, 128) for points in landmarks])
    left, top, right, bottom = facts["source_rect_N4"].T
    table = columns_of(
        measures,
        pitch_deg=poses[:, 0],
        yaw_deg=poses[:, 1],
        source_area_px=np.abs((right - left) * (bottom - top)),
        source_name=facts["source_filename_N"].astype(object),
        frame_number=np.arange(len(names)),
        face_index=np.zeros(len(names), dtype=np.int32),
    )
    expected = json.loads((GOLDEN / "expected.json").read_text())
    return GoldenFaces(names, pictures, landmarks, measures, table, expected)


@dataclass(frozen=True)
class Rendered:
    image: np.ndarray
    landmarks: np.ndarray


@pytest.fixture(scope="session")
def rendered() -> dict[str, Rendered]:
    """One head of 256x256 pixels with its eyes open, nearly closed, and turned a little."""
    person = next(iter(IDENTITIES.values()))
    moments = {
        "open": FrameState(face_height=0.6),
        "blink": FrameState(face_height=0.6, expression=Expression(blink_left=1.0, blink_right=1.0)),
        "turned": FrameState(face_height=0.6, yaw_deg=6.0),
    }
    frames = {name: render(person, state, 256, 256) for name, state in moments.items()}
    return {name: Rendered(frame.image_bgr_HWC, frame.landmarks_px_68x2) for name, frame in frames.items()}
