"""The server that a command talks to: the one named by --address, the workspace's, or one started for this command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import click

from understudy import local
from understudy.cli.options import Options
from understudy.client import Client, connect
from understudy.errors import UnderstudyError


@dataclass(frozen=True, slots=True)
class Connection:
    """``own``: the server was started for this command and ends with it; nothing goes on behind its back."""

    client: Client
    own: bool


@contextlib.contextmanager
def connected(options: Options) -> Iterator[Connection]:
    """Connects for as long as the block lasts. Ctrl-C inside it becomes an error that says what goes on and what does not."""
    own = False

    def starting() -> None:
        nonlocal own
        own = True
        note(options, "starting a server for this command; `understudy up` in another terminal keeps one running")

    with _opened(options, starting) as client:
        try:
            yield Connection(client, own)
        except KeyboardInterrupt:
            goes_on = "the same command goes on where it stood"
            if not own:
                goes_on = f"the server keeps what it began, and {goes_on} (`op cancel` and `run stop` end it)"
            raise UnderstudyError(f"interrupted: {goes_on}", code="CANCELLED", reason="CANCELLED") from None
        except UnderstudyError as error:
            # Without a request id no server has answered: all that gRPC says then is a list of sockets.
            if error.code == "UNAVAILABLE" and not error.request_id and not error.work:
                raise _unreachable(client.address, own) from error
            raise


def note(options: Options, text: str) -> None:
    """Something good to know, on standard error unless --quiet."""
    if not options.quiet:
        click.echo(text, err=True)


@contextlib.contextmanager
def _opened(options: Options, starting: local.Starting) -> Iterator[Client]:
    if not options.address:
        with local.connected(options.workspace, on_start=starting) as client:
            yield client
        return
    if options.token_file is None:
        raise click.UsageError("--address needs --token-file: the file that the server wrote its token to.")
    with connect(options.address, token_file=options.token_file, tls_ca=options.tls_ca) as client:
        yield client


def _unreachable(address: str, own: bool) -> UnderstudyError:
    if own:
        message = (
            f"the server started for this command at {address} stopped answering: server.log in the workspace says why"
        )
    else:
        message = (
            f"no server answers at {address}: start one with `understudy up`, or check --address (and --tls-ca, "
            "which a server away from this machine needs)"
        )
    return UnderstudyError(message, code="UNAVAILABLE", reason="UNAVAILABLE")
