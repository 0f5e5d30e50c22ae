"""What every main shares: flags to settings, hosting services, running a chunk, driving an operation.

`python -m services` hosts everything, `python -m services.faces` one service; both end here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from services.kit.config import Settings, load_settings, printable
from services.kit.context import build_context
from services.kit.errors import UnderstudyError
from services.kit.logs import configure
from services.kit.server import serve

EXIT_BAD_INPUT = 2


def host(services: Sequence[ModuleType], arguments: Sequence[str] | None = None, *, prog: str) -> int:
    """Parses flags and serves until told to stop. Returns the exit code."""
    parser = _parser(prog)
    parser.add_argument("--ready-file", type=Path, help="written with {address, pid, ...} once calls are taken")
    parser.add_argument(
        "--stop-with-stdin", action="store_true", help="stop when standard input ends: for a parent that may die"
    )
    flags = parser.parse_args(arguments)
    settings = settings_of(flags)
    if settings is None:
        return EXIT_BAD_INPUT
    if flags.print_config:
        print(printable(settings), end="")
        return 0
    try:
        run_server(services, settings, ready_file=flags.ready_file, stop_with_stdin=flags.stop_with_stdin)
    except UnderstudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0


def run_server(
    services: Sequence[ModuleType],
    settings: Settings,
    *,
    ready_file: Path | None = None,
    stop_with_stdin: bool = False,
    on_ready: Callable[[dict[str, Any]], None] = lambda facts: None,
) -> None:
    """Serves until SIGTERM, SIGINT or, if asked, the end of standard input. Raises UnderstudyError when it cannot listen.

    Once calls are taken, `{address, pid, token_file, metrics_address}` goes into ``ready_file`` and to ``on_ready``.
    """
    configure(settings.log_format, settings.log_level)
    context = build_context(settings)

    async def run() -> None:
        stop = asyncio.Event()
        if stop_with_stdin:
            loop = asyncio.get_running_loop()

            def wait_for_end() -> None:
                while os.read(0, 4096):
                    pass
                loop.call_soon_threadsafe(stop.set)

            threading.Thread(target=wait_for_end, name="stdin", daemon=True).start()

        def announce(address: str) -> None:
            facts = {
                "address": address,
                "pid": os.getpid(),
                "token_file": str(settings.server.token_file.resolve()),
                "metrics_address": context.metrics.address,
            }
            if ready_file:
                temporary = ready_file.with_suffix(".tmp")
                temporary.write_text(json.dumps(facts))
                temporary.replace(ready_file)
            on_ready(facts)

        await serve(context, services, on_started=announce, stop=stop)

    asyncio.run(run())


def run_one_chunk(arguments: Sequence[str] | None = None) -> int:
    """`python -m services chunk`: for farm managers. Exits with 0 when the chunk's manifest exists."""
    from services.kit.execution.executor import open_settings_store, worker_env
    from services.kit.operations.chunk import find_chunk, load_plan, run_chunk
    from services.kit.operations.stage import load_stage

    parser = _parser("python -m services chunk")
    parser.add_argument("--plan", required=True, help="action key of the plan: 64 hexadecimal digits")
    parser.add_argument("--index", required=True, type=int, help="which chunk, from 0")
    flags = parser.parse_args(arguments)
    settings = settings_of(flags)
    if settings is None:
        return EXIT_BAD_INPUT
    configure(settings.log_format, settings.log_level)
    try:
        env = worker_env(settings, open_settings_store(settings), _device(settings))
        plan = load_plan(env.store, flags.plan)
        chunk = find_chunk(plan, flags.index)
        stage = load_stage(plan.stage)
        stage.setup(env)
        manifest = run_chunk(
            env, stage, plan, chunk, lambda units: print(f"{units}/{chunk.units} {plan.unit}", file=sys.stderr)
        )
    except UnderstudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(json.dumps({"index": manifest.index, "units": manifest.units, "failures": len(manifest.failures)}))
    return 0


def drive_one(arguments: Sequence[str] | None = None) -> int:
    """`python -m services drive`: the entry point of a Ray job. Exits with 0 when the operation has ended, however it ended."""
    from services.kit.operations.driver import drive_operation

    parser = _parser("python -m services drive")
    parser.add_argument("operation", help="projects/p/operations/o")
    flags = parser.parse_args(arguments)
    settings = settings_of(flags)
    if settings is None:
        return EXIT_BAD_INPUT
    configure(settings.log_format, settings.log_level)
    context = build_context(settings)
    try:
        if context.ledger.claim(flags.operation) is not None:
            drive_operation(
                flags.operation,
                env=context.env,
                ledger=context.ledger,
                executor=context.executor,
                metrics=context.metrics,
            )
    finally:
        context.close()
    return 0


def settings_of(flags: argparse.Namespace) -> Settings | None:
    """Settings of parsed flags; None, with the reason on standard error, when they are wrong."""
    overrides: dict[str, Any] = {}
    try:
        for pair in flags.set:
            name, separator, value = pair.partition("=")
            if not separator:
                raise UnderstudyError(f"--set wants name=value, not {pair!r}")
            overrides[name] = value
        return load_settings(flags.config, overrides)
    except UnderstudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return None


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Settings: defaults < --config < UNDERSTUDY_* in the environment < --set."
    )
    parser.add_argument(
        "--config", type=Path, help="YAML file of settings; deploy/config/reference.yaml explains every one"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one setting, dotted: store.root=/data"
    )
    parser.add_argument("--print-config", action="store_true", help="print the settings in force and end")
    return parser


def _device(settings: Settings) -> str:
    if settings.execution.device != "auto":
        return settings.execution.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
