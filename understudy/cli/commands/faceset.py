"""`understudy faceset`."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from understudy.cli.commands import faceset_curation, faceset_edits, faceset_sorting
from understudy.cli.extraction import crop_options, extraction_message, finding_options
from understudy.cli.options import Options, pass_options, shared_options
from understudy.cli.values import frames_option, pages, project_option, resource
from understudy.cli.values import rate as frame_rate

if TYPE_CHECKING:
    from understudy.v1 import common_pb2


@click.group()
def faceset() -> None:
    """Facesets: faces found in a clip, aligned.

    \b
        understudy faceset extract footage-1a2b3c4d --project shot-010
        understudy faceset faces footage-1a2b3c4d --frames 100-200 --project shot-010
        understudy faceset reextract footage-1a2b3c4d --missing --min-score 0.3 --project shot-010
        understudy faceset sort footage-1a2b3c4d --by blur --project shot-010
    """


for _part in (
    faceset_edits.align,
    faceset_edits.reextract,
    faceset_edits.smooth,
    faceset_edits.select,
    faceset_edits.debug,
    *faceset_curation.COMMANDS,
    *faceset_sorting.COMMANDS,
):
    faceset.add_command(_part)


@faceset.command()
@click.argument("clip")
@project_option(required=False)
@click.option("--id", "faceset_id", default="", help="The faceset's id; the clip's when not given.")
@click.option(
    "--mode",
    type=click.Choice(("src", "dst")),
    default="src",
    show_default=True,
    help="src: faces to learn from, --fps thins them out. dst: faces to be replaced: every frame, and --debug.",
)
@frames_option()
@click.option(
    "--fps",
    type=frame_rate,
    metavar="RATE",
    help="Look at so many frames a second, evenly chosen: 5, 23.976 or 24000/1001.  [default: every frame]",
)
@crop_options(new=True)
@finding_options
@click.option("--debug", is_flag=True, help="Also keep every frame with landmarks, mask, box and crop drawn in.")
@click.option("--again", is_flag=True, help="Compute even where equal work was done before.")
@click.option("-d", "--detach", is_flag=True, help="Begin and end at once; `op watch` shows how it goes.")
@shared_options(hidden=True)
@pass_options
def extract(
    options: Options,
    /,
    clip: str,
    project: str,
    faceset_id: str,
    mode: str,
    ranges: list[common_pb2.FrameRange],
    fps: Fraction | None,
    debug: bool,
    again: bool,
    detach: bool,
    **how: Any,
) -> None:
    """Find the faces of CLIP, align them and keep them as a faceset. Interrupted, the same command goes on.

    \b
        understudy faceset extract footage-1a2b3c4d --frames 1001-1100x2,1150 --project shot-010
        understudy faceset extract performer-5e6f7a8b --fps 5 --max-faces 1 --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.follow import finish_operation
    from understudy.v1 import common_pb2, face_service_pb2

    if mode == "dst" and fps is not None:
        raise click.UsageError("--mode dst looks at every frame: leave --fps out")
    clip_name = resource(clip, "clips", project)
    request = face_service_pb2.ExtractFacesetRequest(
        clip=clip_name,
        faceset_id=faceset_id or clip_name.rpartition("/")[2],
        ranges=ranges,
        options=extraction_message(how),
        skip_cache=again,
        frame_rate=common_pb2.Rational(num=fps.numerator, den=fps.denominator) if fps else None,
        debug_overlays=debug or mode == "dst",
    )
    with connected(options) as connection:
        operation = connection.client.faces.ExtractFaceset(request)
        response = face_service_pb2.ExtractFacesetResponse()
        finish_operation(options, connection, operation, response, "extract", detach=detach)


@faceset.command("list")
@project_option()
@click.option("--deleted", is_flag=True, help="Also those in the trash.")
@shared_options(hidden=True)
@pass_options
def list_(options: Options, project: str, deleted: bool) -> None:
    """List the facesets of a project.

    \b
        understudy faceset list --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show_list
    from understudy.cli.plain import plain
    from understudy.v1 import faceset_service_pb2

    request = faceset_service_pb2.ListFacesetsRequest(parent=project, show_deleted=deleted)
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
@click.option(
    "--filter", "filter_", default="", metavar="FILTER", help="Faces that it lets through: 'yaw_deg > 60 AND has_mask'."
)
@click.option("--order-by", default="", metavar="COLUMNS", help="Another order: 'yaw_deg desc, sharpness'.")
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
    filter_: str,
    order_by: str,
    limit: int,
    full: bool,
) -> None:
    """List the faces of a faceset, in its order or another. Looking changes nothing: `sort` does.

    \b
        understudy faceset faces footage-1a2b3c4d --frames 100-200 --project shot-010
        understudy faceset faces footage-1a2b3c4d --filter 'sharpness < 50' --order-by 'yaw_deg desc' --project shot-010
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
        filter=filter_,
        order_by=order_by,
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
        "TRACK": "record.track_id",
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
