"""Lists of faces: every page of a list together is the list, in any order, under any filter; tokens stay with their list."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml_common.curation import measure_face
from ml_common.facesets import SCHEMA, RevisionTable
from services.facesets.listing import Listing, Wish
from services.facesets.measures import MeasuredFace, MeasureIndex, identities
from services.facesets.recent import Recent
from services.kit.errors import InvalidInput, NotFound, WrongState
from services.kit.faceset_store import FacesetStore
from services.kit.records import Records
from services.kit.storage import ObjectStore, open_store
from tests.support.revisions import revision_of, store_revision

FACESET = "projects/p/facesets/f"
COUNT = 60


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store("folder", root=tmp_path)


@pytest.fixture
def facesets(store: ObjectStore) -> FacesetStore:
    facesets = FacesetStore(store, Records(store))
    table = revision_of(COUNT)
    trashed = table.replace_column("trashed", np.arange(COUNT) % 5 == 0)
    store_revision(facesets, trashed)
    return facesets


@pytest.fixture
def listing(store: ObjectStore, facesets: FacesetStore) -> Listing:
    return Listing(store, facesets)


def listed(listing: Listing, wish: Wish, *, limit: int = 7, revision: int = 0) -> list[int]:
    """Positions of a whole list, read page by page."""
    token, found = "", list[int]()
    while True:
        page = listing.page(FACESET, wish, revision=revision, token=token, limit=limit)
        assert len(page.rows) == len(page.positions) <= limit
        found += page.positions
        token = page.next_token
        if not token:
            assert page.total == len(found)
            return found


def rows_of(facesets: FacesetStore) -> RevisionTable:
    return facesets.table(FACESET)[1]


def test_pages_join_to_the_revision_without_its_trash(listing: Listing) -> None:
    assert listed(listing, Wish()) == [at for at in range(COUNT) if at % 5]
    assert listed(listing, Wish(show_trashed=True)) == list(range(COUNT))


@pytest.mark.parametrize("column", SCHEMA.names)
@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_any_stored_column_orders_and_equal_faces_keep_their_place(
    facesets: FacesetStore, listing: Listing, column: str, direction: str
) -> None:
    values = rows_of(facesets).column(column).tolist()
    expected = sorted(range(COUNT), key=lambda at: values[at])
    if direction == "desc":
        ranks = {value: rank for rank, value in enumerate(sorted(set(values)))}
        expected = sorted(range(COUNT), key=lambda at: -ranks[values[at]])
    assert listed(listing, Wish(order_by=f"{column} {direction}", show_trashed=True)) == expected


def test_two_columns_order(facesets: FacesetStore, listing: Listing) -> None:
    table = rows_of(facesets)
    size, yaw = table.column("size_px"), table.column("yaw_deg")
    expected = sorted(range(COUNT), key=lambda at: (-size[at], yaw[at]))
    assert listed(listing, Wish(order_by="size_px desc, yaw_deg", show_trashed=True)) == expected


def test_filter_order_and_frames_together(facesets: FacesetStore, listing: Listing) -> None:
    table = rows_of(facesets)
    frames, yaw, trashed = (table.column(name) for name in ("frame_number", "yaw_deg", "trashed"))
    wish = Wish(ranges=(range(1010, 1050, 2),), filter="yaw_deg > 0", order_by="yaw_deg")
    expected = [at for at in range(COUNT) if frames[at] in range(1010, 1050, 2) and yaw[at] > 0 and not trashed[at]]
    assert expected, "the test has something to find"
    assert listed(listing, wish) == sorted(expected, key=lambda at: yaw[at])


def test_a_filter_that_names_the_trash_decides_about_it(listing: Listing) -> None:
    assert listed(listing, Wish(filter="trashed")) == list(range(0, COUNT, 5))
    assert listed(listing, Wish(filter="trashed OR frame_number = 1002")) == sorted([1, *range(0, COUNT, 5)])


def test_pages_go_on_in_the_revision_they_began_in(facesets: FacesetStore, listing: Listing) -> None:
    wish = Wish(order_by="yaw_deg")
    first = listing.page(FACESET, wish, revision=0, token="", limit=10)
    emptied = rows_of(facesets).replace_column("trashed", [True] * COUNT)
    facesets.add_revision(FACESET, emptied, parent=1, method="tests/Emptied", summary="", actor="tester")
    assert listing.page(FACESET, wish, revision=0, token="", limit=10).total == 0
    second = listing.page(FACESET, wish, revision=0, token=first.next_token, limit=10)
    assert (second.revision, second.total) == (1, first.total)
    assert not set(first.positions) & set(second.positions)
    assert listed(listing, wish, revision=1) == listed(listing, Wish(order_by="yaw_deg asc"), revision=1)


def test_tokens_of_other_lists_are_refused(listing: Listing) -> None:
    token = listing.page(FACESET, Wish(), revision=0, token="", limit=10).next_token
    for wish, revision in ((Wish(filter="trashed"), 0), (Wish(order_by="yaw_deg"), 0), (Wish(), 2)):
        with pytest.raises(InvalidInput, match="start again"):
            listing.page(FACESET, wish, revision=revision, token=token, limit=10)
    for nonsense in ("x", "1.2", "0.ab.1", "1.ab.-1", "a.b.c"):
        with pytest.raises(InvalidInput):
            listing.page(FACESET, Wish(), revision=0, token=nonsense, limit=10)
    with pytest.raises(NotFound):
        listing.page(FACESET, Wish(), revision=9, token="", limit=10)


def test_a_faceset_made_anew_under_its_name_is_another(listing: Listing, store: ObjectStore) -> None:
    """Purged and extracted again, revision 1 holds other faces: what was kept of the old one must not be shown."""
    before = listing.page(FACESET, Wish(), revision=1, token="", limit=10)
    for info in store.list(f"{FACESET}/").objects:
        store.delete(info.key)
    Records(store).purge(FACESET)
    store_revision(FacesetStore(store, Records(store)), revision_of(3, seed=9))
    after = listing.page(FACESET, Wish(), revision=1, token="", limit=10)
    assert after.total == 3
    assert {row.face_id for row in after.rows}.isdisjoint(row.face_id for row in before.rows)


def test_measures_are_columns_once_they_are_there(facesets: FacesetStore, listing: Listing, store: ObjectStore) -> None:
    with pytest.raises(WrongState, match="not measured yet"):
        listed(listing, Wish(order_by="hue_deg"))
    ids = identities(rows_of(facesets).table)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    measures = measure_face(picture, rng.uniform(10, 50, (68, 2)))
    hues = rng.uniform(0, 360, COUNT).tolist()
    faces = [MeasuredFace(face, "", replace(measures, hue_deg=hue)) for face, hue in zip(ids, hues, strict=True)]
    index = MeasureIndex(store, FACESET)
    index.put_part(faces[:20])
    index.put_part(faces[20:50])
    every = Wish(order_by="hue_deg desc", show_trashed=True)
    known = sorted(range(50), key=lambda at: -hues[at])
    assert listed(listing, every) == [*known, *range(50, COUNT)], "what is not measured comes last"
    low = Wish(filter="hue_deg < 180", show_trashed=True)
    assert listed(listing, low) == [at for at in range(50) if hues[at] < 180]
    index.put_part(faces[50:])
    assert listed(listing, low) == [at for at in range(COUNT) if hues[at] < 180], "an older list is not shown again"


def test_recent_values_are_made_once_and_dropped_in_time() -> None:
    made: list[str] = []

    def make(name: str) -> bytes:
        made.append(name)
        return name.encode() * 10

    recent = Recent[bytes](30, len)
    for name in ("a", "b", "a", "c", "a", "d", "a", "b"):
        assert recent.get(name, lambda name=name: make(name)) == name.encode() * 10
    assert made == ["a", "b", "c", "d", "b"]
    assert recent.get("large", lambda: b"x" * 31) == b"x" * 31
    assert recent.get("large", lambda: b"y" * 31) == b"y" * 31, "what is over the budget is not kept"
    assert recent.get("b", lambda: b"") == b"b" * 10, "and pushes nothing out"
