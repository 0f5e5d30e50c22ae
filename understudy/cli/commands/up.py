"""`understudy up`: the one command that is a server, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from understudy.cli.options import Options, pass_options, shared_options
from understudy.cli.values import text_pair


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.  [default: 0]")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file of settings. What it says of the store and the token goes before the workspace.",
)
@click.option(
    "--set",
    "settings",
    type=text_pair,
    metavar="NAME=VALUE",
    multiple=True,
    help="One setting, several times: --set execution.workers=2.",
)
@shared_options()
@pass_options
def up(options: Options, port: int | None, config: Path | None, settings: tuple[tuple[str, str], ...]) -> None:
    """Start all services on this machine, until Ctrl-C.

    They run in one process. Other commands with the same workspace find it. Work that was under way when it last stopped goes on.

    \b
        understudy up
        understudy up --port 50051 --set log_level=WARNING
    """
    from services.__main__ import all_services
    from services.kit.config import load_settings
    from services.kit.main import run_server
    from understudy.cli.connection import note
    from understudy.errors import UnderstudyError
    from understudy.local import ready_file, running_server

    if options.address:
        raise click.UsageError("up starts a server on this machine: --address is for the other commands.")
    workspace = options.workspace.resolve()
    running = running_server(workspace)
    if running:
        raise UnderstudyError(
            f"{workspace} is served already at {running}: use that server, or stop it first",
            code="FAILED_PRECONDITION",
            reason="ALREADY_EXISTS",
        )
    in_force = load_settings(config, _overrides(options, workspace, config, port, settings))
    workspace.mkdir(parents=True, exist_ok=True)

    def announce(facts: dict[str, Any]) -> None:
        if options.json:
            click.echo(json.dumps(facts))
            return
        metrics = f"http://{facts['metrics_address']}/metrics" if facts["metrics_address"] else "none"
        click.echo(f"address     {facts['address']}\ntoken file  {facts['token_file']}\nmetrics     {metrics}")
        note(options, "Ctrl-C stops it.")

    ready = ready_file(workspace)
    try:
        run_server(all_services(), in_force, ready_file=ready, on_ready=announce)
    finally:
        ready.unlink(missing_ok=True)


def _overrides(
    options: Options, workspace: Path, config: Path | None, port: int | None, settings: tuple[tuple[str, str], ...]
) -> dict[str, Any]:
    from understudy.local import workspace_settings

    stated = _stated(config)
    overrides: dict[str, Any] = {
        name: value for name, value in workspace_settings(workspace).items() if name not in stated
    }
    if options.quiet and "log_level" not in stated:
        overrides["log_level"] = "WARNING"
    if port is not None:
        overrides["server.port"] = port
    return {**overrides, **dict(settings)}


def _stated(config: Path | None) -> set[str]:
    """Dotted names of what a settings file says; what is wrong with the file is `load_settings`'s to say."""
    import yaml

    if config is None:
        return set()
    try:
        values = yaml.safe_load(config.read_text())
    except yaml.YAMLError as error:
        raise click.BadParameter(f"{config} is not YAML: {error}", param_hint="--config") from error
    if not isinstance(values, dict):
        return set()
    nested = {f"{name}.{leaf}" for name, section in values.items() if isinstance(section, dict) for leaf in section}
    return nested | {str(name) for name in values}
