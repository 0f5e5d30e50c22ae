"""Snapshots: how fast a faceset is packed, how fast faces are read from it at random, and what an addition rewrites.

The one thing to get wrong: random reads are of bytes that the machine has in memory, checked against their digest, not decoded; the
baseline is what reading one object a face costs in the same folder. On a cold disk both wait for it.
"""

from __future__ import annotations

import hashlib
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ml_common.facesets import (
    FaceKeys,
    FaceRecord,
    FaceSource,
    LandmarkOrigin,
    ObjectRef,
    Pose,
    RevisionTable,
    concatenate,
    face_id,
    from_records,
)
from ml_common.geometry import FaceType
from services.kit.faceset_store import FacesetStore, image_key, record_key
from services.kit.records import Records
from services.kit.snapshot_build import build_snapshot
from services.kit.snapshot_store import list_shards, open_snapshot
from services.kit.storage import FolderStore, ObjectStore

Row = dict[str, Any]
FACES = 10_000
LARGE_FACES = 2_000  # at 512 px; more would measure the making of files
ADDED = 100
FACESET = "projects/p/facesets/f"
_MADE: dict[str, Any] = {"method": "bench", "summary": "", "actor": "bench"}


def _row(name: str, value: float, unit: str, baseline: float | None = None) -> Row:
    ratio = value / baseline if baseline else None
    return {"name": f"snapshot.{name}", "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}


def _pictures(size_px: int, rng: np.random.Generator) -> list[bytes]:
    """A few JPEGs of about the weight of real faces: soft shapes and some grain."""
    pictures = []
    for _ in range(16):
        soft = cv2.resize(rng.integers(40, 215, (size_px // 16, size_px // 16, 3), np.uint8), (size_px, size_px))
        grain = rng.normal(0, 4, (size_px, size_px, 1))
        pictures.append(cv2.imencode(".jpg", np.clip(soft + grain, 0, 255).astype(np.uint8), [1, 90])[1].tobytes())
    return pictures


def _stored(store: ObjectStore, numbers: range, size_px: int, rng: np.random.Generator) -> RevisionTable:
    pictures = _pictures(size_px, rng)
    records: list[FaceRecord] = []

    def items() -> Iterator[tuple[str, bytes, str]]:
        for number in numbers:
            picture = pictures[number % len(pictures)] + number.to_bytes(8, "little")  # decoders stop before it
            digest = hashlib.sha256(picture).hexdigest()
            identifier = face_id(number, 0, digest)
            landmarks_68x2 = rng.uniform(0, size_px, (68, 2))
            key = image_key(FACESET, identifier)
            records.append(
                FaceRecord(
                    face_id=identifier,
                    source=FaceSource(frame_number=number, face_index=0),
                    face_type=FaceType.WHOLE_FACE,
                    size_px=size_px,
                    frame_landmarks_px=landmarks_68x2,
                    crop_landmarks_px=landmarks_68x2,
                    frame_to_face_2x3=np.eye(2, 3),
                    landmark_origin=LandmarkOrigin.MODEL,
                    pose=Pose(pitch_deg=0.0, yaw_deg=0.0, roll_deg=0.0),
                    image=ObjectRef(
                        uri=store.uri(key), sha256=digest, size_bytes=len(picture), media_type="image/jpeg"
                    ),
                )
            )
            yield key, picture, "image/jpeg"
            yield record_key(FACESET, identifier), records[-1].to_json_bytes(), "application/json"

    store.put_many(items())
    ids = [record.face_id for record in records]
    return from_records(
        records, [FaceKeys(image_key=image_key(FACESET, name), record_key=record_key(FACESET, name)) for name in ids]
    )


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _rows(size_px: int, faces: int) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as root:
        store = FolderStore(Path(root))
        records = Records(store)
        facesets = FacesetStore(store, records)
        table = _stored(store, range(0, faces * 10, 10), size_px, rng)
        facesets.create(FACESET, {"name": FACESET}, table, **_MADE)
        peak_mb = _peak_mb()

        start_s = time.perf_counter()
        snapshot = build_snapshot(store, records, FACESET)
        yield _row(f"build_{size_px}px", faces / (time.perf_counter() - start_s), "faces/s")
        if _peak_mb() > peak_mb:  # else it took less than what this process did before
            yield _row(f"build_{size_px}px_memory", _peak_mb() - peak_mb, "MB")

        start_s = time.perf_counter()
        reader = open_snapshot(store, snapshot.index)
        yield _row(f"open_{size_px}px", time.perf_counter() - start_s, "s")
        order = rng.permutation(faces).tolist()
        keys = table.column("image_key")
        start_s = time.perf_counter()
        for number in order:
            store.get(keys[number])
        one_by_one = faces / (time.perf_counter() - start_s)
        for _ in range(2):  # the first time also maps the shards
            start_s = time.perf_counter()
            for number in order:
                _ = reader[number]
        yield _row(f"read_{size_px}px", faces / (time.perf_counter() - start_s), "faces/s", one_by_one)
        start_s = time.perf_counter()
        for start in range(0, faces, 64):
            reader.batch(order[start : start + 64])
        yield _row(f"read_{size_px}px_batches", faces / (time.perf_counter() - start_s), "faces/s", one_by_one)

        before = {info.key for info in list_shards(store, FACESET)}
        added = _stored(store, range(5, ADDED * 100, 100), size_px, rng)  # spread over all of the footage
        facesets.add_revision(FACESET, concatenate([table, added]), parent=1, **_MADE)
        start_s = time.perf_counter()
        grown = build_snapshot(store, records, FACESET)
        yield _row(f"add_{ADDED}_{size_px}px", time.perf_counter() - start_s, "s")
        written = sum(info.size_bytes for info in list_shards(store, FACESET) if info.key not in before)
        wanted = int(added.column("image_size_bytes").sum())
        yield _row(f"add_{ADDED}_{size_px}px_rewritten", written / 1e6, "MB", wanted / 1e6)
        yield _row(f"add_{ADDED}_{size_px}px_index", grown.index.size_bytes / 1e6, "MB")


def run() -> list[Row]:
    """Rows {name, value, unit, baseline, ratio}. Baselines: of reads one object a face, of what an addition rewrites the pictures that were
    added."""
    return [*_rows(256, FACES), *_rows(512, LARGE_FACES)]
