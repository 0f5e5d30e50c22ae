"""What people write on the command line: frame ranges, name=value pairs, names of resources; and reading lists page by page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from understudy.v1 import common_pb2

_RANGE = re.compile(r"^(\d+)(?:-(\d+)(?:x(\d+))?)?$")
_LARGEST_PAGE = 1000


def frames(text: Any) -> list[common_pb2.FrameRange]:
    """`1001-1100x2,1150` (both ends included, every second frame; a single frame) as FrameRange messages."""
    from understudy.v1 import common_pb2

    if not isinstance(text, str):
        return list(text)
    ranges = []
    for part in text.split(","):
        match = _RANGE.match(part.strip())
        if match is None:
            raise click.BadParameter(f"{part!r} is not a frame or a range: write 1001-1100x2,1150")
        first = int(match[1])
        last, step = int(match[2] or first), int(match[3] or 1)
        if last < first or step < 1:
            raise click.BadParameter(
                f"{part!r} holds no frames: the first must not be over the last, the step 1 or more"
            )
        ranges.append(common_pb2.FrameRange(first=first, last=last, step=step))
    return ranges


def rate(text: str) -> Fraction:
    """`24`, `23.976` or `24000/1001` frames a second."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise click.BadParameter(f"{text!r} is not a rate: write 24, 23.976 or 24000/1001") from None
    if not 0 < value <= 1000:
        raise click.BadParameter(f"{text!r} is not a rate: over 0 and at most 1000")
    return value


def text_pair(text: str) -> tuple[str, str]:
    """`name=value` as (name, text)."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise click.BadParameter(f"{text!r} is not name=value")
    return name, value


def json_pair(text: str) -> tuple[str, Any]:
    """`name=value`, the value read as JSON where it is JSON (numbers, true, null, lists), else as text."""
    name, value = text_pair(text)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def frames_option(**more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--frames`."""
    shown = {"help": "Which frames: 1001-1100x2,1150.  [default: all]", **more}
    return click.option("--frames", "ranges", type=frames, default=(), metavar="RANGES", **shown)


def nested(pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Pairs as a dictionary; dotted names reach into sections: `model.ae_dims=128`."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        *sections, leaf = name.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise click.BadParameter(f"{name}: {section} was given a value of its own before")
        target[leaf] = value
    return values


def project_option(*, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`-p, --project`."""
    return click.option(
        "-p",
        "--project",
        envvar="UNDERSTUDY_PROJECT",
        default="",
        callback=_project,
        expose_value=True,
        metavar="PROJECT",
        required=required,
        help="Project that short names are in; UNDERSTUDY_PROJECT in the environment.",
    )


def resource(value: str, collection: str, project: str) -> str:
    """The full name of a resource: full names stay, short ones (`c`) are looked for in ``project``."""
    if value.startswith("projects/"):
        return value
    if not project:
        raise click.UsageError(
            f"{value!r} is a short name: give --project too, or the full name projects/.../{collection}/{value}."
        )
    return f"{project}/{collection}/{value}"


def project_name(value: str) -> str:
    """`projects/p` of `p` or `projects/p`."""
    return value if value.startswith("projects/") else f"projects/{value}"


def pages(method: Callable[[Any], Any], request: Any, field: str, limit: int = 0) -> Iterator[Any]:
    """All items of a list, page after page; at most ``limit`` unless that is 0."""
    left = limit
    while True:
        request.page_size = min(left, _LARGEST_PAGE) if limit else _LARGEST_PAGE
        response = method(request)
        items = list(getattr(response, field))
        yield from items
        left -= len(items)
        if not response.next_page_token or (limit and left <= 0):
            return
        request.page_token = response.next_page_token


def _project(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    return project_name(value) if value else ""
