"""Sorting as work: what an arrangement does to any later revision, measures kept once, drivers that die, plans that stay short."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_common.curation import ORDERS
from ml_common.facesets import RevisionTable
from services.facesets.arrangement import Arrangement, applied, by_level
from services.facesets.edits import Ask, Edits
from services.facesets.measures import MeasureIndex, ahead, identities, measure_rows
from services.facesets.plans import (
    BEST,
    CHUNKS,
    FEWEST_FACES,
    MOST_FACES,
    SORT,
    Arrangements,
    best_work,
    chunk_rows,
    measure_chunks,
    sort_work,
)
from services.facesets.requests import Request
from services.facesets.stages import ArrangeStage
from services.kit.context import ServiceContext
from services.kit.errors import Corrupt
from services.kit.faceset_store import FacesetStore
from services.kit.operations.chunk import load_plan, read_manifests
from services.kit.operations.plan import Plan
from tests.support.contexts import context_in, driven
from tests.support.facesets import store_faceset
from tests.support.revisions import revision_of

FACESET = "projects/p/facesets/f"
COUNT = 40
IDS: list[str] = revision_of(12).column("face_id").tolist()


@pytest.fixture
def context(tmp_path: Path) -> ServiceContext:
    context = context_in(tmp_path)
    store_faceset(context.store, FACESET, count=COUNT, skin_bgr=(120, 150, 200), seed=0)
    return context


def facesets_of(context: ServiceContext) -> FacesetStore:
    return FacesetStore(context.store, context.records)


def begun(context: ServiceContext, order: str = "hue", **more: Any) -> str:
    """Name of a sort's operation, which nobody drives yet."""
    work = sort_work(order, reverse=False, reference=False, target_count=0)
    asked = {"etag": "", "request_id": "", "request": order, "actor": "tester", **more}
    return Arrangements(context).begin(FACESET, SORT, work, **asked)[0].name


def plan_of(context: ServiceContext, operation: str) -> Plan:
    return load_plan(context.store, context.ledger.get(operation).body["action_key"])


def ids_of(table: RevisionTable) -> list[str]:
    ids: list[str] = table.column("face_id").tolist()
    return ids


@st.composite
def situations(draw: st.DrawFn) -> tuple[RevisionTable, Arrangement]:
    """A revision, and an arrangement of faces of which some are gone, new, or in the trash by now."""
    order = draw(st.permutations(range(12)))
    there = order[: draw(st.integers(0, 12))]
    trashed = [draw(st.booleans()) for _ in there]
    table = revision_of(12).take(there).replace_column("trashed", trashed)
    seen = draw(st.permutations(IDS))[: draw(st.integers(0, 12))]
    cut = draw(st.integers(0, len(seen)))
    return table, Arrangement(list(seen[:cut]), list(seen[cut:]), "drawn")


@given(situations())
def test_an_arrangement_of_another_moment_loses_no_face(situation: tuple[RevisionTable, Arrangement]) -> None:
    table, arrangement = situation
    result = applied(table, arrangement)
    assert sorted(ids_of(result)) == sorted(ids_of(table))
    before, after = ids_of(table.active()), ids_of(result.active())
    unseen = [face for face in before if face not in {*arrangement.kept, *arrangement.trashed}]
    assert after == [face for face in arrangement.kept if face in before] + unseen
    stayed = set(ids_of(table)) - set(before)
    assert set(ids_of(result)) - set(after) == stayed | (set(before) & set(arrangement.trashed))
    assert applied(result, arrangement) == result, "once more changes nothing"
    if after == before:
        assert result == table


def test_arrangements_are_kept_whole() -> None:
    arrangement = Arrangement(
        ["b", "a"], ["c", "d", "e"], "höw", {"c": 1, "d": 3, "e": 1}, {"c": "a", "d": "a", "e": "b"}
    )
    assert Arrangement.from_bytes(arrangement.to_bytes()) == arrangement
    assert by_level(arrangement) == "2 the same picture, 1 slightly different"


@given(st.lists(st.integers(0, 3), max_size=600).map(lambda steps: np.cumsum(np.array(steps, np.int64) + 1)))
def test_chunks_hold_every_row_once(rows: np.ndarray) -> None:
    chunks = measure_chunks(rows)
    assert [row for chunk in chunks for row in chunk_rows(chunk)] == rows.tolist()
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert all(chunk.units == len(chunk_rows(chunk)) <= MOST_FACES for chunk in chunks)
    assert all(chunk.units >= FEWEST_FACES for chunk in chunks[:-1])


def test_a_large_faceset_is_a_short_plan() -> None:
    chunks = measure_chunks(np.arange(100_000))
    assert len(chunks) == -(-100_000 // MOST_FACES)
    assert all(len(chunk.data["rows"]) == 1 for chunk in chunks)
    assert len(measure_chunks(np.arange(FEWEST_FACES * CHUNKS))) == CHUNKS


def test_pictures_are_read_ahead_and_no_further() -> None:
    begun: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        results = ahead(pool, 3, range(50), lambda item: begun.append(item) or item)
        for at in range(50):
            assert next(results) == at
            assert len(begun) <= at + 4
    assert sorted(begun) == list(range(50))


def test_equal_work_is_joined_while_it_is_done(context: ServiceContext) -> None:
    first = begun(context)
    plan = plan_of(context, first)
    assert [chunk.phase for chunk in plan.chunks] == [0, 0, 1]
    table = facesets_of(context).table(FACESET)[1]
    measured, _ = measure_rows(context.store, table.take(chunk_rows(plan.chunks[0])).rows(), lambda done: None)
    MeasureIndex(context.store, FACESET).put_part(measured)
    assert begun(context) == first, "half of the faces are measured, and it is the same work"
    assert driven(context, first)["state"] == "SUCCEEDED"
    assert begun(context) != first, "from another revision it is other work"


class _Killed(BaseException):
    """The driver dies here."""


def test_a_driver_that_died_after_publishing_publishes_nothing_again(
    context: ServiceContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = begun(context)
    finish: Callable[..., Any] = ArrangeStage.finish

    def dying(self: ArrangeStage, *arguments: Any) -> None:
        finish(self, *arguments)
        raise _Killed

    with monkeypatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(ArrangeStage, "finish", dying)
        driven(context, operation)
    facesets = facesets_of(context)
    assert facesets.get(FACESET).body["revision"] == "2"
    ask = Ask(request=Request("", ""), etag="", actor="tester")
    Edits(context).revert(FACESET, 1, ask)
    plan = plan_of(context, operation)
    response = ArrangeStage().finish(context.env, plan, read_manifests(context.store, plan), "tester")
    assert response.body["revision"]["number"] == "2", "that is what it made"
    assert facesets.get(FACESET).body["revision"] == "3", "and what was done since stands"


def test_measures_survive_work_that_does_not_end(context: ServiceContext, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = begun(context)

    def never(*_: Any, **__: Any) -> None:
        raise Corrupt("the disk is broken")

    with monkeypatch.context() as patch:
        patch.setattr("services.facesets.stages.arranged", never)
        assert driven(context, operation)["state"] == "FAILED"
    assert len(MeasureIndex(context.store, FACESET).measured()) == COUNT
    other = begun(context, "blur")
    assert len(plan_of(context, other).chunks) == 1
    assert driven(context, other)["state"] == "SUCCEEDED"


def test_two_operations_may_measure_the_same_faces(context: ServiceContext) -> None:
    """They meet in the same parts, or keep equal measures twice; either way every order reads one row a face."""
    operations = [begun(context, order) for order in ("hue", "brightness", "blur")]
    assert [len(plan_of(context, operation).chunks) for operation in operations] == [3, 3, 3]
    threads = [threading.Thread(target=driven, args=(context, operation)) for operation in operations]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {context.ledger.get(operation).body["state"] for operation in operations} == {"SUCCEEDED"}
    assert len(context.store.list(f"{FACESET}/measures/").objects) == 2
    facesets = facesets_of(context)
    for number in range(1, int(facesets.get(FACESET).body["revision"]) + 1):
        assert sorted(ids_of(facesets.table(FACESET, number)[1])) == sorted(ids_of(facesets.table(FACESET, 1)[1]))


def test_a_face_that_is_in_two_parts_counts_once(context: ServiceContext) -> None:
    table = facesets_of(context).table(FACESET)[1]
    index = MeasureIndex(context.store, FACESET)
    measured, failures = measure_rows(context.store, table.rows(), lambda done: None)
    assert not failures
    index.put_part(measured[:30])
    index.put_part(measured[10:])
    index.put_part(measured[:30])
    assert len(context.store.list(f"{FACESET}/measures/").objects) == 2
    faces = [*identities(table.table)[::-1], ("f999999_0-00000000", "")]
    columns, known = index.columns(faces, ["value_mean", "histogram_grey", "source_name"])
    assert known.tolist() == [True] * COUNT + [False]
    assert columns["value_mean"][:COUNT].tolist() == [face.measures.value_mean for face in measured][::-1]
    assert np.array_equal(columns["histogram_grey"][0], measured[-1].measures.histogram_grey)


def test_a_damaged_part_is_named(context: ServiceContext) -> None:
    driven(context, begun(context))
    [part, _] = context.store.list(f"{FACESET}/measures/").objects
    context.store.put(part.key, context.store.get(part.key)[:-200])
    with pytest.raises(Corrupt) as caught:
        begun(context, "blur")
    assert caught.value.metadata["uri"] == context.store.uri(part.key)


def test_new_faces_are_the_only_ones_measured(context: ServiceContext) -> None:
    driven(context, begun(context))
    facesets = facesets_of(context)
    number, table = facesets.table(FACESET)
    newcomer = replace(table.rows()[0], face_id="f009000_0-0a0b0c0d", frame_number=9000)
    columns = {name: [getattr(newcomer, name)] for name in table.table.column_names}
    row = pa.table(columns, schema=table.table.schema)
    bigger = RevisionTable(pa.concat_tables([table.table, row]))
    facesets.add_revision(FACESET, bigger, parent=number, method="tests/Add", summary="", actor="tester")
    plan = plan_of(context, begun(context, "brightness"))
    assert [chunk.units for chunk in plan.chunks] == [1, COUNT + 1]
    assert chunk_rows(plan.chunks[0]) == [COUNT]


def test_a_face_with_another_picture_is_measured_again(context: ServiceContext) -> None:
    """As when pictures come back that were graded elsewhere: the face is the same, what it looks like is not."""
    driven(context, begun(context, "brightness"))
    facesets, store = facesets_of(context), context.store
    number, table = facesets.table(FACESET)
    dark = cv2.imencode(".jpg", np.zeros((96, 96, 3), np.uint8))[1].tobytes()
    keys, digests = table.column("image_key").copy(), table.column("image_sha256").copy()
    info = store.put(f"{FACESET}/faces/graded.jpg", dark)
    keys[0], digests[0] = info.key, info.sha256
    graded = table.replace_column("image_key", keys).replace_column("image_sha256", digests)
    facesets.add_revision(FACESET, graded, parent=number, method="tests/Grade", summary="", actor="tester")
    operation = begun(context, "brightness")
    assert [chunk.units for chunk in plan_of(context, operation).chunks] == [1, COUNT]
    driven(context, operation)
    assert ids_of(facesets.table(FACESET)[1])[-1] == ids_of(table)[0], "the brightest face has become the darkest"


def test_faces_in_the_trash_are_neither_measured_nor_moved(context: ServiceContext) -> None:
    facesets = facesets_of(context)
    ids = ids_of(facesets.table(FACESET)[1])
    ask = Ask(request=Request("", ""), etag="", actor="tester")
    Edits(context).trash(FACESET, ids[::2], ask)
    operation = begun(context)
    assert plan_of(context, operation).chunks[-1].units == COUNT // 2
    driven(context, operation)
    after = facesets.table(FACESET)[1]
    assert ids_of(after)[COUNT // 2 :] == ids[::2]
    assert {face for face, _ in MeasureIndex(context.store, FACESET).measured()} == set(ids[1::2])


def test_best_faces_name_their_target(context: ServiceContext) -> None:
    work = best_work(target_count=7, faster=True, reference=False)
    record, found = Arrangements(context).begin(
        FACESET, BEST, work, etag="", request_id="", request="best", actor="tester"
    )
    assert not found
    assert record.name.startswith("projects/p/operations/best-")
    assert driven(context, record.name)["state"] == "SUCCEEDED"
    facesets = facesets_of(context)
    assert facesets.get(FACESET).body["faceCount"] == "7"
    assert facesets.revision_facts(FACESET, 2)["summary"].startswith(f"kept the best 7 faces, {COUNT - 7} to the trash")
    assert ORDERS[work["order"]].selects
