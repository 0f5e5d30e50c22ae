"""FaceService: validate, convert, call."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

from google.longrunning import operations_pb2
from google.protobuf import json_format

from services.faces.app import STAGE, Extractions, extraction_plan
from services.faces.convert import options_from_message
from services.kit import names
from services.kit.calls import current_actor
from services.kit.clip_messages import media_file, selected_frames
from services.kit.context import ServiceContext
from services.kit.errors import InvalidInput
from services.kit.operations.convert import key_of_reference, operation
from services.kit.operations.plan import Plan
from services.kit.resources import from_record
from understudy.v1 import face_service_pb2, face_service_pb2_grpc, frame_service_pb2

if TYPE_CHECKING:
    from services.kit.server import Registrar

MOST_IMAGES = 16


def register(registrar: Registrar, context: ServiceContext) -> None:
    """Adds the service."""
    face_service_pb2_grpc.add_FaceServiceServicer_to_server(FaceRpc(context), registrar.server)
    registrar.added("understudy.v1.FaceService")


class FaceRpc(face_service_pb2_grpc.FaceServiceServicer):
    """See face_service.proto. Methods that are not here answer UNIMPLEMENTED."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._extractions = Extractions(context)

    async def ExtractFaceset(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """See face_service.proto."""
        names.parse(request.clip, "projects", "clips", field="clip")
        faceset = f"{names.project_of(request.clip)}/facesets/{names.check_id(request.faceset_id, 'faceset_id')}"
        plan = await asyncio.to_thread(self._plan, request, faceset)
        record, cached = await asyncio.to_thread(
            self._extractions.submit, plan, request_id=request.request_id, actor=current_actor()
        )
        return operation(record, from_cache=cached)

    async def DetectFaces(self, request: Any, _context: Any) -> face_service_pb2.DetectFacesResponse:
        """See face_service.proto."""
        names.parse(request.parent, "projects", field="parent")
        if not 1 <= len(request.images) <= MOST_IMAGES:
            raise InvalidInput(
                f"images must hold 1 to {MOST_IMAGES} references", fields={"images": f"1 to {MOST_IMAGES}"}
            )
        keys = [
            await asyncio.to_thread(key_of_reference, self._context.store, image, "images") for image in request.images
        ]
        question = {"keys": keys, "options": options_from_message(request.options).to_json()}
        answer = await asyncio.to_thread(self._context.executor.ask, STAGE, question)
        images = [{"faces": faces} for faces in answer["images"]]
        return json_format.ParseDict({"images": images}, face_service_pb2.DetectFacesResponse())

    def _plan(self, request: face_service_pb2.ExtractFacesetRequest, faceset: str) -> Plan:
        clip = from_record(self._context.records.get(request.clip), frame_service_pb2.Clip())
        return extraction_plan(
            clip=clip.name,
            clip_file=clip.display_name.rpartition(".")[0] or clip.display_name,
            media=media_file(self._context.store, clip),
            media_sha256=clip.media.digest.sha256,
            faceset=faceset,
            frames=selected_frames(clip, request.ranges),
            options=options_from_message(request.options),
            chunk_frames=self._context.settings.execution.chunk_frames,
            nonce=uuid.uuid4().hex if request.skip_cache else "",
        )
