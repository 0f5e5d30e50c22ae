"""Revisions of faces that nobody has seen: rows with values that tests can tell apart, without pictures and sidecars."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from ml_common.facesets import SCHEMA, RevisionTable, face_id
from services.kit.faceset_store import FacesetStore, image_key, record_key


def revision_of(count: int, *, faceset: str = "projects/p/facesets/f", seed: int = 0) -> RevisionTable:
    """Faces of frames 1001, 1002, ...; numbers are drawn, all are out of the trash and in tracks of ten."""
    rng = np.random.default_rng(seed)
    digests = [hashlib.sha256(f"{seed} {number}".encode()).hexdigest() for number in range(count)]
    ids = [face_id(1001 + number, 0, digest) for number, digest in enumerate(digests)]
    columns: dict[str, Any] = {
        "face_id": ids,
        "frame_number": 1001 + np.arange(count),
        "face_index": np.zeros(count),
        "trashed": np.zeros(count, bool),
        "size_px": rng.choice([256, 512], count),
        "image_key": [image_key(faceset, face) for face in ids],
        "image_sha256": digests,
        "image_size_bytes": rng.integers(1000, 9000, count),
        "record_key": [record_key(faceset, face) for face in ids],
        "has_mask": rng.random(count) < 0.5,
        "has_label": np.zeros(count, bool),
        "person": [""] * count,
        "track_id": [f"t{number // 10:06d}" for number in range(count)],
    }
    for name in ("pitch_deg", "yaw_deg", "roll_deg"):
        columns[name] = rng.uniform(-60, 60, count)
    for name in ("sharpness", "brightness", "detection_score", "source_area_px"):
        columns[name] = rng.random(count)
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in SCHEMA]
    return RevisionTable(pa.Table.from_arrays(arrays, schema=SCHEMA))


def store_revision(facesets: FacesetStore, table: RevisionTable, *, faceset: str = "projects/p/facesets/f") -> None:
    """A faceset whose first revision is ``table``."""
    body = {"name": faceset, "actionKey": faceset}
    facesets.create(faceset, body, table, method="tests/Made", summary="made", actor="tester")
