"""How fast a faceset's stored formats are read and written, at the size of a large faceset."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa

from ml_common.facesets import (
    SCHEMA,
    FaceKeys,
    FaceRecord,
    FaceSource,
    LandmarkOrigin,
    ObjectRef,
    Pose,
    RevisionTable,
    face_id,
    from_records,
    read_revision,
    write_revision,
)
from ml_common.geometry import FaceType

_FACES = 100_000
_RECORDS = 1_000


def _best_s(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _records(rng: np.random.Generator) -> list[FaceRecord]:
    records = []
    for number in range(_RECORDS):
        digest = rng.bytes(32).hex()
        records.append(
            FaceRecord(
                face_id=face_id(number, 0, digest),
                source=FaceSource(clip="projects/p/clips/c", frame_number=number, face_index=0),
                face_type=FaceType.WHOLE_FACE,
                size_px=512,
                frame_landmarks_px=rng.uniform(0, 1080, (68, 2)),
                crop_landmarks_px=rng.uniform(0, 512, (68, 2)),
                frame_to_face_2x3=rng.normal(size=(2, 3)),
                detection_box_px=rng.uniform(0, 1080, 4),
                landmark_origin=LandmarkOrigin.MODEL,
                pose=Pose(pitch_deg=1.0, yaw_deg=2.0, roll_deg=3.0),
                image=ObjectRef(uri="s3://u/i.jpg", sha256=digest, size_bytes=123_456, media_type="image/jpeg"),
            )
        )
    return records


def _large_table(records: list[FaceRecord], rng: np.random.Generator) -> RevisionTable:
    keys = [FaceKeys(image_key=f"p/faces/{r.face_id}.jpg", record_key=f"p/faces/{r.face_id}.json") for r in records]
    table = from_records(records, keys).table
    copies = pa.concat_tables([table] * (_FACES // len(records)))
    numbers = np.arange(_FACES)
    digests = [rng.bytes(32).hex() for _ in numbers]
    ids = [face_id(int(number), 0, digest) for number, digest in zip(numbers, digests, strict=True)]
    columns = {
        "face_id": ids,
        "frame_number": numbers,
        "image_sha256": digests,
        "image_key": [f"projects/p/faces/{name}.jpg" for name in ids],
        "record_key": [f"projects/p/faces/{name}.json" for name in ids],
        **{name: rng.random(_FACES) for name in ("pitch_deg", "yaw_deg", "roll_deg", "sharpness", "source_area_px")},
    }
    for name, values in columns.items():
        position = SCHEMA.get_field_index(name)
        copies = copies.set_column(position, SCHEMA.field(name), pa.array(values, SCHEMA.field(name).type))
    return RevisionTable(copies)


def run() -> list[dict[str, object]]:
    """Rows {name, value, unit, baseline, ratio}; the baseline of the revision is the one second it may take."""
    rng = np.random.default_rng(0)
    records = _records(rng)
    sidecars = [record.to_json_bytes() for record in records]
    table = _large_table(records, rng)
    data = write_revision(table)
    keys = [FaceKeys(image_key="i", record_key="r")] * len(records)
    every_third = [range(0, _FACES, 3)]

    def row(name: str, value: float, unit: str, baseline: float | None = None) -> dict[str, object]:
        return {
            "name": f"facesets/{name}",
            "value": value,
            "unit": unit,
            "baseline": baseline,
            "ratio": None if baseline is None else baseline / value,
        }

    per_record_us = 1e6 / len(records)
    return [
        row("revision_write_100k", _best_s(lambda: write_revision(table), 3), "s", 1.0),
        row("revision_read_100k", _best_s(lambda: read_revision(data), 3), "s", 1.0),
        row("revision_frames_filter_100k", _best_s(lambda: table.frames(every_third), 3), "s"),
        row("revision_page_1000_rows", _best_s(lambda: table.page(50_000, 1000).rows(), 3), "s"),
        row("revision_size_100k", len(data) / 1e6, "MB"),
        row("record_write", _best_s(lambda: [r.to_json_bytes() for r in records], 3) * per_record_us, "us"),
        row("record_read", _best_s(lambda: [FaceRecord.from_json_bytes(s) for s in sidecars], 3) * per_record_us, "us"),
        row("record_replace", _best_s(lambda: [replace(r, person="a") for r in records], 3) * per_record_us, "us"),
        row("revision_from_records", _best_s(lambda: from_records(records, keys), 3) * per_record_us, "us"),
        row("record_size", float(np.mean([len(s) for s in sidecars])), "B"),
    ]
