"""`understudy weights`: no server needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from understudy.cli.options import Options, pass_options, shared_options

if TYPE_CHECKING:
    from services.kit.weights import WeightStatus

_COLUMNS = {"NAME": "name", "STATE": "state", "LICENCE": "licence", "WHAT": "note", "FILE": "file"}
_dir = click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where weight files are.  [default: UNDERSTUDY_WEIGHTS_DIR, or ~/.cache/understudy/weights]",
)


@click.group()
def weights() -> None:
    """Weight files of the detectors, checked against their hashes.

    \b
        understudy weights fetch
    """


@weights.command()
@_dir
@click.option(
    "--wheel",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A copy of the wheel they come from, for machines without network.",
)
@shared_options(hidden=True)
@pass_options
def fetch(options: Options, folder: Path | None, wheel: Path | None) -> None:
    """Download and convert what is missing. What is there and right is kept.

    \b
        understudy weights fetch
    """
    from services.kit import weights as files

    def say(text: str) -> None:
        if not options.quiet:
            click.echo(text, err=True)

    found = files.fetch(folder or files.default_weights_dir(), on_event=say, wheel=wheel)
    _show(options, found)


@weights.command("list")
@_dir
@shared_options(hidden=True)
@pass_options
def list_(options: Options, folder: Path | None) -> None:
    """List the weight files and whether each is ok, missing or damaged.

    \b
        understudy weights list
    """
    from services.kit import weights as files

    _show(options, files.status(folder or files.default_weights_dir()))


@weights.command()
@_dir
@shared_options(hidden=True)
@pass_options
def verify(options: Options, folder: Path | None) -> None:
    """Fail unless every weight file is there with the right bytes.

    \b
        understudy weights verify
    """
    from services.kit import weights as files

    place = folder or files.default_weights_dir()
    files.verify(place)
    _show(options, files.status(place))


def _show(options: Options, found: list[WeightStatus]) -> None:
    from understudy.cli.output import show_list

    show_list(options, "weights", [_plain(item) for item in found], _COLUMNS)


def _plain(item: WeightStatus) -> dict[str, Any]:
    entry = item.entry
    return {
        "name": entry.name,
        "state": item.state,
        "file": str(item.path),
        "sha256": entry.sha256,
        "licence": entry.licence,
        "source": entry.source,
        "note": entry.note,
    }
