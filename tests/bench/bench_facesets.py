"""How fast a faceset's stored formats are read and written, and its faces listed over gRPC, at the size of a large faceset."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

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
from services import facesets as faceset_service
from services.kit.faceset_store import FacesetStore
from tests.support.hosting import hosted
from tests.support.revisions import store_revision
from understudy.cli.values import pages
from understudy.client import Client
from understudy.v1 import faceset_service_pb2

_FACESET = "projects/p/facesets/f"
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


@contextmanager
def _served(table: RevisionTable) -> Iterator[Client]:
    """A client of a server that has ``table`` as its faceset."""
    with tempfile.TemporaryDirectory() as folder, hosted(Path(folder), [faceset_service]) as server:
        store_revision(FacesetStore(server.context.store, server.context.records), table, faceset=_FACESET)
        yield server.client


def _list_times(table: RevisionTable) -> dict[str, float]:
    """Seconds of calls to ListFaces. The first one reads the revision; after that it is in the server's memory."""

    def request(**what: str) -> faceset_service_pb2.ListFacesRequest:
        return faceset_service_pb2.ListFacesRequest(parent=_FACESET, page_size=1000, **what)

    with _served(table) as client:
        list_faces = client.facesets.ListFaces
        times = {"first_page": _best_s(lambda: list_faces(request()), 1)}
        times["every_page"] = _best_s(lambda: list(pages(list_faces, request(order_by="sharpness desc"), "faces")), 1)
        # One list for each column, every one of them new to the server.
        times["any_column"] = max(
            _best_s(lambda name=name: list_faces(request(filter="yaw_deg > 0.5", order_by=f"{name} desc")), 1)
            for name in SCHEMA.names
        )
    return times


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
    lists = _list_times(table)
    return [
        {**row("", lists["any_column"], "s", 1.0), "name": "facesets.list_100k_s"},
        row("list_100k_first_page", lists["first_page"], "s", 1.0),
        row("list_100k_every_page", lists["every_page"], "s"),
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
