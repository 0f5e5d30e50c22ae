"""`understudy faceset`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from understudy.cli.options import Options, pass_options, shared_options
from understudy.cli.values import frames_option, pages, project_option, resource

if TYPE_CHECKING:
    from understudy.v1 import common_pb2

FACE_TYPES = ("half", "mid-half", "full", "whole", "head", "full-no-align", "head-no-align")


@click.group()
def faceset() -> None:
    """Facesets: faces found in a clip, aligned.

    \b
        understudy faceset extract footage-1a2b3c4d --project shot-010
        understudy faceset faces footage-1a2b3c4d --frames 100-200 --project shot-010
    """


@faceset.command()
@click.argument("clip")
@project_option(required=False)
@click.option("--id", "faceset_id", default="", help="The faceset's id; the clip's when not given.")
@frames_option()
@click.option(
    "--face-type",
    type=click.Choice(FACE_TYPES),
    default="whole",
    show_default=True,
    help="How much of the head a crop holds.",
)
@click.option(
    "--size",
    "size_px",
    type=click.IntRange(64, 2048),
    default=512,
    show_default=True,
    help="Side of a crop, in pixels.",
)
@click.option(
    "--max-faces", type=click.IntRange(0), default=0, help="Largest faces kept in a frame; 0 for all.  [default: 0]"
)
@click.option(
    "--min-face", "min_face_px", type=click.IntRange(0), default=0, help="Ignore faces smaller than this, in pixels."
)
@click.option(
    "--jpeg-quality", type=click.IntRange(1, 100), default=90, show_default=True, help="Quality of the crops."
)
@click.option("--min-score", type=click.FloatRange(0, 1), help="Ignore detections below this score, 0 to 1.")
@click.option("--again", is_flag=True, help="Compute even where equal work was done before.")
@click.option("-d", "--detach", is_flag=True, help="Begin and end at once; `op watch` shows how it goes.")
@shared_options(hidden=True)
@pass_options
def extract(
    options: Options,
    clip: str,
    project: str,
    faceset_id: str,
    ranges: list[common_pb2.FrameRange],
    face_type: str,
    size_px: int,
    max_faces: int,
    min_face_px: int,
    jpeg_quality: int,
    min_score: float | None,
    again: bool,
    detach: bool,
) -> None:
    """Find the faces of CLIP, align them and keep them as a faceset. Interrupted, the same command goes on.

    \b
        understudy faceset extract footage-1a2b3c4d --frames 1001-1100x2,1150 --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.follow import finish_operation
    from understudy.v1 import face_pb2, face_service_pb2

    clip_name = resource(clip, "clips", project)
    request = face_service_pb2.ExtractFacesetRequest(
        clip=clip_name,
        faceset_id=faceset_id or clip_name.rpartition("/")[2],
        ranges=ranges,
        options=face_service_pb2.ExtractionOptions(
            face_type=face_pb2.FaceType.Value("FACE_TYPE_" + face_type.upper().replace("-", "_")),
            size_px=size_px,
            max_faces_per_frame=max_faces,
            min_face_px=min_face_px,
            jpeg_quality=jpeg_quality,
            min_score=min_score,
        ),
        skip_cache=again,
    )
    with connected(options) as connection:
        operation = connection.client.faces.ExtractFaceset(request)
        response = face_service_pb2.ExtractFacesetResponse()
        finish_operation(options, connection, operation, response, "extract", detach=detach)


@faceset.command("list")
@project_option()
@shared_options(hidden=True)
@pass_options
def list_(options: Options, project: str) -> None:
    """List the facesets of a project.

    \b
        understudy faceset list --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show_list
    from understudy.cli.plain import plain
    from understudy.v1 import faceset_service_pb2

    request = faceset_service_pb2.ListFacesetsRequest(parent=project)
    with connected(options) as connection:
        found = [plain(item) for item in pages(connection.client.facesets.ListFacesets, request, "facesets")]
    columns = {
        "NAME": "name",
        "FACES": "face_count",
        "FRAMES": "frame_count",
        "TYPE": "face_type",
        "SIZE": "size_px",
        "REVISION": "revision",
    }
    show_list(options, "facesets", found, columns)


@faceset.command("show")
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def show_(options: Options, name: str, project: str) -> None:
    """Show a faceset.

    \b
        understudy faceset show footage-1a2b3c4d --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.v1 import faceset_service_pb2

    request = faceset_service_pb2.GetFacesetRequest(name=resource(name, "facesets", project))
    with connected(options) as connection:
        show(options, plain(connection.client.facesets.GetFaceset(request)))


@faceset.command()
@click.argument("name")
@project_option(required=False)
@frames_option(help="Only these frames: 1001-1100x2,1150.")
@click.option(
    "--revision", type=click.IntRange(0), default=0, help="An older state; 0 for the one in force.  [default: 0]"
)
@click.option("--trashed", is_flag=True, help="Also faces in the trash.")
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="At most so many; 0 for all.")
@click.option("--full", is_flag=True, help="Everything that is known of each face (landmarks, matrices), with --json.")
@shared_options(hidden=True)
@pass_options
def faces(
    options: Options,
    name: str,
    project: str,
    ranges: list[common_pb2.FrameRange],
    revision: int,
    trashed: bool,
    limit: int,
    full: bool,
) -> None:
    """List the faces of a faceset in its order.

    \b
        understudy faceset faces footage-1a2b3c4d --frames 100-200 --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show_list
    from understudy.cli.plain import plain
    from understudy.v1 import faceset_service_pb2

    request = faceset_service_pb2.ListFacesRequest(
        parent=resource(name, "facesets", project),
        revision=revision,
        frames=ranges,
        show_trashed=trashed,
        view=faceset_service_pb2.FACE_VIEW_FULL if full else faceset_service_pb2.FACE_VIEW_BASIC,
    )
    with connected(options) as connection:
        found = [plain(item) for item in pages(connection.client.facesets.ListFaces, request, "faces", limit)]
    columns = {
        "FACE": "record.face_id",
        "FRAME": "record.source.frame_number",
        "INDEX": "record.source.face_index",
        "YAW": "record.pose.yaw_deg",
        "PITCH": "record.pose.pitch_deg",
        "SHARPNESS": "record.sharpness",
        "TRASHED": "trashed",
    }
    show_list(options, "faces", found, columns)


@faceset.command()
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def revisions(options: Options, name: str, project: str) -> None:
    """List the states a faceset has been in, newest first.

    \b
        understudy faceset revisions footage-1a2b3c4d --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show_list
    from understudy.cli.plain import plain
    from understudy.v1 import faceset_service_pb2

    request = faceset_service_pb2.ListRevisionsRequest(parent=resource(name, "facesets", project))
    with connected(options) as connection:
        found = [plain(item) for item in pages(connection.client.facesets.ListRevisions, request, "revisions")]
    columns = {
        "NUMBER": "number",
        "FACES": "face_count",
        "TRASHED": "trashed_count",
        "WHAT": "summary",
        "WHO": "actor",
        "WHEN": "create_time",
    }
    show_list(options, "revisions", found, columns)
