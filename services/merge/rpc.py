"""MergeService: validate, convert, call."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any

from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from services.kit import names
from services.kit.calls import current_actor
from services.kit.clip_messages import media_file, selected_frames
from services.kit.context import ServiceContext
from services.kit.operations.convert import operation, page_size, required, timestamp
from services.kit.operations.plan import Plan
from services.kit.resources import from_record, to_body
from services.merge.app import ENCODE_METHOD, MERGE_METHOD, Merges, Sessions, check_depth, segments_key
from services.merge.convert import encode_settings, rules_from_messages
from understudy.v1 import frame_service_pb2, merge_service_pb2, merge_service_pb2_grpc

if TYPE_CHECKING:
    from services.kit.server import Registrar


def register(registrar: Registrar, context: ServiceContext) -> None:
    """Adds the service."""
    merge_service_pb2_grpc.add_MergeServiceServicer_to_server(MergeRpc(context), registrar.server)
    registrar.added("understudy.v1.MergeService")


class MergeRpc(merge_service_pb2_grpc.MergeServiceServicer):
    """See merge_service.proto. Methods that are not here answer UNIMPLEMENTED."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._sessions = Sessions(context)
        self._merges = Merges(context)

    async def CreateSession(self, request: Any, _context: Any) -> merge_service_pb2.MergeSession:
        """See merge_service.proto."""
        names.parse(request.parent, "projects", field="parent")
        wished = request.session
        session = merge_service_pb2.MergeSession(
            name=f"{request.parent}/sessions/{names.check_id(request.session_id, 'session_id')}",
            clip=required(wished.clip, "session.clip"),
            faceset=required(wished.faceset, "session.faceset"),
            faceset_revision=wished.faceset_revision,
            model=required(wished.model, "session.model"),
            settings=wished.settings,
            create_time=timestamp(time.time()),
            revision=1,
        )
        rules_from_messages(session.settings)
        record = await asyncio.to_thread(self._sessions.create, session.name, to_body(session))
        return from_record(record, merge_service_pb2.MergeSession())

    async def GetSession(self, request: Any, _context: Any) -> merge_service_pb2.MergeSession:
        """See merge_service.proto."""
        names.parse(request.name, "projects", "sessions")
        return from_record(await asyncio.to_thread(self._sessions.get, request.name), merge_service_pb2.MergeSession())

    async def ListSessions(self, request: Any, _context: Any) -> merge_service_pb2.ListSessionsResponse:
        """See merge_service.proto."""
        names.parse(request.parent, "projects", field="parent")
        records, after = await asyncio.to_thread(
            self._sessions.page, request.parent, after=request.page_token, limit=page_size(request.page_size)
        )
        sessions = [from_record(record, merge_service_pb2.MergeSession()) for record in records]
        return merge_service_pb2.ListSessionsResponse(sessions=sessions, next_page_token=after)

    async def DeleteSession(self, request: Any, _context: Any) -> empty_pb2.Empty:
        """See merge_service.proto."""
        names.parse(request.name, "projects", "sessions")
        await asyncio.to_thread(self._sessions.delete, request.name)
        return empty_pb2.Empty()

    async def PutFrameSettings(self, request: Any, _context: Any) -> merge_service_pb2.MergeSession:
        """See merge_service.proto."""
        names.parse(request.session, "projects", "sessions", field="session")
        rules_from_messages(request.settings)
        settings = [to_body(entry) for entry in request.settings]
        record = await asyncio.to_thread(self._sessions.put_settings, request.session, settings, request.etag or None)
        return from_record(record, merge_service_pb2.MergeSession())

    async def MergeFrames(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """See merge_service.proto."""
        names.parse(request.session, "projects", "sessions", field="session")
        plan = await asyncio.to_thread(self._merge_plan, request)
        return await self._submitted("merge", MERGE_METHOD, plan, request.request_id)

    async def EncodeVideo(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """See merge_service.proto."""
        names.parse(request.session, "projects", "sessions", field="session")
        plan = await asyncio.to_thread(self._encode_plan, request)
        return await self._submitted("encode", ENCODE_METHOD, plan, request.request_id)

    async def _submitted(self, kind: str, method: str, plan: Plan, request_id: str) -> operations_pb2.Operation:
        record, cached = await asyncio.to_thread(
            self._merges.submit, kind, method, plan, request_id=request_id, actor=current_actor()
        )
        return operation(record, from_cache=cached)

    def _merge_plan(self, request: merge_service_pb2.MergeFramesRequest) -> Plan:
        session = from_record(self._sessions.get(request.session), merge_service_pb2.MergeSession())
        clip = from_record(self._context.records.get(session.clip), frame_service_pb2.Clip())
        check_depth(clip.info.pixel_format, clip.name)
        return self._merges.merge_plan(
            session=session.name,
            clip=clip.name,
            media=media_file(self._context.store, clip),
            media_sha256=clip.media.digest.sha256,
            faceset=session.faceset,
            faceset_revision=session.faceset_revision,
            model=session.model,
            rules=rules_from_messages(session.settings),
            frames=selected_frames(clip, request.ranges),
            nonce=uuid.uuid4().hex if request.skip_cache else "",
        )

    def _encode_plan(self, request: merge_service_pb2.EncodeVideoRequest) -> Plan:
        session = from_record(self._sessions.get(request.session), merge_service_pb2.MergeSession())
        key = (
            segments_key(self._context.store, request.merged.uri)
            if request.HasField("merged")
            else self._merges.newest_merge(session.name)
        )
        return self._merges.encode_plan(
            session=session.name, merged_key=key, settings=encode_settings(request.settings), mask=request.mask
        )
