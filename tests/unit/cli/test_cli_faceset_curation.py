"""What people write to curate a faceset, and what is asked of the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from ml_common.curation import ORDERS
from tests.unit.cli.conftest import FakeClient, document
from understudy.cli.commands import faceset_curation
from understudy.cli.commands.faceset_sorting import METHODS
from understudy.v1 import face_pb2, faceset_service_pb2, operation_pb2

API = faceset_service_pb2
NAME = "projects/p/facesets/f"
FACES = ["f000001_0-1a2b3c4d", "f000002_0-1a2b3c4d", "f000003_0-1a2b3c4d"]
REVISION = API.RevisionResponse(
    faceset=API.Faceset(name=NAME, face_count=7, trashed_count=3, revision=4),
    revision=API.FacesetRevision(number=4, summary="3 faces to the trash"),
)
Run = Callable[..., Result]


def asked(client: FakeClient, run: Run, method: str, answer: Any, *arguments: str) -> Any:
    """The request that a command makes; the command itself ends well."""
    client.facesets.answers(method, answer)
    result = run("faceset", *arguments, "-p", "p", "--json")
    assert result.exit_code == 0, result.output
    return client.facesets.requests[-1]


def done() -> operations_pb2.Operation:
    operation = operations_pb2.Operation(name="projects/p/operations/x", done=True)
    operation.response.Pack(REVISION)
    operation.metadata.Pack(operation_pb2.OperationMetadata(state=operation_pb2.OPERATION_STATE_SUCCEEDED))
    return operation


def listing(request: API.ListFacesRequest) -> API.ListFacesResponse:
    """Three faces, two a page."""
    start = int(request.page_token or 0)
    faces = [API.Face(record=face_pb2.FaceRecord(face_id=face)) for face in FACES[start : start + 2]]
    return API.ListFacesResponse(faces=faces, next_page_token="2" if start == 0 else "")


def test_the_methods_are_those_of_the_server() -> None:
    assert {name: order.summary for name, order in ORDERS.items()} == METHODS


def test_create_update_delete(client: FakeClient, run: Run) -> None:
    faceset = API.Faceset(name=NAME)
    create = ("create", "f", "--name", "F", "--label", "a=b", "--clip", "c", "--face-type", "head", "--size", "512")
    request = asked(client, run, "CreateFaceset", faceset, *create)
    assert (request.parent, request.faceset_id) == ("projects/p", "f")
    assert request.faceset == API.Faceset(
        display_name="F",
        labels={"a": "b"},
        clip="projects/p/clips/c",
        face_type=face_pb2.FACE_TYPE_HEAD,
        size_px=512,
    )
    request = asked(client, run, "UpdateFaceset", faceset, "update", "f", "--name", "")
    assert (request.faceset.name, list(request.update_mask.paths)) == (NAME, ["display_name"])
    request = asked(client, run, "UpdateFaceset", faceset, "update", "f", "--label", "a=b")
    assert (dict(request.faceset.labels), list(request.update_mask.paths)) == ({"a": "b"}, ["labels"])
    assert run("faceset", "update", "f", "-p", "p").exit_code != 0, "nothing to change"
    assert asked(client, run, "DeleteFaceset", empty_pb2.Empty(), "delete", "f").name == NAME
    assert asked(client, run, "UndeleteFaceset", faceset, "undelete", "f").name == NAME
    assert asked(client, run, "ListFacesets", API.ListFacesetsResponse(), "list", "--deleted").show_deleted


def test_faces_are_listed_by_filter_and_order(client: FakeClient, run: Run) -> None:
    arguments = ("faces", "f", "--filter", "yaw_deg > 3", "--order-by", "yaw_deg desc")
    request = asked(client, run, "ListFaces", API.ListFacesResponse(), *arguments)
    assert (request.filter, request.order_by) == ("yaw_deg > 3", "yaw_deg desc")


def test_trash_by_id_and_by_filter(client: FakeClient, run: Run) -> None:
    request = asked(client, run, "TrashFaces", REVISION, "trash", "f", FACES[0], f"{NAME}/faces/{FACES[1]}")
    assert (request.faceset, list(request.faces)) == (NAME, FACES[:2])
    assert request.request_id
    client.facesets.answers("ListFaces", listing)
    request = asked(client, run, "TrashFaces", REVISION, "trash", "f", FACES[2], "--filter", "yaw_deg > 3")
    assert list(request.faces) == [FACES[2], *FACES[:2]], "each face once"
    asking = client.facesets.requests[-2]
    assert (asking.filter, asking.show_trashed) == ("yaw_deg > 3", False)
    assert run("faceset", "trash", "f", "-p", "p").exit_code != 0, "no face is named"


def test_restore_all_or_some(client: FakeClient, run: Run) -> None:
    assert not asked(client, run, "RestoreFaces", REVISION, "restore", "f").faces
    client.facesets.answers("ListFaces", listing)
    request = asked(client, run, "RestoreFaces", REVISION, "restore", "f", "--filter", "a = 1 OR b = 2")
    assert list(request.faces) == FACES
    assert client.facesets.requests[-2].filter == "(a = 1 OR b = 2) AND trashed"
    asked(client, run, "RestoreFaces", REVISION, "restore", "f", "--frames", "5-9")
    assert client.facesets.requests[-2].filter == "trashed"
    assert client.facesets.requests[-2].frames[0].last == 9


def test_a_filter_that_finds_nothing_changes_nothing(client: FakeClient, run: Run) -> None:
    client.facesets.answers("ListFaces", API.ListFacesResponse())
    client.facesets.answers("RestoreFaces", AssertionError("nothing was meant"))
    result = run("faceset", "restore", "f", "--filter", "yaw_deg > 99", "-p", "p")
    assert (result.exit_code, result.output.strip()) == (0, "no face is meant: nothing was changed")


def test_very_many_faces_go_in_several_calls(client: FakeClient, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faceset_curation, "_FACES_PER_CALL", 2)
    asked(client, run, "TrashFaces", REVISION, "trash", "f", *FACES)
    assert [len(request.faces) for request in client.facesets.requests] == [2, 1]


def test_revert_and_undo(client: FakeClient, run: Run) -> None:
    assert asked(client, run, "RevertFaceset", REVISION, "revert", "f", "3").revision == 3
    request = asked(client, run, "RevertFaceset", REVISION, "undo", "f")
    assert (request.revision, request.faceset) == (0, NAME)
    assert request.request_id, "sent twice by a broken connection, it undoes one change"
    assert run("faceset", "revert", "f", "0", "-p", "p").exit_code != 0


def test_mark(client: FakeClient, run: Run) -> None:
    request = asked(client, run, "BatchUpdateFaces", REVISION, "mark", "f", FACES[0], "--person", "ada", "--no-mask")
    [update] = request.updates
    assert (request.parent, update.name, update.record.person) == (NAME, f"{NAME}/faces/{FACES[0]}", "ada")
    assert list(update.update_mask.paths) == ["person", "mask"]
    request = asked(client, run, "BatchUpdateFaces", REVISION, "mark", "f", *FACES, "--track", "", "--eyebrows", "1.5")
    assert [list(update.update_mask.paths) for update in request.updates] == [["track_id", "eyebrows_expand"]] * 3
    assert run("faceset", "mark", "f", FACES[0], "-p", "p").exit_code != 0
    assert run("faceset", "mark", "f", "--person", "ada", "-p", "p").exit_code != 0


def test_sort_best_and_dupes(client: FakeClient, run: Run) -> None:
    request = asked(client, run, "SortFaceset", done(), "sort", "f", "--by", "yaw", "--reverse", "--reference")
    assert request == API.SortFacesetRequest(faceset=NAME, method="yaw", reverse=True, reference=True)
    request = asked(client, run, "SortFaceset", done(), "sort", "f", "--by", "final", "--count", "50")
    assert (request.method, request.target_count) == ("final", 50)
    assert run("faceset", "sort", "f", "--by", "beauty", "-p", "p").exit_code != 0
    request = asked(client, run, "SelectBest", done(), "best", "f", "--faster")
    assert request == API.SelectBestRequest(faceset=NAME, target_count=2000, faster=True)
    assert asked(client, run, "FindDuplicates", done(), "dupes", "f", "--strength", "4").strength == 4
    assert asked(client, run, "FindDuplicates", done(), "dupes", "f", "-d").strength == 2


def test_what_was_changed_is_said(client: FakeClient, run: Run) -> None:
    client.facesets.answers("TrashFaces", REVISION)
    result = run("faceset", "trash", NAME, *FACES)
    assert result.output.strip() == f"3 faces to the trash: revision 4 of {NAME}, 7 faces, 3 in the trash"
    told = document(run("faceset", "trash", NAME, *FACES, "--json"))
    assert (told["revision"]["number"], told["faceset"]["trashed_count"]) == (4, 3)
