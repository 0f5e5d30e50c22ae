"""The pages as tests read them: paths, tables, code blocks, headings.

The one thing to get wrong: a table is found by its page and its first heading cell, so two tables of one page must not begin alike where a
test reads them.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def all_pages() -> list[Path]:
    """README and everything below docs/."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def table(page: str, first_heading: str) -> list[list[str]]:
    """Rows of the tables of ``docs/<page>`` whose first heading is ``first_heading``, cells stripped, as written."""
    rows: list[list[str]] = []
    inside = False
    for line in (DOCS / page).read_text().splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not inside and cells[0] == first_heading:
            inside = True
        elif inside and not set(cells[0]) <= set("-: "):
            rows.append(cells)
    assert rows, f"{page} has no table that begins with {first_heading!r}"
    return rows


def names(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def code_blocks(path: Path, language: str) -> list[str]:
    """Fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
