"""`understudy session`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from understudy.cli.merging import crf_option, encode_settings, merge_options, merge_settings
from understudy.cli.options import Options, pass_options, shared_options
from understudy.cli.values import frames_option, pages, project_option, resource

if TYPE_CHECKING:
    from understudy.v1 import common_pb2


@click.group()
def session() -> None:
    """Merge sessions: faces put into frames, frames into a film.

    \b
        understudy session create --clip footage --faceset footage --model quick96 --project shot-010
        understudy session merge first --project shot-010
        understudy session encode first -o film.mp4 --project shot-010
    """


@session.command()
@click.option("--clip", required=True, help="The footage.")
@click.option("--faceset", required=True, help="Its faces.")
@click.option("--model", required=True, help="A training run, for its newest checkpoint, or a checkpoint's full name.")
@project_option()
@click.option("--id", "session_id", default="first", show_default=True, help="The session's id.")
@merge_options
@shared_options(hidden=True)
@pass_options
def create(
    options: Options, /, clip: str, faceset: str, model: str, project: str, session_id: str, **settings: Any
) -> None:
    """Make a session: which footage, which faces, which model, which settings.

    \b
        understudy session create --clip footage --faceset footage --model quick96 --erode 10 --project shot-010
    """
    from google.protobuf import json_format

    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.v1 import merge_service_pb2

    message = json_format.ParseDict(merge_settings(settings), merge_service_pb2.MergeSettings())
    wished = merge_service_pb2.MergeSession(
        clip=resource(clip, "clips", project),
        faceset=resource(faceset, "facesets", project),
        model=resource(model, "runs", project),
        settings=[merge_service_pb2.FrameSettings(settings=message)],
    )
    request = merge_service_pb2.CreateSessionRequest(parent=project, session_id=session_id, session=wished)
    with connected(options) as connection:
        made = connection.client.merge.CreateSession(request)
    show(options, plain(made), made.name)


@session.command("list")
@project_option()
@shared_options(hidden=True)
@pass_options
def list_(options: Options, project: str) -> None:
    """List the merge sessions of a project.

    \b
        understudy session list --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show_list
    from understudy.cli.plain import plain
    from understudy.v1 import merge_service_pb2

    request = merge_service_pb2.ListSessionsRequest(parent=project)
    with connected(options) as connection:
        found = [plain(item) for item in pages(connection.client.merge.ListSessions, request, "sessions")]
    columns = {"NAME": "name", "CLIP": "clip", "FACESET": "faceset", "MODEL": "model", "MADE": "create_time"}
    show_list(options, "sessions", found, columns)


@session.command("show")
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def show_(options: Options, name: str, project: str) -> None:
    """Show a merge session with its settings.

    \b
        understudy session show first --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.v1 import merge_service_pb2

    request = merge_service_pb2.GetSessionRequest(name=resource(name, "sessions", project))
    with connected(options) as connection:
        show(options, plain(connection.client.merge.GetSession(request)))


@session.command()
@click.argument("name")
@project_option(required=False)
@frames_option()
@click.option("--again", is_flag=True, help="Compute even where equal work was done before.")
@click.option("-d", "--detach", is_flag=True, help="Begin and end at once; `op watch` shows how it goes.")
@shared_options(hidden=True)
@pass_options
def merge(
    options: Options, name: str, project: str, ranges: list[common_pb2.FrameRange], again: bool, detach: bool
) -> None:
    """Put the faces into the frames of a session. Interrupted, the same command goes on.

    \b
        understudy session merge first --frames 1001-1100 --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.follow import finish_operation
    from understudy.v1 import merge_service_pb2

    request = merge_service_pb2.MergeFramesRequest(
        session=resource(name, "sessions", project), ranges=ranges, skip_cache=again
    )
    with connected(options) as connection:
        operation = connection.client.merge.MergeFrames(request)
        response = merge_service_pb2.MergeFramesResponse()
        finish_operation(options, connection, operation, response, "merge", detach=detach)


@session.command()
@click.argument("name")
@project_option(required=False)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The film, .mp4.")
@click.option("--mask", is_flag=True, help="Encode the matte instead of the picture.")
@crf_option
@shared_options(hidden=True)
@pass_options
def encode(options: Options, name: str, project: str, output: Path, mask: bool, crf: int | None) -> None:
    """Make a film of the frames that were merged last, with the footage's sound.

    \b
        understudy session encode first -o film.mp4 --crf 14 --project shot-010
    """
    from google.protobuf import json_format

    from understudy.cli.connection import connected
    from understudy.cli.follow import finish_operation
    from understudy.transfer import download
    from understudy.v1 import merge_service_pb2

    if output.suffix.lower() != ".mp4":
        raise click.BadParameter(f"{output}: films are written as .mp4", param_hint="--output")
    session_name = resource(name, "sessions", project)
    request = merge_service_pb2.EncodeVideoRequest(
        session=session_name,
        settings=json_format.ParseDict(encode_settings(crf), merge_service_pb2.EncodeSettings()),
        mask=mask,
    )
    with connected(options) as connection:

        def fetch(response: merge_service_pb2.EncodeVideoResponse) -> dict[str, Any]:
            download(connection.client, session_name.rpartition("/sessions/")[0], response.video, output)
            return {"output": str(output)}

        operation = connection.client.merge.EncodeVideo(request)
        response = merge_service_pb2.EncodeVideoResponse()
        finish_operation(options, connection, operation, response, "encode", detach=False, then=fetch)
