"""Facesets by hand, as parts of `understudy faceset`: made, named, their faces thrown out, brought back and marked. No face is lost."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from understudy.cli.extraction import FACE_TYPES
from understudy.cli.options import Options, pass_options, shared_options
from understudy.cli.values import frames_option, pages, project_option, resource, text_pair

if TYPE_CHECKING:
    from understudy.client import Client
    from understudy.v1 import common_pb2, faceset_service_pb2

_FACES_PER_CALL = 50_000  # ids that fit into one message
_UPDATES_PER_CALL = 1000

_filter_option = click.option(
    "--filter",
    "filter_",
    default="",
    metavar="FILTER",
    help="Faces that it lets through: 'yaw_deg > 60 AND NOT has_mask'.",
)
_label_option = click.option(
    "--label",
    "labels",
    type=text_pair,
    metavar="NAME=VALUE",
    multiple=True,
    help="Free label, several times: --label show=demo.",
)


@click.command()
@click.argument("faceset_id", metavar="ID")
@project_option()
@click.option("--name", "display_name", default="", help="A name for people.")
@_label_option
@click.option("--clip", default="", help="The footage that its faces will come from.")
@click.option("--face-type", type=click.Choice(FACE_TYPES), help="Type of the faces to come.")
@click.option("--size", "size_px", type=click.IntRange(1), default=0, help="Side of the crops to come, in pixels.")
@shared_options(hidden=True)
@pass_options
def create(
    options: Options,
    faceset_id: str,
    project: str,
    display_name: str,
    labels: tuple[tuple[str, str], ...],
    clip: str,
    face_type: str | None,
    size_px: int,
) -> None:
    """Make an empty faceset.

    \b
        understudy faceset create hand-picked --name "Hand-picked" --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.v1 import faceset_service_pb2

    wished = faceset_service_pb2.Faceset(display_name=display_name, labels=dict(labels), size_px=size_px)
    if clip:
        wished.clip = resource(clip, "clips", project)
    if face_type:
        wished.face_type = f"FACE_TYPE_{face_type.upper().replace('-', '_')}"  # type: ignore[assignment]
    request = faceset_service_pb2.CreateFacesetRequest(parent=project, faceset_id=faceset_id, faceset=wished)
    with connected(options) as connection:
        made = connection.client.facesets.CreateFaceset(request)
    show(options, plain(made), made.name)


@click.command()
@click.argument("name")
@project_option(required=False)
@click.option("--name", "display_name", help="A name for people.")
@_label_option
@shared_options(hidden=True)
@pass_options
def update(
    options: Options, name: str, project: str, display_name: str | None, labels: tuple[tuple[str, str], ...]
) -> None:
    """Change a faceset's name for people or its labels. Labels that are given replace all that there are.

    \b
        understudy faceset update footage-1a2b3c4d --name "Ada, takes 1 to 4" --label show=demo --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.v1 import faceset_service_pb2

    paths = ["display_name"] * (display_name is not None) + ["labels"] * bool(labels)
    if not paths:
        raise click.UsageError("give --name or --label: what to change")
    wished = faceset_service_pb2.Faceset(
        name=resource(name, "facesets", project), display_name=display_name or "", labels=dict(labels)
    )
    request = faceset_service_pb2.UpdateFacesetRequest(faceset=wished)
    request.update_mask.paths.extend(paths)
    with connected(options) as connection:
        show(options, plain(connection.client.facesets.UpdateFaceset(request)))


@click.command()
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def delete(options: Options, name: str, project: str) -> None:
    """Put a faceset into the project's trash. Nothing is lost: `undelete` brings it back.

    \b
        understudy faceset delete footage-1a2b3c4d --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.v1 import faceset_service_pb2

    request = faceset_service_pb2.DeleteFacesetRequest(name=resource(name, "facesets", project))
    with connected(options) as connection:
        connection.client.facesets.DeleteFaceset(request)
    show(options, {"name": request.name, "deleted": True}, f"{request.name} is in the trash")


@click.command()
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def undelete(options: Options, name: str, project: str) -> None:
    """Take a faceset out of the project's trash.

    \b
        understudy faceset undelete footage-1a2b3c4d --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.v1 import faceset_service_pb2

    request = faceset_service_pb2.UndeleteFacesetRequest(name=resource(name, "facesets", project))
    with connected(options) as connection:
        show(options, plain(connection.client.facesets.UndeleteFaceset(request)))


@click.command()
@click.argument("name")
@click.argument("faces", nargs=-1, metavar="[FACE]...")
@_filter_option
@frames_option(help="Faces of these frames: 1001-1100x2,1150.")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def trash(
    options: Options,
    name: str,
    faces: tuple[str, ...],
    filter_: str,
    ranges: list[common_pb2.FrameRange],
    project: str,
) -> None:
    """Put faces into the faceset's trash, by id, by filter or by frame. `restore` and `undo` bring them back.

    \b
        understudy faceset trash footage-1a2b3c4d f001042_0-1a2b3c4d --project shot-010
        understudy faceset trash footage-1a2b3c4d --filter 'sharpness < 20 OR detection_score < 0.5' --project shot-010
    """
    from understudy.v1 import faceset_service_pb2

    if not (faces or filter_ or ranges):
        raise click.UsageError("say which faces: by id, --filter or --frames")
    make = faceset_service_pb2.TrashFacesRequest
    _change_chosen(options, resource(name, "facesets", project), "TrashFaces", make, faces, filter_, ranges)


@click.command()
@click.argument("name")
@click.argument("faces", nargs=-1, metavar="[FACE]...")
@_filter_option
@frames_option(help="Faces of these frames: 1001-1100x2,1150.")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def restore(
    options: Options,
    name: str,
    faces: tuple[str, ...],
    filter_: str,
    ranges: list[common_pb2.FrameRange],
    project: str,
) -> None:
    """Take faces out of the faceset's trash: those that are named, or all of them.

    \b
        understudy faceset restore footage-1a2b3c4d --filter 'yaw_deg > 40' --project shot-010
    """
    from understudy.v1 import faceset_service_pb2

    if ranges and not filter_:
        filter_ = "trashed"
    elif filter_:
        filter_ = f"({filter_}) AND trashed"
    make = faceset_service_pb2.RestoreFacesRequest
    _change_chosen(options, resource(name, "facesets", project), "RestoreFaces", make, faces, filter_, ranges)


@click.command()
@click.argument("name")
@click.argument("revision", type=click.IntRange(1))
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def revert(options: Options, name: str, revision: int, project: str) -> None:
    """Make an old state the one in force, as a new revision. `revisions` lists them.

    \b
        understudy faceset revert footage-1a2b3c4d 3 --project shot-010
    """
    _revert(options, resource(name, "facesets", project), revision)


@click.command()
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def undo(options: Options, name: str, project: str) -> None:
    """Undo the latest change of a faceset, and once more, the one before. `revert` brings back what was undone.

    \b
        understudy faceset undo footage-1a2b3c4d --project shot-010
    """
    _revert(options, resource(name, "facesets", project), 0)


@click.command()
@click.argument("name")
@click.argument("faces", nargs=-1, metavar="[FACE]...")
@_filter_option
@frames_option(help="Faces of these frames: 1001-1100x2,1150.")
@click.option("--person", help="Whose faces they are; '' when that is not known.")
@click.option("--track", "track_id", help="The track through the shot that they are in.")
@click.option(
    "--eyebrows",
    "eyebrows_expand",
    type=click.FloatRange(0, 4),
    help="How far eyebrows reach up in the mask; 1 is usual.",
)
@click.option("--no-mask", is_flag=True, help="Take their masks away: what follows from the landmarks is used again.")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def mark(
    options: Options,
    /,
    name: str,
    faces: tuple[str, ...],
    filter_: str,
    ranges: list[common_pb2.FrameRange],
    project: str,
    **fields: Any,
) -> None:
    """Say what is known of faces: whose they are, which track they are in, how their masks are drawn.

    \b
        understudy faceset mark footage-1a2b3c4d --filter 'track_id = t000003' --person ada --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.v1 import face_pb2, faceset_service_pb2

    paths = [path for path in ("person", "track_id", "eyebrows_expand") if fields[path] is not None]
    record = face_pb2.FaceRecord(**{path: fields[path] for path in paths})
    paths += ["mask"] * fields["no_mask"]
    if not (faces or filter_ or ranges):
        raise click.UsageError("say which faces: by id, --filter or --frames")
    if not paths:
        raise click.UsageError("say what to change: --person, --track, --eyebrows or --no-mask")
    faceset = resource(name, "facesets", project)
    with connected(options) as connection:
        chosen = _chosen(connection.client, faceset, faces, filter_, ranges)

        def request(part: Sequence[str]) -> faceset_service_pb2.BatchUpdateFacesRequest:
            request = faceset_service_pb2.BatchUpdateFacesRequest(parent=faceset, request_id=str(uuid.uuid4()))
            for face in part:
                update = request.updates.add(name=f"{faceset}/faces/{face}", record=record)
                update.update_mask.paths.extend(paths)
            return request

        method = connection.client.facesets.BatchUpdateFaces
        _show_changed(options, [method(request(part)) for part in _parts(chosen, _UPDATES_PER_CALL)])


COMMANDS = (create, update, delete, undelete, trash, restore, revert, undo, mark)


def _revert(options: Options, faceset: str, revision: int) -> None:
    from understudy.cli.connection import connected
    from understudy.v1 import faceset_service_pb2

    # With an id, since a call that a broken connection sends twice must not undo two changes.
    request = faceset_service_pb2.RevertFacesetRequest(faceset=faceset, revision=revision, request_id=str(uuid.uuid4()))
    with connected(options) as connection:
        _show_changed(options, [connection.client.facesets.RevertFaceset(request)])


def _change_chosen(
    options: Options,
    faceset: str,
    method: str,
    make: Callable[..., Any],
    faces: Sequence[str],
    filter_: str,
    ranges: Sequence[common_pb2.FrameRange],
) -> None:
    """Calls ``method`` with the faces that are named or listed; with none at all where nothing was said, which means every face."""
    from understudy.cli.connection import connected

    with connected(options) as connection:
        if not (faces or filter_ or ranges):
            parts: list[Sequence[str]] = [()]
        else:
            parts = _parts(_chosen(connection.client, faceset, faces, filter_, ranges), _FACES_PER_CALL)
        call = getattr(connection.client.facesets, method)
        _show_changed(
            options, [call(make(faceset=faceset, faces=part, request_id=str(uuid.uuid4()))) for part in parts]
        )


def _chosen(
    client: Client,
    faceset: str,
    faces: Sequence[str],
    filter_: str,
    ranges: Sequence[common_pb2.FrameRange],
) -> list[str]:
    """Ids of the faces that were named, and of those that a list finds."""
    from understudy.v1 import faceset_service_pb2

    found: Iterator[faceset_service_pb2.Face] = iter(())
    if filter_ or ranges:
        request = faceset_service_pb2.ListFacesRequest(parent=faceset, filter=filter_, frames=ranges)
        found = pages(client.facesets.ListFaces, request, "faces")
    named = [face.removeprefix(f"{faceset}/faces/") for face in faces]
    return list(dict.fromkeys([*named, *(face.record.face_id for face in found)]))


def _parts(faces: Sequence[str], most: int) -> list[Sequence[str]]:
    return [faces[at : at + most] for at in range(0, len(faces), most)]


def _show_changed(options: Options, responses: Sequence[faceset_service_pb2.RevisionResponse]) -> None:
    from understudy.cli.output import show
    from understudy.cli.plain import plain

    if not responses:
        show(options, {"faceset": None, "revision": None}, "no face is meant: nothing was changed")
        return
    faceset, revision = responses[-1].faceset, responses[-1].revision
    text = f"{revision.summary}: revision {revision.number} of {faceset.name}, {faceset.face_count} faces"
    show(options, plain(responses[-1]), f"{text}, {faceset.trashed_count} in the trash")
