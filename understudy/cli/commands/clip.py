"""`understudy clip`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import click

from understudy.cli.options import Options, pass_options, shared_options
from understudy.cli.values import pages, project_option, resource
from understudy.cli.values import rate as frame_rate

_PREVIEWS = (".jpg", ".jpeg")


@click.group()
def clip() -> None:
    """Clips: footage that was added to a project.

    \b
        understudy clip add footage.mp4 --project shot-010
        understudy clip frame footage-1a2b3c4d 0 -o first.png --project shot-010
    """


@clip.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@project_option()
@click.option("--id", "clip_id", default="", help="The clip's id; made of the file's name and content when not given.")
@click.option(
    "--rate",
    type=frame_rate,
    metavar="RATE",
    help="Frames a second of a folder of pictures: 24, 23.976 or 24000/1001.  [default: 25]",
)
@shared_options(hidden=True)
@pass_options
def add(options: Options, path: Path, project: str, clip_id: str, rate: Fraction | None) -> None:
    """Add a video, or a folder of numbered pictures, to a project. The file is read whole once.

    \b
        understudy clip add footage.mp4 --project shot-010
        understudy clip add plates/ --rate 24000/1001 --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.media import add_clip
    from understudy.v1 import common_pb2

    if rate is not None and not path.is_dir():
        raise click.BadParameter("only a folder of pictures has no rate of its own", param_hint="--rate")
    sequence_rate = common_pb2.Rational(num=rate.numerator, den=rate.denominator) if rate else None
    with connected(options) as connection:
        added = add_clip(connection.client, project, path, clip_id=clip_id, sequence_rate=sequence_rate)
    show(options, plain(added))


@clip.command("list")
@project_option()
@shared_options(hidden=True)
@pass_options
def list_(options: Options, project: str) -> None:
    """List the clips of a project.

    \b
        understudy clip list --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show_list
    from understudy.cli.plain import plain
    from understudy.v1 import frame_service_pb2

    request = frame_service_pb2.ListClipsRequest(parent=project)
    with connected(options) as connection:
        found = [plain(item) for item in pages(connection.client.frames.ListClips, request, "clips")]
    columns = {
        "NAME": "name",
        "FILE": "display_name",
        "FRAMES": "info.frame_count",
        "WIDTH": "info.image.width",
        "HEIGHT": "info.image.height",
        "SECONDS": "info.duration",
        "CODEC": "info.codec",
    }
    show_list(options, "clips", found, columns)


@clip.command("show")
@click.argument("name")
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def show_(options: Options, name: str, project: str) -> None:
    """Show a clip: frames, rate, size, colour tags, sound.

    \b
        understudy clip show footage-1a2b3c4d --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.plain import plain
    from understudy.v1 import frame_service_pb2

    request = frame_service_pb2.GetClipRequest(name=resource(name, "clips", project))
    with connected(options) as connection:
        show(options, plain(connection.client.frames.GetClip(request)))


@clip.command()
@click.argument("name")
@click.argument("number", type=int)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Where to: .png for the whole frame as it is, .jpg for a preview.",
)
@click.option(
    "--max-side",
    type=click.IntRange(1, 16384),
    default=1280,
    show_default=True,
    help="Longest side of a preview, in pixels.",
)
@project_option(required=False)
@shared_options(hidden=True)
@pass_options
def frame(options: Options, name: str, number: int, output: Path, max_side: int, project: str) -> None:
    """Write one frame as a picture. NUMBER counts from 0 in videos; sequences keep the numbers of their files.

    \b
        understudy clip frame footage-1a2b3c4d 120 -o frame.png --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.transfer import download
    from understudy.v1 import frame_service_pb2

    kind = output.suffix.lower()
    if kind not in (".png", *_PREVIEWS):
        raise click.BadParameter(f"{output}: frames are written as .png or .jpg", param_hint="--output")
    clip_name = resource(name, "clips", project)
    request = frame_service_pb2.GetFrameRequest(
        clip=clip_name, frame_number=number, max_side_px=max_side if kind in _PREVIEWS else 0
    )
    with connected(options) as connection:
        found = connection.client.frames.GetFrame(request)
        if kind in _PREVIEWS:
            output.write_bytes(found.preview_jpeg)
        else:
            download(connection.client, clip_name.rpartition("/clips/")[0], found.image, output)
    seconds = found.time.ToMicroseconds() / 1e6
    show(options, {"clip": clip_name, "frame_number": number, "time_s": seconds, "output": str(output)}, str(output))
