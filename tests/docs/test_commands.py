"""Every line `understudy ...` of the pages is a command that exists, with options and arguments that it takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from tests.docs.pages import DOCS, all_pages, code_blocks, table
from understudy.cli import main as command_line
from understudy.cli.failure import EXIT_CODES

_LINES = sorted({line for page in all_pages() for block in code_blocks(page, "sh") for line in block.splitlines()})
_COMMANDS = [line for line in _LINES if line.startswith("understudy ")]


def test_there_are_commands() -> None:
    assert len(_COMMANDS) > 10


@pytest.mark.parametrize("line", _COMMANDS)
def test_commands_can_be_parsed(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNDERSTUDY_PROJECT", "shot-12")
    for file in ("performer.mp4", "footage.mp4", "actor.jpg", "points.json", "S3FD.npy", "2DFAN.npy", "server.yaml"):
        Path(file).touch()
    Path("plates").mkdir()
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = command_line
    context = click.Context(command_line, info_name="understudy")
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"understudy has no command {words[0]}"
        command, words = found, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    command.make_context(command.name, words, parent=context)  # raises UsageError for what it does not take


def test_commands_in_the_text_exist() -> None:
    for page in all_pages():
        for words in re.findall(r"`understudy ([a-z]+(?: [a-z]+)?)", page.read_text()):
            command: click.Command | None = command_line
            for word in words.split():
                if isinstance(command, click.Group):
                    command = command.get_command(click.Context(command), word)
                    assert command is not None, f"{page.name}: understudy {words}"


def test_exit_codes() -> None:
    written = {int(code): meaning for code, meaning in (row for row in table("start.md", "Code"))}
    assert written == EXIT_CODES
    assert (DOCS / "operate.md").read_text().count("start.md#exit-codes") == 1
