"""The command `understudy`: finds commands by name, and turns every way of ending into an exit code and one clear sentence."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from understudy.cli.failure import DONE, EXIT_CODES, report
from understudy.cli.options import says_json, shared_options

# Name, where it is, what the list of commands says of it. Written out so that the list needs no imports.
COMMANDS: dict[str, str] = {
    "up": "Start all services on this machine, until Ctrl-C.",
    "swap": "Put the face of SRC onto the person in DST and write a film.",
    "project": "Projects: what clips, facesets, runs and sessions live in.",
    "clip": "Clips: footage that was added to a project.",
    "faceset": "Facesets: faces found in a clip, aligned.",
    "run": "Training runs.",
    "model": "Models: what training runs have learned.",
    "session": "Merge sessions: faces put into frames, frames into a film.",
    "op": "Operations: long work, its progress and its end.",
    "weights": "Weight files of the detectors.",
    "version": "Print the version.",
}


class _Commands(click.Group):
    """A group whose members are modules of ``understudy.cli.commands``, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"understudy.cli.commands.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Explains the exit codes."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])

    def main(self, args: Sequence[str] | None = None, *positional: Any, **named: Any) -> Any:
        """Runs the command. Standalone, as it is called by a shell, it always ends in SystemExit with a documented code."""
        arguments = list(sys.argv[1:] if args is None else args)
        if not named.get("standalone_mode", True):
            return super().main(arguments, *positional, **named)
        named["standalone_mode"] = False
        with _Termination():
            try:
                code = super().main(arguments, *positional, **named)
            except Exception as error:  # noqa: BLE001  the outermost edge: everything becomes a sentence and a code
                code = report(error, as_json=says_json(arguments))
        return sys.exit(code if isinstance(code, int) else DONE)


class _Termination:
    """While it lasts, SIGTERM ends the command as Ctrl-C does: farm managers stop jobs that way."""

    def __enter__(self) -> None:
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, _interrupt)

    def __exit__(self, *_exc: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@shared_options()
def main() -> None:
    """Replaces a performer's face in footage: find faces, train, merge, encode.

    The short way, from two clips to a film:

    \b
        understudy swap performer.mp4 footage.mp4 -o film.mp4

    Commands talk to the server of the workspace, or start one for as long as they last. Keep one running with
    `understudy up`. Every command takes --json, and ends with one of the exit codes below.
    """
