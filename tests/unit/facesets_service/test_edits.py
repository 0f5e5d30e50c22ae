"""Changes of facesets: any sequence keeps every face, everybody's change is in the end, a request is done once however often it comes."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_common.facesets import FaceMask, ObjectRef, Producer, RevisionTable
from services.facesets.app import Facesets
from services.facesets.edits import Ask, Changed, Edits, FaceUpdate
from services.facesets.requests import Request
from services.kit.context import ServiceContext
from services.kit.errors import AlreadyExists, Conflict, NotFound, WrongState
from services.kit.faceset_store import FacesetStore
from services.kit.records import Records
from services.kit.storage import open_store
from tests.support.contexts import context_in
from tests.support.facesets import store_faceset
from tests.support.revisions import revision_of, store_revision

FACESET = "projects/p/facesets/f"
COUNT = 12


class Bench:
    """A faceset in a folder of its own, and everything that changes it."""

    def __init__(self, folder: Path) -> None:
        self.context: ServiceContext = context_in(folder)
        self.facesets = FacesetStore(self.context.store, self.context.records)
        self.edits = Edits(self.context)
        store_revision(self.facesets, revision_of(COUNT))
        self.ids: list[str] = revision_of(COUNT).column("face_id").tolist()

    @property
    def table(self) -> RevisionTable:
        """The rows in force."""
        return self.facesets.table(FACESET)[1]

    @property
    def revision(self) -> int:
        return int(self.facesets.get(FACESET).body["revision"])

    def trashed(self) -> set[str]:
        """Faces in the trash."""
        table = self.table
        return set(table.column("face_id")[table.column("trashed").astype(bool)])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def ask(*, request_id: str = "", digest: str = "d", etag: str = "") -> Ask:
    return Ask(request=Request(request_id, digest), etag=etag, actor="tester")


def number(changed: Changed) -> int:
    return int(changed.facts["number"])


def test_trash_and_restore(bench: Bench) -> None:
    changed = bench.edits.trash(FACESET, bench.ids[:3], ask())
    assert (number(changed), changed.record.body["trashedCount"], bench.trashed()) == (2, "3", set(bench.ids[:3]))
    assert (changed.facts["method"], changed.facts["summary"], changed.facts["actor"]) == (
        "FacesetService/TrashFaces",
        "3 faces to the trash",
        "tester",
    )
    changed = bench.edits.trash(FACESET, bench.ids[2:4], ask())
    assert changed.facts["summary"] == "1 face to the trash", "one of the two was there"
    bench.edits.restore(FACESET, [bench.ids[0]], ask())
    assert bench.trashed() == set(bench.ids[1:4])
    changed = bench.edits.restore(FACESET, [], ask())
    assert (bench.trashed(), changed.facts["summary"]) == (set(), "3 faces out of the trash")
    assert bench.table == revision_of(COUNT)


def test_a_change_that_changes_nothing_makes_no_revision(bench: Bench) -> None:
    for change in (
        lambda: bench.edits.restore(FACESET, [], ask()),
        lambda: bench.edits.restore(FACESET, bench.ids[:1], ask()),
        lambda: bench.edits.revert(FACESET, 1, ask()),
        lambda: bench.edits.update(FACESET, [FaceUpdate(face_id=bench.ids[0], person="")], ask()),
    ):
        assert number(change()) == bench.revision == 1


def test_faces_that_are_not_there_change_nothing(bench: Bench) -> None:
    with pytest.raises(NotFound, match="f009999_0-00000000: nothing was changed"):
        bench.edits.trash(FACESET, [bench.ids[0], "f009999_0-00000000"], ask())
    assert bench.revision == 1


def test_revert_and_undo(bench: Bench) -> None:
    bench.edits.trash(FACESET, bench.ids[:1], ask())  # 2
    bench.edits.trash(FACESET, bench.ids[1:2], ask())  # 3
    states = [bench.facesets.table(FACESET, at)[1] for at in (1, 2, 3)]

    def undone() -> RevisionTable:
        bench.edits.revert(FACESET, 0, ask())
        return bench.table

    assert undone() == states[1]  # 4
    assert undone() == states[0], "undone again, one further"  # 5
    with pytest.raises(WrongState, match="nothing to undo"):
        undone()
    changed = bench.edits.revert(FACESET, 3, ask())  # 6
    assert (bench.table, changed.facts["summary"]) == (states[2], "back to the state of revision 3")
    assert undone() == states[0], "an explicit revert is a change that can be undone"  # 7
    bench.edits.trash(FACESET, bench.ids[5:6], ask())  # 8
    assert undone() == states[0]
    assert bench.trashed() == set()
    with pytest.raises(NotFound, match="no revision 99"):
        bench.edits.revert(FACESET, 99, ask())


def test_rows_hold_person_and_track(bench: Bench) -> None:
    updates = [
        FaceUpdate(face_id=bench.ids[4], person="ada"),
        FaceUpdate(face_id=bench.ids[2], person="", track_id="t9"),
    ]
    changed = bench.edits.update(FACESET, updates, ask())
    table = bench.table
    assert (table.column("person")[4], table.column("track_id")[2]) == ("ada", "t9")
    assert changed.facts["summary"] == "2 faces updated"
    others = [at for at in range(COUNT) if at not in (2, 4)]
    assert table.take(others) == revision_of(COUNT).take(others)
    assert table.column("record_key").tolist() == revision_of(COUNT).column("record_key").tolist(), "no sidecar is new"


def test_sidecars_of_changed_faces_are_new_objects(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    store, facesets, edits = context.store, FacesetStore(context.store, context.records), Edits(context)
    store_faceset(store, FACESET, count=3, skin_bgr=(120, 150, 200), seed=1)
    before = facesets.table(FACESET)[1]
    ids, keys = before.column("face_id").tolist(), before.column("record_key").tolist()
    bytes_before = [store.get(key) for key in keys]
    raster = ObjectRef(uri=store.uri("projects/p/uploads/mask"), sha256="ab" * 32, size_bytes=3, media_type="image/png")
    mask = FaceMask(raster=raster, producer=Producer(name="tests"))
    edits.update(FACESET, [FaceUpdate(face_id=ids[1], eyebrows_expand=1.5, mask=(mask,))], ask())
    after = facesets.table(FACESET)[1]
    assert after.column("has_mask").tolist() == [False, True, False]
    assert after.column("record_key").tolist()[::2] == keys[::2]
    old, new = facesets.faces(FACESET, [keys[1], after.column("record_key")[1]])
    assert new == replace(old, eyebrows_expand=1.5, mask=mask)
    assert [store.get(key) for key in keys] == bytes_before, "what was named is never written again"
    edits.update(FACESET, [FaceUpdate(face_id=ids[1], mask=())], ask())
    [unmasked] = facesets.faces(FACESET, [facesets.table(FACESET)[1].column("record_key")[1]])
    assert (unmasked.mask, unmasked.eyebrows_expand) == (None, 1.5)
    edits.revert(FACESET, 1, ask())
    assert facesets.table(FACESET)[1] == before


def test_with_an_etag_being_overtaken_is_an_error(bench: Bench) -> None:
    etag = bench.facesets.get(FACESET).etag
    bench.edits.trash(FACESET, bench.ids[:1], ask(etag=etag))
    with pytest.raises(Conflict):
        bench.edits.trash(FACESET, bench.ids[1:2], ask(etag=etag))
    assert bench.trashed() == set(bench.ids[:1])


def test_a_request_is_done_once(bench: Bench) -> None:
    request = ask(request_id=str(uuid.uuid4()))
    assert number(bench.edits.trash(FACESET, bench.ids[:1], request)) == 2
    bench.edits.restore(FACESET, [], ask())
    assert number(bench.edits.trash(FACESET, bench.ids[:1], request)) == 2, "the revision that it made"
    assert (bench.revision, bench.trashed()) == (3, set())
    nothing = ask(request_id=str(uuid.uuid4()))
    assert number(bench.edits.restore(FACESET, [], nothing)) == 3
    bench.edits.trash(FACESET, bench.ids, ask())
    assert number(bench.edits.restore(FACESET, [], nothing)) == 3, "it had nothing to do"
    undo = ask(request_id=str(uuid.uuid4()))
    assert number(bench.edits.revert(FACESET, 0, undo)) == 5
    assert number(bench.edits.revert(FACESET, 0, undo)) == bench.revision == 5


def test_a_request_done_with_an_etag_is_found_again(bench: Bench) -> None:
    request = ask(request_id=str(uuid.uuid4()), etag=bench.facesets.get(FACESET).etag)
    assert number(bench.edits.trash(FACESET, bench.ids[:1], request)) == 2
    assert number(bench.edits.trash(FACESET, bench.ids[:1], request)) == 2


def test_a_request_id_is_for_one_request(bench: Bench) -> None:
    request_id = str(uuid.uuid4())
    bench.edits.trash(FACESET, bench.ids[:1], ask(request_id=request_id))
    with pytest.raises(AlreadyExists) as caught:
        bench.edits.trash(FACESET, bench.ids[:1], ask(request_id=request_id, digest="other"))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    operation = str(uuid.uuid4())
    bench.context.store.put(f"projects/p/requests/{operation}", b"projects/p/operations/sort-1")
    with pytest.raises(AlreadyExists):
        bench.edits.trash(FACESET, bench.ids[:1], ask(request_id=operation))


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What ``work`` returned or raised in ``count`` threads that begin together."""
    barrier, results = threading.Barrier(count), [None] * count

    def run(at: int) -> None:
        barrier.wait()
        try:
            results[at] = work(at)
        except Exception as error:  # noqa: BLE001  the test looks at it
            results[at] = error

    threads = [threading.Thread(target=run, args=(at,)) for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_many_clients_at_once_everyones_change_is_in_the_end(bench: Bench) -> None:
    def work(at: int) -> Changed:
        edits = Edits(bench.context)
        if at % 3 == 0:
            return edits.update(FACESET, [FaceUpdate(face_id=bench.ids[at], person=f"p{at}")], ask())
        return edits.trash(FACESET, [bench.ids[at]], ask())

    results = at_once(COUNT, work)
    assert all(isinstance(result, Changed) for result in results), results
    assert bench.trashed() == {face for at, face in enumerate(bench.ids) if at % 3}
    assert [bench.table.column("person")[at] for at in range(0, COUNT, 3)] == [f"p{at}" for at in range(0, COUNT, 3)]
    assert sorted(number(result) for result in results) == list(range(2, COUNT + 2)), "one revision each"
    for at in range(1, COUNT + 2):
        assert len(bench.facesets.table(FACESET, at)[1]) == COUNT, "nothing is half-written"
        assert bench.facesets.revision_facts(FACESET, at)["number"] == str(at)


def test_one_request_sent_many_times_at_once_is_done_once(bench: Bench) -> None:
    request = ask(request_id=str(uuid.uuid4()))
    results = at_once(6, lambda _: number(Edits(bench.context).trash(FACESET, bench.ids[:2], request)))
    assert set(results) == {2}
    assert bench.revision == 2


def test_equal_changes_of_two_requests_have_an_answer_each(bench: Bench) -> None:
    asks = [ask(request_id=str(uuid.uuid4()), digest=str(at)) for at in range(4)]
    at_once(4, lambda at: Edits(bench.context).trash(FACESET, bench.ids[:2], asks[at]))
    first = [number(bench.edits.trash(FACESET, bench.ids[:2], request)) for request in asks]
    bench.edits.restore(FACESET, [], ask())
    assert [number(bench.edits.trash(FACESET, bench.ids[:2], request)) for request in asks] == first
    assert bench.trashed() == set(), "none of them is done again"


class _Killed(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("moment", ["revisions/00000002.parquet", "revisions/00000002.json", "records/"])
@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_request_after_a_crash_is_done_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, moment: str, meanwhile: bool
) -> None:
    store, request = bench.context.store, ask(request_id=str(uuid.uuid4()))
    real = store.put

    def put(key: str, *args: Any, **kwargs: Any) -> Any:
        if moment in key:
            raise _Killed
        return real(key, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(store, "put", put)
        bench.edits.trash(FACESET, bench.ids[:1], request)
    if meanwhile:
        bench.edits.trash(FACESET, bench.ids[1:2], ask())
    made = number(bench.edits.trash(FACESET, bench.ids[:1], request))
    assert number(bench.edits.trash(FACESET, bench.ids[:1], request)) == made
    assert bench.trashed() == set(bench.ids[: 1 + meanwhile])
    assert bench.revision == 2 + meanwhile


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["trash", "restore", "restore all", "sort", "revert", "undo", "person"]), st.integers(0, 2**32)
    ),
    max_size=10,
)


@settings(max_examples=25, deadline=None)
@given(OPERATIONS)
def test_any_sequence_of_changes_keeps_every_face(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int]]
) -> None:
    bench = Bench(tmp_path_factory.mktemp("sequence"))
    everyone = set(bench.ids)
    for kind, seed in operations:
        rng = np.random.default_rng(seed)
        some = [str(face) for face in rng.choice(bench.ids, rng.integers(1, COUNT), replace=False)]
        revision = bench.revision
        if kind == "trash":
            bench.edits.trash(FACESET, some, ask())
            assert set(some) <= bench.trashed()
        elif kind == "restore":
            bench.edits.restore(FACESET, some, ask())
            assert not set(some) & bench.trashed()
        elif kind == "restore all":
            bench.edits.restore(FACESET, [], ask())
            assert bench.trashed() == set()
        elif kind == "sort":
            shuffled = bench.table.take(rng.permutation(COUNT))
            bench.facesets.add_revision(
                FACESET, shuffled, parent=revision, method="tests/Sort", summary="", actor="tester"
            )
        elif kind == "revert":
            target = int(rng.integers(1, revision + 1))
            bench.edits.revert(FACESET, target, ask())
            assert bench.table == bench.facesets.table(FACESET, target)[1]
        elif kind == "undo":
            try:
                bench.edits.revert(FACESET, 0, ask())
            except WrongState:
                assert bench.table == bench.facesets.table(FACESET, 1)[1]
        else:
            bench.edits.update(FACESET, [FaceUpdate(face_id=face, person=str(seed % 3)) for face in some], ask())
        assert set(bench.table.column("face_id")) == everyone
        assert bench.revision - revision in (0, 1)
    counts = bench.facesets.get(FACESET).body
    assert int(counts["faceCount"]) + int(counts["trashedCount"]) == COUNT


def test_a_faceset_in_the_trash_is_read_and_not_changed(bench: Bench) -> None:
    facesets = Facesets(bench.context)
    facesets.set_deleted(FACESET, "2026-01-01T00:00:00Z", "")
    assert len(bench.table) == COUNT
    with pytest.raises(WrongState, match="UndeleteFaceset"):
        bench.edits.trash(FACESET, bench.ids[:1], ask())
    with pytest.raises(WrongState):
        facesets.update(FACESET, {"displayName": "x"}, "")
    with pytest.raises(WrongState):
        facesets.set_deleted(FACESET, "2026-01-01T00:00:00Z", "")
    facesets.set_deleted(FACESET, None, "")
    assert number(bench.edits.trash(FACESET, bench.ids[:1], ask())) == 2
    with pytest.raises(WrongState, match="not in the trash"):
        facesets.set_deleted(FACESET, None, "")


def test_empty_facesets(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    facesets = Facesets(context)
    made = {"create_time": "2026-01-01T00:00:00Z", "actor": "tester"}
    with pytest.raises(NotFound, match="make it first"):
        facesets.create(FACESET, {}, **made)
    context.records.create("projects/p", {"name": "projects/p"})
    record = facesets.create(FACESET, {"displayName": "Ada"}, **made)
    assert (record.body["revision"], record.body["faceCount"], record.body["displayName"]) == ("1", "0", "Ada")
    assert facesets.create(FACESET, {"displayName": "Ada"}, **{**made, "create_time": "later"}) == record
    with pytest.raises(AlreadyExists):
        facesets.create(FACESET, {"displayName": "Bea"}, **made)
    with pytest.raises(NotFound, match="clips/none"):
        facesets.create("projects/p/facesets/g", {"clip": "projects/p/clips/none"}, **made)
    assert number(Edits(context).restore(FACESET, [], ask())) == 1, "no faces are no mistake"
    facesets.set_deleted(FACESET, "2026-01-01T00:00:00Z", "")
    assert facesets.page("projects/p", after="", limit=10, show_deleted=False)[0] == []
    assert len(facesets.page("projects/p", after="", limit=10, show_deleted=True)[0]) == 1
    with pytest.raises(WrongState):
        facesets.create(FACESET, {"displayName": "Ada"}, **made)
    context.records.update("projects/p", lambda body: {**body, "deleteTime": "2026-01-01T00:00:00Z"})
    with pytest.raises(WrongState, match="UndeleteProject"):
        facesets.create("projects/p/facesets/g", {}, **made)


def test_the_stores_of_two_servers_see_each_other(bench: Bench, tmp_path: Path) -> None:
    """No state of its own: what one server changes, the next call of another reads."""
    store = open_store("folder", root=tmp_path / "objects")
    other = FacesetStore(store, Records(store))
    bench.edits.trash(FACESET, bench.ids[:1], ask())
    assert other.table(FACESET) == bench.facesets.table(FACESET)
