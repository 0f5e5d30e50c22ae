"""Filters mean what Python means by the same comparison, on any rows; what means nothing is refused with its place."""

from __future__ import annotations

import operator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.facesets.filters import MOST_NESTING, parse_filter, parse_order
from services.kit.errors import InvalidInput

COLUMNS = {
    "yaw_deg": pa.float32(),
    "frame_number": pa.int64(),
    "trashed": pa.bool_(),
    "track_id": pa.string(),
}
ROWS = [
    {"yaw_deg": 0.7, "frame_number": 1001, "trashed": True, "track_id": "t000001"},
    {"yaw_deg": 25.0, "frame_number": 2**60, "trashed": False, "track_id": 'with "quotes"'},
    {"yaw_deg": -3.5, "frame_number": 3, "trashed": False, "track_id": ""},
    {"yaw_deg": None, "frame_number": 4, "trashed": True, "track_id": "AND"},
]
TABLE = pa.table({name: pa.array([row[name] for row in ROWS], kind) for name, kind in COLUMNS.items()})
SIGNS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def chosen(text: str) -> list[int]:
    """Rows that a filter lets through."""
    mask = parse_filter(text, COLUMNS).mask(TABLE)
    return [at for at, kept in enumerate(mask.to_pylist()) if kept]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("yaw_deg > 20 AND NOT trashed", [1]),
        ("yaw_deg = 0.7", [0]),
        ("yaw_deg >= 0.7", [0, 1]),
        ("trashed", [0, 3]),
        ("NOT trashed", [1, 2]),
        ("NOT NOT (trashed = true)", [0, 3]),
        ("trashed != true", [1, 2]),
        ("track_id = t000001", [0]),
        ("track_id='t000001'", [0]),
        (r'track_id = "with \"quotes\""', [1]),
        ('track_id = "AND"', [3]),
        ('track_id = ""', [2]),
        ("(yaw_deg>1 OR trashed) AND frame_number >= 1001", [0, 1]),
        ("yaw_deg < 0 OR frame_number = 1001 OR frame_number = 1e3", [0, 2]),
        ("frame_number > 1152921504606846975", [1]),
        ("frame_number = 1152921504606846976", [1]),
        ("yaw_deg > -1.5e+1", [0, 1, 2]),
        ("yaw_deg < 1e300", [0, 1, 2]),
    ],
)
def test_filters(text: str, rows: list[int]) -> None:
    assert chosen(text) == rows


def test_what_is_not_known_is_let_through_by_neither_a_filter_nor_its_opposite() -> None:
    assert 3 not in chosen("yaw_deg > 0")
    assert 3 not in chosen("NOT yaw_deg > 0")
    assert 3 in chosen("yaw_deg > 0 OR trashed")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("yaw_deg > 1 OR trashed AND trashed", "at character 24: AND and OR side by side"),
        ("yaw_deg > 1 and trashed", "at character 13: write AND in capitals"),
        ("(yaw_deg > 1", "at character 1: this parenthesis is not closed"),
        ("yaw_deg > 1)", "at character 12: expected AND, OR or the end"),
        ("yaw_deg >", "expected a value for yaw_deg, not the end"),
        ("yaw_deg", "expected a comparison behind yaw_deg"),
        ("", "expected a column, not the end"),
        ("AND trashed", "expected a column, not 'AND'"),
        ("yaw > 1", "there is no column 'yaw': use one of yaw_deg, frame_number"),
        ("yaw_deg > x", "yaw_deg is a number, not x"),
        ("yaw_deg > nan", "yaw_deg is a number"),
        ("yaw_deg > 1e999", "yaw_deg is a number"),
        ('yaw_deg > "1"', "yaw_deg is a number"),
        ("frame_number > 1.5", "frame_number is a whole number"),
        ("frame_number = 9223372036854775808", "frame_number is a whole number"),
        ("trashed > true", "trashed is true or false"),
        ("trashed = yes", "trashed is true or false"),
        ('track_id = "a', "at character 12: the text in quotes does not end"),
        ("yaw_deg > 1 ; drop", "at character 13: ';' means nothing here"),
        ("__import__('os')", "no column '__import__'"),
        ("(" * (MOST_NESTING + 2) + "trashed", "nested more than"),
        ("trashed " * 5000, "characters"),
    ],
)
def test_what_means_nothing_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_filter(text, COLUMNS)
    assert says in caught.value.message
    assert set(caught.value.fields) == {"filter"}


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[str, Any]:
    """A filter, and the function of a row that it stands for."""
    kind = draw(st.sampled_from(["compare", "bool", "not", "AND", "OR"] if depth else ["compare", "bool"]))
    if kind == "bool":
        return "trashed", lambda row: row["trashed"]
    if kind == "compare":
        sign = draw(st.sampled_from(sorted(SIGNS)))
        column = draw(st.sampled_from(["yaw_deg", "frame_number", "track_id"]))
        if column == "track_id":
            value: Any = draw(st.text(st.characters(codec="utf-8"), max_size=4))
            quoted = value.replace("\\", "\\\\").replace('"', '\\"')
            written = f'"{quoted}"'
        elif column == "yaw_deg":
            value = draw(st.floats(-90, 90, width=32))
            written = repr(value)
        else:
            value = draw(st.integers(-5, 5))
            written = str(value)
        return f"{column} {sign} {written}", lambda row: SIGNS[sign](row[column], value)
    text, means = draw(expressions(depth=depth - 1))
    if kind == "not":
        return f"NOT ({text})", lambda row: not means(row)
    other_text, other = draw(expressions(depth=depth - 1))
    joined = {"AND": lambda row: means(row) and other(row), "OR": lambda row: means(row) or other(row)}
    return f"({text}) {kind} ({other_text})", joined[kind]


@given(
    expressions(),
    st.lists(
        st.fixed_dictionaries(
            {
                "yaw_deg": st.floats(-90, 90, width=32),
                "frame_number": st.integers(-5, 5),
                "trashed": st.booleans(),
                "track_id": st.text(st.characters(codec="utf-8"), max_size=4),
            }
        ),
        max_size=6,
    ),
)
def test_any_filter_means_what_python_means(expression: tuple[str, Any], rows: list[dict[str, Any]]) -> None:
    text, means = expression
    table = pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()})
    found = parse_filter(text, COLUMNS)
    assert found.mask(table).to_pylist() == [bool(means(row)) for row in rows]
    assert found.names <= set(COLUMNS)


@given(st.text(max_size=40))
def test_any_text_is_a_filter_or_is_refused(text: str) -> None:
    try:
        found = parse_filter(text, COLUMNS)
    except InvalidInput:
        return
    assert len(found.mask(TABLE)) == len(ROWS)


def test_orders() -> None:
    keys = parse_order(" yaw_deg desc , frame_number,track_id asc", COLUMNS)
    assert [(key.column, key.falling) for key in keys] == [
        ("yaw_deg", True),
        ("frame_number", False),
        ("track_id", False),
    ]
    assert parse_order(" ", COLUMNS) == ()


@pytest.mark.parametrize("text", ["yaw_deg down", "nothing", "yaw_deg, yaw_deg desc", "yaw_deg,", "a b c", "-yaw_deg"])
def test_orders_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_order(text, COLUMNS)
    assert set(caught.value.fields) == {"order_by"}
