"""Sorting and choosing, as parts of `understudy faceset`: `sort`, `best` and `dupes`. Each is one revision; `undo` takes it back."""

from __future__ import annotations

from typing import Any

import click

from understudy.cli.options import Options, pass_options, shared_options
from understudy.cli.values import project_option, resource

METHODS = {
    "blur": "sharpest first; faces without any edge to the trash",
    "motion-blur": "least motion blur first; featureless faces to the trash",
    "yaw": "from looking to the image's left to its right",
    "pitch": "from looking up to looking down",
    "source-size": "largest in its frame first",
    "hist": "each face followed by the one most alike in colour",
    "hist-dissim": "the most unusual light first",
    "brightness": "brightest first",
    "hue": "by hue, round the colour circle",
    "black": "least black first",
    "original-name": "as the source pictures are named",
    "one-face": "frames with several faces to the trash",
    "absdiff": "each face followed by the one most alike pixel by pixel",
    "absdiff-dissim": "each face followed by the one least alike pixel by pixel",
    "best": "the sharpest faces spread over yaw and pitch; the rest to the trash",
    "best-faster": "the largest faces spread over yaw and pitch; the rest to the trash",
    "final": "the sharpest faces spread over yaw alone; the rest to the trash",
}
_detach_option = click.option(
    "-d", "--detach", is_flag=True, help="Begin and end at once; `op watch` shows how it goes."
)
_reference_option = click.option(
    "--reference", is_flag=True, help="DeepFaceLab's own definition, its defects included."
)


@click.command(
    epilog="\b\nMethods:\n" + "\n".join(f"  {method:<15} {summary}" for method, summary in METHODS.items()),
)
@click.argument("name")
@click.option(
    "--by",
    "method",
    type=click.Choice(tuple(METHODS)),
    default="hist",
    show_default=True,
    metavar="METHOD",
    help="See below.",
)
@click.option("--reverse", is_flag=True, help="The other way round.")
@_reference_option
@click.option(
    "--count",
    "target_count",
    type=click.IntRange(1),
    help="By best, best-faster and final: how many faces to keep.  [default: 2000]",
)
@_detach_option
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def sort(
    options: Options,
    name: str,
    method: str,
    reverse: bool,
    reference: bool,
    target_count: int | None,
    detach: bool,
    project: str,
) -> None:
    """Put the faces in order. What a method throws out goes to the trash. Faces are measured once; a second sort is quick.

    \b
        understudy faceset sort footage-1a2b3c4d --by blur --project shot-010
        understudy faceset sort footage-1a2b3c4d --by original-name --project shot-010
    """
    from understudy.v1 import faceset_service_pb2

    request = faceset_service_pb2.SortFacesetRequest(
        faceset=resource(name, "facesets", project),
        method=method,
        reverse=reverse,
        reference=reference,
        target_count=target_count or 0,
    )
    _arrange(options, "SortFaceset", request, "sort", detach=detach)


@click.command()
@click.argument("name")
@click.option(
    "--count", "target_count", type=click.IntRange(1), default=2000, show_default=True, help="How many faces to keep."
)
@click.option("--faster", is_flag=True, help="Judge sharpness by how large the face is in its frame.")
@_reference_option
@_detach_option
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def best(
    options: Options, name: str, target_count: int, faster: bool, reference: bool, detach: bool, project: str
) -> None:
    """Keep the best faces, spread over yaw and pitch; the rest goes to the trash.

    \b
        understudy faceset best footage-1a2b3c4d --count 1500 --project shot-010
    """
    from understudy.v1 import faceset_service_pb2

    request = faceset_service_pb2.SelectBestRequest(
        faceset=resource(name, "facesets", project), target_count=target_count, faster=faster, reference=reference
    )
    _arrange(options, "SelectBest", request, "best", detach=detach)


@click.command()
@click.argument("name")
@click.option(
    "--strength",
    type=click.IntRange(1, 4),
    default=2,
    show_default=True,
    help="1: the same picture, recompressed or resized too. 2: hardly moved. 3: a little different. 4: loosely alike.",
)
@_detach_option
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def dupes(options: Options, name: str, strength: int, detach: bool, project: str) -> None:
    """Find faces that show the same again, and move them to the trash. Of those alike the sharpest one stays.

    \b
        understudy faceset dupes footage-1a2b3c4d --strength 1 --project shot-010
    """
    from understudy.v1 import faceset_service_pb2

    request = faceset_service_pb2.FindDuplicatesRequest(faceset=resource(name, "facesets", project), strength=strength)
    _arrange(options, "FindDuplicates", request, "dupes", detach=detach)


COMMANDS = (sort, best, dupes)


def _arrange(options: Options, method: str, request: Any, stage: str, *, detach: bool) -> None:
    from understudy.cli.connection import connected
    from understudy.cli.follow import finish_operation
    from understudy.v1 import faceset_service_pb2

    with connected(options) as connection:
        operation = getattr(connection.client.facesets, method)(request)
        response = faceset_service_pb2.RevisionResponse()
        finish_operation(options, connection, operation, response, stage, detach=detach)
