"""Facesets and faces between stored rows, sidecars, requests and messages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from google.protobuf import json_format

from ml_common.facesets import FaceMask, FaceRecord, RevisionRow
from ml_common.imaging.picture import media_type_of
from services.facesets.edits import Ask, Changed, FaceUpdate, require_once
from services.facesets.listing import Wish
from services.facesets.requests import Request
from services.kit import names
from services.kit.errors import InvalidInput, UnderstudyError
from services.kit.operations.convert import key_of_reference, request_digest
from services.kit.resources import from_record
from services.kit.status import to_status
from services.kit.storage import ObjectStore
from understudy.v1 import common_pb2, face_pb2, faceset_service_pb2

MOST_FACES = 1000  # in one batch
MOST_CHARACTERS = 200  # of a person, a track
LARGEST_SIDE_PX = 8192
_CREATED = ("display_name", "labels", "clip", "face_type", "size_px")
_UPDATED = ("display_name", "labels")
_OF_FACE = ("person", "track_id", "eyebrows_expand", "mask")


def full_face(faceset: str, row: RevisionRow, position: int, record: FaceRecord) -> faceset_service_pb2.Face:
    """A face with its whole sidecar; track and person are the revision's, which may have been decided since the face was made."""
    message = record_to_message(record)
    message.track_id, message.person = row.track_id, row.person
    return faceset_service_pb2.Face(
        name=f"{faceset}/faces/{row.face_id}", record=message, trashed=row.trashed, position=position
    )


def basic_face(
    faceset: str, clip: str, row: RevisionRow, position: int, store: ObjectStore
) -> faceset_service_pb2.Face:
    """A face as far as the revision knows it: no object is read."""
    record = face_pb2.FaceRecord(
        schema_version=1,
        face_id=row.face_id,
        source=face_pb2.FaceSource(clip=clip, frame_number=row.frame_number, face_index=row.face_index),
        size_px=row.size_px,
        pose=common_pb2.Pose(pitch_deg=row.pitch_deg, yaw_deg=row.yaw_deg, roll_deg=row.roll_deg),
        sharpness=row.sharpness,
        brightness=row.brightness,
        image=common_pb2.ObjectRef(
            uri=store.uri(row.image_key),
            digest=common_pb2.Digest(sha256=row.image_sha256, size_bytes=row.image_size_bytes),
            media_type=media_type_of(f".{row.image_key.rpartition('.')[2]}"),
        ),
        track_id=row.track_id,
        person=row.person,
    )
    return faceset_service_pb2.Face(
        name=f"{faceset}/faces/{row.face_id}", record=record, trashed=row.trashed, position=position
    )


def record_to_message(record: FaceRecord) -> face_pb2.FaceRecord:
    """A sidecar as message: the stored JSON is the message's own."""
    return json_format.ParseDict(record.to_json_dict(), face_pb2.FaceRecord())


def frame_ranges(ranges: Sequence[common_pb2.FrameRange]) -> list[range]:
    """FrameRange messages as Python ranges; InvalidInput for an empty one."""
    result = [range(r.first, r.last + 1, r.step or 1) for r in ranges if (r.step or 1) > 0]
    if len(result) != len(ranges) or not all(result):
        raise InvalidInput(
            "frames holds a range without frames", fields={"frames": "first must not be over last, step not negative"}
        )
    return result


def wish(request: faceset_service_pb2.ListFacesRequest) -> Wish:
    """Which faces a request lists, in which order."""
    return Wish(
        ranges=tuple(frame_ranges(request.frames)),
        show_trashed=request.show_trashed,
        filter=request.filter,
        order_by=request.order_by,
    )


def ask(request: Any, actor: str) -> Ask:
    """How a request asks for a change."""
    return Ask(request=Request(request.request_id, request_digest(request)), etag=request.etag, actor=actor)


def created_fields(request: faceset_service_pb2.CreateFacesetRequest) -> dict[str, Any]:
    """What a new faceset is given, as stored."""
    given = request.faceset
    if given.clip:
        names.parse(given.clip, "projects", "clips", field="faceset.clip")
    if not 0 <= given.size_px <= LARGEST_SIDE_PX:
        raise InvalidInput(
            f"size_px must be 0 to {LARGEST_SIDE_PX}", fields={"faceset.size_px": f"0 to {LARGEST_SIDE_PX}"}
        )
    return _fields_of(given, _CREATED)


def updated_fields(request: faceset_service_pb2.UpdateFacesetRequest) -> dict[str, Any]:
    """What a request sets of a faceset, as stored; without a mask, what is set."""
    paths = _paths(request.update_mask.paths, _UPDATED)
    given = _fields_of(request.faceset, paths or _UPDATED)
    if not paths:
        return given
    empty: dict[str, Any] = {"displayName": "", "labels": {}}
    wanted = {"display_name": "displayName", "labels": "labels"}
    return {wanted[path]: given.get(wanted[path], empty[wanted[path]]) for path in paths}


def face_ids(faceset: str, faces: Sequence[str], *, field: str) -> list[str]:
    """Ids of faces that are given by id or by name; InvalidInput for one of another faceset."""
    prefix = f"{faceset}/faces/"
    ids = [face.removeprefix(prefix) for face in faces]
    for identifier in ids:
        names.parse(prefix + identifier, "projects", "facesets", "faces", field=field)
    require_once(ids, field)
    return ids


def batch_ids(faceset: str, faces: Sequence[str], *, field: str) -> list[str]:
    """Ids of the faces of a batch."""
    if not 1 <= len(faces) <= MOST_FACES:
        raise InvalidInput(f"{field} must hold 1 to {MOST_FACES} faces", fields={field: f"1 to {MOST_FACES}"})
    return face_ids(faceset, faces, field=field)


def face_updates(request: faceset_service_pb2.BatchUpdateFacesRequest, store: ObjectStore) -> list[FaceUpdate]:
    """What a batch sets of each face. NotFound when a mask's picture is not in the store."""
    ids = batch_ids(request.parent, [update.name for update in request.updates], field="updates.name")
    return [_face_update(face, update, store) for face, update in zip(ids, request.updates, strict=True)]


def changed_response(changed: Changed) -> faceset_service_pb2.RevisionResponse:
    """The faceset after a change, and the revision."""
    return faceset_service_pb2.RevisionResponse(
        faceset=from_record(changed.record, faceset_service_pb2.Faceset()), revision=revision_message(changed.facts)
    )


def revision_message(facts: dict[str, Any]) -> faceset_service_pb2.FacesetRevision:
    """What made a revision; marks of its maker are not for callers."""
    return json_format.ParseDict(facts, faceset_service_pb2.FacesetRevision(), ignore_unknown_fields=True)


def failed_face(name: str, error: UnderstudyError) -> common_pb2.FailedItem:
    """A face of a batch that cannot be had."""
    return common_pb2.FailedItem(name=name, status=to_status(error))


def _face_update(face_id: str, update: faceset_service_pb2.FaceUpdate, store: ObjectStore) -> FaceUpdate:
    paths, record = _paths(update.update_mask.paths, _OF_FACE), update.record
    if not paths:
        raise InvalidInput(
            f"update_mask of {face_id} is empty: name what to set ({', '.join(_OF_FACE)})",
            fields={"updates.update_mask": "must not be empty"},
        )
    for path in ("person", "track_id"):
        if path in paths and len(getattr(record, path)) > MOST_CHARACTERS:
            raise InvalidInput(
                f"{path} has over {MOST_CHARACTERS} characters",
                fields={f"updates.record.{path}": f"{MOST_CHARACTERS} characters at most"},
            )
    return FaceUpdate(
        face_id=face_id,
        person=record.person if "person" in paths else None,
        track_id=record.track_id if "track_id" in paths else None,
        eyebrows_expand=_eyebrows_expand(record) if "eyebrows_expand" in paths else None,
        mask=_mask(record, store) if "mask" in paths else None,
    )


def _eyebrows_expand(record: face_pb2.FaceRecord) -> float:
    if not 0 <= record.eyebrows_expand <= 4:
        raise InvalidInput("eyebrows_expand must be 0 to 4", fields={"updates.record.eyebrows_expand": "0 to 4"})
    return record.eyebrows_expand


def _mask(record: face_pb2.FaceRecord, store: ObjectStore) -> tuple[FaceMask, ...]:
    if not record.HasField("mask"):
        return ()
    key_of_reference(store, record.mask.raster, "updates.record.mask.raster")
    try:
        return (FaceMask.from_json_dict(json_format.MessageToDict(record.mask)),)
    except ValueError as error:
        raise InvalidInput(f"the mask cannot be stored: {error}", fields={"updates.record.mask": str(error)}) from error


def _paths(paths: Sequence[str], known: Collection[str]) -> list[str]:
    unknown = sorted(set(paths) - set(known))
    if unknown:
        raise InvalidInput(
            f"update_mask names {', '.join(unknown)}; what can be set: {', '.join(known)}",
            fields={"update_mask": f"any of {', '.join(known)}"},
        )
    return list(dict.fromkeys(paths))


def _fields_of(message: faceset_service_pb2.Faceset, paths: Collection[str]) -> dict[str, Any]:
    chosen = faceset_service_pb2.Faceset()
    for path in paths:
        if path == "labels":
            chosen.labels.update(message.labels)
        else:
            setattr(chosen, path, getattr(message, path))
    return json_format.MessageToDict(chosen)
