"""Progress on standard error: bars where there is a terminal, plain lines where there is none, nothing when asked to be quiet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from understudy.cli.options import Options, says_terminal

if TYPE_CHECKING:
    from rich.console import Console

    from understudy.swap import SwapEvent

LINE_EVERY_S = 2.0
Shower = Callable[["SwapEvent"], None]


@contextlib.contextmanager
def shown(options: Options) -> Iterator[Shower]:
    """What events are given to for as long as the block lasts."""
    if options.quiet:
        yield lambda event: None
    elif says_terminal():
        with bars() as shower:
            yield shower
    else:
        yield lines()


def lines(clock: Callable[[], float] = time.monotonic) -> Shower:
    """Events as lines: every beginning, end and log line, and progress at most once in two seconds a stage."""
    said_at: dict[str, float] = {}

    def say(event: SwapEvent) -> None:
        now = clock()
        if event.kind == "progress":
            if now - said_at.get(event.stage, -LINE_EVERY_S) < LINE_EVERY_S:
                return
            said_at[event.stage] = now
            text = _progress_text(event)
        elif event.kind == "begin":
            said_at[event.stage] = now
            text = "begins"
        else:
            text = event.text or "done"
        click.echo(f"[{event.stage}] {text}", err=True)

    return say


@contextlib.contextmanager
def bars(console: Console | None = None) -> Iterator[Shower]:
    """Events as one bar a stage, with rate and time left as the server states them."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    progress = Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        console=console or Console(stderr=True),
    )
    tasks = {}

    def draw(event: SwapEvent) -> None:
        if event.kind == "log":
            progress.console.print(f"[{event.stage}] {event.text}", markup=False, highlight=False)
            return
        if event.stage not in tasks:
            tasks[event.stage] = progress.add_task(event.stage, total=None, detail="")
        task = tasks[event.stage]
        if event.kind == "progress":
            progress.update(task, completed=event.done, total=event.total or None, detail=_progress_text(event))
        elif event.kind == "end":
            progress.update(task, completed=1, total=1, detail=event.text)
            progress.stop_task(task)

    with progress:
        yield draw


def _progress_text(event: SwapEvent) -> str:
    total = f"/{event.total}" if event.total else ""
    parts = [f"{event.done}{total} {event.unit}".rstrip()]
    if event.rate_per_s > 0:
        parts.append(f"{event.rate_per_s:.3g}/s")
    if event.samples_per_s > 0:
        parts.append(f"{event.samples_per_s:.3g} samples/s")
    if event.losses:
        parts.append("loss " + " ".join(f"{name} {value:.4f}" for name, value in sorted(event.losses.items())))
    if event.eta_s is not None and (not event.total or event.done < event.total):
        parts.append(f"{_clock_text(event.eta_s)} left")
    return ", ".join(parts)


def _clock_text(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
