"""What people write on the command line: frame ranges, name=value pairs, names of resources; and reading lists page by page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from understudy.v1 import common_pb2, frame_service_pb2

_RANGE = re.compile(r"^(\d+)(?:-(\d+)(?:x(\d+))?)?$")
_TIMECODE = re.compile(r"^(\d\d):(\d\d):(\d\d)([:;])(\d\d)$")
_SECONDS = re.compile(r"^(?:(\d+(?:\.\d+)?)s|(?:(\d+):)?(\d+):(\d+(?:\.\d+)?))$")
_DROPPED_OF_BASE = {30: 2, 60: 4}
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


@dataclass(frozen=True, slots=True)
class Moment:
    """A place in a clip as it was written: a frame number, a timecode, or seconds from the clip's start. Which frame that is depends on the
    clip: see ``frame``."""

    text: str

    def frame(self, info: frame_service_pb2.MediaInfo) -> int:
        """The number of the frame. A timecode is the clip's own where it has one, else it counts from 00:00:00:00; seconds mean the frame
        that is shown then, at the clip's average rate."""
        rate = Fraction(info.frame_rate.num, info.frame_rate.den or 1)
        seconds = _SECONDS.match(self.text)
        if self.text.isdigit():
            return int(self.text)
        if seconds:
            total = Fraction(seconds[1] or seconds[4]) + 60 * int(seconds[3] or 0) + 3600 * int(seconds[2] or 0)
            return int(info.first_frame_number + total * rate // 1)
        start = info.timecode if _TIMECODE.match(info.timecode) else "00:00:00:00"
        dropping = ";" in (start if info.timecode else self.text)
        frames = _frame_count(self.text, rate, dropping) - _frame_count(start, rate, dropping)
        if frames < 0:
            raise click.BadParameter(f"{self.text} is before the clip's first frame, which is {start}")
        return int(info.first_frame_number + frames)


def moment(text: str) -> Moment:
    """`1042`, `00:00:01:12` (timecode), `1.5s` or `00:00:01.500`."""
    if not (text.isdigit() or _TIMECODE.match(text) or _SECONDS.match(text)):
        raise click.BadParameter(f"{text!r} is no frame: write 1042, 00:00:01:12, 1.5s or 00:00:01.500")
    return Moment(text)


def _frame_count(timecode: str, rate: Fraction, dropping: bool) -> int:
    """Frames since 00:00:00:00. With ``dropping`` each minute but the tenth lacks its first numbers (SMPTE ST 12-1)."""
    match = _TIMECODE.match(timecode)
    assert match is not None
    hours, minutes, seconds, frame = (int(match[at]) for at in (1, 2, 3, 5))
    base = round(rate)
    if frame >= base or minutes > 59 or seconds > 59:
        raise click.BadParameter(f"{timecode} is no timecode of footage with {base} frames a second")
    whole = 60 * hours + minutes
    return (60 * whole + seconds) * base + frame - dropping * _DROPPED_OF_BASE.get(base, 0) * (whole - whole // 10)


def numbers(text: Any) -> list[int]:
    """`2,4-6` as [2, 4, 5, 6]."""
    if not isinstance(text, str):
        return list(text)
    chosen: set[int] = set()
    for part in text.split(","):
        match = _RANGE.match(part.strip())
        if match is None or match[3] or int(match[2] or match[1]) < int(match[1]):
            raise click.BadParameter(f"{part!r} is not a number or a range: write 2,4-6")
        chosen.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(chosen)


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
