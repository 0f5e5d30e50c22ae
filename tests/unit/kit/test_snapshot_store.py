"""Snapshots in a store: nothing is packed twice, a killed build is gone on with, and what is damaged is named and made again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_common.facesets import (
    FaceKeys,
    FaceMask,
    FaceRecord,
    FaceSource,
    LandmarkOrigin,
    ObjectRef,
    Polygon,
    PolygonKind,
    Pose,
    RevisionTable,
    XSegLabel,
    concatenate,
    from_records,
)
from ml_common.facesets import face_id as make_face_id
from ml_common.geometry import FaceType
from services.kit.errors import Corrupt, NotFound, Transient, WrongState
from services.kit.faceset_store import FacesetStore, image_key, record_key
from services.kit.records import Records
from services.kit.snapshot_build import build_snapshot
from services.kit.snapshot_store import (
    Snapshot,
    SnapshotReader,
    discard_snapshot,
    find_snapshot,
    index_key,
    list_shards,
    open_snapshot,
    shard_key,
)
from services.kit.storage import ObjectStore
from tests.support.store_spec import REPOSITORY, StoreSpec

pytest_plugins = ["tests.support.stores"]

FACESET = "projects/p/facesets/f"
PICTURE_BYTES = 1000
SHARD_BYTES = 20 * PICTURE_BYTES
MADE: dict[str, Any] = {"method": "tests/Change", "summary": "a change", "actor": "tester"}


class Faces:
    """A faceset whose pictures are random bytes: nothing here looks into them."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.records = Records(store)
        self.facesets = FacesetStore(store, self.records)

    def picture(self, number: int) -> bytes:
        return np.random.default_rng(number).bytes(PICTURE_BYTES)

    def record(self, number: int) -> FaceRecord:
        digest = sha256(self.picture(number)).hexdigest()
        identifier = make_face_id(number, 0, digest)
        landmarks_68x2 = np.random.default_rng(number).uniform(0, 256, (68, 2))
        return FaceRecord(
            face_id=identifier,
            source=FaceSource(frame_number=number, face_index=0),
            face_type=FaceType.WHOLE_FACE,
            size_px=256,
            frame_landmarks_px=landmarks_68x2,
            crop_landmarks_px=landmarks_68x2,
            frame_to_face_2x3=np.eye(2, 3),
            landmark_origin=LandmarkOrigin.MODEL,
            pose=Pose(pitch_deg=1.5, yaw_deg=number / 3, roll_deg=0.0),
            image=ObjectRef(
                uri=self.store.uri(image_key(FACESET, identifier)), sha256=digest, size_bytes=PICTURE_BYTES
            ),
        )

    def put(self, records: list[FaceRecord], *, suffix: str = "") -> RevisionTable:
        """Stores pictures and sidecars; ``suffix`` tells sidecars of one face apart."""
        keys = [
            FaceKeys(
                image_key=image_key(FACESET, record.face_id), record_key=record_key(FACESET, record.face_id) + suffix
            )
            for record in records
        ]
        pairs = list(zip(records, keys, strict=True))
        pictures = [(key.image_key, self.picture(record.source.frame_number), "image/jpeg") for record, key in pairs]
        sidecars = [(key.record_key, record.to_json_bytes(), "application/json") for record, key in pairs]
        self.store.put_many([*pictures, *sidecars])
        return from_records(records, keys)

    def table(self, *numbers: int) -> RevisionTable:
        return self.put([self.record(number) for number in numbers])

    def create(self, table: RevisionTable) -> None:
        self.facesets.create(FACESET, {"name": FACESET}, table, **MADE)

    def revise(self, table: RevisionTable) -> int:
        parent = int(self.facesets.get(FACESET).body["revision"])
        self.facesets.add_revision(FACESET, table, parent=parent, **MADE)
        return parent + 1

    def build(self, revision: int = 0, **options: Any) -> Snapshot:
        return build_snapshot(self.store, self.records, FACESET, revision, shard_bytes=SHARD_BYTES, **options)

    def shards(self) -> dict[str, int]:
        return {info.key: info.size_bytes for info in list_shards(self.store, FACESET)}


@pytest.fixture
def folder_spec(tmp_path: Path) -> StoreSpec:
    return StoreSpec("folder", root=str(tmp_path / "folder"))


@pytest.fixture
def faces(folder_spec: StoreSpec) -> Faces:
    return Faces(folder_spec.open())


@pytest.fixture
def anywhere(store: ObjectStore) -> Faces:
    """In a store of each kind."""
    return Faces(store)


def count_reads(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each object is read whole from now on."""
    counted: Counter[str] = Counter()
    get = faces.store.get

    def counting(key: str) -> bytes:
        counted[key] += 1
        return get(key)

    monkeypatch.setattr(faces.store, "get", counting)
    return counted


def numbers_of(reader: SnapshotReader) -> list[int]:
    return [int(face.face_id[1:7]) for face in reader]


def check(faces: Faces, snapshot: Snapshot, numbers: list[int]) -> None:
    """The snapshot holds exactly these faces, in this order."""
    reader = open_snapshot(faces.store, snapshot.index)
    assert snapshot.face_count == len(reader) == len(numbers)
    assert numbers_of(reader) == numbers
    for face, number in zip(reader, numbers, strict=True):
        assert bytes(face.image) == faces.picture(number)
        assert face.yaw_deg == number / 3


def test_a_snapshot_is_the_revision_in_its_order(anywhere: Faces) -> None:
    order = [int(number) for number in np.random.default_rng(0).permutation(50)]
    table = anywhere.table(*order)
    anywhere.create(table.replace_column("trashed", [number % 10 == 3 for number in order]))
    done: list[int] = []
    snapshot = anywhere.build(report=done.append)
    kept = [number for number in order if number % 10 != 3]
    check(anywhere, snapshot, kept)
    assert done == sorted(done) and done[-1] == 45
    assert (snapshot.revision, snapshot.failures) == (1, ())
    assert snapshot.size_bytes == snapshot.index.size_bytes + sum(anywhere.shards().values())
    assert len(anywhere.shards()) == 3 and max(anywhere.shards().values()) < 1.2 * SHARD_BYTES
    for key in anywhere.shards():
        assert key == shard_key(FACESET, sha256(anywhere.store.get(key)).hexdigest())
    reader = open_snapshot(anywhere.store, snapshot.index)
    assert [int(face.face_id[1:7]) for face in reader.batch([4, 0, 4, -1])] == [kept[4], kept[0], kept[4], kept[-1]]
    with pytest.raises(IndexError):
        reader[45]


def test_what_training_asks_of_a_face(anywhere: Faces) -> None:
    mask = b"a picture of a mask"
    anywhere.store.put("projects/p/masks/m.png", mask)
    raster = ObjectRef(uri=anywhere.store.uri("projects/p/masks/m.png"), media_type="image/png")
    label = XSegLabel(polygons=(Polygon(kind=PolygonKind.INCLUDE, points_px=np.eye(3, 2) / 3),))
    plain = anywhere.record(1)
    anywhere.create(
        anywhere.put(
            [
                plain,
                replace(
                    anywhere.record(2), mask=FaceMask(raster=raster), label=label, person="sidecar", eyebrows_expand=1.3
                ),
            ]
        ).replace_column("person", ["", "revision"])
    )
    first, second = open_snapshot(anywhere.store, anywhere.build().index)
    assert (first.mask, first.label, first.eyebrows_expand, first.person) == (None, None, 1.0, "")
    assert second.mask is not None and bytes(second.mask) == mask
    assert (second.label, second.eyebrows_expand, second.person) == (label, 1.3, "revision")
    assert (first.face_type, first.size_px, first.pitch_deg) == (FaceType.WHOLE_FACE, 256, 1.5)
    np.testing.assert_array_equal(first.landmarks_px_68x2, plain.crop_landmarks_px.astype(np.float32))


def test_it_is_built_once(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    faces.create(faces.table(1, 2, 3))
    first = faces.build()
    reads = count_reads(faces, monkeypatch)
    done: list[int] = []
    assert faces.build(1, report=done.append) == first == find_snapshot(faces.store, FACESET, 1)
    assert done == [3]
    assert not [key for key in reads if "/faces/" in key]


def test_additions_cost_what_was_added(anywhere: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    old = anywhere.table(*range(0, 2000, 20))
    anywhere.create(old)
    anywhere.build()
    before = anywhere.shards()
    new = anywhere.table(*range(5, 2005, 400))  # from everywhere in the footage
    reads = count_reads(anywhere, monkeypatch)
    anywhere.revise(concatenate([new, old]))
    snapshot = anywhere.build()
    added = {key: size for key, size in anywhere.shards().items() if key not in before}
    assert before.keys() < anywhere.shards().keys()
    assert len(added) == 1 and sum(added.values()) < len(new) * (PICTURE_BYTES + 104) + 128
    assert {key for key in reads if "/faces/" in key} == {*new.column("image_key"), *new.column("record_key")}
    check(anywhere, snapshot, [*range(5, 2005, 400), *range(0, 2000, 20)])


def test_order_trash_and_restoring_cost_an_index(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    table = faces.table(*range(60))
    faces.create(table)
    faces.build()
    before = faces.shards()
    reads = count_reads(faces, monkeypatch)
    for trashed in ([], [*range(0, 60, 7)], [*range(60)], []):
        faces.revise(table.replace_column("trashed", [number in trashed for number in range(60)]))
        check(faces, faces.build(), [number for number in range(60) if number not in trashed])
    faces.revise(RevisionTable(table.table.take(list(reversed(range(60))))))
    last = faces.build()
    check(faces, last, list(reversed(range(60))))
    assert faces.shards() == before
    assert not [key for key in reads if "/faces/" in key]
    assert faces.build(5).index == faces.build(1).index, "the same faces in the same order are the same snapshot"


def test_a_shard_of_little_use_is_packed_anew(faces: Faces) -> None:
    table = faces.table(*range(20))
    faces.create(table)
    faces.build()
    faces.revise(table.replace_column("trashed", [number > 4 for number in range(20)]))
    snapshot = faces.build()
    check(faces, snapshot, [*range(5)])
    assert len(faces.shards()) == 2 and snapshot.size_bytes - snapshot.index.size_bytes == min(faces.shards().values())


def test_new_masks_do_not_move_pictures(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [faces.record(number) for number in range(30)]
    faces.create(faces.put(records))
    faces.build()
    before = faces.shards()
    masked = []
    for record in records:
        key = f"{FACESET}/masks/{record.face_id}.png"
        faces.store.put(key, b"mask of " + record.face_id.encode())
        masked.append(replace(record, mask=FaceMask(raster=ObjectRef(uri=faces.store.uri(key)))))
    faces.revise(faces.put(masked, suffix=".2"))
    reads = count_reads(faces, monkeypatch)
    snapshot = faces.build()
    check(faces, snapshot, [*range(30)])
    assert not [key for key in reads if key.endswith(".jpg")]
    assert len(faces.shards().keys() - before.keys()) == 1
    reader = open_snapshot(faces.store, snapshot.index)
    assert [bytes(face.mask or b"") for face in reader] == [b"mask of " + face.face_id.encode() for face in reader]


def test_equal_pictures_are_packed_once(faces: Faces) -> None:
    one, two = faces.record(1), faces.record(2)
    table = faces.put([one, replace(two, image=one.image)])
    faces.store.put(image_key(FACESET, two.face_id), faces.picture(1))
    faces.create(table)
    snapshot = faces.build()
    first, second = open_snapshot(faces.store, snapshot.index)
    assert bytes(first.image) == bytes(second.image) == faces.picture(1)
    assert sum(faces.shards().values()) < 2 * PICTURE_BYTES


def test_an_empty_revision(faces: Faces) -> None:
    faces.create(faces.table(1, 2).replace_column("trashed", [True, True]))
    check(faces, faces.build(), [])
    assert not faces.shards()


class Ended(Exception):
    pass


def test_a_build_that_ended_is_gone_on_with(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    faces.create(faces.table(*range(200)))

    def report(done: int) -> None:
        if done > 150:
            raise Ended

    with pytest.raises(Ended):
        faces.build(report=report)
    left = faces.shards()
    assert left and find_snapshot(faces.store, FACESET, 1) is None
    reads = count_reads(faces, monkeypatch)
    done: list[int] = []
    resumed = faces.build(report=done.append)
    assert left.items() <= faces.shards().items()
    assert sum(key.endswith(".jpg") for key in reads) == 200 - 20 * len(left)
    assert next(value for value in done if value) >= 20 * len(left)
    check(faces, resumed, [*range(200)])


BUILD_AND_DIE = f"""
import os, signal, sys
from services.kit.records import Records
from services.kit.snapshot_build import build_snapshot
from tests.support.store_spec import StoreSpec
store = StoreSpec(**__import__("json").loads(sys.argv[1])).open()
def report(done):
    if done > int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
build_snapshot(store, Records(store), {FACESET!r}, report=report, shard_bytes={SHARD_BYTES})
"""


def test_a_killed_build_leaves_whole_shards_and_no_snapshot(folder_spec: StoreSpec, faces: Faces) -> None:
    faces.create(faces.table(*range(200)))
    command = [sys.executable, "-c", BUILD_AND_DIE, json.dumps(asdict(folder_spec)), "120"]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == -signal.SIGKILL
    assert find_snapshot(faces.store, FACESET, 1) is None
    left = faces.shards()
    for key in left:
        assert key == shard_key(FACESET, sha256(faces.store.get(key)).hexdigest())
    snapshot = faces.build()
    check(faces, snapshot, [*range(200)])
    assert left.items() <= faces.shards().items() and len(faces.shards()) == 10


def test_two_builds_at_once_make_one_snapshot(anywhere: Faces) -> None:
    anywhere.create(anywhere.table(*range(50)))
    barrier = threading.Barrier(4)

    def build() -> Snapshot:
        barrier.wait()
        return anywhere.build()

    with ThreadPoolExecutor(4) as pool:
        built = [future.result() for future in [pool.submit(build) for _ in range(4)]]
    assert built == [built[0]] * 4
    assert len(anywhere.shards()) == 3
    check(anywhere, built[0], [*range(50)])


# -- what is missing or damaged ----------------------------------------------------------------------------------------


def lose_picture(faces: Faces, record: FaceRecord) -> None:
    faces.store.delete(image_key(FACESET, record.face_id))


def change_picture(faces: Faces, record: FaceRecord) -> None:
    faces.store.put(image_key(FACESET, record.face_id), b"another picture")


def empty_picture(faces: Faces, record: FaceRecord) -> None:
    faces.store.put(image_key(FACESET, record.face_id), b"")


def lose_sidecar(faces: Faces, record: FaceRecord) -> None:
    faces.store.delete(record_key(FACESET, record.face_id))


def damage_sidecar(faces: Faces, record: FaceRecord) -> None:
    faces.store.put(record_key(FACESET, record.face_id), b"{}")


def swap_sidecar(faces: Faces, record: FaceRecord) -> None:
    faces.store.put(record_key(FACESET, record.face_id), faces.record(99).to_json_bytes())


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lose_picture, "NOT_FOUND"),
        (change_picture, "CORRUPT_OBJECT"),
        (empty_picture, "CORRUPT_OBJECT"),
        (lose_sidecar, "NOT_FOUND"),
        (damage_sidecar, "CORRUPT_OBJECT"),
        (swap_sidecar, "CORRUPT_OBJECT"),
    ],
)
def test_a_face_that_cannot_be_packed_is_named_and_the_rest_goes_on(
    faces: Faces, harm: Callable[[Faces, FaceRecord], None], reason: str
) -> None:
    table = faces.table(*range(30))
    faces.create(table)
    record = faces.record(7)
    harm(faces, record)
    snapshot = faces.build()
    (failure,) = snapshot.failures
    assert (failure.name, failure.reason) == (f"{FACESET}/faces/{record.face_id}", reason)
    assert record.face_id in failure.message
    check(faces, snapshot, [number for number in range(30) if number != 7])
    assert faces.build() == snapshot == find_snapshot(faces.store, FACESET, 1), "still missing, so the same again"
    faces.put([record])
    mended = faces.build()
    assert not mended.failures and find_snapshot(faces.store, FACESET, 1) == mended
    check(faces, mended, [*range(30)])


def test_a_missing_mask_is_named(faces: Faces) -> None:
    key = f"{FACESET}/masks/m.png"
    digest = sha256(b"mask").hexdigest()
    raster = ObjectRef(uri=faces.store.uri(key), sha256=digest)
    faces.create(faces.put([faces.record(1), replace(faces.record(2), mask=FaceMask(raster=raster))]))
    snapshot = faces.build()
    assert [failure.name[-17:-9] for failure in snapshot.failures] == ["000002_0"]
    assert key in snapshot.failures[0].message
    check(faces, snapshot, [1])


def test_a_store_that_is_out_of_reach_ends_the_build(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    faces.create(faces.table(1, 2, 3))
    get = faces.store.get

    def failing(key: str) -> bytes:
        if key.endswith(".jpg"):
            raise Transient("the store is out of reach")
        return get(key)

    monkeypatch.setattr(faces.store, "get", failing)
    with pytest.raises(Transient):
        faces.build()
    assert find_snapshot(faces.store, FACESET, 1) is None


def folder_path(faces: Faces, key: str) -> Path:
    with faces.store.local_path(key) as path:
        return path


@pytest.fixture
def in_folder(faces: Faces) -> Faces:
    """50 faces, in files that a test can get at."""
    faces.create(faces.table(*range(50)))
    return faces


def test_a_damaged_picture_is_named_when_it_is_read(in_folder: Faces) -> None:
    snapshot = in_folder.build()
    reader = open_snapshot(in_folder.store, snapshot.index)
    place = reader.index.place(11, "image")
    assert place is not None
    key = shard_key(FACESET, reader.index.shards[place[0]].sha256)
    with folder_path(in_folder, key).open("r+b") as file:
        file.seek(place[1] + 500)
        file.write(b"damage")
    assert bytes(reader[10].image) == in_folder.picture(10)
    with pytest.raises(Corrupt, match=in_folder.record(11).face_id) as error:
        reader[11]
    assert error.value.metadata["uri"] == in_folder.store.uri(key)
    discard_snapshot(in_folder.store, snapshot)
    assert key not in in_folder.shards() and len(in_folder.shards()) == 2
    assert in_folder.build() == snapshot
    check(in_folder, snapshot, [*range(50)])


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def damage_head(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(40)
        file.write(b"x")


@pytest.mark.parametrize("harm", [cut_short, damage_head, Path.unlink])
def test_a_damaged_shard_is_made_again(in_folder: Faces, harm: Callable[[Path], None]) -> None:
    first = in_folder.build()
    key = sorted(in_folder.shards())[0]
    harm(folder_path(in_folder, key))
    table = in_folder.facesets.table(FACESET)[1]
    in_folder.revise(concatenate([table, in_folder.table(77)]))
    check(in_folder, in_folder.build(), [*range(50), 77])
    check(in_folder, first, [*range(50)])


def test_a_snapshot_without_a_shard_or_index_says_so(in_folder: Faces) -> None:
    snapshot = in_folder.build()
    path = folder_path(in_folder, index_key(FACESET, snapshot.index.sha256))
    reader = open_snapshot(in_folder.store, snapshot.index)
    for key in in_folder.shards():
        in_folder.store.delete(key)
    with pytest.raises(NotFound):
        reader[0]
    data = path.read_bytes()
    path.write_bytes(data[:-8] + b"xxxxxxxx")
    with pytest.raises(Corrupt, match="not what its name says"):
        open_snapshot(in_folder.store, snapshot.index)
    cut_short(path)
    with pytest.raises(Corrupt):
        open_snapshot(in_folder.store, snapshot.index)
    discard_snapshot(in_folder.store, snapshot)
    assert in_folder.build() == snapshot
    check(in_folder, snapshot, [*range(50)])
    with pytest.raises(WrongState):
        open_snapshot(in_folder.store, replace(snapshot.index, uri=in_folder.store.uri("projects/p/x")))


def test_a_damaged_word_of_a_snapshot_is_passed_over(in_folder: Faces) -> None:
    snapshot = in_folder.build()
    folder_path(in_folder, snapshot.key).write_bytes(b"{")
    assert find_snapshot(in_folder.store, FACESET, 1) is None
    assert in_folder.build() == snapshot
    discard_snapshot(in_folder.store, snapshot)
    assert in_folder.build() == snapshot == find_snapshot(in_folder.store, FACESET, 1)


# -- reading -----------------------------------------------------------------------------------------------------------


def test_threads_and_forks_read_the_same(in_folder: Faces) -> None:
    reader = open_snapshot(in_folder.store, in_folder.build().index)
    order = [int(number) for number in np.random.default_rng(0).permutation(50)] * 4
    expected = [in_folder.picture(number) for number in order]
    child = os.fork()
    if child == 0:  # nothing was mapped yet
        os._exit(0 if [bytes(reader[number].image) for number in order] == expected else 1)
    with ThreadPoolExecutor(8) as pool:
        assert [bytes(face.image) for face in pool.map(reader.__getitem__, order)] == expected
    again = os.fork()
    if again == 0:  # all is mapped
        os._exit(0 if [bytes(face.image) for face in reader.batch(order)] == expected else 1)
    assert [os.waitpid(pid, 0)[1] for pid in (child, again)] == [0, 0]


def test_shards_are_fetched_into_the_cache_once(store_spec: StoreSpec) -> None:
    if store_spec.kind == "folder":
        pytest.skip("a folder is read where it lies")
    faces = Faces(store_spec.open())
    faces.create(faces.table(*range(50)))
    snapshot = faces.build()
    reader = open_snapshot(faces.store, snapshot.index)
    cache = Path(store_spec.cache_dir or "")

    def cached() -> set[str]:
        return {path.name for path in cache.glob("??/*")}

    assert cached() == {snapshot.index.sha256}, "nothing is fetched before it is asked for"
    assert bytes(reader[0].image) == faces.picture(0)
    assert len(cached()) == 2
    check(faces, snapshot, [*range(50)])
    assert cached() == {snapshot.index.sha256, *(shard.sha256 for shard in reader.index.shards)}
    for info in list_shards(faces.store, FACESET):
        faces.store.delete(info.key)
    for path in cache.glob("??/*"):
        path.unlink()
    assert bytes(reader[0].image) == faces.picture(0), "evicted, but mapped"


def test_a_face_outlives_its_reader_and_its_shard(in_folder: Faces) -> None:
    face = open_snapshot(in_folder.store, in_folder.build().index)[3]
    for key in in_folder.shards():
        in_folder.store.delete(key)
    assert bytes(face.image) == in_folder.picture(3)
    with pytest.raises(TypeError, match="read-only"):
        face.image[0] = 0
