"""Facesets as revisions: of two changes made from the same state one wins, and a crash between two writes stops nobody."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_common.facesets import (
    FaceKeys,
    FaceRecord,
    FaceSource,
    LandmarkOrigin,
    ObjectRef,
    Pose,
    RevisionTable,
    from_records,
)
from ml_common.facesets import face_id as make_face_id
from ml_common.geometry import FaceType
from services.kit.errors import AlreadyExists, Conflict, Corrupt, NotFound
from services.kit.faceset_store import FacesetStore, image_key, record_key
from services.kit.records import Records
from services.kit.storage import ObjectStore, open_store

FACESET = "projects/p/facesets/f"
MADE: dict[str, Any] = {"method": "tests/Change", "summary": "a change", "actor": "tester"}


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store("folder", root=tmp_path)


@pytest.fixture
def facesets(store: ObjectStore) -> FacesetStore:
    return FacesetStore(store, Records(store))


def face(number: int) -> FaceRecord:
    landmarks_68x2 = np.arange(136.0).reshape(68, 2)
    return FaceRecord(
        face_id=make_face_id(number, 0, "1a2b3c4d" * 8),
        source=FaceSource(
            clip="projects/p/clips/c", frame_number=number, face_index=0, frame_width=64, frame_height=36
        ),
        face_type=FaceType.WHOLE_FACE,
        size_px=256,
        frame_landmarks_px=landmarks_68x2,
        crop_landmarks_px=landmarks_68x2,
        frame_to_face_2x3=np.array([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0]]),
        detection_box_px=np.array([1.0, 2.0, 3.0, 4.0]),
        detection_score=0.5,
        landmark_origin=LandmarkOrigin.MODEL,
        pose=Pose(pitch_deg=1.0, yaw_deg=-2.0, roll_deg=0.0),
        image=ObjectRef(uri="s3://b/k.jpg", sha256="ab" * 32, size_bytes=9, media_type="image/jpeg"),
    )


def table(*numbers: int) -> RevisionTable:
    records = [face(number) for number in numbers]
    keys = [
        FaceKeys(image_key=image_key(FACESET, record.face_id), record_key=record_key(FACESET, record.face_id))
        for record in records
    ]
    return from_records(records, keys)


def create(facesets: FacesetStore, action: str = "key", rows: RevisionTable | None = None) -> Any:
    return facesets.create(FACESET, {"name": FACESET, "actionKey": action}, rows or table(1, 2, 3), **MADE)


def test_a_faceset_and_its_revisions(facesets: FacesetStore) -> None:
    assert not facesets.exists(FACESET)
    record = create(facesets)
    assert (record.body["revision"], record.body["faceCount"], record.body["trashedCount"]) == ("1", "3", "0")
    assert facesets.exists(FACESET)
    changed = facesets.add_revision(FACESET, table(2, 1), parent=1, **MADE)
    assert (changed.body["revision"], changed.body["faceCount"]) == ("2", "2")
    assert facesets.table(FACESET) == (2, table(2, 1))
    assert facesets.table(FACESET, 1) == (1, table(1, 2, 3))
    facts = facesets.revision_facts(FACESET, 2)
    assert (facts["number"], facts["parent"], facts["method"], facts["actor"]) == ("2", "1", "tests/Change", "tester")
    with pytest.raises(NotFound):
        facesets.table(FACESET, 3)
    with pytest.raises(NotFound):
        facesets.revision_facts(FACESET, 3)


def test_making_the_same_faceset_again_returns_it(facesets: FacesetStore) -> None:
    assert create(facesets) == create(facesets)
    with pytest.raises(AlreadyExists):
        create(facesets, "other key")


def test_a_change_from_an_old_state_is_refused(facesets: FacesetStore) -> None:
    create(facesets)
    facesets.add_revision(FACESET, table(1), parent=1, **MADE)
    with pytest.raises(Conflict, match="read it again"):
        facesets.add_revision(FACESET, table(2), parent=1, **MADE)
    assert facesets.table(FACESET) == (2, table(1))


def test_a_change_with_an_old_etag_is_refused_and_leaves_nothing(facesets: FacesetStore, store: ObjectStore) -> None:
    old = create(facesets).etag
    Records(store).update(FACESET, lambda body: {**body, "displayName": "renamed"})
    with pytest.raises(Conflict):
        facesets.add_revision(FACESET, table(2), parent=1, etag=old, **MADE)
    assert facesets.add_revision(FACESET, table(3), parent=1, **MADE).body["revision"] == "2"
    assert facesets.table(FACESET) == (2, table(3))


def test_of_changes_at_once_one_wins_and_no_other_is_lost_unseen(store: ObjectStore) -> None:
    create(FacesetStore(store, Records(store)))
    won: list[int] = []
    lost: list[int] = []
    barrier = threading.Barrier(6)

    def change(number: int) -> None:
        facesets = FacesetStore(store, Records(store))
        rows = table(number)
        barrier.wait()
        try:
            facesets.add_revision(FACESET, rows, parent=1, **{**MADE, "summary": str(number)})
            won.append(number)
        except Conflict:
            lost.append(number)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(10, 16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 5)
    facesets = FacesetStore(store, Records(store))
    assert facesets.table(FACESET) == (2, table(won[0]))
    assert facesets.revision_facts(FACESET, 2)["summary"] == str(won[0])


class _Killed(BaseException):
    """The process dies here."""


def die_at(store: ObjectStore, monkeypatch: pytest.MonkeyPatch, part: str) -> pytest.MonkeyPatch:
    real = store.put

    def put(key: str, *args: Any, **kwargs: Any) -> Any:
        if part in key:
            raise _Killed
        return real(key, *args, **kwargs)

    monkeypatch.setattr(store, "put", put)
    return monkeypatch


@pytest.mark.parametrize("moment", ["revisions/00000002.json", "records/"])
def test_the_same_change_after_a_crash_goes_on(
    facesets: FacesetStore, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    create(facesets)
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        die_at(store, patch, moment)
        facesets.add_revision(FACESET, table(2), parent=1, **MADE)
    assert facesets.table(FACESET)[0] == 1, "nobody sees it yet"
    assert facesets.add_revision(FACESET, table(2), parent=1, **MADE).body["revision"] == "2"
    assert facesets.revision_facts(FACESET, 2)["summary"] == "a change"


@pytest.mark.parametrize("moment", ["revisions/00000002.json", "records/"])
def test_another_change_after_a_crash_goes_on_too(
    facesets: FacesetStore, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The number is taken by a revision that no record points at: without help every later change would be refused for ever."""
    create(facesets)
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        die_at(store, patch, moment)
        facesets.add_revision(FACESET, table(2), parent=1, **MADE)
    with pytest.raises(Conflict):
        facesets.add_revision(FACESET, table(3), parent=1, **MADE)
    number, rows = facesets.table(FACESET)
    assert (number, rows) == (2, table(2))
    assert facesets.revision_facts(FACESET, 2)["faceCount"] == "1"
    assert facesets.add_revision(FACESET, table(3), parent=2, **MADE).body["revision"] == "3"


def test_making_a_faceset_after_a_crash_goes_on(
    facesets: FacesetStore, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(_Killed):
        die_at(store, patch, "records/")
        create(facesets)
    assert not facesets.exists(FACESET)
    assert create(facesets).body["revision"] == "1"


def test_faces_are_read_in_order_and_damage_is_named(facesets: FacesetStore, store: ObjectStore) -> None:
    create(facesets)
    records = [face(1), face(2)]
    keys = [record_key(FACESET, record.face_id) for record in records]
    for key, record in zip(keys, records, strict=True):
        store.put(key, record.to_json_bytes())
    assert [record.face_id for record in facesets.faces(FACESET, keys[::-1])] == [r.face_id for r in records[::-1]]
    store.put(keys[0], b"{}")
    with pytest.raises(Corrupt) as caught:
        facesets.faces(FACESET, keys)
    assert caught.value.metadata["uri"] == store.uri(keys[0])
    store.put(f"{FACESET}/revisions/00000001.parquet", b"PAR1 not really")
    with pytest.raises(Corrupt):
        facesets.table(FACESET)
