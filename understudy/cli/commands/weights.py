"""`understudy weights`: no server needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from understudy.cli.options import Options, pass_options, shared_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from ml_common.weights import WeightStatus
    from services.kit.config import Settings

_COLUMNS = {
    "NAME": "name",
    "STATE": "state",
    "SIZE": "size",
    "LICENCE": "licence",
    "HASH": "hash",
    "FOR": "note",
    "DO": "advice",
}
_dir = click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where weight files are.  [default: UNDERSTUDY_WEIGHTS_DIR, or ~/.cache/understudy/weights]",
)


@click.group()
def weights() -> None:
    """Weight files of the detectors, checked against their hashes.

    The default ones are fetched. Others a user brings: DeepFaceLab's S3FD.npy, 2DFAN.npy and 3DFAN.npy, the same
    networks as files of the face-alignment project, and MTCNN.

    \b
        understudy weights fetch
        understudy weights add S3FD.npy 2DFAN.npy
    """


@weights.command()
@_dir
@click.option(
    "--with",
    "extras",
    metavar="NAME",
    multiple=True,
    help="Also fetch these, which others publish: mtcnn (MIT; trained on WIDER FACE and CelebA).",
)
@click.option(
    "--wheel",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A copy of the wheel they come from, for machines without network.",
)
@shared_options(hidden=True)
@pass_options
def fetch(options: Options, folder: Path | None, extras: tuple[str, ...], wheel: Path | None) -> None:
    """Download and convert what is missing. What is there and right is kept.

    \b
        understudy weights fetch
        understudy weights fetch --with mtcnn
    """
    from services.kit import weights as files

    place = folder or files.default_weights_dir()
    _show(options, files.fetch(place, on_event=_say(options), wheel=wheel, extras=extras))


@weights.command()
@_dir
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--as", "name", metavar="NAME", help="Which network it is, where the file does not say: fan2d or fan3d.")
@click.option("--licence", metavar="SPDX", help="Its licence, for the record: MIT, CC-BY-NC-4.0.")
@click.option("--replace", is_flag=True, help="Put it in the place of other weights of that name.")
@shared_options(hidden=True)
@pass_options
def add(
    options: Options,
    folder: Path | None,
    paths: tuple[Path, ...],
    name: str | None,
    licence: str | None,
    replace: bool,
) -> None:
    """Convert files that you bring: .npy of DeepFaceLab, .pth or .zip of face-alignment, .pt of facenet-pytorch.

    What a file is is seen from its content, and nothing in it is ever executed. The file itself is not kept.

    \b
        understudy weights add S3FD.npy 2DFAN.npy
        understudy weights add net.pth --as fan3d --licence BSD-3-Clause
        understudy weights add pnet.pt rnet.pt onet.pt
    """
    from services.kit import weights as files

    place = folder or files.default_weights_dir()
    _show(
        options,
        files.add(paths, place, on_event=_say(options), name=name, licence=licence, replace=replace),
    )


@weights.command("list")
@_dir
@shared_options(hidden=True)
@pass_options
def list_(options: Options, folder: Path | None) -> None:
    """List the weight files and whether each is ok, missing, damaged or not added.

    \b
        understudy weights list
    """
    from services.kit import weights as files

    _show(options, files.status(folder or files.default_weights_dir()))


@weights.command()
@_dir
@click.argument("names", metavar="[NAME...]", nargs=-1)
@shared_options(hidden=True)
@pass_options
def verify(options: Options, folder: Path | None, names: tuple[str, ...]) -> None:
    """Fail unless the named files, or all that should be there, have the right bytes.

    \b
        understudy weights verify
        understudy weights verify s3fd fan2d
    """
    from services.kit import weights as files

    _show(options, files.verify(folder or files.default_weights_dir(), names))


@weights.command()
@_dir
@click.argument("name")
@shared_options(hidden=True)
@pass_options
def remove(options: Options, folder: Path | None, name: str) -> None:
    """Remove a weight file and its record from the folder. What the store has stays.

    \b
        understudy weights remove s3fd
    """
    from services.kit import weights as files

    place = folder or files.default_weights_dir()
    files.remove(name, place)
    _show(options, files.status(place, [name]))


@weights.command()
@_dir
@click.argument("names", metavar="[NAME...]", nargs=-1)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The server's YAML file of settings: its store is where they go.  [default: the store of the workspace]",
)
@click.option("--replace", is_flag=True, help="Put them in the place of other weights of those names.")
@shared_options(hidden=True)
@pass_options
def publish(options: Options, folder: Path | None, names: tuple[str, ...], config: Path | None, replace: bool) -> None:
    """Put the named files, or all that are there, into the server's store, where its workers find them.

    \b
        understudy weights publish s3fd fan2d --config server.yaml
    """
    from services.kit import weights as files
    from services.kit.execution.executor import open_settings_store

    settings = _settings(options, config)
    published = files.publish(names, folder or settings.weights_dir, open_settings_store(settings), replace=replace)
    _show(options, published)


def _settings(options: Options, config: Path | None) -> Settings:
    from services.kit.config import load_settings
    from understudy.local import workspace_settings

    return load_settings(config, {} if config else workspace_settings(options.workspace.resolve()))


def _say(options: Options) -> Callable[[str], None]:
    def say(text: str) -> None:
        if not options.quiet:
            click.echo(text, err=True)

    return say


def _show(options: Options, found: list[WeightStatus]) -> None:
    from understudy.cli.output import show_list

    items = [_plain(item) for item in found]
    columns = _COLUMNS if any(item["advice"] for item in items) else {k: v for k, v in _COLUMNS.items() if k != "DO"}
    if not options.json:
        items = [{**item, "hash": item["sha256"][:12], "size": _size(item["size_bytes"])} for item in items]
    show_list(options, "weights", items, columns)


def _plain(item: WeightStatus) -> dict[str, Any]:
    return {
        "name": item.name,
        "state": item.state,
        "file": str(item.path),
        "size_bytes": item.path.stat().st_size if item.state in ("ok", "damaged") and item.path.is_file() else None,
        "sha256": item.sha256,
        "licence": item.licence,
        "source": item.source,
        "note": item.note,
        "advice": item.advice,
    }


def _size(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 1e6:.1f} MB"
