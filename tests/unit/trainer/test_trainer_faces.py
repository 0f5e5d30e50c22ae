"""Faces to train on: the same as read one by one from the revision, whatever became of the snapshot meanwhile."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ml_common.facesets import FaceMask, FaceRecord, ObjectRef, RevisionTable
from ml_common.training.samples import FaceSample
from services.kit.errors import InvalidInput, NotFound
from services.kit.faceset_store import FacesetStore
from services.kit.operations.stage import WorkerEnv
from services.kit.snapshot_store import find_snapshot, index_key, list_shards
from services.trainer.faces import load_faces
from tests.support.facesets import store_faceset

FACESET = "projects/p/facesets/f"


@pytest.fixture
def table(env: WorkerEnv) -> RevisionTable:
    """Revision 2: 12 drawn faces in some order, two in the trash, some with masks."""
    store_faceset(env.store, FACESET, count=12, skin_bgr=(120, 150, 220), seed=1)
    facesets = FacesetStore(env.store, env.records)
    rows = facesets.table(FACESET)[1]
    keys = list(rows.column("record_key"))
    for number in (2, 5, 7):
        record = FaceRecord.from_json_bytes(env.store.get(keys[number]))
        mask_key = f"{FACESET}/masks/{record.face_id}.png"
        env.store.put(mask_key, cv2.imencode(".png", np.full((64, 64), 20 * number, np.uint8))[1].tobytes())
        masked = replace(record, mask=FaceMask(raster=ObjectRef(uri=env.store.uri(mask_key))), eyebrows_expand=1.2)
        keys[number] = f"{keys[number]}.2"
        env.store.put(keys[number], masked.to_json_bytes())
    rows = rows.replace_column("record_key", keys).replace_column("trashed", [number in (3, 8) for number in range(12)])
    rows = RevisionTable(rows.table.take(np.random.default_rng(0).permutation(12)))
    facesets.add_revision(FACESET, rows, parent=1, method="test", summary="shuffled", actor="test")
    return rows.active()


def one_by_one(env: WorkerEnv, table: RevisionTable) -> list[FaceSample]:
    samples = []
    for row in table.rows():
        record = FaceRecord.from_json_bytes(env.store.get(row.record_key))
        samples.append(
            FaceSample(
                image=env.store.get(row.image_key),
                landmarks_px_68x2=record.crop_landmarks_px.astype(np.float32),
                face_type=record.face_type,
                mask=env.store.get(env.store.key_of(record.mask.raster.uri)) if record.mask else None,
                yaw_rad=math.radians(record.pose.yaw_deg),
                eyebrows_expand=record.eyebrows_expand,
                name=f"{FACESET}/faces/{row.face_id}",
            )
        )
    return samples


def assert_same(found: list[FaceSample], expected: list[FaceSample]) -> None:
    assert len(found) == len(expected)
    no_landmarks = np.zeros((68, 2), np.float32)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.landmarks_px_68x2, other.landmarks_px_68x2)
        assert one.landmarks_px_68x2.dtype == np.float32
        assert replace(one, landmarks_px_68x2=no_landmarks) == replace(other, landmarks_px_68x2=no_landmarks)


def test_samples_are_those_of_the_revision(env: WorkerEnv, table: RevisionTable) -> None:
    expected = one_by_one(env, table)
    assert [sample.mask is not None for sample in expected].count(True) == 3
    assert_same(load_faces(env.store, env.records, FACESET, 2), expected)
    for row in table.rows():
        env.store.delete(row.image_key)
    assert_same(
        load_faces(env.store, env.records, FACESET, 2), expected
    )  # built once: the faces themselves are not read again
    with pytest.raises(NotFound):
        load_faces(env.store, env.records, FACESET, 3)


def damaged(env: WorkerEnv, key: str) -> None:
    with env.store.local_path(key) as path, Path(path).open("r+b") as file:
        file.seek(-20, 2)
        file.write(b"damage")


@pytest.mark.parametrize("what", ["shard", "index", "no shard"])
def test_a_damaged_snapshot_is_made_again(
    env: WorkerEnv, table: RevisionTable, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = one_by_one(env, table)
    load_faces(env.store, env.records, FACESET, 2)
    snapshot = find_snapshot(env.store, FACESET, 2)
    (shard,) = list_shards(env.store, FACESET)
    assert snapshot is not None
    if what == "no shard":
        env.store.delete(shard.key)
    else:
        damaged(env, shard.key if what == "shard" else index_key(FACESET, snapshot.index.sha256))
    with caplog.at_level(logging.WARNING):
        assert_same(load_faces(env.store, env.records, FACESET, 2), expected)
    assert "is built again" in caplog.text
    assert find_snapshot(env.store, FACESET, 2) == snapshot
    caplog.clear()
    load_faces(env.store, env.records, FACESET, 2)
    assert not caplog.text


def test_a_run_does_not_begin_on_fewer_faces(env: WorkerEnv, table: RevisionTable) -> None:
    rows = table.rows()
    pictures = {row.image_key: env.store.get(row.image_key) for row in rows[:2]}
    for key in pictures:
        env.store.delete(key)
    with pytest.raises(InvalidInput, match="2 faces of revision 2 cannot be trained on") as error:
        load_faces(env.store, env.records, FACESET, 2)
    assert all(f"{FACESET}/faces/{row.face_id}" in error.value.message for row in rows[:2])
    for key, picture in pictures.items():
        env.store.put(key, picture)
    assert_same(load_faces(env.store, env.records, FACESET, 2), one_by_one(env, table))
