"""What a person writes to choose faces and put a list in order: `yaw_deg > 20 AND NOT has_mask`, `yaw_deg desc, sharpness`.

A subset of AIP-160: comparisons, AND, OR, NOT, parentheses. What one would get wrong: there OR binds tighter than AND, everywhere else
it is the other way round; so AND beside OR without parentheses is refused instead of guessed. Nothing is evaluated but what this module
parses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from services.kit.errors import InvalidInput

MOST_CHARACTERS = 10_000
MOST_NESTING = 50
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<sign><=|>=|!=|=|<|>|\(|\))
      | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<word>[\w.+-]+)
    )""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_COMPARE = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_JOIN = {"AND": pc.and_kleene, "OR": pc.or_kleene}
_KEYWORDS = ("AND", "OR", "NOT")
_ROW = re.compile(r"(?P<column>\S+?)(?:\s+(?P<direction>\S+))?")

Columns = Mapping[str, pa.DataType]


@dataclass(frozen=True, slots=True)
class _Comparison:
    column: str
    sign: str
    value: pa.Scalar

    def mask(self, columns: Mapping[str, pa.ChunkedArray]) -> Any:
        return _COMPARE[self.sign](columns[self.column], self.value)


@dataclass(frozen=True, slots=True)
class _Not:
    inner: Any

    def mask(self, columns: Mapping[str, pa.ChunkedArray]) -> Any:
        return pc.invert(self.inner.mask(columns))


@dataclass(frozen=True, slots=True)
class _Joined:
    word: str
    parts: tuple[Any, ...]

    def mask(self, columns: Mapping[str, pa.ChunkedArray]) -> Any:
        result = self.parts[0].mask(columns)
        for part in self.parts[1:]:
            result = _JOIN[self.word](result, part.mask(columns))
        return result


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed filter. ``names``: the columns that it reads."""

    names: frozenset[str]
    _root: Any = field(repr=False)

    def mask(self, columns: Mapping[str, pa.ChunkedArray]) -> pa.ChunkedArray:
        """Which rows it lets through, as booleans; a value that is not known (null) lets none through."""
        return pc.fill_null(self._root.mask(columns), False)


def parse_filter(text: str, columns: Columns) -> Filter:
    """Parses a filter over ``columns`` (names to types); InvalidInput that says where it went wrong."""
    if len(text) > MOST_CHARACTERS:
        raise _wrong("filter", f"it has {len(text)} characters, {MOST_CHARACTERS} are the most")
    parser = _Parser(text, columns)
    root = parser.expression(0)
    parser.expect_end()
    return Filter(frozenset(parser.names), root)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    """Recursive descent; each method reads one thing and leaves the place behind it."""

    def __init__(self, text: str, columns: Columns) -> None:
        self._columns = columns
        self._tokens = _tokens(text)
        self._next = 0
        self.names: set[str] = set()

    def expression(self, depth: int) -> Any:
        """Terms joined by AND, or by OR."""
        if depth > MOST_NESTING:
            raise _wrong("filter", f"it is nested more than {MOST_NESTING} deep")
        parts, word = [self._term(depth)], ""
        while (token := self._peek()).kind == "word" and token.text in _JOIN:
            if word and token.text != word:
                raise _wrong("filter", f"{_place(token)}: AND and OR side by side: put parentheses around one of them")
            word = token.text
            self._take()
            parts.append(self._term(depth))
        return _Joined(word, tuple(parts)) if word else parts[0]

    def expect_end(self) -> None:
        """Nothing may be left."""
        token = self._peek()
        if token.kind == "word" and token.text.upper() in _KEYWORDS:
            raise _wrong("filter", f"{_place(token)}: write {token.text.upper()} in capitals")
        if token.kind != "end":
            raise _wrong("filter", f"{_place(token)}: expected AND, OR or the end, not {token.text!r}")

    def _term(self, depth: int) -> Any:
        inverted = False
        while (token := self._peek()).kind == "word" and token.text == "NOT":
            self._take()
            inverted = not inverted
        inner = self._primary(depth)
        return _Not(inner) if inverted else inner

    def _primary(self, depth: int) -> Any:
        token = self._take()
        if token.text == "(" and token.kind == "sign":
            inner = self.expression(depth + 1)
            closing = self._take()
            if closing.text != ")" or closing.kind != "sign":
                raise _wrong("filter", f"{_place(token)}: this parenthesis is not closed")
            return inner
        if token.kind != "word" or token.text in _KEYWORDS:
            raise _wrong("filter", f"{_place(token)}: expected a column, not {_shown(token)}")
        kind = column_type("filter", token.text, self._columns)
        self.names.add(token.text)
        sign = self._peek()
        if sign.kind == "sign" and sign.text in _COMPARE:
            self._take()
            return _Comparison(token.text, sign.text, self._value(token.text, kind, sign.text))
        if not pa.types.is_boolean(kind):
            raise _wrong("filter", f"{_place(sign)}: expected a comparison behind {token.text} (= != < <= > >=)")
        return _Comparison(token.text, "=", pa.scalar(True))

    def _value(self, column: str, kind: pa.DataType, sign: str) -> pa.Scalar:
        token = self._take()
        if token.kind not in ("word", "text"):
            raise _wrong("filter", f"{_place(token)}: expected a value for {column}, not {_shown(token)}")
        if pa.types.is_string(kind):
            return pa.scalar(_unquoted(token), pa.string())
        if pa.types.is_boolean(kind):
            if token.text not in ("true", "false") or sign not in ("=", "!="):
                raise _wrong("filter", f"{_place(token)}: {column} is true or false, compare it by = or !=")
            return pa.scalar(token.text == "true")
        return _number(token, column, kind)

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += token.kind != "end"
        return token


@dataclass(frozen=True, slots=True)
class OrderKey:
    """One column to sort by."""

    column: str
    falling: bool


def parse_order(text: str, columns: Columns) -> tuple[OrderKey, ...]:
    """`yaw_deg desc, sharpness`; InvalidInput for anything else, and for a column that comes twice."""
    keys: list[OrderKey] = []
    for part in text.split(",") if text.strip() else []:
        match = _ROW.fullmatch(part.strip())
        if match is None or match["direction"] not in (None, "asc", "desc"):
            raise _wrong("order_by", f"{part.strip()!r} is not a column, or a column with desc behind it")
        column_type("order_by", match["column"], columns)
        if match["column"] in {key.column for key in keys}:
            raise _wrong("order_by", f"{match['column']} comes twice")
        keys.append(OrderKey(match["column"], match["direction"] == "desc"))
    return tuple(keys)


def column_type(where: str, name: str, columns: Columns) -> pa.DataType:
    """The type of a column; InvalidInput that lists them all when there is none of that name."""
    if name not in columns:
        raise _wrong(where, f"there is no column {name!r}: use one of {', '.join(columns)}")
    return columns[name]


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            rest = text[at:].lstrip()
            hint = "the text in quotes does not end" if rest[0] in "\"'" else f"{rest[0]!r} means nothing here"
            raise _wrong("filter", f"at character {len(text) - len(rest) + 1}: {hint}")
        assert match.lastgroup
        found.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
        at = match.end()
    return [*found, _Token("end", "", len(text))]


def _number(token: _Token, column: str, kind: pa.DataType) -> pa.Scalar:
    if token.kind == "text" or not _NUMBER.fullmatch(token.text) or not math.isfinite(float(token.text)):
        raise _wrong("filter", f"{_place(token)}: {column} is a number, not {token.text}")
    if pa.types.is_floating(kind):
        # The stored 0.7 is float32's: compared as such, `= 0.7` finds it and `>= 0.7` does not miss it.
        return pa.scalar(float(token.text), pa.float64()).cast(kind)
    whole = float(token.text)
    if not whole.is_integer() or abs(whole) >= 2**63:
        raise _wrong("filter", f"{_place(token)}: {column} is a whole number, not {token.text}")
    return pa.scalar(int(token.text) if token.text.lstrip("+-").isdigit() else int(whole), pa.int64())


def _unquoted(token: _Token) -> str:
    return token.text if token.kind == "word" else re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL)


def _place(token: _Token) -> str:
    return f"at character {token.at + 1}"


def _shown(token: _Token) -> str:
    return repr(token.text) if token.text else "the end"


def _wrong(where: str, what: str) -> InvalidInput:
    return InvalidInput(f"{where}: {what}", fields={where: what})
