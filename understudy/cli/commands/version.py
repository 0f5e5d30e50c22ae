"""`understudy version`."""

from __future__ import annotations

import importlib.metadata

import click

from understudy.cli.options import Options, pass_options, shared_options


@click.command()
@shared_options(hidden=True)
@pass_options
def version(options: Options) -> None:
    """Print the version of this program. No server is asked.

    \b
        understudy version
    """
    from understudy.cli.output import show

    found = importlib.metadata.version("understudy")
    show(options, {"version": found}, found)
