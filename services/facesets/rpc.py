"""FacesetService and RightsService: validate, convert, call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from services.facesets.app import Faces
from services.facesets.convert import basic_face, frame_ranges, full_face
from services.kit import names
from services.kit.context import ServiceContext
from services.kit.faceset_store import FacesetStore
from services.kit.operations.convert import page_size
from services.kit.resources import from_record
from understudy.v1 import faceset_service_pb2, faceset_service_pb2_grpc, rights_service_pb2_grpc

if TYPE_CHECKING:
    from services.kit.server import Registrar


def register(registrar: Registrar, context: ServiceContext) -> None:
    """Adds both services. RightsService answers UNIMPLEMENTED in this release."""
    faceset_service_pb2_grpc.add_FacesetServiceServicer_to_server(FacesetRpc(context), registrar.server)
    registrar.added("understudy.v1.FacesetService")
    rights_service_pb2_grpc.add_RightsServiceServicer_to_server(
        rights_service_pb2_grpc.RightsServiceServicer(), registrar.server
    )
    registrar.added("understudy.v1.RightsService")


class FacesetRpc(faceset_service_pb2_grpc.FacesetServiceServicer):
    """See faceset_service.proto. Methods that are not here answer UNIMPLEMENTED."""

    def __init__(self, context: ServiceContext) -> None:
        self._store = context.store
        self._facesets = FacesetStore(context.store, context.records)
        self._faces = Faces(context)

    async def GetFaceset(self, request: Any, _context: Any) -> faceset_service_pb2.Faceset:
        """See faceset_service.proto."""
        names.parse(request.name, "projects", "facesets")
        return from_record(await asyncio.to_thread(self._facesets.get, request.name), faceset_service_pb2.Faceset())

    async def ListFacesets(self, request: Any, _context: Any) -> faceset_service_pb2.ListFacesetsResponse:
        """See faceset_service.proto."""
        names.parse(request.parent, "projects", field="parent")
        records, after = await asyncio.to_thread(
            self._facesets.page, request.parent, after=request.page_token, limit=page_size(request.page_size)
        )
        facesets = [from_record(record, faceset_service_pb2.Faceset()) for record in records]
        return faceset_service_pb2.ListFacesetsResponse(facesets=facesets, next_page_token=after)

    async def ListFaces(self, request: Any, _context: Any) -> faceset_service_pb2.ListFacesResponse:
        """See faceset_service.proto."""
        names.parse(request.parent, "projects", "facesets", field="parent")
        return await asyncio.to_thread(self._list_faces, request)

    async def GetFace(self, request: Any, _context: Any) -> faceset_service_pb2.Face:
        """See faceset_service.proto."""
        names.parse(request.name, "projects", "facesets", "faces")
        faceset, _, face_id = request.name.rpartition("/faces/")
        return full_face(faceset, *await asyncio.to_thread(self._faces.face, faceset, face_id))

    async def ListRevisions(self, request: Any, _context: Any) -> faceset_service_pb2.ListRevisionsResponse:
        """See faceset_service.proto."""
        names.parse(request.parent, "projects", "facesets", field="parent")
        facts, token = await asyncio.to_thread(
            self._faces.revisions, request.parent, token=request.page_token, limit=page_size(request.page_size)
        )
        revisions = [json_format.ParseDict(fact, faceset_service_pb2.FacesetRevision()) for fact in facts]
        return faceset_service_pb2.ListRevisionsResponse(revisions=revisions, next_page_token=token)

    def _list_faces(self, request: faceset_service_pb2.ListFacesRequest) -> faceset_service_pb2.ListFacesResponse:
        page = self._faces.page(
            request.parent,
            revision=request.revision,
            ranges=frame_ranges(request.frames),
            show_trashed=request.show_trashed,
            token=request.page_token,
            limit=page_size(request.page_size),
        )
        if request.view == faceset_service_pb2.FACE_VIEW_FULL:
            records = self._faces.records(request.parent, page.rows)
            faces = [full_face(request.parent, *item) for item in zip(page.rows, page.positions, records, strict=True)]
        else:
            clip = self._facesets.get(request.parent).body.get("clip", "")
            faces = [
                basic_face(request.parent, clip, row, at, self._store)
                for row, at in zip(page.rows, page.positions, strict=True)
            ]
        return faceset_service_pb2.ListFacesResponse(
            faces=faces, next_page_token=page.next_token, revision=page.revision, total_size=page.total
        )
