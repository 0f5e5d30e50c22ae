"""What people write: frame ranges, rates, pairs, names, and options before or after the command."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from ml_common.merging.settings import MaskMode, MergeColorTransfer, MergeMode, MergeSettings
from services.faces.options import FACE_TYPES as SERVED_FACE_TYPES
from tests.unit.cli.conftest import FakeClient, document
from understudy.cli import connection, merging
from understudy.cli.extraction import FACE_TYPES
from understudy.cli.options import Options
from understudy.cli.values import frames, json_pair, nested, pages, rate, resource, text_pair
from understudy.v1 import project_service_pb2


@given(st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 500), st.integers(1, 9)), min_size=1, max_size=5))
def test_ranges_read_as_they_are_written(ranges: list[tuple[int, int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}x{step}" for first, more, step in ranges)
    found = [(entry.first, entry.last - entry.first, entry.step) for entry in frames(text)]
    assert found == ranges


def test_short_ranges() -> None:
    found = [(entry.first, entry.last, entry.step) for entry in frames("1001-1100x2, 1150,7-9")]
    assert found == [(1001, 1100, 2), (1150, 1150, 1), (7, 9, 1)]


@pytest.mark.parametrize("text", ["", "a", "9-1", "1-5x0", "1-", "-5", "1x2", "1,,2", "1.5"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(click.BadParameter):
        frames(text)


def test_rates() -> None:
    assert rate("24000/1001") == Fraction(24000, 1001)
    assert rate("23.976") == Fraction(2997, 125)
    for text in ("0", "-1", "1/0", "fast", "1001"):
        with pytest.raises(click.BadParameter):
            rate(text)


def test_pairs() -> None:
    pairs = tuple(json_pair(text) for text in ("a=1", "b=0.5", "c=true", "d=text", "e=x=y", 'f="1"'))
    assert nested(pairs) == {"a": 1, "b": 0.5, "c": True, "d": "text", "e": "x=y", "f": "1"}
    assert nested((("model.ae_dims", 8), ("model.arch", "df"))) == {"model": {"ae_dims": 8, "arch": "df"}}
    assert text_pair("server.port=1") == ("server.port", "1")
    for text in ("a", "=1"):
        with pytest.raises(click.BadParameter):
            json_pair(text)
    with pytest.raises(click.BadParameter):
        nested((("model", 1), ("model.arch", "df")))


def test_names() -> None:
    assert resource("projects/a/clips/c", "clips", "projects/b") == "projects/a/clips/c"
    assert resource("c", "clips", "projects/b") == "projects/b/clips/c"
    with pytest.raises(click.UsageError, match="--project"):
        resource("c", "clips", "")


@pytest.mark.parametrize(("limit", "expected"), [(0, 5), (3, 3), (5, 5)])
def test_pages_are_read_to_the_end_or_to_the_limit(limit: int, expected: int) -> None:
    def listed(request: project_service_pb2.ListProjectsRequest) -> project_service_pb2.ListProjectsResponse:
        start = int(request.page_token or 0)
        stop = min(start + min(request.page_size, 2), 5)
        projects = [project_service_pb2.Project(name=f"projects/p{at}") for at in range(start, stop)]
        token = str(stop) if stop < 5 else ""
        return project_service_pb2.ListProjectsResponse(projects=projects, next_page_token=token)

    found = [item.name for item in pages(listed, project_service_pb2.ListProjectsRequest(), "projects", limit)]
    assert found == [f"projects/p{at}" for at in range(expected)]


def test_merge_choices_are_the_mergers() -> None:
    assert get_args(MergeMode) == merging.MODES
    assert get_args(MaskMode) == merging.MASK_MODES
    assert get_args(MergeColorTransfer) == merging.COLOR_TRANSFERS
    for name, (low, high) in {"erode": merging.ERODE_RANGE, "blur": merging.BLUR_RANGE}.items():
        for value in (low, high):
            MergeSettings.from_dict({name: value})
        for value in (low - 1, high + 1):
            with pytest.raises(ValueError, match=name):
                MergeSettings.from_dict({name: value})


def test_face_types_are_the_services() -> None:
    assert tuple("FACE_TYPE_" + name.upper().replace("-", "_") for name in FACE_TYPES) == SERVED_FACE_TYPES


@pytest.mark.parametrize(
    ("arguments", "env", "expected"),
    [
        (["project", "list"], {}, ".understudy"),
        (["--workspace", "a", "project", "list"], {}, "a"),
        (["project", "list", "--workspace", "b"], {}, "b"),
        (["--workspace", "a", "project", "list", "--workspace", "b"], {}, "b"),
        (["project", "list"], {"UNDERSTUDY_WORKSPACE": "c"}, "c"),
        (["--workspace", "a", "project", "list"], {"UNDERSTUDY_WORKSPACE": "c"}, "a"),
        (["project", "list", "--workspace", "b"], {"UNDERSTUDY_WORKSPACE": "c"}, "b"),
    ],
)
def test_options_stand_before_or_after_the_command(
    arguments: list[str],
    env: dict[str, str],
    expected: str,
    client: FakeClient,
    run: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client.projects.answers("ListProjects", project_service_pb2.ListProjectsResponse())
    seen: list[Options] = []
    opened = connection._opened

    def spy(options: Options, starting: Callable[[], None]):  # type: ignore[no-untyped-def]
        seen.append(options)
        return opened(options, starting)

    monkeypatch.setattr(connection, "_opened", spy)
    result = run(*arguments, "--json", env=env)
    assert document(result) == {"projects": []}
    assert seen[0].workspace == Path(expected)
