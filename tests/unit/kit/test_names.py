"""Nothing that a name lets through can leave its place in the store."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit import names
from services.kit.errors import InvalidInput
from services.kit.storage import check_key

SAFE_ID = re.compile(r"\A[a-z0-9][a-z0-9-]*\Z")
GOOD_IDS = st.from_regex(SAFE_ID, fullmatch=True).filter(lambda value: len(value) <= 63 and not value.endswith("-"))
# Mostly characters that some layer below treats specially, at the places where they hurt.
NASTY = st.text(alphabet=st.one_of(st.sampled_from("/\\.~%?#: \n\r\t\0=@'\"*|<>AZÄ√a0-"), st.characters()), max_size=70)


@given(NASTY)
def test_only_plain_ids_pass(value: str) -> None:
    try:
        passed = names.check_id(value, "clip_id")
    except InvalidInput as error:
        assert list(error.fields) == ["clip_id"]
    else:
        assert passed == value
        assert SAFE_ID.match(value)
        assert len(value) <= 63


@given(GOOD_IDS)
def test_good_ids_pass_and_make_keys(value: str) -> None:
    assert names.check_id(value, "id") == value
    assert check_key(f"projects/{value}") == f"projects/{value}"


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "..",
        "a/b",
        "a\n",
        "\na",
        "a ",
        "A",
        "-a",
        "a-",
        "a" * 64,
        "a.b",
        "a_b",
        "ä",
        "a\0",
        "%2e",
        "~",
        "٣",
        "*",
    ],
)
def test_refused_ids(value: str) -> None:
    with pytest.raises(InvalidInput):
        names.check_id(value, "id")
    with pytest.raises(InvalidInput):
        names.parse(f"projects/{value}", "projects")


@given(project=GOOD_IDS, clip=GOOD_IDS)
def test_parse_gives_the_ids(project: str, clip: str) -> None:
    name = f"projects/{project}/clips/{clip}"
    assert names.parse(name, "projects", "clips") == (project, clip)
    assert names.project_of(name) == f"projects/{project}"


@given(NASTY)
def test_parse_refuses_everything_else(value: str) -> None:
    for name in (value, f"projects/{value}", f"projects/p/clips/{value}", f"projects/{value}/clips/c"):
        try:
            identifiers = names.parse(name, "projects", "clips", field="clip")
        except InvalidInput as error:
            assert list(error.fields) == ["clip"]
        else:
            assert all(SAFE_ID.match(identifier) for identifier in identifiers)


@pytest.mark.parametrize(
    ("name", "collections"),
    [
        ("projects/p", ("projects", "clips")),
        ("projects/p/clips/c/", ("projects", "clips")),
        ("/projects/p", ("projects",)),
        ("projects/p/facesets/f", ("projects", "clips")),
        ("projects/p/things/t", ("projects", "things")),
        ("projects/p/facesets/f/faces/../x", ("projects", "facesets", "faces")),
        ("projects/p/facesets/f/faces/f000001_0-0123456", ("projects", "facesets", "faces")),
        ("projects/p/runs/r/checkpoints/7", ("projects", "runs", "checkpoints")),
        ("projects/p/runs/r/checkpoints/00000007\n", ("projects", "runs", "checkpoints")),
    ],
)
def test_refused_names(name: str, collections: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        names.parse(name, *collections)


def test_ids_with_rules_of_their_own() -> None:
    face = "projects/p/facesets/f/faces/f000001_0-01234567"
    assert names.parse(face, "projects", "facesets", "faces") == ("p", "f", "f000001_0-01234567")
    checkpoint = "projects/p/runs/r/checkpoints/00000007"
    assert names.parse(checkpoint, "projects", "runs", "checkpoints")[-1] == "00000007"


@pytest.mark.parametrize("name", ["", "projects", "clips/c/projects/p"])
def test_project_of_refuses(name: str) -> None:
    with pytest.raises(InvalidInput):
        names.project_of(name)
