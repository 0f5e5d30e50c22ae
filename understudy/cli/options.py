"""Options that every command takes: before the command's name or after it, the later one wins."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


@dataclass
class Options:
    """What was said on the command line or in the environment. ``address`` empty: the server of ``workspace``."""

    workspace: Path = Path(".understudy")
    address: str = ""
    token_file: Path | None = None
    tls_ca: Path | None = None
    json: bool = False
    quiet: bool = False


pass_options = click.make_pass_decorator(Options, ensure=True)


def shared_options(*, hidden: bool = False) -> Callable[[_Decorated], _Decorated]:
    """Adds the options to a command. ``hidden`` keeps those about the server out of its help, which the root's help explains."""
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    declared: list[Callable[[Any], Any]] = [
        click.option(
            "--workspace",
            type=click.Path(file_okay=False, path_type=Path),
            envvar="UNDERSTUDY_WORKSPACE",
            help="Folder with the store, the token and the server of this machine.  [default: .understudy]",
            hidden=hidden,
            **_STORED,
        ),
        click.option(
            "--address",
            metavar="HOST:PORT",
            envvar="UNDERSTUDY_ADDRESS",
            help="Talk to this server instead of the workspace's. Needs --token-file.",
            hidden=hidden,
            **_STORED,
        ),
        click.option(
            "--token-file",
            type=file,
            envvar="UNDERSTUDY_TOKEN_FILE",
            help="File with the token of --address.",
            hidden=hidden,
            **_STORED,
        ),
        click.option(
            "--tls-ca",
            type=file,
            envvar="UNDERSTUDY_TLS_CA",
            help="PEM certificate that --address is checked against; without it the connection is not encrypted.",
            hidden=hidden,
            **_STORED,
        ),
        click.option("--json", is_flag=True, help="Print the result as JSON, and nothing else.", **_STORED),
        click.option("-q", "--quiet", is_flag=True, help="No progress and no notes.", **_STORED),
    ]

    def decorate(command: _Decorated) -> _Decorated:
        for option in reversed(declared):
            command = option(command)
        return command

    return decorate


def _store(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    assert param.name
    # A command's own environment lookup must not overrule what was said before its name.
    said = ctx.get_parameter_source(param.name)
    if said is ParameterSource.COMMANDLINE or (said is ParameterSource.ENVIRONMENT and ctx.parent is None):
        setattr(ctx.ensure_object(Options), param.name, value)


_STORED: dict[str, Any] = {"expose_value": False, "callback": _store}


def says_json(arguments: list[str]) -> bool:
    """Whether ``--json`` was asked for, also where the rest of the line could not be understood."""
    return "--json" in arguments


def says_terminal() -> bool:
    """Whether standard error is a terminal that can be drawn on."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
