"""FacesetService and RightsService: validate, convert, call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from services.facesets.app import Faces, Facesets
from services.facesets.convert import (
    ask,
    basic_face,
    batch_ids,
    changed_response,
    created_fields,
    face_ids,
    face_updates,
    failed_face,
    full_face,
    revision_message,
    updated_fields,
    wish,
)
from services.facesets.edits import Changed, Edits
from services.facesets.plans import BEST, DUPLICATES, SORT, Arrangements, best_work, duplicates_work, sort_work
from services.kit import names
from services.kit.calls import current_actor
from services.kit.context import ServiceContext
from services.kit.errors import InvalidInput, UnderstudyError
from services.kit.faceset_store import FacesetStore
from services.kit.operations.convert import operation, page_size, request_digest, timestamp
from services.kit.records import Record
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
        self._stored = FacesetStore(context.store, context.records)
        self._facesets = Facesets(context)
        self._faces = Faces(context)
        self._edits = Edits(context)
        self._arrangements = Arrangements(context)

    async def CreateFaceset(self, request: Any, _context: Any) -> faceset_service_pb2.Faceset:
        """See faceset_service.proto."""
        names.parse(request.parent, "projects", field="parent")
        name = f"{request.parent}/facesets/{names.check_id(request.faceset_id, 'faceset_id')}"
        fields, now = created_fields(request), timestamp(time.time()).ToJsonString()
        create = self._facesets.create
        return _faceset(await asyncio.to_thread(create, name, fields, create_time=now, actor=current_actor()))

    async def GetFaceset(self, request: Any, _context: Any) -> faceset_service_pb2.Faceset:
        """See faceset_service.proto."""
        names.parse(request.name, "projects", "facesets")
        return _faceset(await asyncio.to_thread(self._stored.get, request.name))

    async def ListFacesets(self, request: Any, _context: Any) -> faceset_service_pb2.ListFacesetsResponse:
        """See faceset_service.proto."""
        names.parse(request.parent, "projects", field="parent")
        records, after = await asyncio.to_thread(
            self._facesets.page,
            request.parent,
            after=request.page_token,
            limit=page_size(request.page_size),
            show_deleted=request.show_deleted,
        )
        facesets = [_faceset(record) for record in records]
        return faceset_service_pb2.ListFacesetsResponse(facesets=facesets, next_page_token=after)

    async def UpdateFaceset(self, request: Any, _context: Any) -> faceset_service_pb2.Faceset:
        """See faceset_service.proto."""
        name = request.faceset.name
        names.parse(name, "projects", "facesets", field="faceset.name")
        fields = updated_fields(request)
        return _faceset(await asyncio.to_thread(self._facesets.update, name, fields, request.faceset.etag))

    async def DeleteFaceset(self, request: Any, _context: Any) -> empty_pb2.Empty:
        """See faceset_service.proto."""
        names.parse(request.name, "projects", "facesets")
        now = timestamp(time.time()).ToJsonString()
        await asyncio.to_thread(self._facesets.set_deleted, request.name, now, request.etag)
        return empty_pb2.Empty()

    async def UndeleteFaceset(self, request: Any, _context: Any) -> faceset_service_pb2.Faceset:
        """See faceset_service.proto."""
        names.parse(request.name, "projects", "facesets")
        return _faceset(await asyncio.to_thread(self._facesets.set_deleted, request.name, None, ""))

    async def ListFaces(self, request: Any, _context: Any) -> faceset_service_pb2.ListFacesResponse:
        """See faceset_service.proto."""
        names.parse(request.parent, "projects", "facesets", field="parent")
        return await asyncio.to_thread(self._list_faces, request)

    async def GetFace(self, request: Any, _context: Any) -> faceset_service_pb2.Face:
        """See faceset_service.proto."""
        names.parse(request.name, "projects", "facesets", "faces")
        faceset, _, face_id = request.name.rpartition("/faces/")
        return full_face(faceset, *await asyncio.to_thread(self._faces.face, faceset, face_id))

    async def BatchGetFaces(self, request: Any, _context: Any) -> faceset_service_pb2.BatchGetFacesResponse:
        """See faceset_service.proto."""
        names.parse(request.parent, "projects", "facesets", field="parent")
        ids = batch_ids(request.parent, request.names, field="names")
        found = await asyncio.to_thread(self._faces.faces, request.parent, ids)
        response = faceset_service_pb2.BatchGetFacesResponse()
        for face_id, item in zip(ids, found, strict=True):
            if isinstance(item, UnderstudyError):
                response.failed.append(failed_face(f"{request.parent}/faces/{face_id}", item))
            else:
                response.faces.append(full_face(request.parent, *item))
        return response

    async def BatchUpdateFaces(self, request: Any, _context: Any) -> faceset_service_pb2.RevisionResponse:
        """See faceset_service.proto."""
        names.parse(request.parent, "projects", "facesets", field="parent")
        updates = await asyncio.to_thread(face_updates, request, self._store)
        return await _changed(self._edits.update, request.parent, updates, request)

    async def SortFaceset(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """See faceset_service.proto."""
        work = sort_work(
            request.method, reverse=request.reverse, reference=request.reference, target_count=request.target_count
        )
        return await self._begin(SORT, work, request)

    async def SelectBest(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """See faceset_service.proto."""
        if request.target_count < 1:
            raise InvalidInput("target_count must be 1 or more", fields={"target_count": "1 or more"})
        work = best_work(target_count=request.target_count, faster=request.faster, reference=request.reference)
        return await self._begin(BEST, work, request)

    async def FindDuplicates(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """See faceset_service.proto."""
        return await self._begin(DUPLICATES, duplicates_work(request.strength), request)

    async def TrashFaces(self, request: Any, _context: Any) -> faceset_service_pb2.RevisionResponse:
        """See faceset_service.proto."""
        names.parse(request.faceset, "projects", "facesets", field="faceset")
        if not request.faces:
            raise InvalidInput("faces must name at least one face", fields={"faces": "must not be empty"})
        ids = face_ids(request.faceset, request.faces, field="faces")
        return await _changed(self._edits.trash, request.faceset, ids, request)

    async def RestoreFaces(self, request: Any, _context: Any) -> faceset_service_pb2.RevisionResponse:
        """See faceset_service.proto."""
        names.parse(request.faceset, "projects", "facesets", field="faceset")
        ids = face_ids(request.faceset, request.faces, field="faces")
        return await _changed(self._edits.restore, request.faceset, ids, request)

    async def ListRevisions(self, request: Any, _context: Any) -> faceset_service_pb2.ListRevisionsResponse:
        """See faceset_service.proto."""
        names.parse(request.parent, "projects", "facesets", field="parent")
        facts, token = await asyncio.to_thread(
            self._faces.revisions, request.parent, token=request.page_token, limit=page_size(request.page_size)
        )
        revisions = [revision_message(fact) for fact in facts]
        return faceset_service_pb2.ListRevisionsResponse(revisions=revisions, next_page_token=token)

    async def RevertFaceset(self, request: Any, _context: Any) -> faceset_service_pb2.RevisionResponse:
        """See faceset_service.proto."""
        names.parse(request.faceset, "projects", "facesets", field="faceset")
        _not_negative(request.revision)
        return await _changed(self._edits.revert, request.faceset, request.revision, request)

    async def _begin(self, method: str, work: dict[str, Any], request: Any) -> operations_pb2.Operation:
        """Plans work on a faceset and submits it, or finds the work of the same request."""
        names.parse(request.faceset, "projects", "facesets", field="faceset")
        record, cached = await asyncio.to_thread(
            self._arrangements.begin,
            request.faceset,
            method,
            work,
            etag=request.etag,
            request_id=request.request_id,
            request=request_digest(request),
            actor=current_actor(),
        )
        return operation(record, from_cache=cached)

    def _list_faces(self, request: faceset_service_pb2.ListFacesRequest) -> faceset_service_pb2.ListFacesResponse:
        page = self._faces.page(
            request.parent,
            wish(request),
            revision=request.revision,
            token=request.page_token,
            limit=page_size(request.page_size),
        )
        if request.view == faceset_service_pb2.FACE_VIEW_FULL:
            records = self._faces.records(request.parent, page.rows)
            faces = [full_face(request.parent, *item) for item in zip(page.rows, page.positions, records, strict=True)]
        else:
            clip = self._stored.get(request.parent).body.get("clip", "")
            faces = [
                basic_face(request.parent, clip, row, at, self._store)
                for row, at in zip(page.rows, page.positions, strict=True)
            ]
        return faceset_service_pb2.ListFacesResponse(
            faces=faces, next_page_token=page.next_token, revision=page.revision, total_size=page.total
        )


def _not_negative(revision: int) -> None:
    if revision < 0:
        raise InvalidInput("revision must be 0 or more", fields={"revision": "0 or more"})


def _faceset(record: Record) -> faceset_service_pb2.Faceset:
    return from_record(record, faceset_service_pb2.Faceset())


async def _changed(
    change: Callable[..., Changed], faceset: str, what: Any, request: Any
) -> faceset_service_pb2.RevisionResponse:
    """Makes a change and says what came of it."""
    changed = await asyncio.to_thread(change, faceset, what, ask(request, current_actor()))
    return changed_response(changed)
