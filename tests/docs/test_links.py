"""What a page points at exists: other pages, their headings, files of the repository, targets of the Makefile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, all_pages, without_code

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"(?<![\w./<>-])((?:services|ml_common|understudy|tests|docs|deploy|proto|helm)/[\w./\\-]*[\w/])")


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", all_pages(), ids=_id)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in _LINK.findall(without_code(page.read_text())):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            wrong.append(target)
    assert not wrong, f"{_id(page)} points at {wrong}"


@pytest.mark.parametrize("page", all_pages(), ids=_id)
def test_named_files_exist(page: Path) -> None:
    text = page.read_text().replace("\\_", "_")
    # `understudy/v1` in a URL, a Python import or the name of an RPC is no file.
    named = {match.rstrip("/.") for match in _PATH.findall(without_code(text))}
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert not missing, f"{_id(page)} names {missing}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in all_pages():
        named = set(re.findall(r"`make ([a-z]+)", page.read_text()))
        named |= set(re.findall(r"^make ([a-z]+)", page.read_text(), re.MULTILINE))
        assert named <= targets, f"{_id(page)} names the targets {sorted(named - targets)}"


def _anchors(path: Path) -> set[str]:
    """Headings as GitHub turns them into anchors."""
    headings = re.findall(r"^#+ (.+)$", without_code(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
