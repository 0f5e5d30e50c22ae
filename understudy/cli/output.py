"""Results on standard output: one JSON document, one JSON object a line, or text for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from understudy.cli.options import Options


def show(options: Options, document: Mapping[str, Any], text: str | None = None) -> None:
    """The result of a command: ``document`` with --json, else ``text``, or the document as indented lines."""
    if options.json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        click.echo(text if text is not None else "\n".join(_lines(document, "")))


def show_list(options: Options, name: str, items: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """A list: `{name: items}` with --json, else a table. ``columns`` maps headings to fields, dotted into nested ones."""
    if options.json:
        show(options, {name: list(items)})
        return
    rows = [[_cell(item, path) for path in columns.values()] for item in items]
    table = [list(columns), *rows]
    widths = [max(len(row[at]) for row in table) for at in range(len(columns))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_event(event: Mapping[str, Any]) -> None:
    """One event as one JSON line."""
    click.echo(json.dumps(event, ensure_ascii=False))


def _cell(item: Mapping[str, Any], path: str) -> str:
    value: Any = item
    for name in path.split("."):
        value = value.get(name, "") if isinstance(value, Mapping) else ""
    return "" if value is None else _text(value)


def _lines(value: Any, indent: str) -> list[str]:
    lines = []
    for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        if item in ("", None) or (isinstance(item, Mapping | list) and not item):
            continue
        if isinstance(item, Mapping) or (isinstance(item, list) and isinstance(item[0], Mapping)):
            lines += [f"{indent}{name}:", *_lines(item, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {_text(item)}")
    return lines


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    return str(value)
