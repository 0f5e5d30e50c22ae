"""The help: quick, complete, with an example for each command; the list of commands says what they say themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import click
import pytest
from click.testing import Result

from understudy.cli import main
from understudy.cli.failure import EXIT_CODES
from understudy.cli.root import COMMANDS

HEAVY = ["torch", "ray", "av", "cv2", "numpy", "grpc", "google.protobuf", "services", "ml_common", "pydantic", "rich"]


def _commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = list(_commands(main, ()))


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom understudy.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "swap" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_says(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.help
    assert command.help.startswith(COMMANDS[name].removesuffix("."))


def test_a_commands_help_imports_no_torch_and_no_ray() -> None:
    script = (
        "import sys\nfrom understudy.cli import main\n"
        "try:\n    main(['swap', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'ray', 'av', 'grpc', 'services'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)


@pytest.mark.parametrize(
    ("path", "command"), ALL, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_help_with_an_example(
    path: tuple[str, ...], command: click.Command, run: Callable[..., Result]
) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert f"understudy {' '.join(path)}" in result.stdout.split("Usage:")[1].split("\n", 1)[1]
    assert "--json" in result.stdout
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.name} says nothing"


def test_exit_codes_are_in_the_help(run: Callable[..., Result]) -> None:
    shown = " ".join(run("--help").stdout.split())
    assert list(EXIT_CODES) == list(range(7))
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in shown


def test_without_a_command_the_help_is_shown_and_it_is_bad_usage(run: Callable[..., Result]) -> None:
    result = run()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr
    assert result.stdout == ""
