"""The side file of an object in a folder store: what the object's digest and media type are.

``c.jpg`` has the side file ``.c.jpg~``: text, one line ``<sha256> <size> <name> <media type>`` per candidate. The one
thing to get wrong: the side file is written *before* the object appears, so a line is a promise ("if these bytes are
there, this is what they are"), not a fact, and during a replacement there are two of them. Lines of other names may
stand in it too: ``put_many`` writes one file for a batch and links it under every name, which costs one fsync instead
of one per object.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from services.kit.storage.verify import corrupt


class Line(NamedTuple):
    """One candidate: what the bytes would be."""

    sha256: str
    size_bytes: int
    media_type: str


Lines = list[Line]


def side_name(name: str) -> str:
    """The file name of the side file of the object with file name ``name``, in the same folder; never itself a key."""
    return f".{name}~"


def format_line(name: str, line: Line) -> str:
    """The text of one line, newline included."""
    return f"{line.sha256} {line.size_bytes} {name} {line.media_type}\n"


def read_lines(side_path: Path, name: str, uri: str) -> Lines:
    """The candidates for ``name``, without repeats; empty where there is no side file (some other program's object)."""
    try:
        text = side_path.read_text("ascii")
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise corrupt(uri, f"its side file {side_path.name} is not text") from error
    lines: Lines = []
    for row in text.splitlines():
        sha256, size, row_name, media_type = (row.split(" ", 3) + [""] * 4)[:4]
        if not size.isdigit() or len(sha256) != 64:
            raise corrupt(uri, f"its side file {side_path.name} has a line that is not one: {row!r:.80}")
        line = Line(sha256, int(size), media_type)
        if row_name == name and line not in lines:
            lines.append(line)
    if not lines:
        raise corrupt(uri, f"its side file {side_path.name} does not mention it")
    return lines
