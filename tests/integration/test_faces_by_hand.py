"""After the extraction, over real gRPC: faces set by hand, looked for again, smoothed, chosen by person, drawn.

One server for all; each test changes a faceset of its own, extracted from one rendered clip.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import services.faces
import services.facesets
import services.frames
from ml_common.facesets import (
    FaceKeys,
    FaceRecord,
    LandmarkOrigin,
    Polygon,
    PolygonKind,
    RevisionTable,
    XSegLabel,
    from_records,
)
from ml_common.geometry import invert_affine, transform_points
from ml_common.masks import hull_mask
from ml_common.media import EncodeSettings, encode_video
from ml_common.synthetic import IDENTITIES, performance, render
from ml_common.tracking.smooth import DEFAULT_RADIUS_FRAMES
from services.faces.app import STAGE_VERSIONS
from services.faces.convert import footage_of
from services.faces.edits import Edits, smooth_plan
from services.faces.options import ExtractionOptions
from services.faces.smooth import SmoothStage
from services.kit.faceset_store import FacesetStore, image_key, record_key
from services.kit.operations.chunk import run_chunk
from services.kit.operations.stage import load_stage
from tests.support.facesets import store_faceset
from tests.support.footage import BT709, RATE, head_clip
from tests.support.hosting import Hosted, hosted
from understudy.errors import UnderstudyError
from understudy.media import add_clip
from understudy.pictures import fetch_pictures
from understudy.transfer import upload
from understudy.v1 import common_pb2, face_pb2, face_service_pb2, faceset_service_pb2, project_service_pb2

FRAMES, GAP = 24, 10
SIZE_PX = 128


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp("server")
    modules = [services.frames, services.faces, services.facesets]
    with hosted(folder, modules, **{"execution.chunk_frames": 8}) as running:
        running.client.projects.CreateProject(project_service_pb2.CreateProjectRequest(project_id="p"))
        yield running


@pytest.fixture(scope="module")
def clip(server: Hosted, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("clip") / "head.mp4"
    head_clip(path, identity="mei", frame_count=FRAMES, seed=4, channels=0)
    return add_clip(server.client, "projects/p", path).name


def _extracted(server: Hosted, clip: str, faceset_id: str, *ranges: common_pb2.FrameRange) -> str:
    request = face_service_pb2.ExtractFacesetRequest(
        clip=clip, faceset_id=faceset_id, ranges=ranges, options=face_service_pb2.ExtractionOptions(size_px=SIZE_PX)
    )
    response = face_service_pb2.ExtractFacesetResponse()
    made: str = server.client.result(server.client.faces.ExtractFaceset(request), response).faceset
    return made


@pytest.fixture(scope="module")
def original(server: Hosted, clip: str) -> str:
    """A faceset of the clip without a face in frame GAP; only looked at."""
    return _extracted(server, clip, "original", _frames(0, GAP - 1), _frames(GAP + 1, FRAMES - 1))


@pytest.fixture
def faceset(server: Hosted, original: str) -> str:
    """The same, for one test to change."""
    return _copy(server, original)


def _copy(server: Hosted, faceset: str) -> str:
    """Another faceset with the same faces."""
    store, name = _store(server), f"projects/p/facesets/f-{uuid.uuid4().hex[:8]}"
    body = {**store.get(faceset).body, "name": name, "actionKey": name}
    store.create(name, body, store.table(faceset)[1], method="test", summary="", actor="test")
    return name


def _frames(first: int, last: int) -> common_pb2.FrameRange:
    return common_pb2.FrameRange(first=first, last=last)


def _store(server: Hosted) -> FacesetStore:
    return FacesetStore(server.context.store, server.context.records)


def _table(server: Hosted, faceset: str, revision: int = 0) -> RevisionTable:
    return _store(server).table(faceset, revision)[1]


def _records(server: Hosted, faceset: str, revision: int = 0) -> list[FaceRecord]:
    return _store(server).faces(faceset, list(_table(server, faceset, revision).column("record_key")))


def _revision(server: Hosted, faceset: str) -> int:
    return int(server.client.facesets.GetFaceset(faceset_service_pb2.GetFacesetRequest(name=faceset)).revision)


def _edited(server: Hosted, faceset: str, change: Callable[[RevisionTable], RevisionTable]) -> None:
    """A revision as other methods make them (sorting, the trash)."""
    number, table = _store(server).table(faceset)
    _store(server).add_revision(faceset, change(table), parent=number, method="test", summary="", actor="test")


def _trashed(*numbers: int) -> Callable[[RevisionTable], RevisionTable]:
    return lambda table: table.replace_column(
        "trashed", table.column("trashed").astype(bool) | np.isin(table.column("frame_number"), numbers)
    )


def _flat(points: np.ndarray) -> list[float]:
    return [float(value) for value in points.ravel()]


def _reextract(server: Hosted, **fields: object) -> face_service_pb2.ReextractFacesResponse:
    request = face_service_pb2.ReextractFacesRequest(**fields)  # type: ignore[arg-type]
    operation = server.client.faces.ReextractFaces(request)
    found: face_service_pb2.ReextractFacesResponse = server.client.result(
        operation, face_service_pb2.ReextractFacesResponse()
    )
    return found


def _smooth(server: Hosted, faceset: str, radius: int = 0) -> face_service_pb2.SmoothFacesResponse:
    request = face_service_pb2.SmoothFacesRequest(faceset=faceset, radius_frames=radius)
    smoothed: face_service_pb2.SmoothFacesResponse = server.client.result(
        server.client.faces.SmoothFaces(request), face_service_pb2.SmoothFacesResponse()
    )
    return smoothed


def test_the_planned_versions_are_the_stages() -> None:
    assert {path: load_stage(path).version for path in STAGE_VERSIONS} == STAGE_VERSIONS


# -- by hand -------------------------------------------------------------------------------------------------------------


def test_a_face_set_by_hand_comes_beside_the_others(server: Hosted, faceset: str) -> None:
    before = _table(server, faceset)
    placement = face_service_pb2.FacePlacement(center_x_px=60, center_y_px=70, side_px=50, roll_deg=20)
    request = face_service_pb2.AlignFaceRequest(
        faceset=faceset, frame_number=3, placement=placement, request_id=str(uuid.uuid4())
    )
    face = server.client.faces.AlignFace(request)
    assert face.landmark_origin == face_pb2.LANDMARK_ORIGIN_MANUAL
    assert (face.source.frame_number, face.source.face_index, face.size_px) == (3, 1, SIZE_PX)
    assert face.face_type == face_pb2.FACE_TYPE_WHOLE
    assert abs(face.pose.roll_deg - 20) < 1
    crop_landmarks = np.array(face.crop_landmarks_px).reshape(68, 2)
    assert 0.15 < hull_mask(crop_landmarks, SIZE_PX, SIZE_PX).mean() < 0.6, "the jaw makes a usable mask"
    after = _table(server, faceset)
    assert list(after.column("face_id")).index(face.face_id) == 4, "in the order of frames"
    rest = [row for row in after.rows() if row.face_id != face.face_id]
    assert rest == before.rows()
    assert after.column("track_id")[4] not in set(before.column("track_id")), "nobody else is there"
    # The same again, by its id or by what it asks, is the same face and no second revision.
    assert server.client.faces.AlignFace(request) == face
    request.request_id = ""
    assert server.client.faces.AlignFace(request) == face
    assert _revision(server, faceset) == 2


def test_points_take_the_place_of_a_face_and_the_track_of_neighbours(server: Hosted, faceset: str) -> None:
    table = _table(server, faceset)
    old = _records(server, faceset)[3]
    points = old.frame_landmarks_px + np.array([4.0, -2.0])
    face = server.client.faces.AlignFace(
        face_service_pb2.AlignFaceRequest(
            faceset=faceset,
            frame_number=3,
            replaces=f"{faceset}/faces/{old.face_id}",
            landmarks_px=_flat(points),
            options=face_service_pb2.ExtractionOptions(size_px=96, face_type=face_pb2.FACE_TYPE_HEAD),
        )
    )
    assert (face.size_px, face.face_type, face.source.face_index) == (96, face_pb2.FACE_TYPE_HEAD, 0)
    assert list(face.frame_landmarks_px) == _flat(points)
    after = _table(server, faceset)
    assert after.column("face_id")[3] == face.face_id
    assert len(after) == len(table)
    assert old.face_id in _table(server, faceset, 1).column("face_id"), "older revisions have the old face"
    # In the frame that has no face, the points between those of its neighbours belong to their track.
    between = (
        _records(server, faceset)[GAP - 1].frame_landmarks_px + _records(server, faceset)[GAP].frame_landmarks_px
    ) / 2
    request = face_service_pb2.AlignFaceRequest(faceset=faceset, frame_number=GAP, landmarks_px=_flat(between))
    server.client.faces.AlignFace(request)
    assert set(_table(server, faceset).column("track_id")) == {"t000000"}
    assert list(_table(server, faceset).column("frame_number")) == list(range(FRAMES))


def test_snap_corrects_the_points_and_says_when_it_sees_nothing(server: Hosted, faceset: str) -> None:
    record = _records(server, faceset)[2]
    points = record.frame_landmarks_px
    off = np.linalg.norm(points[36] - points[45]) * 0.12
    request = face_service_pb2.AlignFaceRequest(
        faceset=faceset, frame_number=2, replaces=record.face_id, landmarks_px=_flat(points + off), snap=True
    )
    face = server.client.faces.AlignFace(request)
    snapped = np.array(face.frame_landmarks_px).reshape(68, 2)
    assert np.abs(snapped - points).mean() < 0.35 * off
    assert face.landmarker.name == "facemesh"
    assert face.landmark_origin == face_pb2.LANDMARK_ORIGIN_MANUAL
    nowhere = face_service_pb2.FacePlacement(center_x_px=20, center_y_px=220, side_px=16)
    request = face_service_pb2.AlignFaceRequest(faceset=faceset, frame_number=2, placement=nowhere, snap=True)
    with pytest.raises(UnderstudyError, match="switch snap off") as caught:
        server.client.faces.AlignFace(request)
    assert caught.value.reason == "NO_FACE"


POINTS = _flat(np.random.default_rng(0).uniform(50, 150, (68, 2)))
WRONG = {
    "either": {},
    "both": {"landmarks_px": POINTS, "placement": face_service_pb2.FacePlacement(side_px=50)},
    "too few": {"landmarks_px": POINTS[:-2]},
    "not a number": {"landmarks_px": [*POINTS[:-1], float("nan")]},
    "one point": {"landmarks_px": [100.0] * 136},
    "far away": {"landmarks_px": [value + 5000 for value in POINTS]},
    "no side": {"placement": face_service_pb2.FacePlacement(center_x_px=50, center_y_px=50)},
    "endless": {"placement": face_service_pb2.FacePlacement(side_px=50, roll_deg=float("inf"))},
    "no such frame": {"landmarks_px": POINTS, "frame_number": FRAMES},
    "another frame's face": {"landmarks_px": POINTS, "replaces": "f000004_0-00000000"},
}


@pytest.mark.parametrize("fields", WRONG.values(), ids=WRONG)
def test_what_is_no_face_is_refused(server: Hosted, original: str, fields: dict[str, object]) -> None:
    with pytest.raises(UnderstudyError) as caught:
        server.client.faces.AlignFace(
            face_service_pb2.AlignFaceRequest(faceset=original, **{"frame_number": 3, **fields})  # type: ignore[arg-type]
        )
    assert caught.value.code == "INVALID_ARGUMENT"
    assert _revision(server, original) == 1


def test_a_face_that_is_not_there_cannot_be_replaced(server: Hosted, original: str) -> None:
    request = face_service_pb2.AlignFaceRequest(
        faceset=original, frame_number=3, replaces="f000003_0-00000000", landmarks_px=_flat(_face_points())
    )
    with pytest.raises(UnderstudyError) as caught:
        server.client.faces.AlignFace(request)
    assert caught.value.code == "NOT_FOUND"


def _face_points() -> np.ndarray:
    from ml_common.geometry.mean_face import place_mean_face

    return place_mean_face(100, 100, 60, 0)


def test_two_people_at_once_lose_nothing(server: Hosted, faceset: str) -> None:
    def align(number: int) -> str:
        placement = face_service_pb2.FacePlacement(center_x_px=60, center_y_px=60, side_px=40 + number % 2)
        request = face_service_pb2.AlignFaceRequest(faceset=faceset, frame_number=number // 2, placement=placement)
        face_id: str = server.client.faces.AlignFace(request).face_id
        return face_id

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(align, range(6)))
    table = _table(server, faceset)
    assert set(made) <= set(table.column("face_id"))
    places = list(zip(table.column("frame_number"), table.column("face_index"), strict=True))
    assert len(places) == len(set(places)) == FRAMES - 1 + 6
    assert _revision(server, faceset) == 7


def test_a_faceset_without_a_clip_says_so(server: Hosted) -> None:
    name = "projects/p/facesets/imported"
    store_faceset(server.context.store, name, count=3, skin_bgr=(120, 150, 200), seed=1)
    for call in (
        lambda: server.client.faces.AlignFace(
            face_service_pb2.AlignFaceRequest(faceset=name, frame_number=0, landmarks_px=POINTS)
        ),
        lambda: server.client.faces.ReextractFaces(face_service_pb2.ReextractFacesRequest(faceset=name)),
        lambda: server.client.faces.RenderDebug(face_service_pb2.RenderDebugRequest(faceset=name)),
    ):
        with pytest.raises(UnderstudyError, match="not extracted from one clip") as caught:
            call()
        assert caught.value.reason == "WRONG_STATE"


# -- again ---------------------------------------------------------------------------------------------------------------


def test_frames_without_a_face_are_filled_and_the_rest_stays(server: Hosted, faceset: str) -> None:
    before = _table(server, faceset)
    request_id = str(uuid.uuid4())
    found = _reextract(server, faceset=faceset, only_missing=True, request_id=request_id)
    assert (found.frame_count, found.added_count, found.replaced_count, found.revision) == (1, 1, 0, 2)
    after = _table(server, faceset)
    assert list(after.column("frame_number")) == list(range(FRAMES))
    assert [row for row in after.rows() if row.frame_number != GAP] == before.rows()
    assert set(after.column("track_id")) == {"t000000"}
    record = _records(server, faceset)[GAP]
    assert (record.size_px, record.landmark_origin) == (SIZE_PX, LandmarkOrigin.MODEL)
    # The same request again is the same work, though the faceset has changed; the same wish again finds nothing to do.
    assert _reextract(server, faceset=faceset, only_missing=True, request_id=request_id) == found
    again = _reextract(server, faceset=faceset, only_missing=True)
    assert (again.frame_count, again.added_count, again.revision) == (0, 0, 2)
    with pytest.raises(UnderstudyError) as caught:
        _reextract(server, faceset=faceset, only_trashed=True, request_id=request_id)
    assert caught.value.reason == "REQUEST_ID_REUSED"


def test_deleted_faces_come_back_where_they_are_found(server: Hosted, faceset: str) -> None:
    _edited(server, faceset, _trashed(4, 5))
    found = _reextract(server, faceset=faceset, only_trashed=True, ranges=[_frames(5, 8)])
    assert (found.frame_count, found.added_count, found.replaced_count) == (1, 0, 1)
    table = _table(server, faceset)
    assert table.column("frame_number")[table.column("trashed").astype(bool)].tolist() == [4]
    # A frame whose only face is in the trash is one without a face; but that face is not made anew beside itself.
    assert _reextract(server, faceset=faceset, only_missing=True).added_count == 1, "frame GAP alone"


def test_what_a_person_placed_is_not_replaced(server: Hosted, faceset: str) -> None:
    old = _records(server, faceset)[6]
    face = server.client.faces.AlignFace(
        face_service_pb2.AlignFaceRequest(
            faceset=faceset,
            frame_number=6,
            replaces=old.face_id,
            landmarks_px=_flat(old.frame_landmarks_px + 3),
        )
    )
    found = _reextract(server, faceset=faceset, replace=True, options=face_service_pb2.ExtractionOptions(size_px=96))
    assert (found.added_count, found.replaced_count) == (1, FRAMES - 2)
    sizes = {record.source.frame_number: record.size_px for record in _records(server, faceset)}
    assert sizes.pop(6) == SIZE_PX
    assert set(sizes.values()) == {96}
    assert face.face_id in _table(server, faceset).column("face_id")


def test_another_type_and_size_keeps_order_trash_and_labels(server: Hosted, faceset: str) -> None:
    drawn = np.array([[30.0, 30.0], [90.0, 35.0], [60.0, 100.0]])
    _edited(server, faceset, lambda table: _labelled(server, faceset, table, 7, drawn))
    _edited(server, faceset, _trashed(2))
    _edited(server, faceset, lambda table: RevisionTable(table.table.take(list(reversed(range(len(table)))))))
    before, old = _table(server, faceset), _records(server, faceset)
    found = _reextract(
        server,
        faceset=faceset,
        keep_landmarks=True,
        options=face_service_pb2.ExtractionOptions(
            size_px=160, face_type=face_pb2.FACE_TYPE_HEAD, image_format=face_service_pb2.IMAGE_FORMAT_LOSSLESS
        ),
    )
    assert (found.added_count, found.replaced_count) == (0, FRAMES - 1)
    after, new = _table(server, faceset), _records(server, faceset)
    for name in ("frame_number", "face_index", "trashed", "track_id", "person", "has_label"):
        assert list(after.column(name)) == list(before.column(name)), name
    for one, other in zip(old, new, strict=True):
        assert np.array_equal(one.frame_landmarks_px, other.frame_landmarks_px)
        assert other.image is not None
        assert (other.size_px, other.image.media_type) == (160, "image/png")
        if one.label:
            assert other.label is not None
            in_frame = [
                transform_points(record.label.polygons[0].points_px, invert_affine(record.frame_to_face_2x3))
                for record in (one, other)
                if record.label
            ]
            assert np.abs(in_frame[0] - in_frame[1]).max() < 1e-5, "the polygon lies on the same part of the frame"
            assert not np.allclose(other.label.polygons[0].points_px, drawn)
    shown = server.client.facesets.GetFaceset(faceset_service_pb2.GetFacesetRequest(name=faceset))
    assert (shown.face_type, shown.size_px) == (face_pb2.FACE_TYPE_HEAD, 160)
    # Nothing is different any more: no revision. And what comes later has the faceset's new type, size and format.
    assert _reextract(server, faceset=faceset, keep_landmarks=True).revision == found.revision
    filled = _reextract(server, faceset=faceset, ranges=[_frames(GAP, GAP)])
    assert filled.added_count == 1
    record = next(record for record in _records(server, faceset) if record.source.frame_number == GAP)
    assert record.image is not None
    assert (record.size_px, record.face_type, record.image.media_type) == (160, new[0].face_type, "image/png")


def _labelled(server: Hosted, faceset: str, table: RevisionTable, number: int, points: np.ndarray) -> RevisionTable:
    """``table`` with a polygon drawn on the face of a frame, as a label editor stores it."""
    at = list(table.column("frame_number")).index(number)
    record = _store(server).faces(faceset, [table.column("record_key")[at]])[0]
    label = XSegLabel(polygons=(Polygon(kind=PolygonKind.INCLUDE, points_px=points),))
    record = replace(record, label=label, face_id=record.face_id[:-8] + "0badcafe")
    keys = FaceKeys(
        image_key=image_key(faceset, table.column("face_id")[at]), record_key=record_key(faceset, record.face_id)
    )
    server.context.store.put(keys.record_key, record.to_json_bytes(), media_type="application/json")
    row = from_records([record], [keys]).replace_column("track_id", [table.column("track_id")[at]])
    before, after = table.table.slice(0, at), table.table.slice(at + 1)
    return RevisionTable(
        type(table.table).from_batches([b for t in (before, row.table, after) for b in t.to_batches()])
    )


def test_modes_exclude_each_other(server: Hosted, original: str) -> None:
    for fields in ({"only_missing": True, "only_trashed": True}, {"only_missing": True, "keep_landmarks": True}):
        with pytest.raises(UnderstudyError, match="exclude each other"):
            _reextract(server, faceset=original, **fields)


# -- smoothing -----------------------------------------------------------------------------------------------------------


def test_smoothing_does_not_depend_on_chunks_and_starts_from_what_was_found(server: Hosted, faceset: str) -> None:
    found = {record.source.frame_number: record.frame_landmarks_px for record in _records(server, faceset)}
    by_chunks = [_smoothed_in_chunks(server, faceset, per_chunk) for per_chunk in (5, 24)]
    assert by_chunks[0].keys() == by_chunks[1].keys()
    for number, points in by_chunks[0].items():
        assert np.abs(points - by_chunks[1][number]).max() < 1e-9
    first = _smooth(server, faceset, 4)
    assert first.smoothed_count == FRAMES - 1
    moved = [record.frame_landmarks_px - found[record.source.frame_number] for record in _records(server, faceset)]
    assert first.moved_rms_px == pytest.approx(np.sqrt(np.square(moved).sum() / 68 / len(moved)))
    assert 0 < first.moved_rms_px < 1
    assert {record.smoother.name for record in _records(server, faceset) if record.smoother} == {"smooth"}
    # Again with the default radius: as if the first time had not been.
    second = _smooth(server, faceset)
    assert second.revision == first.revision + 1
    for record in _records(server, faceset):
        assert np.abs(record.frame_landmarks_px - by_chunks[1][record.source.frame_number]).max() < 1e-9
    assert _smooth(server, faceset).revision == second.revision, "nothing moves any more"


def _smoothed_in_chunks(server: Hosted, faceset: str, per_chunk: int) -> dict[int, np.ndarray]:
    """Landmarks by frame as the stage makes them with chunks of a size; nothing is published."""
    context, edits = server.context, Edits(server.context)
    state = edits.state(faceset)
    plan = smooth_plan(
        state,
        footage_of(context.records, context.store, state.body, []),
        radius_frames=DEFAULT_RADIUS_FRAMES,
        options=ExtractionOptions(),
        unsmoothed=[],
        request="",
        chunk_frames=per_chunk,
    )
    stage = SmoothStage()
    rows = [run_chunk(context.env, stage, plan, chunk, lambda units: None).summary["rows"] for chunk in plan.chunks]
    from ml_common.facesets import concatenate, read_revision

    table = concatenate([read_revision(context.store.get(key)) for key in rows])
    records = _store(server).faces(faceset, list(table.column("record_key")))
    return {record.source.frame_number: record.frame_landmarks_px for record in records}


def test_faces_set_by_hand_are_anchors(server: Hosted, faceset: str) -> None:
    old = _records(server, faceset)[5]
    points = old.frame_landmarks_px + 2.0
    request = face_service_pb2.AlignFaceRequest(
        faceset=faceset, frame_number=5, replaces=old.face_id, landmarks_px=_flat(points)
    )
    face = server.client.faces.AlignFace(request)
    _edited(server, faceset, _trashed(0))
    assert _smooth(server, faceset).smoothed_count == FRAMES - 3, "all but the anchor and the one in the trash"
    assert face.face_id in _table(server, faceset).column("face_id")
    assert _table(server, faceset).column("trashed").tolist() == [True] + [False] * (FRAMES - 2)


def test_wrong_radius_and_faces_without_tracks(server: Hosted, faceset: str) -> None:
    with pytest.raises(UnderstudyError, match="radius_frames"):
        _smooth(server, faceset, 31)
    _edited(server, faceset, lambda table: table.replace_column("track_id", [""] * len(table)))
    with pytest.raises(UnderstudyError, match="in no track"):
        _smooth(server, faceset)


# -- persons -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(server: Hosted, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Makes a faceset of two people side by side: ada left, bruno right."""
    path, states = tmp_path_factory.mktemp("pair") / "pair.mp4", performance(4, 10, rate=RATE)
    frames = (
        np.hstack([render(IDENTITIES[name], state, 320, 240).image_bgr_HWC for name in ("ada", "bruno")])
        for state in states
    )
    encode_video(path, frames, rate=RATE, color=BT709, settings=EncodeSettings(crf=12, preset="ultrafast"))
    added = add_clip(server.client, "projects/p", path).name
    made = _extracted(server, added, "pair")
    return lambda: _copy(server, made)


def _sides(server: Hosted, faceset: str) -> list[tuple[bool, bool]]:
    """(right side, trashed) of every face."""
    trashed = _table(server, faceset).column("trashed").astype(bool)
    return [
        (bool(record.frame_landmarks_px[:, 0].mean() > 320), bool(flag))
        for record, flag in zip(_records(server, faceset), trashed, strict=True)
    ]


def test_a_reference_picture_keeps_one_person(server: Hosted, pair: Callable[[], str], tmp_path: Path) -> None:
    faceset = pair()
    state = performance(9, 40, rate=RATE)[0]
    for name, is_right in (("ada", False), ("bruno", True)):
        picture = tmp_path / f"{name}.png"
        cv2.imwrite(str(picture), render(IDENTITIES[name], state, 400, 300).image_bgr_HWC)
        reference = upload(server.client, "projects/p", picture, media_type="image/png")
        name_of = pair() if is_right else faceset
        operation = server.client.faces.SelectPerson(
            face_service_pb2.SelectPersonRequest(faceset=name_of, reference=reference)
        )
        chosen = server.client.result(operation, face_service_pb2.SelectPersonResponse())
        assert (chosen.kept_count, chosen.trashed_count) == (10, 10)
        assert [track.kept for track in chosen.tracks] == [True, False]
        assert chosen.tracks[0].similarity > chosen.tracks[1].similarity + 0.1
        assert all(side == is_right or trashed for side, trashed in _sides(server, name_of))
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((64, 64, 3), 90, np.uint8))
    reference = upload(server.client, "projects/p", blank, media_type="image/png")
    with pytest.raises(UnderstudyError, match="no face is seen in the reference") as caught:
        server.client.faces.SelectPerson(face_service_pb2.SelectPersonRequest(faceset=faceset, reference=reference))
    assert caught.value.reason == "NO_FACE"


def test_named_tracks_are_kept(server: Hosted, pair: Callable[[], str]) -> None:
    faceset = pair()
    track = next(
        row.track_id
        for row, record in zip(_table(server, faceset).rows(), _records(server, faceset), strict=True)
        if record.frame_landmarks_px[:, 0].mean() < 320
    )
    request = face_service_pb2.SelectPersonRequest(faceset=faceset, track_ids=[track])
    chosen = server.client.result(server.client.faces.SelectPerson(request), face_service_pb2.SelectPersonResponse())
    assert (chosen.revision, chosen.kept_count, chosen.trashed_count) == (2, 10, 10)
    assert all(trashed == right for right, trashed in _sides(server, faceset))
    again = server.client.result(server.client.faces.SelectPerson(request), face_service_pb2.SelectPersonResponse())
    assert (again.revision, again.kept_count) == (2, 10), "nothing changes: no revision"
    request.track_ids[0] = "t999999"
    with pytest.raises(UnderstudyError, match="has no track t999999"):
        server.client.faces.SelectPerson(request)
    shown = server.client.facesets.ListFaces(faceset_service_pb2.ListFacesRequest(parent=faceset))
    assert {face.record.track_id for face in shown.faces} == {track}, "a list of faces shows their tracks"


# -- debug pictures ------------------------------------------------------------------------------------------------------


def test_debug_pictures_of_all_frames(server: Hosted, faceset: str, tmp_path: Path) -> None:
    request = face_service_pb2.RenderDebugRequest(faceset=faceset, ranges=[_frames(GAP - 1, GAP)])
    drawn = server.client.result(server.client.faces.RenderDebug(request), face_service_pb2.RenderDebugResponse())
    assert drawn.picture_count == 2
    assert fetch_pictures(server.client, "projects/p", drawn.manifest, tmp_path) == 2
    with_face, without = (cv2.imread(str(path)) for path in sorted(tmp_path.iterdir()))
    greens = [int(((image[..., 1] > 150) & (image[..., 2] < 90)).sum()) for image in (with_face, without)]
    assert greens[0] > 100 > greens[1], "the frame without a face is a picture too"
    listed = json.loads(server.context.store.get(server.context.store.key_of(drawn.manifest.uri)))["files"]
    assert [entry["frame_number"] for entry in listed] == [GAP - 1, GAP]
