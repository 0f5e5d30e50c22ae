"""Lists of faces: a revision filtered and put in order for one reader, page by page. Nothing is changed by looking.

Columns are the revision's and, once a sort has measured the faces, the numbers among their measures. What one would get wrong: a page
token holds a revision and a place in its list, so pages go on in the list they began, whatever is done to the faceset meanwhile. Revisions
never change, so tables and lists are kept in memory by digest; losing them costs a read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml_common.facesets import SCHEMA, RevisionRow, RevisionTable
from services.facesets.filters import Filter, OrderKey, parse_filter, parse_order
from services.facesets.measures import NUMBERS, MeasureIndex, identities
from services.facesets.recent import Recent
from services.kit.errors import InvalidInput, WrongState
from services.kit.faceset_store import FacesetStore
from services.kit.operations.plan import canonical_json
from services.kit.storage import ObjectStore

COLUMNS = {field.name: field.type for field in SCHEMA} | NUMBERS
TABLES_BYTES = 256 << 20  # ten revisions of a hundred thousand faces
LISTS_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Wish:
    """Which faces a list shows, and in which order."""

    ranges: tuple[range, ...] = ()
    show_trashed: bool = False
    filter: str = ""
    order_by: str = ""

    def digest(self) -> str:
        """What tells one list from another, short enough for a page token."""
        ranges = [[r.start, r.stop, r.step] for r in self.ranges]
        wish = [ranges, self.show_trashed, self.filter, self.order_by]
        return hashlib.sha256(canonical_json(wish)).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class FacePage:
    """A page of a list. ``positions`` are those in the whole revision, ``next_token`` is empty at the end."""

    revision: int
    rows: list[RevisionRow]
    positions: list[int]
    next_token: str
    total: int


class Listing:
    """Reads revisions and makes lists of them."""

    def __init__(self, store: ObjectStore, facesets: FacesetStore) -> None:
        self._store = store
        self._facesets = facesets
        self._tables = Recent[RevisionTable](TABLES_BYTES, lambda table: int(table.table.nbytes))
        self._lists = Recent[np.ndarray](LISTS_BYTES, lambda positions: positions.nbytes)

    def table(self, faceset: str, revision: int = 0) -> tuple[int, RevisionTable]:
        """A revision's number and rows; 0 for the one in force."""
        number, table, _ = self._read(faceset, revision)
        return number, table

    def page(self, faceset: str, wish: Wish, *, revision: int, token: str, limit: int) -> FacePage:
        """A page of a list. InvalidInput for a filter or an order that means nothing, or a token of another list."""
        chosen = parse_filter(wish.filter, COLUMNS) if wish.filter else None
        order = parse_order(wish.order_by, COLUMNS)
        digest = wish.digest()
        start = 0
        if token:
            revision, start = _read_token(token, digest, revision)
        number, table, table_sha256 = self._read(faceset, revision)
        index = MeasureIndex(self._store, faceset)
        names = {*(chosen.names if chosen else ()), *(key.column for key in order)}
        measures = sorted(names & set(NUMBERS))
        state = index.digest() if measures else ""
        found = self._lists.get(
            (table_sha256, digest, state),
            lambda: _found(_with_measures(table.table, index, measures), wish, chosen, order),
        )
        wanted = found[start : start + limit]
        stop = start + len(wanted)
        next_token = f"{number}.{digest}.{stop}" if stop < len(found) else ""
        return FacePage(number, table.take(wanted).rows(), wanted.tolist(), next_token, len(found))

    def _read(self, faceset: str, revision: int) -> tuple[int, RevisionTable, str]:
        number = revision or int(self._facesets.get(faceset).body["revision"])
        table_sha256 = self._facesets.table_sha256(faceset, number)
        return number, self._tables.get(table_sha256, lambda: self._facesets.table(faceset, number)[1]), table_sha256


def _with_measures(table: pa.Table, index: MeasureIndex, names: Sequence[str]) -> pa.Table:
    """The rows with some of their measures, null where a face was not measured. WrongState when none was."""
    if not names:
        return table
    columns, known = index.columns(identities(table), names)
    if len(known) and not known.any():
        raise WrongState(
            f"{', '.join(names)}: the faces are not measured yet; a sort that looks at pictures measures them "
            "(`understudy faceset sort --by hue`)"
        )
    for name in names:
        table = table.append_column(name, pa.array(columns[name], NUMBERS[name], mask=~known))
    return table


def _found(table: pa.Table, wish: Wish, chosen: Filter | None, order: Sequence[OrderKey]) -> np.ndarray:
    """Positions of the rows of a list, in its order; rows whose value is not known come last."""
    wanted = np.ones(len(table), bool)
    if not wish.show_trashed and not (chosen and "trashed" in chosen.names):
        wanted &= ~table["trashed"].to_numpy()
    if wish.ranges:
        wanted &= _in_ranges(table["frame_number"].to_numpy(), wish.ranges)
    if chosen:
        wanted &= chosen.mask(table).to_numpy().astype(bool)
    positions = np.flatnonzero(wanted)
    if order:
        columns = table.select([key.column for key in order]).take(pa.array(positions))
        keys = [(key.column, "descending" if key.falling else "ascending") for key in order]
        positions = positions[pc.sort_indices(columns, sort_keys=keys).to_numpy()]
    return positions.astype(np.int32)


def _in_ranges(frames: np.ndarray, ranges: Sequence[range]) -> np.ndarray:
    found = np.zeros(len(frames), bool)
    for frame_range in ranges:
        found |= (
            (frames >= frame_range.start)
            & (frames < frame_range.stop)
            & ((frames - frame_range.start) % frame_range.step == 0)
        )
    return found


def _read_token(token: str, digest: str, revision: int) -> tuple[int, int]:
    """Revision and place of a token; InvalidInput when it is of another list."""
    parts = token.split(".")
    if len(parts) != 3 or not parts[0].isdigit() or not parts[2].isdigit() or int(parts[0]) < 1:
        raise InvalidInput("page_token is not from this list", fields={"page_token": "unknown"})
    if parts[1] != digest or revision not in (0, int(parts[0])):
        raise InvalidInput(
            "page_token belongs to another revision, filter or order: start again without it",
            fields={"page_token": "changed filter"},
        )
    return int(parts[0]), int(parts[2])
