"""Requests about faces between messages and plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from services.faces.align import Wish
from services.faces.edits import Footage, Reextraction
from services.faces.options import ExtractionOptions
from services.kit.clip_messages import media_file, selected_frames
from services.kit.errors import NotFound, WrongState
from services.kit.records import Records
from services.kit.resources import from_record
from services.kit.storage import ObjectStore
from understudy.v1 import common_pb2, face_pb2, face_service_pb2, frame_service_pb2


def options_from_message(
    message: face_service_pb2.ExtractionOptions, defaults: Mapping[str, Any] | None = None
) -> ExtractionOptions:
    """Options with defaults filled in, those of ``defaults`` first; InvalidInput names the field."""
    given: dict[str, Any] = {
        "detector": message.detector,
        "landmarker": message.landmarker,
        "face_type": face_pb2.FaceType.Name(message.face_type) if message.face_type else "",
        "size_px": message.size_px,
        "native_size": message.native_size,
        "max_faces_per_frame": message.max_faces_per_frame,
        "min_face_px": message.min_face_px,
        "jpeg_quality": message.jpeg_quality,
        "image_format": face_service_pb2.ImageFormat.Name(message.image_format) if message.image_format else "",
    }
    values = {**(defaults or {}), **{name: value for name, value in given.items() if value}}
    if message.HasField("min_score"):
        values["min_score"] = message.min_score
    return ExtractionOptions(**values)


def options_of_faceset(message: face_service_pb2.ExtractionOptions, body: Mapping[str, Any]) -> ExtractionOptions:
    """Options of a request about a faceset: type, size and format are the faceset's where the request does not say. A request that
    gives a size means that size, also where the faceset's faces have their native ones."""
    extraction = body.get("extraction", {})
    defaults = {"face_type": body.get("faceType"), "size_px": body.get("sizePx")}
    defaults |= {name: extraction.get(name) for name in ("image_format", "jpeg_quality")}
    if not message.size_px:
        defaults["native_size"] = extraction.get("native_size")
    return options_from_message(message, {name: value for name, value in defaults.items() if value})


def footage_of(
    records: Records, store: ObjectStore, body: Mapping[str, Any], ranges: Sequence[common_pb2.FrameRange]
) -> Footage:
    """The clip of a faceset; WrongState when it has none, or it is gone."""
    name = body.get("clip", "")
    if not name:
        raise WrongState(
            f"{body['name']} was not extracted from one clip: its frames cannot be read again (imported, or merged of several)"
        )
    try:
        clip = from_record(records.get(name), frame_service_pb2.Clip())
    except NotFound:
        raise WrongState(
            f"{name}, the clip of {body['name']}, was deleted: register the footage under that name again"
        ) from None
    return Footage(
        name=clip.name,
        file=clip.display_name.rpartition(".")[0] or clip.display_name,
        media=media_file(store, clip),
        media_sha256=clip.media.digest.sha256,
        width=clip.info.image.width,
        height=clip.info.image.height,
        frames=selected_frames(clip, ranges),
    )


def reextraction(request: face_service_pb2.ReextractFacesRequest, body: Mapping[str, Any]) -> Reextraction:
    """What a request wants; ``body`` is the faceset's."""
    return Reextraction(
        options=options_of_faceset(request.options, body),
        only_missing=request.only_missing,
        only_trashed=request.only_trashed,
        keep_landmarks=request.keep_landmarks,
        replace=request.replace,
        whole=not request.ranges,
    )


def wish(request: face_service_pb2.AlignFaceRequest, body: Mapping[str, Any]) -> Wish:
    """Where a request wants a face; ``body`` is the faceset's."""
    placement = request.placement
    return Wish(
        number=request.frame_number,
        landmarks=list(request.landmarks_px),
        placement={
            "center_x_px": placement.center_x_px,
            "center_y_px": placement.center_y_px,
            "side_px": placement.side_px,
            "roll_deg": placement.roll_deg,
        }
        if request.HasField("placement")
        else None,
        snap=request.snap,
        replaces=request.replaces.removeprefix(f"{request.faceset}/faces/"),
        options=options_of_faceset(request.options, body),
    )


def request_digest(request: Message) -> str:
    """What a request asks, without its request id, as 64 hex digits."""
    asked = type(request)()
    asked.CopyFrom(request)
    asked.ClearField("request_id")
    return hashlib.sha256(
        f"{asked.DESCRIPTOR.full_name}\n".encode() + asked.SerializeToString(deterministic=True)
    ).hexdigest()
