"""FaceService: validate, convert, call."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from google.longrunning import operations_pb2
from google.protobuf import json_format

from ml_common.facesets import FaceRecord
from ml_common.tracking.smooth import DEFAULT_RADIUS_FRAMES
from services.faces.align import HandAlignment
from services.faces.app import STAGE, Extractions, extraction_plan
from services.faces.convert import (
    footage_of,
    options_from_message,
    options_of_faceset,
    reextraction,
    request_digest,
    wish,
)
from services.faces.edits import (
    Edits,
    Footage,
    State,
    debug_plan,
    reextract_plan,
    reference_of,
    select_plan,
    smooth_plan,
)
from services.faces.finders import known_digests
from services.faces.options import ExtractionOptions
from services.kit import names
from services.kit.calls import current_actor
from services.kit.clip_messages import media_file, selected_frames
from services.kit.context import ServiceContext
from services.kit.errors import InvalidInput
from services.kit.operations.convert import key_of_reference, operation
from services.kit.operations.plan import Plan
from services.kit.records import Record
from services.kit.resources import from_record
from understudy.v1 import face_pb2, face_service_pb2, face_service_pb2_grpc, frame_service_pb2

if TYPE_CHECKING:
    from services.kit.server import Registrar

MOST_IMAGES = 16


def register(registrar: Registrar, context: ServiceContext) -> None:
    """Adds the service."""
    face_service_pb2_grpc.add_FaceServiceServicer_to_server(FaceRpc(context), registrar.server)
    registrar.added("understudy.v1.FaceService")


class FaceRpc(face_service_pb2_grpc.FaceServiceServicer):
    """See face_service.proto."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._extractions = Extractions(context)
        self._edits = Edits(context)
        self._hand = HandAlignment(context)

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

    async def AlignFace(self, request: Any, _context: Any) -> face_pb2.FaceRecord:
        """See face_service.proto."""
        names.parse(request.faceset, "projects", "facesets", field="faceset")
        record = await asyncio.to_thread(self._aligned, request, current_actor())
        return json_format.ParseDict(record.to_json_dict(), face_pb2.FaceRecord())

    async def ReextractFaces(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """See face_service.proto."""
        return await self._edit(
            request,
            lambda state, common: reextract_plan(
                state, self._footage(request, state), reextraction(request, state.body), **common
            ),
        )

    async def SmoothFaces(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """See face_service.proto."""
        return await self._edit(
            request,
            lambda state, common: smooth_plan(
                state,
                self._footage(request, state),
                radius_frames=request.radius_frames or DEFAULT_RADIUS_FRAMES,
                options=options_of_faceset(face_service_pb2.ExtractionOptions(), state.body),
                unsmoothed=self._edits.unsmoothed(state),
                **common,
            ),
        )

    async def SelectPerson(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """See face_service.proto."""
        return await self._edit(
            request,
            lambda state, common: select_plan(
                state,
                track_ids=list(request.track_ids),
                reference=self._reference(request),
                min_similarity=request.min_similarity if request.HasField("min_similarity") else None,
                request=common["request"],
            ),
        )

    async def RenderDebug(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """See face_service.proto."""
        return await self._edit(
            request, lambda state, common: debug_plan(state, self._footage(request, state), **common)
        )

    async def _edit(self, request: Any, plan: Callable[[State, dict[str, Any]], Plan]) -> operations_pb2.Operation:
        """Plans work on a faceset and submits it, or finds the work of the same request."""
        names.parse(request.faceset, "projects", "facesets", field="faceset")
        record, cached = await asyncio.to_thread(self._edited, request, plan, current_actor())
        return operation(record, from_cache=cached)

    def _edited(self, request: Any, plan: Callable[[State, dict[str, Any]], Plan], actor: str) -> tuple[Record, bool]:
        digest = request_digest(request)
        known = self._edits.asked_before(request.faceset, request.request_id, digest)
        if known:
            return known
        common = {"request": digest, "chunk_frames": self._context.settings.execution.chunk_frames}
        planned = plan(self._edits.state(request.faceset), common)
        return self._edits.submit(planned, request_id=request.request_id, actor=actor)

    def _aligned(self, request: face_service_pb2.AlignFaceRequest, actor: str) -> FaceRecord:
        body = self._context.records.get(request.faceset).body
        return self._hand.align(
            request.faceset,
            footage_of(self._context.records, self._context.store, body, []),
            wish(request, body),
            request_id=request.request_id,
            request=request_digest(request),
            actor=actor,
        )

    def _footage(self, request: Any, state: State) -> Footage:
        return footage_of(self._context.records, self._context.store, state.body, getattr(request, "ranges", []))

    def _reference(self, request: face_service_pb2.SelectPersonRequest) -> dict[str, Any] | None:
        """The face of the reference picture, found here and now: a picture without one is refused before any work begins."""
        if not request.HasField("reference"):
            return None
        key = key_of_reference(self._context.store, request.reference, "reference")
        question = {"keys": [key], "options": ExtractionOptions().to_json()}
        return reference_of(self._context.store, key, self._context.executor.ask(STAGE, question)["images"][0])

    def _plan(self, request: face_service_pb2.ExtractFacesetRequest, faceset: str) -> Plan:
        clip = from_record(self._context.records.get(request.clip), frame_service_pb2.Clip())
        options = options_from_message(request.options)
        return extraction_plan(
            clip=clip.name,
            clip_file=clip.display_name.rpartition(".")[0] or clip.display_name,
            media=media_file(self._context.store, clip),
            media_sha256=clip.media.digest.sha256,
            faceset=faceset,
            frames=selected_frames(clip, request.ranges, request.frame_rate),
            options=options,
            chunk_frames=self._context.settings.execution.chunk_frames,
            debug_overlays=request.debug_overlays,
            weights=known_digests(options.to_json(), self._context.settings.weights_dir),
            nonce=uuid.uuid4().hex if request.skip_cache else "",
        )
