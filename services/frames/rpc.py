"""FrameService and ProjectService: validate, convert, call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from services.frames import plans
from services.frames.app import Clips, ClipWork, Projects, preview_jpeg
from services.frames.clip_body import now_json
from services.frames.convert import clip_facts, fraction, info_to_message, range_to_keep
from services.frames.options import (
    ClipFacts,
    PictureOptions,
    audio_stream,
    check_bitrate,
    check_factor,
    check_threshold,
)
from services.frames.purge import Purge
from services.kit import names
from services.kit.calls import current_actor
from services.kit.clip_messages import media_file, selected_frames
from services.kit.context import ServiceContext
from services.kit.errors import InvalidInput
from services.kit.operations.convert import duration, object_ref, operation, page_size, timestamp
from services.kit.operations.plan import Plan
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
        self._purge = Purge(context)

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

    async def PurgeProject(self, request: Any, _context: Any) -> empty_pb2.Empty:
        """See project_service.proto."""
        names.parse(request.name, "projects")
        await asyncio.to_thread(self._purge.purge, request.name, request.confirm_project_id)
        return empty_pb2.Empty()


class FrameRpc(frame_service_pb2_grpc.FrameServiceServicer):
    """See frame_service.proto."""

    def __init__(self, context: ServiceContext) -> None:
        self._clips = Clips(context)
        self._work = ClipWork(context)
        self._store = context.store
        self._chunk_frames = context.settings.execution.chunk_frames

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
            info = await asyncio.to_thread(
                self._clips.store_frame, clip.name, clip.media.digest.sha256, request.frame_number, image
            )
            response.image.CopyFrom(object_ref(self._store, info))
        return response

    async def ExtractFrames(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """See frame_service.proto."""
        options = PictureOptions.of(request.format, request.jpeg_quality)
        clip, facts = await asyncio.to_thread(self._clip, request.clip)
        frames = await asyncio.to_thread(self._frames, clip, facts, request)
        plan = plans.extract_plan(facts, frames, options, self._chunk_frames)
        return await self._begin("frames", plans.EXTRACT_METHOD, plan, request.request_id)

    async def CutClip(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """See frame_service.proto."""
        bitrate_mbit = check_bitrate(request.bitrate_mbit)
        _, facts = await asyncio.to_thread(self._clip, request.clip)
        wished = request.audio_stream_index if request.HasField("audio_stream_index") else None
        plan = plans.cut_plan(
            facts,
            range_to_keep(facts, request),
            new_clip=_new_clip(request.clip, request.clip_id, "cut"),
            audio_stream_index=audio_stream(facts, wished),
            bitrate_mbit=bitrate_mbit,
        )
        return await self._begin("cut", plans.CUT_METHOD, plan, request.request_id)

    async def DenoiseFrames(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """See frame_service.proto."""
        factor = check_factor(request.factor)
        _, facts = await asyncio.to_thread(self._clip, request.clip)
        new_clip = _new_clip(request.clip, request.clip_id, "denoised")
        plan = plans.denoise_plan(facts, new_clip=new_clip, factor=factor, chunk_frames=self._chunk_frames)
        return await self._begin("denoise", plans.DENOISE_METHOD, plan, request.request_id)

    async def DetectScenes(self, request: Any, _context: Any) -> operations_pb2.Operation:
        """See frame_service.proto."""
        threshold = check_threshold(request.threshold)
        _, facts = await asyncio.to_thread(self._clip, request.clip)
        plan = plans.scenes_plan(facts, threshold=threshold, chunk_frames=self._chunk_frames)
        return await self._begin("scenes", plans.SCENES_METHOD, plan, request.request_id)

    def _clip(self, name: str) -> tuple[frame_service_pb2.Clip, ClipFacts]:
        names.parse(name, "projects", "clips", field="clip")
        clip = from_record(self._clips.get(name), frame_service_pb2.Clip())
        return clip, clip_facts(self._store, clip)

    def _frames(self, clip: frame_service_pb2.Clip, facts: ClipFacts, request: Any) -> Sequence[int]:
        frames = selected_frames(clip, request.ranges, request.frame_rate)
        rate = fraction(request.frame_rate)
        if clip.info.variable_rate and rate is not None:
            return self._clips.evenly(facts, selected_frames(clip, request.ranges), rate)
        return frames

    async def _begin(self, kind: str, method: str, plan: Plan, request_id: str) -> operations_pb2.Operation:
        record, cached = await asyncio.to_thread(
            self._work.submit, kind, method, plan, request_id=request_id, actor=current_actor()
        )
        return operation(record, from_cache=cached)


def _new_clip(clip: str, clip_id: str, made: str) -> str:
    """The name of a clip that is made of ``clip``."""
    given = clip_id or f"{clip.rpartition('/')[2]}-{made}"
    return f"{names.project_of(clip)}/clips/{names.check_id(given, 'clip_id')}"
