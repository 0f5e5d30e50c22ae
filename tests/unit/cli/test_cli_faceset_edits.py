"""What people write to extract faces and to change a faceset afterwards, and what is asked of the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from google.longrunning import operations_pb2
from google.protobuf.message import Message

from tests.unit.cli.conftest import FakeClient, document
from understudy.cli import extraction
from understudy.cli import pictures as cli_pictures
from understudy.cli.commands import faceset_edits
from understudy.v1 import common_pb2, face_pb2, face_service_pb2, operation_pb2

NAME = "projects/p/facesets/f"
Run = Callable[..., Result]


def _done(response: Message) -> operations_pb2.Operation:
    operation = operations_pb2.Operation(name="projects/p/operations/x", done=True)
    operation.response.Pack(response)
    operation.metadata.Pack(operation_pb2.OperationMetadata(state=operation_pb2.OPERATION_STATE_SUCCEEDED))
    return operation


def _asked(client: FakeClient, run: Run, method: str, response: Message, *arguments: str) -> Any:
    """The request that a command makes; the command itself ends well."""
    client.faces.answers(method, _done(response))
    result = run("faceset", *arguments, "-p", "p", "--json")
    assert result.exit_code == 0, result.output
    return client.faces.requests[-1]


def _extraction(client: FakeClient, run: Run, *arguments: str) -> face_service_pb2.ExtractFacesetRequest:
    return _asked(client, run, "ExtractFaceset", face_service_pb2.ExtractFacesetResponse(), "extract", "c", *arguments)


def test_every_face_type_of_the_api_can_be_asked_for() -> None:
    names = {f"FACE_TYPE_{name.upper().replace('-', '_')}" for name in extraction.FACE_TYPES}
    assert names == set(face_pb2.FaceType.keys()) - {"FACE_TYPE_UNSPECIFIED"}


def test_extract_has_defaults_of_its_own(client: FakeClient, run: Run) -> None:
    request = _extraction(client, run)
    assert request.options == face_service_pb2.ExtractionOptions(
        face_type=face_pb2.FACE_TYPE_WHOLE, size_px=512, jpeg_quality=90
    )
    assert not request.HasField("frame_rate")
    assert not request.debug_overlays


def test_extract_says_how(client: FakeClient, run: Run) -> None:
    request = _extraction(
        client,
        run,
        *("--native", "--lossless", "--fps", "23.976", "--debug", "--face-type", "head-nose", "--size", "2048"),
        *("--detector", "s3fd", "--landmarker", "fan2d", "--min-score", "0.3"),
    )
    options = request.options
    assert (options.native_size, options.image_format) == (True, face_service_pb2.IMAGE_FORMAT_LOSSLESS)
    assert (options.detector, options.landmarker, options.min_score) == ("s3fd", "fan2d", 0.3)
    assert (options.face_type, options.size_px) == (face_pb2.FACE_TYPE_HEAD_NOSE, 2048)
    assert (request.frame_rate.num, request.frame_rate.den) == (2997, 125)
    assert request.debug_overlays


def test_dst_mode_looks_at_every_frame_and_keeps_debug_pictures(client: FakeClient, run: Run) -> None:
    assert _extraction(client, run, "--mode", "dst").debug_overlays
    refused = run("faceset", "extract", "c", "-p", "p", "--mode", "dst", "--fps", "5")
    assert refused.exit_code == 2
    assert "every frame" in refused.stderr


def test_align_by_placement(client: FakeClient, run: Run) -> None:
    client.faces.answers("AlignFace", face_pb2.FaceRecord(face_id="f000007_1-01234567"))
    result = run(
        *[
            "faceset",
            "align",
            "f",
            "7",
            "--place",
            "960",
            "480.5",
            "220",
            "--roll",
            "-15",
            "--snap",
            "--replaces",
            "x",
            "-p",
            "p",
        ]
    )
    assert result.stdout.strip() == "f000007_1-01234567"
    request = client.faces.requests[0]
    assert (request.faceset, request.frame_number, request.replaces, request.snap) == (NAME, 7, "x", True)
    placed = face_service_pb2.FacePlacement(center_x_px=960, center_y_px=480.5, side_px=220, roll_deg=-15)
    assert request.placement == placed
    assert not request.landmarks_px
    assert request.options == face_service_pb2.ExtractionOptions(), "unsaid: as the faceset's"


@pytest.mark.parametrize("pairs", [True, False])
def test_align_by_points(client: FakeClient, run: Run, tmp_path: Path, pairs: bool) -> None:
    client.faces.answers("AlignFace", face_pb2.FaceRecord())
    numbers = [float(value) for value in range(136)]
    points = [numbers[at : at + 2] for at in range(0, 136, 2)] if pairs else numbers
    (tmp_path / "points.json").write_text(json.dumps(points))
    assert run("faceset", "align", NAME, "7", "--landmarks", str(tmp_path / "points.json")).exit_code == 0
    request = client.faces.requests[0]
    assert list(request.landmarks_px) == numbers
    assert not request.HasField("placement")


@pytest.mark.parametrize("text", ["[1, 2]", "{}", "no JSON", '["a"]', "[[1, [2]]]", "7"])
def test_what_are_no_points(client: FakeClient, run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "points.json").write_text(text)
    result = run("faceset", "align", NAME, "7", "--landmarks", str(tmp_path / "points.json"))
    assert result.exit_code == 2
    assert "points" in result.stderr
    assert run("faceset", "align", NAME, "7").exit_code == 2, "neither points nor a place"


def test_reextract(client: FakeClient, run: Run) -> None:
    response = face_service_pb2.ReextractFacesResponse()
    request = _asked(
        client,
        run,
        "ReextractFaces",
        response,
        *["reextract", "f", "--missing", "--frames", "3-9x2", "--min-score", "0.2"],
    )
    assert request == face_service_pb2.ReextractFacesRequest(
        faceset=NAME,
        ranges=[common_pb2.FrameRange(first=3, last=9, step=2)],
        only_missing=True,
        options=face_service_pb2.ExtractionOptions(min_score=0.2),
    )
    request = _asked(
        client,
        run,
        "ReextractFaces",
        response,
        *["reextract", "f", "--keep-landmarks", "--face-type", "head", "--jpeg"],
    )
    assert request == face_service_pb2.ReextractFacesRequest(
        faceset=NAME,
        keep_landmarks=True,
        options=face_service_pb2.ExtractionOptions(
            face_type=face_pb2.FACE_TYPE_HEAD, image_format=face_service_pb2.IMAGE_FORMAT_JPEG
        ),
    )
    request = _asked(client, run, "ReextractFaces", response, *["reextract", "f", "--trashed", "--replace"])
    assert request == face_service_pb2.ReextractFacesRequest(
        faceset=NAME, only_trashed=True, replace=True, options=face_service_pb2.ExtractionOptions()
    )


def test_smooth(client: FakeClient, run: Run) -> None:
    response = face_service_pb2.SmoothFacesResponse()
    request = _asked(client, run, "SmoothFaces", response, "smooth", "f")
    assert request == face_service_pb2.SmoothFacesRequest(faceset=NAME)
    assert _asked(client, run, "SmoothFaces", response, "smooth", "f", "--radius", "4").radius_frames == 4
    assert run("faceset", "smooth", NAME, "--radius", "31").exit_code == 2


def test_select_by_tracks_or_by_a_picture(
    client: FakeClient, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = face_service_pb2.SelectPersonResponse()
    request = _asked(client, run, "SelectPerson", response, *["select", "f", "--track", "t1", "--track", "t2"])
    assert request == face_service_pb2.SelectPersonRequest(faceset=NAME, track_ids=["t1", "t2"])
    picture = tmp_path / "actor.jpg"
    picture.write_bytes(b"x")
    sent = common_pb2.ObjectRef(uri="file:///x")

    def upload(_client: object, project: str, path: Path, *, media_type: str) -> common_pb2.ObjectRef:
        assert (project, path, media_type) == ("projects/p", picture, "image/jpeg")
        return sent

    monkeypatch.setattr("understudy.transfer.upload", upload)
    request = _asked(
        client, run, "SelectPerson", response, "select", "f", "--reference", str(picture), "--min-similarity", "0.4"
    )
    assert request == face_service_pb2.SelectPersonRequest(faceset=NAME, reference=sent, min_similarity=0.4)
    for wrong in ((), ("--track", "t1", "--reference", str(picture))):
        assert run("faceset", "select", NAME, *wrong).exit_code == 2


def test_debug_pictures_are_fetched(
    client: FakeClient, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = common_pb2.ObjectRef(uri="file:///pictures.json")
    response = face_service_pb2.RenderDebugResponse(manifest=manifest, picture_count=2)
    fetched: list[Any] = []

    def fetch(_client: object, project: str, listed: Any, folder: Path, _on_done: object) -> int:
        fetched.append((project, listed, folder))
        return 2

    monkeypatch.setattr(cli_pictures, "fetch_pictures", fetch)
    request = _asked(client, run, "RenderDebug", response, "debug", "f", "--frames", "7")
    assert request.ranges == [common_pb2.FrameRange(first=7, last=7, step=1)]
    assert fetched == [], "they stay in the store"
    client.faces.answers("RenderDebug", _done(response))
    result = run("faceset", "debug", NAME, "-o", str(tmp_path / "out"), "--json")
    assert document(result) | {"picture_count": 2, "fetched": 2} == document(result)
    assert fetched == [("projects/p", manifest, tmp_path / "out")]


def test_the_new_commands_are_the_group_s() -> None:
    from understudy.cli.commands.faceset import faceset

    for name in ("align", "reextract", "smooth", "select", "debug"):
        assert faceset.commands[name] is getattr(faceset_edits, name)
