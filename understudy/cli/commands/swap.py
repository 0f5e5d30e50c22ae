"""`understudy swap`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from understudy.cli.failure import WORK_FAILED
from understudy.cli.merging import crf_option, encode_settings, merge_options, merge_settings
from understudy.cli.options import Options, pass_options, shared_options
from understudy.cli.values import json_pair, nested

if TYPE_CHECKING:
    from understudy.swap import SwapResult

_FOOTAGE = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("src", type=_FOOTAGE)
@click.argument("dst", type=_FOOTAGE)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The film, .mp4.")
@click.option("--preset", default="quick96", show_default=True, help="How to train; `run presets` lists what there is.")
@click.option(
    "--iterations",
    type=click.IntRange(1),
    help="How long to train.  [default: the preset's, or 20000 where it has none]",
)
@click.option(
    "--set-train",
    type=json_pair,
    metavar="NAME=VALUE",
    multiple=True,
    help="Override a training option, several times: --set-train batch_size=8.",
)
@merge_options
@crf_option
@click.option(
    "-p", "--project", default="", envvar="UNDERSTUDY_PROJECT", help="Project to work in; made when it is not there."
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Workers that train together.")
@shared_options(hidden=True)
@pass_options
def swap(
    options: Options,
    /,
    src: Path,
    dst: Path,
    output: Path,
    preset: str,
    iterations: int | None,
    set_train: tuple[tuple[str, Any], ...],
    crf: int | None,
    project: str,
    workers: int,
    **settings: Any,
) -> None:
    """Put the face of SRC onto the person in DST and write a film.

    SRC (the performer) and DST (the footage) are videos or folders of numbered pictures. The same command again goes
    on where it stood, or finds everything done. The film appears only when it is whole.

    \b
        understudy swap performer.mp4 footage.mp4 -o film.mp4 --preset quick96 --iterations 20000
    """
    from understudy.cli.connection import connected
    from understudy.cli.output import show
    from understudy.cli.progress import shown
    from understudy.swap import SwapOptions
    from understudy.swap import swap as run_swap

    _check_writable(output)
    wished = SwapOptions(
        preset=preset,
        iterations=iterations or 0,
        train_options=nested(set_train),
        merge=merge_settings(settings),
        encode=encode_settings(crf),
        project=project.removeprefix("projects/"),
        workers=workers,
    )
    with connected(options) as connection, shown(options) as shower:
        result = run_swap(connection.client, src, dst, output, wished, shower)
    show(options, result.to_json(), _summary(result))
    for stage, count in result.failed_items.items():
        click.echo(f"failed: {count} items of {stage}; `understudy op list` names the operation", err=True)
    if result.failed_items:
        raise click.exceptions.Exit(WORK_FAILED)


def _check_writable(output: Path) -> None:
    """Now rather than after hours of training."""
    folder = output.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise click.BadParameter(
            f"{output} cannot be written: {folder} is no folder that may be written to", param_hint="--output"
        )


def _summary(result: SwapResult) -> str:
    missed = f", {result.frames_without_face} without a face" if result.frames_without_face else ""
    return (
        f"{result.output}: {result.frames_out} frames{missed}, {result.iterations} iterations, "
        f"{result.seconds['total']:.0f} s, project {result.project}"
    )
