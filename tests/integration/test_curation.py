"""Curation over real gRPC: made, changed, listed, sorted, chosen, thinned out and brought back, by one client and by several at once."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from google.longrunning import operations_pb2

import services.facesets
import services.frames
from ml_common.curation import MEASURE_COLUMNS, ORDERS, Columns, OrderOptions, measure_face, measures_table
from ml_common.facesets import RevisionTable
from ml_common.imaging.picture import decode_picture
from services.facesets.measures import MeasureIndex, identities
from services.facesets.stages import _FIELDS
from services.kit.faceset_store import FacesetStore
from services.kit.records import Records
from services.kit.storage import open_store
from tests.support.contexts import eventually
from tests.support.facesets import store_faceset
from tests.support.hosting import Hosted, hosted
from tests.support.revisions import revision_of, store_revision
from tests.support.servers import ServerProcess
from understudy.cli import main
from understudy.errors import UnderstudyError
from understudy.v1 import common_pb2, face_pb2, faceset_service_pb2, operation_pb2, project_service_pb2

PROJECT = "projects/p"
FACES = 40  # two chunks to measure
API = faceset_service_pb2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    with hosted(tmp_path_factory.mktemp("server"), [services.frames, services.facesets]) as running:
        running.client.projects.CreateProject(project_service_pb2.CreateProjectRequest(project_id="p"))
        yield running


def drawn(server: Hosted, count: int = FACES, seed: int = 0) -> str:
    """A faceset of drawn faces, for one test to change."""
    name = f"{PROJECT}/facesets/f-{uuid.uuid4().hex[:8]}"
    store_faceset(server.context.store, name, count=count, skin_bgr=(120, 150, 200), seed=seed)
    return name


@pytest.fixture
def faceset(server: Hosted) -> str:
    return drawn(server)


def facesets_of(server: Hosted) -> FacesetStore:
    return FacesetStore(server.context.store, server.context.records)


def table_of(server: Hosted, faceset: str, revision: int = 0) -> RevisionTable:
    return facesets_of(server).table(faceset, revision)[1]


def ids_of(server: Hosted, faceset: str, revision: int = 0) -> list[str]:
    """All faces, those in the trash too, in order."""
    ids: list[str] = table_of(server, faceset, revision).column("face_id").tolist()
    return ids


def active_ids(server: Hosted, faceset: str) -> list[str]:
    ids: list[str] = table_of(server, faceset).active().column("face_id").tolist()
    return ids


def listed(server: Hosted, faceset: str, **request: Any) -> list[faceset_service_pb2.Face]:
    return list(server.client.facesets.ListFaces(API.ListFacesRequest(parent=faceset, **request)).faces)


def get(server: Hosted, faceset: str) -> faceset_service_pb2.Faceset:
    found: faceset_service_pb2.Faceset = server.client.facesets.GetFaceset(API.GetFacesetRequest(name=faceset))
    return found


def result(server: Hosted, operation: operations_pb2.Operation) -> faceset_service_pb2.RevisionResponse:
    response: faceset_service_pb2.RevisionResponse = server.client.result(operation, API.RevisionResponse())
    return response


def sort(server: Hosted, faceset: str, method: str, **more: Any) -> faceset_service_pb2.RevisionResponse:
    request = API.SortFacesetRequest(faceset=faceset, method=method, **more)
    return result(server, server.client.facesets.SortFaceset(request))


def metadata_of(server: Hosted, operation: operations_pb2.Operation) -> operation_pb2.OperationMetadata:
    """Of an operation that has ended."""
    found = server.client.operations.GetOperation(operations_pb2.GetOperationRequest(name=operation.name))
    metadata = operation_pb2.OperationMetadata()
    found.metadata.Unpack(metadata)
    return metadata


def measured_here(server: Hosted, faceset: str) -> Columns:
    """The columns of a faceset's first revision, measured in this process."""
    rows = table_of(server, faceset, 1)
    records = facesets_of(server).faces(faceset, list(rows.column("record_key")))
    measures = []
    for key, record in zip(rows.column("image_key"), records, strict=True):
        measures.append(measure_face(decode_picture(server.context.store.get(key), key), record.crop_landmarks_px))
    table = measures_table(rows.column("face_id").tolist(), measures)
    columns = {name: rows.column(name) for name in rows.table.column_names}
    for field in MEASURE_COLUMNS:
        values = table[field.name].combine_chunks()
        if hasattr(field.type, "list_size"):
            columns[field.name] = values.flatten().to_numpy().reshape(len(rows), field.type.list_size)
        else:
            columns[field.name] = values.to_numpy(zero_copy_only=False)
    columns["source_name"] = np.array([record.source.original_filename for record in records], object)
    return Columns(columns)


def test_a_faceset_from_beginning_to_end(server: Hosted) -> None:
    facesets = server.client.facesets
    wanted = API.Faceset(display_name="Ada", labels={"show": "x"}, face_type=face_pb2.FACE_TYPE_WHOLE, size_px=512)
    create = API.CreateFacesetRequest(parent=PROJECT, faceset_id="ada", faceset=wanted)
    made = facesets.CreateFaceset(create)
    assert (made.name, made.display_name, dict(made.labels)) == (f"{PROJECT}/facesets/ada", "Ada", {"show": "x"})
    assert (made.revision, made.face_count, made.size_px) == (1, 0, 512)
    assert made.HasField("create_time")
    assert made.etag
    assert facesets.CreateFaceset(create) == made
    assert listed(server, made.name) == []

    update = API.UpdateFacesetRequest(
        faceset=API.Faceset(name=made.name, labels={"a": "b"}, etag=made.etag), update_mask={"paths": ["labels"]}
    )
    changed = facesets.UpdateFaceset(update)
    assert (changed.display_name, dict(changed.labels), changed.revision) == ("Ada", {"a": "b"}, 1)
    with pytest.raises(UnderstudyError) as caught:
        facesets.UpdateFaceset(update)
    assert caught.value.reason == "ETAG_MISMATCH"
    emptied = API.UpdateFacesetRequest(faceset=API.Faceset(name=made.name), update_mask={"paths": ["display_name"]})
    assert facesets.UpdateFaceset(emptied).display_name == ""
    named = API.UpdateFacesetRequest(faceset=API.Faceset(name=made.name, display_name="Bea"))
    assert (facesets.UpdateFaceset(named).display_name, dict(get(server, made.name).labels)) == ("Bea", {"a": "b"})

    def listing(**request: Any) -> set[str]:
        return {
            item.name for item in facesets.ListFacesets(API.ListFacesetsRequest(parent=PROJECT, **request)).facesets
        }

    facesets.DeleteFaceset(API.DeleteFacesetRequest(name=made.name))
    assert made.name not in listing()
    assert made.name in listing(show_deleted=True)
    assert get(server, made.name).HasField("delete_time")
    for method, request in (
        (facesets.RestoreFaces, API.RestoreFacesRequest(faceset=made.name)),
        (facesets.RevertFaceset, API.RevertFacesetRequest(faceset=made.name, revision=1)),
        (facesets.SortFaceset, API.SortFacesetRequest(faceset=made.name, method="yaw")),
        (facesets.CreateFaceset, create),
        (facesets.DeleteFaceset, API.DeleteFacesetRequest(name=made.name)),
    ):
        with pytest.raises(UnderstudyError) as caught:
            method(request)
        assert (caught.value.code, caught.value.reason) == ("FAILED_PRECONDITION", "WRONG_STATE")
    back = facesets.UndeleteFaceset(API.UndeleteFacesetRequest(name=made.name))
    assert not back.HasField("delete_time")
    assert made.name in listing()


def test_lists_are_filtered_and_in_order(server: Hosted, faceset: str) -> None:
    faces = listed(server, faceset, filter="yaw_deg > 0 AND frame_number < 30", order_by="yaw_deg desc")
    yaws = [face.record.pose.yaw_deg for face in faces]
    assert yaws == sorted(yaws, reverse=True)
    table = table_of(server, faceset)
    assert len(faces) == int(((table.column("yaw_deg") > 0) & (table.column("frame_number") < 30)).sum()) > 3
    assert [face.position for face in faces] == [face.record.source.frame_number for face in faces]
    with pytest.raises(UnderstudyError) as caught:
        listed(server, faceset, filter="yaw_deg > ")
    assert (caught.value.code, set(caught.value.fields)) == ("INVALID_ARGUMENT", {"filter"})
    with pytest.raises(UnderstudyError) as caught:
        listed(server, faceset, order_by="yaw_deg sideways")
    assert set(caught.value.fields) == {"order_by"}


def test_trash_restore_revert_and_undo(server: Hosted, faceset: str) -> None:
    facesets, ids = server.client.facesets, ids_of(server, faceset)
    trash = API.TrashFacesRequest(
        faceset=faceset, faces=[ids[0], f"{faceset}/faces/{ids[1]}"], request_id=str(uuid.uuid4())
    )
    changed = facesets.TrashFaces(trash)
    assert (changed.faceset.trashed_count, changed.revision.number, changed.revision.parent) == (2, 2, 1)
    assert changed.revision.summary == "2 faces to the trash"
    assert facesets.TrashFaces(trash).revision == changed.revision
    assert {face.record.face_id for face in listed(server, faceset, filter="trashed")} == set(ids[:2])
    assert len(listed(server, faceset)) == FACES - 2
    facesets.RestoreFaces(API.RestoreFacesRequest(faceset=faceset, faces=[ids[0]]))
    assert facesets.RevertFaceset(API.RevertFacesetRequest(faceset=faceset)).faceset.trashed_count == 2
    assert facesets.RevertFaceset(API.RevertFacesetRequest(faceset=faceset)).faceset.trashed_count == 0
    assert facesets.RevertFaceset(API.RevertFacesetRequest(faceset=faceset, revision=2)).faceset.trashed_count == 2
    stale = API.TrashFacesRequest(faceset=faceset, faces=ids[2:3], etag=changed.faceset.etag)
    with pytest.raises(UnderstudyError) as caught:
        facesets.TrashFaces(stale)
    assert (caught.value.code, caught.value.reason) == ("ABORTED", "ETAG_MISMATCH")
    summaries = [item.summary for item in facesets.ListRevisions(API.ListRevisionsRequest(parent=faceset)).revisions]
    assert summaries == [
        "back to the state of revision 2",
        "back to the state of revision 1",
        "back to the state of revision 2",
        "1 face out of the trash",
        "2 faces to the trash",
        "drawn",
    ]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (API.TrashFacesRequest(faces=[]), "faces"),
        (API.TrashFacesRequest(faces=["../x"]), "faces"),
        (API.TrashFacesRequest(faces=["projects/p/facesets/other/faces/f000001_0-1a2b3c4d"]), "faces"),
        (API.TrashFacesRequest(faces=["f000001_0-1a2b3c4d"] * 2), "faces"),
        (API.TrashFacesRequest(faces=["f000001_0-1a2b3c4d"], request_id="?"), "request_id"),
        (API.RevertFacesetRequest(revision=-1), "revision"),
        (API.SortFacesetRequest(method="beauty"), "method"),
        (API.SortFacesetRequest(method="yaw", target_count=5), "target_count"),
        (API.SortFacesetRequest(method="final", target_count=-5), "target_count"),
        (API.SelectBestRequest(), "target_count"),
        (API.FindDuplicatesRequest(strength=5), "strength"),
        (API.FindDuplicatesRequest(), "strength"),
    ],
    ids=str,
)
def test_requests_that_mean_nothing_are_refused(server: Hosted, faceset: str, request_: Any, field: str) -> None:
    request = type(request_)()
    request.CopyFrom(request_)
    request.faceset = faceset
    method = type(request).__name__.removesuffix("Request")
    with pytest.raises(UnderstudyError) as caught:
        getattr(server.client.facesets, method)(request)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert set(caught.value.fields) == {field}
    assert get(server, faceset).revision == 1


def test_many_faces_at_once(server: Hosted, faceset: str) -> None:
    facesets, ids = server.client.facesets, ids_of(server, faceset)
    names = [f"{faceset}/faces/{face}" for face in ids[:3]]
    raster = server.context.store.put("projects/p/uploads/mask-of-a-face", b"\x89PNG", media_type="image/png")
    reference = common_pb2.ObjectRef(uri=server.context.store.uri(raster.key))
    updates = [
        API.FaceUpdate(name=names[0], record={"person": "ada", "track_id": "x"}, update_mask={"paths": ["person"]}),
        API.FaceUpdate(
            name=names[1],
            record={"eyebrows_expand": 1.25, "mask": {"raster": reference}},
            update_mask={"paths": ["eyebrows_expand", "mask"]},
        ),
    ]
    changed = facesets.BatchUpdateFaces(API.BatchUpdateFacesRequest(parent=faceset, updates=updates))
    assert (changed.revision.number, changed.revision.summary) == (2, "2 faces updated")
    missing = f"{faceset}/faces/f009999_0-00000000"
    batch = facesets.BatchGetFaces(API.BatchGetFacesRequest(parent=faceset, names=[names[1], missing, names[0]]))
    assert [face.name for face in batch.faces] == [names[1], names[0]]
    assert [item.name for item in batch.failed] == [missing]
    eyebrows, person = (face.record for face in batch.faces)
    assert (person.person, person.track_id, person.eyebrows_expand) == ("ada", "", 1.0)
    assert (eyebrows.eyebrows_expand, eyebrows.mask.raster.uri, eyebrows.person) == (1.25, reference.uri, "")
    assert [face.name for face in listed(server, faceset, filter="has_mask")] == [names[1]]
    unmask = API.FaceUpdate(name=names[1], update_mask={"paths": ["mask"]})
    facesets.BatchUpdateFaces(API.BatchUpdateFacesRequest(parent=faceset, updates=[unmask]))
    assert listed(server, faceset, filter="has_mask") == []
    facesets.RevertFaceset(API.RevertFacesetRequest(faceset=faceset, revision=2))
    assert [face.name for face in listed(server, faceset, filter="has_mask")] == [names[1]]


@pytest.mark.parametrize(
    ("record", "paths", "code"),
    [
        ({"person": "a"}, [], "INVALID_ARGUMENT"),
        ({"person": "a"}, ["face_type"], "INVALID_ARGUMENT"),
        ({"person": "a" * 201}, ["person"], "INVALID_ARGUMENT"),
        ({"eyebrows_expand": -1}, ["eyebrows_expand"], "INVALID_ARGUMENT"),
        ({"eyebrows_expand": float("nan")}, ["eyebrows_expand"], "INVALID_ARGUMENT"),
        ({"mask": {}}, ["mask"], "INVALID_ARGUMENT"),
        ({"mask": {"raster": {"uri": "file:///etc/passwd"}}}, ["mask"], "INVALID_ARGUMENT"),
    ],
)
def test_updates_that_cannot_be_are_refused(
    server: Hosted, faceset: str, record: dict[str, Any], paths: list[str], code: str
) -> None:
    name = f"{faceset}/faces/{ids_of(server, faceset)[0]}"
    update = API.FaceUpdate(name=name, record=record, update_mask={"paths": paths})
    with pytest.raises(UnderstudyError) as caught:
        server.client.facesets.BatchUpdateFaces(API.BatchUpdateFacesRequest(parent=faceset, updates=[update]))
    assert caught.value.code == code
    assert get(server, faceset).revision == 1


@pytest.fixture(scope="module")
def measured(server: Hosted) -> tuple[str, Columns]:
    """A faceset that tests sort and revert again, and its columns as measured in this process."""
    faceset = drawn(server, count=36, seed=3)
    return faceset, measured_here(server, faceset)


@pytest.mark.parametrize("method", sorted(ORDERS))
def test_every_order_is_that_of_the_measures(server: Hosted, measured: tuple[str, Columns], method: str) -> None:
    faceset, columns = measured
    server.client.facesets.RevertFaceset(API.RevertFacesetRequest(faceset=faceset, revision=1))
    before, revision = ids_of(server, faceset), get(server, faceset).revision
    target = 10 if ORDERS[method].selects else 0
    response = sort(server, faceset, method, target_count=target)
    expected = ORDERS[method].order(columns, OrderOptions(target_count=target) if target else OrderOptions())
    assert active_ids(server, faceset) == [before[at] for at in expected.kept]
    table = table_of(server, faceset)
    trashed = table.column("face_id")[table.column("trashed").astype(bool)]
    assert set(trashed) == {before[at] for at in expected.trashed}
    assert sorted(ids_of(server, faceset)) == sorted(before), "every face is still there"
    assert response.faceset.revision == response.revision.number == get(server, faceset).revision
    assert response.faceset.etag == get(server, faceset).etag
    if response.revision.number != revision:
        assert response.revision.method == "FacesetService/SortFaceset"
        assert f"sorted by {method} (" in response.revision.summary


def test_reversed_and_by_the_originals_definitions(server: Hosted, faceset: str) -> None:
    sort(server, faceset, "yaw")
    falling = active_ids(server, faceset)
    sort(server, faceset, "yaw", reverse=True)
    assert active_ids(server, faceset) == falling[::-1]
    assert "reversed" in sort(server, faceset, "blur", reverse=True, reference=True).revision.summary
    table, rows = measured_here(server, faceset), table_of(server, faceset, 1)
    expected = ORDERS["blur"].order(table, OrderOptions(reference=True)).kept[::-1]
    assert set(active_ids(server, faceset)) == {rows.column("face_id")[at] for at in expected}


def test_faces_are_measured_once(server: Hosted, faceset: str) -> None:
    first = server.client.facesets.SortFaceset(API.SortFacesetRequest(faceset=faceset, method="hue"))
    result(server, first)
    assert metadata_of(server, first).chunks_total == 3, "two to measure and one to arrange"
    parts = server.context.store.list(f"{faceset}/measures/").objects
    assert len(parts) == 2
    second = server.client.facesets.SortFaceset(API.SortFacesetRequest(faceset=faceset, method="blur"))
    result(server, second)
    assert metadata_of(server, second).chunks_total == 1
    index = MeasureIndex(server.context.store, faceset)
    faces = identities(table_of(server, faceset, 1).table)
    assert index.measured() == set(faces)
    columns, known = index.columns(faces, ["hue_deg", "thumbnail_bgr", "pixel_digest"])
    assert known.all()
    here = measured_here(server, faceset)
    for name, values in columns.items():
        assert np.array_equal(values, here[name]), name
    assert server.context.store.list(f"{faceset}/measures/").objects == parts


def test_an_order_that_needs_no_pictures_measures_none(server: Hosted, faceset: str) -> None:
    sort(server, faceset, "yaw")
    assert not server.context.store.list(f"{faceset}/measures/").objects


def test_the_original_order_comes_back(server: Hosted, faceset: str) -> None:
    before = ids_of(server, faceset)
    sort(server, faceset, "yaw")
    assert ids_of(server, faceset) != before
    facesets_of(server).set_fields(faceset, {"clip": "projects/p/clips/c"})
    sort(server, faceset, "original-name")
    assert ids_of(server, faceset) == before
    assert not server.context.store.list(f"{faceset}/measures/").objects, "frames of one clip are in order by number"


def test_best_faces_and_the_way_back(server: Hosted, faceset: str) -> None:
    request = API.SelectBestRequest(faceset=faceset, target_count=10, request_id=str(uuid.uuid4()))
    operation = server.client.facesets.SelectBest(request)
    response = result(server, operation)
    assert (response.faceset.face_count, response.faceset.trashed_count) == (10, FACES - 10)
    assert response.revision.summary.startswith(f"kept the best 10 faces, {FACES - 10} to the trash")
    again = server.client.facesets.SelectBest(request)
    assert again.name == operation.name
    assert result(server, again) == response
    with pytest.raises(UnderstudyError) as caught:
        other = API.SelectBestRequest(faceset=faceset, target_count=11, request_id=request.request_id)
        server.client.facesets.SelectBest(other)
    assert caught.value.reason == "REQUEST_ID_REUSED"
    faster = API.SelectBestRequest(faceset=faceset, target_count=4, faster=True)
    assert result(server, server.client.facesets.SelectBest(faster)).faceset.face_count == 4
    server.client.facesets.RevertFaceset(API.RevertFacesetRequest(faceset=faceset, revision=1))
    assert active_ids(server, faceset) == ids_of(server, faceset, 1)


def test_duplicates_go_aside_by_level(server: Hosted, faceset: str) -> None:
    store, table = server.context.store, table_of(server, faceset)
    pictures = [store.get(key) for key in table.column("image_key")]
    copies = {10: 3, 20: 3, 30: 7}
    for copy, of in copies.items():  # as an import of the same pictures would
        store.put(table.column("image_key")[copy], pictures[of], media_type="image/jpeg")
    response = result(
        server, server.client.facesets.FindDuplicates(API.FindDuplicatesRequest(faceset=faceset, strength=1))
    )
    trashed = {face.record.face_id for face in listed(server, faceset, filter="trashed")}
    assert len(trashed) == response.faceset.trashed_count >= 3
    assert "the same picture" in response.revision.summary
    ids = ids_of(server, faceset, 1)
    for group in ({3, 10, 20}, {7, 30}):
        assert len({ids[at] for at in group} - trashed) <= 1
    kept = [face for face in ids if face not in trashed]
    assert active_ids(server, faceset) == kept, "nothing else changes its place"
    again = server.client.facesets.FindDuplicates(API.FindDuplicatesRequest(faceset=faceset, strength=1))
    assert result(server, again).revision.number == response.revision.number, "nothing is left to find"


def test_bad_faces_are_named_and_the_rest_goes_on(server: Hosted, faceset: str) -> None:
    store, table = server.context.store, table_of(server, faceset)
    ids = ids_of(server, faceset)
    store.delete(table.column("image_key")[3])
    store.put(table.column("image_key")[5], b"no picture")
    store.put(table.column("record_key")[8], b"{}")
    operation = server.client.facesets.SortFaceset(API.SortFacesetRequest(faceset=faceset, method="hue"))
    response = result(server, operation)
    metadata = metadata_of(server, operation)
    assert metadata.state == operation_pb2.OPERATION_STATE_PARTIALLY_SUCCEEDED
    assert {item.name for item in metadata.failed_items} == {ids[3], ids[5], ids[8]}
    assert ids_of(server, faceset)[-3:] == [ids[3], ids[5], ids[8]]
    assert "3 could not be measured and stand at the end" in response.revision.summary
    assert sorted(ids_of(server, faceset)) == sorted(ids)


def test_an_empty_faceset_can_be_sorted(server: Hosted) -> None:
    create = API.CreateFacesetRequest(parent=PROJECT, faceset_id="empty")
    name = server.client.facesets.CreateFaceset(create).name
    assert sort(server, name, "hist").revision.number == 1
    duplicates = API.FindDuplicatesRequest(faceset=name, strength=4)
    assert result(server, server.client.facesets.FindDuplicates(duplicates)).revision.number == 1


def test_two_clients_sort_one_faceset_at_once(server: Hosted, faceset: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        responses = list(pool.map(lambda method: sort(server, faceset, method), ["yaw", "brightness"]))
    numbers = {response.revision.number for response in responses}
    assert numbers == {2, 3}, "both are there"
    for number in numbers:
        assert sorted(ids_of(server, faceset, number)) == sorted(ids_of(server, faceset, 1))


def test_a_sort_and_other_changes_at_once_lose_nothing(server: Hosted, faceset: str) -> None:
    ids = ids_of(server, faceset)

    def trash(face: str) -> None:
        server.client.facesets.TrashFaces(API.TrashFacesRequest(faceset=faceset, faces=[face]))

    with ThreadPoolExecutor(6) as pool:
        pending = [pool.submit(trash, face) for face in ids[:5]]
        sorted_ = pool.submit(sort, server, faceset, "brightness")
        for item in pending:
            item.result()
        sorted_.result()
    assert {face.record.face_id for face in listed(server, faceset, filter="trashed")} == set(ids[:5])
    assert get(server, faceset).revision == 7
    expected = ORDERS["brightness"].order(measured_here(server, faceset)).kept
    assert active_ids(server, faceset) == [ids[at] for at in expected if at >= 5]


def test_a_sort_for_one_state_ends_when_that_is_gone(server: Hosted, faceset: str) -> None:
    etag = get(server, faceset).etag
    server.client.facesets.TrashFaces(API.TrashFacesRequest(faceset=faceset, faces=ids_of(server, faceset)[:1]))
    with pytest.raises(UnderstudyError) as caught:
        sort(server, faceset, "yaw", etag=etag)
    assert caught.value.reason == "ETAG_MISMATCH"
    assert sort(server, faceset, "yaw", etag=get(server, faceset).etag).revision.number == 3


def test_stored_responses_hold_what_messages_have() -> None:
    """A field that no message knows would make the operation unreadable."""
    for kind, message in (("faceset", API.Faceset), ("revision", API.FacesetRevision)):
        assert set(_FIELDS[kind]) <= {field.json_name for field in message.DESCRIPTOR.fields}


def test_a_server_killed_while_it_measures_goes_on_where_it_stood(tmp_path: Path) -> None:
    faceset, store = f"{PROJECT}/facesets/f", open_store("folder", root=tmp_path / "objects")
    facesets = FacesetStore(store, Records(store))
    store_faceset(store, f"{PROJECT}/facesets/pictures", count=20, skin_bgr=(120, 150, 200), seed=5)
    pictures, table = facesets.table(f"{PROJECT}/facesets/pictures")[1], revision_of(1000)
    for name in ("image_key", "record_key"):  # a thousand faces are soon told, and take a while to be measured
        table = table.replace_column(name, np.resize(pictures.column(name), len(table)))
    store_revision(facesets, table)
    settings = {"execution__kind": "inline", "module": "services.facesets"}
    with ServerProcess(tmp_path, **settings) as first:
        request = API.SortFacesetRequest(faceset=faceset, method="brightness", request_id=str(uuid.uuid4()))
        operation = first.client.facesets.SortFaceset(request)
        eventually(lambda: store.list(f"{faceset}/measures/").objects, "the first faces are measured")
        first.kill()
    parts = {info.key: info.modified_s for info in store.list(f"{faceset}/measures/").objects}
    assert facesets.get(faceset).body["revision"] == "1", "it was not done"
    with ServerProcess(tmp_path, **settings) as second:
        assert second.client.facesets.SortFaceset(request).name == operation.name
        response = second.client.result(operation, API.RevisionResponse())
    after = {info.key: info.modified_s for info in store.list(f"{faceset}/measures/").objects}
    assert after.items() >= parts.items(), "nothing was measured twice"
    assert response.revision.number == 2
    rows = facesets.table(faceset)[1].column("face_id").tolist()
    assert sorted(rows) == sorted(facesets.table(faceset, 1)[1].column("face_id"))
    values, known = MeasureIndex(store, faceset).columns(identities(facesets.table(faceset)[1].table), ["value_mean"])
    assert known.all()
    assert (np.diff(values["value_mean"]) <= 0).all(), "brightest first"


def test_the_command_line_curates(server: Hosted, faceset: str) -> None:
    def understudy(*arguments: str) -> Any:
        token_file = str(server.context.settings.server.token_file)
        connection = ["--address", server.client.address, "--token-file", token_file, "--json"]
        done = CliRunner().invoke(main, [*connection, "faceset", *arguments])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    some = [face["record"]["face_id"] for face in understudy("faces", faceset, "--filter", "yaw_deg > 0")["faces"]]
    assert 0 < len(some) < FACES
    assert understudy("trash", faceset, "--filter", "yaw_deg > 0")["faceset"]["trashed_count"] == len(some)
    restored = understudy("restore", faceset, "--filter", f'face_id = "{some[0]}"')
    assert restored["faceset"]["trashed_count"] == len(some) - 1
    assert understudy("undo", faceset)["faceset"]["trashed_count"] == len(some)
    assert understudy("undo", faceset)["faceset"]["trashed_count"] == 0
    assert understudy("mark", faceset, some[0], "--person", "ada")["revision"]["summary"] == "1 face updated"
    assert understudy("sort", faceset, "--by", "brightness")["revision"]["summary"].startswith("sorted by brightness")
    assert understudy("best", faceset, "--count", "12")["faceset"]["face_count"] == 12
    assert understudy("dupes", faceset, "--strength", "4")["faceset"]["face_count"] <= 12
    assert understudy("revert", faceset, "1")["faceset"]["trashed_count"] == 0
    assert understudy("faces", faceset, "--order-by", "face_id desc")["faces"][0]["record"]["face_id"] == max(
        ids_of(server, faceset)
    )


def test_a_curated_faceset_is_kept_whole_in_a_folder(server: Hosted, faceset: str) -> None:
    """What sorting makes lies below the faceset, so purging a project takes it along."""
    sort(server, faceset, "hue")
    folders = {info.key.split("/")[4] for info in server.context.store.list(f"{faceset}/").objects}
    assert folders == {"faces", "revisions", "measures"}
