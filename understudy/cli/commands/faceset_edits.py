"""What comes after the extraction, as parts of `understudy faceset`: `align`, `reextract`, `smooth`, `select` and `debug`."""

from __future__ import annotations

import json
import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from understudy.cli.extraction import crop_options, extraction_message, finding_options
from understudy.cli.options import Options, pass_options, shared_options
from understudy.cli.values import frames_option, project_option, resource

if TYPE_CHECKING:
    from understudy.v1 import common_pb2, face_service_pb2

_POINTS = 136
_detach_option = click.option(
    "-d", "--detach", is_flag=True, help="Begin and end at once; `op watch` shows how it goes."
)


@click.command()
@click.argument("name")
@click.argument("number", type=int)
@click.option(
    "--landmarks",
    "landmarks_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON file with the 68 points in frame pixels: a list of pairs or of 136 numbers.",
)
@click.option(
    "--place",
    nargs=3,
    type=float,
    metavar="X Y SIDE",
    help="Put the mean face here: the middle between brows and mouth, and the side of the square around them, in pixels.",
)
@click.option("--roll", "roll_deg", type=float, default=0.0, help="With --place: turned clockwise by so many degrees.")
@click.option("--snap", is_flag=True, help="Let the landmark network correct the points.")
@click.option("--replaces", default="", metavar="FACE", help="The face whose place it takes.  [default: a new face]")
@crop_options(new=False)
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def align(
    options: Options,
    /,
    name: str,
    number: int,
    landmarks_file: Path | None,
    place: tuple[float, float, float] | None,
    roll_deg: float,
    snap: bool,
    replaces: str,
    project: str,
    **how: Any,
) -> None:
    """Align one face of frame NUMBER by hand. The other faces of the frame stay as they are.

    \b
        understudy faceset align footage-1a2b3c4d 1042 --place 960 480 220 --roll 15 --snap --project shot-010
        understudy faceset align footage-1a2b3c4d 1042 --landmarks points.json --replaces f001042_0-1a2b3c4d --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.v1 import face_service_pb2

    if (landmarks_file is None) == (place is None):
        raise click.UsageError("give --landmarks or --place: one of the two")
    request = face_service_pb2.AlignFaceRequest(
        faceset=resource(name, "facesets", project),
        frame_number=number,
        replaces=replaces,
        landmarks_px=_points(landmarks_file) if landmarks_file else (),
        snap=snap,
        options=extraction_message(how),
    )
    if place:
        request.placement.center_x_px, request.placement.center_y_px, request.placement.side_px = place
        request.placement.roll_deg = roll_deg
    with connected(options) as connection:
        face = connection.client.faces.AlignFace(request)
    show(options, plain(face), face.face_id)


@click.command()
@click.argument("name")
@project_option(required=False)
@frames_option()
@click.option("--missing", "only_missing", is_flag=True, help="Only frames that have no face.")
@click.option(
    "--trashed",
    "only_trashed",
    is_flag=True,
    help="Only frames with a face in the trash: what is found in its place takes it out of there.",
)
@click.option(
    "--keep-landmarks",
    is_flag=True,
    help="Do not look again: cut every face out again by its landmarks, for another type, size or format.",
)
@click.option(
    "--replace",
    is_flag=True,
    help="Put what is found in the place of the faces that lie there; not of those set by hand.",
)
@crop_options(new=False)
@finding_options
@_detach_option
@shared_options(hidden=True)
@pass_options
def reextract(
    options: Options,
    /,
    name: str,
    project: str,
    ranges: list[common_pb2.FrameRange],
    only_missing: bool,
    only_trashed: bool,
    keep_landmarks: bool,
    replace: bool,
    detach: bool,
    **how: Any,
) -> None:
    """Extract faces again: from chosen frames, from frames that have none, for deleted faces, or all of them at another type or size.

    \b
        understudy faceset reextract footage-1a2b3c4d --missing --min-score 0.3 --project shot-010
        understudy faceset reextract footage-1a2b3c4d --keep-landmarks --face-type head --size 1024 --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.follow import finish_operation
    from understudy.v1 import face_service_pb2

    request = face_service_pb2.ReextractFacesRequest(
        faceset=resource(name, "facesets", project),
        ranges=ranges,
        only_missing=only_missing,
        only_trashed=only_trashed,
        keep_landmarks=keep_landmarks,
        replace=replace,
        options=extraction_message(how),
    )
    with connected(options) as connection:
        operation = connection.client.faces.ReextractFaces(request)
        response = face_service_pb2.ReextractFacesResponse()
        finish_operation(options, connection, operation, response, "reextract", detach=detach)


@click.command()
@click.argument("name")
@project_option(required=False)
@click.option(
    "--radius",
    "radius_frames",
    type=click.IntRange(1, 30),
    help="How far to look before and after, in frames. Fast motion is kept whatever it is.  [default: 15]",
)
@_detach_option
@shared_options(hidden=True)
@pass_options
def smooth(options: Options, name: str, project: str, radius_frames: int | None, detach: bool) -> None:
    """Steady the landmarks in time and cut the faces out again. Faces set by hand are not moved. Again with another radius starts afresh.

    \b
        understudy faceset smooth footage-1a2b3c4d --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.follow import finish_operation
    from understudy.v1 import face_service_pb2

    request = face_service_pb2.SmoothFacesRequest(
        faceset=resource(name, "facesets", project), radius_frames=radius_frames or 0
    )
    with connected(options) as connection:
        operation = connection.client.faces.SmoothFaces(request)
        response = face_service_pb2.SmoothFacesResponse()
        finish_operation(options, connection, operation, response, "smooth", detach=detach)


@click.command()
@click.argument("name")
@project_option(required=False)
@click.option("--track", "tracks", multiple=True, metavar="TRACK", help="Keep this track; may be given more than once.")
@click.option(
    "--reference",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Keep whoever is on this picture; its largest face counts.",
)
@click.option(
    "--min-similarity", type=click.FloatRange(0, 1), help="With --reference: how alike a track must be, 0 to 1."
)
@_detach_option
@shared_options(hidden=True)
@pass_options
def select(
    options: Options,
    name: str,
    project: str,
    tracks: tuple[str, ...],
    reference: Path | None,
    min_similarity: float | None,
    detach: bool,
) -> None:
    """Keep one person: all other faces go to the trash, from where they can come back.

    \b
        understudy faceset select footage-1a2b3c4d --reference actor.jpg --project shot-010
        understudy faceset select footage-1a2b3c4d --track t000000 --track t000003 --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.follow import finish_operation
    from understudy.transfer import upload
    from understudy.v1 import face_service_pb2

    if bool(tracks) == (reference is not None):
        raise click.UsageError("give --track or --reference: one of the two")
    faceset = resource(name, "facesets", project)
    request = face_service_pb2.SelectPersonRequest(faceset=faceset, track_ids=tracks, min_similarity=min_similarity)
    with connected(options) as connection:
        if reference is not None:
            media_type = mimetypes.guess_type(reference.name)[0] or "application/octet-stream"
            picture = upload(connection.client, _project_of(faceset), reference, media_type=media_type)
            request.reference.CopyFrom(picture)
        operation = connection.client.faces.SelectPerson(request)
        response = face_service_pb2.SelectPersonResponse()
        finish_operation(options, connection, operation, response, "select", detach=detach)


@click.command()
@click.argument("name")
@project_option(required=False)
@frames_option()
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the pictures; what is in it already is not fetched again.  [default: they stay in the store]",
)
@_detach_option
@shared_options(hidden=True)
@pass_options
def debug(
    options: Options,
    name: str,
    project: str,
    ranges: list[common_pb2.FrameRange],
    output: Path | None,
    detach: bool,
) -> None:
    """Draw landmarks, masks, boxes and crops into the frames, to look at. Frames without a face are there too.

    \b
        understudy faceset debug footage-1a2b3c4d --frames 1001-1100 -o debug/ --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.follow import finish_operation
    from understudy.cli.pictures import fetched_pictures
    from understudy.v1 import face_service_pb2

    faceset = resource(name, "facesets", project)
    request = face_service_pb2.RenderDebugRequest(faceset=faceset, ranges=ranges)
    with connected(options) as connection:

        def fetch(response: face_service_pb2.RenderDebugResponse) -> dict[str, Any]:
            if output is None:
                return {}
            return fetched_pictures(options, connection, _project_of(faceset), response.manifest, output)

        operation = connection.client.faces.RenderDebug(request)
        response = face_service_pb2.RenderDebugResponse()
        finish_operation(options, connection, operation, response, "debug", detach=detach, then=fetch)


def _project_of(faceset: str) -> str:
    return faceset.rpartition("/facesets/")[0]


def _points(path: Path) -> list[float]:
    """136 numbers of a JSON file that holds them flat or in pairs."""
    try:
        values = json.loads(path.read_text())
        numbers = [float(value) for item in values for value in (item if isinstance(item, list) else [item])]
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} is not a JSON list of points: {error}", param_hint="--landmarks") from None
    if len(numbers) != _POINTS:
        raise click.BadParameter(
            f"{path} holds {len(numbers)} numbers: 68 points are {_POINTS}", param_hint="--landmarks"
        )
    return numbers
