"""FrameService and ProjectService: validate, convert, call."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from google.protobuf import empty_pb2

from services.frames.app import Clips, Projects, now_json, preview_jpeg
from services.frames.convert import info_to_message
from services.kit import names
from services.kit.clip_messages import media_file
from services.kit.context import ServiceContext
from services.kit.errors import InvalidInput
from services.kit.operations.convert import duration, object_ref, page_size, timestamp
from services.kit.resources import from_record, to_body
from understudy.v1 import frame_service_pb2, frame_service_pb2_grpc, project_service_pb2, project_service_pb2_grpc

if TYPE_CHECKING:
    from services.kit.server import Registrar


def register(registrar: Registrar, context: ServiceContext) -> None:
    """Adds both services."""
    project_service_pb2_grpc.add_ProjectServiceServicer_to_server(ProjectRpc(context), registrar.server)
    registrar.added("understudy.v1.ProjectService")
    frame_service_pb2_grpc.add_FrameServiceServicer_to_server(FrameRpc(context), registrar.server)
    registrar.added("understudy.v1.FrameService")


class ProjectRpc(project_service_pb2_grpc.ProjectServiceServicer):
    """See project_service.proto."""

    def __init__(self, context: ServiceContext) -> None:
        self._projects = Projects(context)

    async def CreateProject(self, request: Any, _context: Any) -> project_service_pb2.Project:
        """See project_service.proto."""
        name = f"projects/{names.check_id(request.project_id, 'project_id')}"
        project = project_service_pb2.Project(
            name=name,
            display_name=request.project.display_name,
            labels=request.project.labels,
            create_time=timestamp(time.time()),
        )
        record = await asyncio.to_thread(self._projects.create, name, to_body(project))
        return from_record(record, project_service_pb2.Project())

    async def GetProject(self, request: Any, _context: Any) -> project_service_pb2.Project:
        """See project_service.proto."""
        names.parse(request.name, "projects")
        return from_record(await asyncio.to_thread(self._projects.get, request.name), project_service_pb2.Project())

    async def ListProjects(self, request: Any, _context: Any) -> project_service_pb2.ListProjectsResponse:
        """See project_service.proto."""
        records, after = await asyncio.to_thread(
            self._projects.page,
            after=request.page_token,
            limit=page_size(request.page_size),
            show_deleted=request.show_deleted,
        )
        projects = [from_record(record, project_service_pb2.Project()) for record in records]
        return project_service_pb2.ListProjectsResponse(projects=projects, next_page_token=after)

    async def DeleteProject(self, request: Any, _context: Any) -> project_service_pb2.Project:
        """See project_service.proto."""
        names.parse(request.name, "projects")
        record = await asyncio.to_thread(self._projects.set_deleted, request.name, now_json(), request.etag)
        return from_record(record, project_service_pb2.Project())

    async def UndeleteProject(self, request: Any, _context: Any) -> project_service_pb2.Project:
        """See project_service.proto."""
        names.parse(request.name, "projects")
        record = await asyncio.to_thread(self._projects.set_deleted, request.name, None, None)
        return from_record(record, project_service_pb2.Project())


class FrameRpc(frame_service_pb2_grpc.FrameServiceServicer):
    """See frame_service.proto. Methods that are not here answer UNIMPLEMENTED."""

    def __init__(self, context: ServiceContext) -> None:
        self._clips = Clips(context)
        self._store = context.store

    async def ProbeMedia(self, request: Any, _context: Any) -> frame_service_pb2.ProbeMediaResponse:
        """See frame_service.proto."""
        names.parse(request.parent, "projects", field="parent")
        media = media_file(self._store, frame_service_pb2.Clip(media=request.media))
        info = await asyncio.to_thread(self._clips.probe, media, request.media.uri)
        return frame_service_pb2.ProbeMediaResponse(info=info_to_message(info))

    async def CreateClip(self, request: Any, _context: Any) -> frame_service_pb2.Clip:
        """See frame_service.proto."""
        names.parse(request.parent, "projects", field="parent")
        name = f"{request.parent}/clips/{names.check_id(request.clip_id, 'clip_id')}"
        media = media_file(self._store, request.clip)
        await asyncio.to_thread(self._clips.check_project, request.parent)
        record = await asyncio.to_thread(self._clips.existing, name, request.clip.media.uri)
        if record is None:
            info = await asyncio.to_thread(self._clips.probe, media, request.clip.display_name or name)
            stored = await asyncio.to_thread(self._store.stat, media.key)
            clip = frame_service_pb2.Clip(
                name=name,
                display_name=request.clip.display_name,
                media=object_ref(self._store, stored),
                info=info_to_message(info),
                create_time=timestamp(time.time()),
            )
            record = await asyncio.to_thread(self._clips.create, name, to_body(clip))
        return from_record(record, frame_service_pb2.Clip())

    async def GetClip(self, request: Any, _context: Any) -> frame_service_pb2.Clip:
        """See frame_service.proto."""
        names.parse(request.name, "projects", "clips")
        return from_record(await asyncio.to_thread(self._clips.get, request.name), frame_service_pb2.Clip())

    async def ListClips(self, request: Any, _context: Any) -> frame_service_pb2.ListClipsResponse:
        """See frame_service.proto."""
        names.parse(request.parent, "projects", field="parent")
        records, after = await asyncio.to_thread(
            self._clips.page, request.parent, after=request.page_token, limit=page_size(request.page_size)
        )
        clips = [from_record(record, frame_service_pb2.Clip()) for record in records]
        return frame_service_pb2.ListClipsResponse(clips=clips, next_page_token=after)

    async def DeleteClip(self, request: Any, _context: Any) -> empty_pb2.Empty:
        """See frame_service.proto."""
        names.parse(request.name, "projects", "clips")
        await asyncio.to_thread(self._clips.delete, request.name)
        return empty_pb2.Empty()

    async def GetFrame(self, request: Any, _context: Any) -> frame_service_pb2.GetFrameResponse:
        """See frame_service.proto."""
        names.parse(request.clip, "projects", "clips", field="clip")
        if request.max_side_px < 0:
            raise InvalidInput("max_side_px must be 0 or more", fields={"max_side_px": "must be 0 or more"})
        clip = from_record(await asyncio.to_thread(self._clips.get, request.clip), frame_service_pb2.Clip())
        media = media_file(self._store, clip)
        image, time_s = await asyncio.to_thread(self._clips.frame, media, clip.name, request.frame_number)
        response = frame_service_pb2.GetFrameResponse(time=duration(time_s))
        if request.max_side_px:
            response.preview_jpeg = await asyncio.to_thread(preview_jpeg, image, request.max_side_px)
        else:
            info = await asyncio.to_thread(self._clips.store_png, clip.name, request.frame_number, image)
            response.image.CopyFrom(object_ref(self._store, info))
        return response
