"""`understudy clip`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from understudy.cli.options import Options, pass_options, shared_options
from understudy.cli.values import Moment, frames_option, moment, numbers, pages, project_option, resource
from understudy.cli.values import rate as frame_rate

if TYPE_CHECKING:
    from understudy.cli.connection import Connection
    from understudy.v1 import common_pb2

PICTURE_FORMATS = ("png", "jpg", "tif", "exr", "dpx")
_PREVIEWS = (".jpg", ".jpeg")
_WHOLE = {"image/png": ".png", "image/x-exr": ".exr"}


@click.group()
def clip() -> None:
    """Clips: footage that was added to a project.

    \b
        understudy clip add footage.mp4 --project shot-010
        understudy clip frame footage-1a2b3c4d 0 -o first.png --project shot-010
        understudy clip cut footage-1a2b3c4d --first 00:00:10:00 --last 00:00:20:00 --project shot-010
    """


_detach_option = click.option(
    "-d", "--detach", is_flag=True, help="Begin and end at once; `op watch` shows how it goes."
)


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
    help="Where to: .png (.exr where the footage is float) for the whole frame as it is, .jpg for a preview.",
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
    if kind not in (*_WHOLE.values(), *_PREVIEWS):
        raise click.BadParameter(f"{output}: frames are written as .png, .exr or .jpg", param_hint="--output")
    clip_name = resource(name, "clips", project)
    request = frame_service_pb2.GetFrameRequest(
        clip=clip_name, frame_number=number, max_side_px=max_side if kind in _PREVIEWS else 0
    )
    with connected(options) as connection:
        found = connection.client.frames.GetFrame(request)
        if kind in _PREVIEWS:
            output.write_bytes(found.preview_jpeg)
        elif kind != _WHOLE[found.image.media_type]:
            wanted = _WHOLE[found.image.media_type]
            raise click.BadParameter(f"{output}: whole frames of this clip are {wanted}", param_hint="--output")
        else:
            download(connection.client, clip_name.rpartition("/clips/")[0], found.image, output)
    seconds = found.time.ToMicroseconds() / 1e6
    show(options, {"clip": clip_name, "frame_number": number, "time_s": seconds, "output": str(output)}, str(output))


@clip.command()
@click.argument("name")
@project_option(required=False)
@frames_option()
@click.option(
    "--scenes",
    type=numbers,
    default=(),
    metavar="NUMBERS",
    help="Only these scenes, as `clip scenes` numbers them: 2,4-6.",
)
@click.option(
    "--rate",
    type=frame_rate,
    metavar="RATE",
    help="Keep so many frames a second, evenly chosen: 5, 23.976 or 24000/1001.  [default: all]",
)
@click.option(
    "--format",
    "picture_format",
    type=click.Choice(PICTURE_FORMATS),
    default="png",
    show_default=True,
    help="What kind of pictures. PNG, TIFF, DPX and EXR lose nothing of footage that is no deeper than they are.",
)
@click.option(
    "--jpeg-quality", type=click.IntRange(1, 100), default=90, show_default=True, help="Quality of JPEG pictures."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the pictures; what is in it already is not fetched again. With --detach nothing is: give the same command again.  "
    "[default: they stay in the store]",
)
@_detach_option
@shared_options(hidden=True)
@pass_options
def extract(
    options: Options,
    name: str,
    project: str,
    ranges: list[common_pb2.FrameRange],
    scenes: list[int],
    rate: Fraction | None,
    picture_format: str,
    jpeg_quality: int,
    output: Path | None,
    detach: bool,
) -> None:
    """Write frames of a clip as pictures, named after its file and their numbers. Interrupted, the same command goes on.

    \b
        understudy clip extract footage-1a2b3c4d --frames 1001-1100x2,1150 -o frames/ --project shot-010
        understudy clip extract footage-1a2b3c4d --scenes 2,4-6 --rate 5 --format jpg -o frames/ --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.follow import finish_operation
    from understudy.cli.pictures import fetched_pictures
    from understudy.v1 import common_pb2, frame_service_pb2

    if scenes and ranges:
        raise click.UsageError("give --frames or --scenes, not both")
    clip_name = resource(name, "clips", project)
    with connected(options) as connection:
        if scenes:
            ranges = _frames_of_scenes(options, connection, clip_name, scenes)
        request = frame_service_pb2.ExtractFramesRequest(
            clip=clip_name,
            ranges=ranges,
            frame_rate=common_pb2.Rational(num=rate.numerator, den=rate.denominator) if rate else None,
            format=picture_format,
            jpeg_quality=jpeg_quality,
        )
        operation = connection.client.frames.ExtractFrames(request)

        def fetch(response: frame_service_pb2.ExtractFramesResponse) -> dict[str, Any]:
            if output is None:
                return {}
            return fetched_pictures(options, connection, clip_name.rpartition("/clips/")[0], response.manifest, output)

        finish_operation(
            options,
            connection,
            operation,
            frame_service_pb2.ExtractFramesResponse(),
            "frames",
            detach=detach,
            then=fetch,
        )


@clip.command()
@click.argument("name")
@click.option(
    "--first",
    type=moment,
    required=True,
    metavar="WHERE",
    help="First frame kept: a number, a timecode (00:00:01:12, the clip's own where it has one), or seconds from its start "
    "(1.5s, 00:00:01.500).",
)
@click.option("--last", type=moment, required=True, metavar="WHERE", help="Last frame kept, written likewise.")
@project_option(required=False)
@click.option("--id", "clip_id", default="", help="The new clip's id.  [default: NAME-cut]")
@click.option(
    "--audio-stream", type=int, help="Which sound is kept, as `clip show` numbers the streams.  [default: the first]"
)
@click.option(
    "--bitrate",
    "bitrate_mbit",
    type=click.FloatRange(0),
    default=0.0,
    help="Megabits a second; 0 for visually lossless.  [default: 0]",
)
@_detach_option
@shared_options(hidden=True)
@pass_options
def cut(
    options: Options,
    name: str,
    first: Moment,
    last: Moment,
    project: str,
    clip_id: str,
    audio_stream: int | None,
    bitrate_mbit: float,
    detach: bool,
) -> None:
    """Cut a range out of a clip, exact to the frame, as a new clip with its sound. The original stays.

    \b
        understudy clip cut footage-1a2b3c4d --first 00:00:10:00 --last 00:00:20:00 --project shot-010
        understudy clip cut plates-5e6f7a8b --first 1001 --last 1100 --id plates-head --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.follow import finish_operation
    from understudy.v1 import common_pb2, frame_service_pb2

    clip_name = resource(name, "clips", project)
    with connected(options) as connection:
        info = connection.client.frames.GetClip(frame_service_pb2.GetClipRequest(name=clip_name)).info
        request = frame_service_pb2.CutClipRequest(
            clip=clip_name,
            range=common_pb2.FrameRange(first=first.frame(info), last=last.frame(info)),
            audio_stream_index=audio_stream,
            bitrate_mbit=bitrate_mbit,
            clip_id=clip_id,
        )
        operation = connection.client.frames.CutClip(request)
        finish_operation(options, connection, operation, frame_service_pb2.Clip(), "cut", detach=detach)


@clip.command()
@click.argument("name")
@click.option(
    "--factor", type=click.IntRange(1, 20), default=7, show_default=True, help="How strongly, 1 (hardly) to 20."
)
@project_option(required=False)
@click.option("--id", "clip_id", default="", help="The new clip's id.  [default: NAME-denoised]")
@_detach_option
@shared_options(hidden=True)
@pass_options
def denoise(options: Options, name: str, factor: int, project: str, clip_id: str, detach: bool) -> None:
    """Remove noise by comparing each frame with its neighbours, into a new clip. Interrupted, the same command goes on.

    \b
        understudy clip denoise footage-1a2b3c4d --factor 5 --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.follow import finish_operation
    from understudy.v1 import frame_service_pb2

    request = frame_service_pb2.DenoiseFramesRequest(
        clip=resource(name, "clips", project), factor=factor, clip_id=clip_id
    )
    with connected(options) as connection:
        operation = connection.client.frames.DenoiseFrames(request)
        finish_operation(options, connection, operation, frame_service_pb2.Clip(), "denoise", detach=detach)


@clip.command()
@click.argument("name")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="0 to 1; higher finds fewer cuts, 0 means the server's choice.  [default: 0]",
)
@project_option(required=False)
@_detach_option
@shared_options(hidden=True)
@pass_options
def scenes(options: Options, name: str, threshold: float, project: str, detach: bool) -> None:
    """Find where scenes begin and end. They are numbered from 1; `clip extract --scenes` takes the numbers.

    \b
        understudy clip scenes footage-1a2b3c4d --project shot-010
    """
    from understudy.cli.connection import connected
    from understudy.cli.follow import end_with, finish_operation, followed
    from understudy.cli.output import show_list
    from understudy.v1 import frame_service_pb2

    request = frame_service_pb2.DetectScenesRequest(clip=resource(name, "clips", project), threshold=threshold)
    with connected(options) as connection:
        response = frame_service_pb2.DetectScenesResponse()
        operation = connection.client.frames.DetectScenes(request)
        if detach:
            finish_operation(options, connection, operation, response, "scenes", detach=True)
            return
        ended = followed(options, connection.client, operation, "scenes")
        connection.client.result(ended, response)
    found = [
        {"number": number, "first": scene.first, "last": scene.last, "frames": scene.last - scene.first + 1}
        for number, scene in enumerate(response.scenes, 1)
    ]
    show_list(options, "scenes", found, {"SCENE": "number", "FIRST": "first", "LAST": "last", "FRAMES": "frames"})
    end_with(ended)


def _frames_of_scenes(
    options: Options, connection: Connection, clip_name: str, wanted: list[int]
) -> list[common_pb2.FrameRange]:
    """The ranges of scenes by their numbers; finds the scenes unless that was done before."""
    from understudy.cli.follow import followed
    from understudy.v1 import frame_service_pb2

    operation = connection.client.frames.DetectScenes(frame_service_pb2.DetectScenesRequest(clip=clip_name))
    ended = followed(options, connection.client, operation, "scenes")
    found = connection.client.result(ended, frame_service_pb2.DetectScenesResponse()).scenes
    if not 1 <= wanted[0] <= wanted[-1] <= len(found):
        raise click.BadParameter(f"{clip_name} has scenes 1 to {len(found)}", param_hint="--scenes")
    return [found[number - 1] for number in wanted]
