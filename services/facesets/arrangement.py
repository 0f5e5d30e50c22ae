"""What sorting, choosing and looking for duplicates come to: an arrangement of faces, and a revision made by it.

What one would get wrong: an arrangement is worked out for one revision and may be applied to a later one. It says nothing of faces that it
has not seen: those that came in, or out of the trash, meanwhile stay, behind the others. Whatever is in the trash by then stays there. No
face is ever left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml_common.curation.columns import SOURCE_NAME, Columns
from ml_common.curation.duplicates import DUPLICATE_COLUMNS, find_duplicates
from ml_common.curation.orders import ORDERS, Order, OrderOptions
from ml_common.facesets import SCHEMA, RevisionTable
from services.facesets.measures import MeasureIndex, identities

LEVELS = {1: "the same picture", 2: "hardly moved", 3: "slightly different", 4: "loosely alike"}


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Face ids to keep, in their order, and those for the trash. Duplicates have the strength that finds them, and the face that stays
    for them; ``how`` is for people."""

    kept: list[str]
    trashed: list[str]
    how: str
    levels: dict[str, int] = field(default_factory=dict)
    kept_for: dict[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Parquet: face_id, trashed, level (0: no duplicate), kept_for; row order is the new one."""
        ids = [*self.kept, *self.trashed]
        table = pa.table(
            {
                "face_id": pa.array(ids, pa.string()),
                "trashed": pa.array([False] * len(self.kept) + [True] * len(self.trashed), pa.bool_()),
                "level": pa.array([self.levels.get(face, 0) for face in ids], pa.int8()),
                "kept_for": pa.array([self.kept_for.get(face, "") for face in ids], pa.string()),
            }
        ).replace_schema_metadata({"how": self.how})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        data: bytes = sink.getvalue().to_pybytes()
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Arrangement:
        """Reads what ``to_bytes`` wrote."""
        table = pq.read_table(pa.BufferReader(data), use_threads=False)
        ids, trashed = table["face_id"].to_pylist(), table["trashed"].to_pylist()
        rows = zip(ids, table["level"].to_pylist(), table["kept_for"].to_pylist(), strict=True)
        duplicates = [(face, level, kept) for face, level, kept in rows if level]
        return cls(
            kept=[face for face, out in zip(ids, trashed, strict=True) if not out],
            trashed=[face for face, out in zip(ids, trashed, strict=True) if out],
            how=table.schema.metadata[b"how"].decode(),
            levels={face: level for face, level, _ in duplicates},
            kept_for={face: kept for face, _, kept in duplicates},
        )


def measured_columns(work: Mapping[str, Any], *, has_clip: bool) -> list[str]:
    """The columns that work needs and a revision does not hold: those for which faces have to be measured."""
    known = {*SCHEMA.names, SOURCE_NAME} if has_clip else set(SCHEMA.names)
    return [name for name in _needed(work) if name not in known]


def arranged(table: RevisionTable, index: MeasureIndex, work: Mapping[str, Any], *, has_clip: bool) -> Arrangement:
    """Does ``work`` on the faces of ``table`` that are not in its trash: an order by name with its options, or duplicates of a strength.
    Faces that could not be measured stay, at the end."""
    active = table.active()
    ids = active.column("face_id").tolist()
    names = measured_columns(work, has_clip=has_clip)
    measured, known = index.columns(identities(active.table), names) if names else ({}, np.ones(len(ids), bool))
    places = np.flatnonzero(known)
    rows = active.take(places)
    columns = Columns(
        {name: rows.column(name) for name in ("frame_number", *_needed(work)) if name in SCHEMA.names}
        | {name: values if known.all() else values[known] for name, values in measured.items()}
        | ({SOURCE_NAME: _frame_names(rows)} if has_clip else {})
    )
    rest = np.flatnonzero(~known)
    if "strength" in work:
        return _duplicates(ids, places, rest, columns, work["strength"])
    order, options = _order(work)
    ordering = order.order(columns, options)
    kept = np.concatenate([places[ordering.kept], rest])
    return Arrangement(_named(ids, kept), _named(ids, places[ordering.trashed]), ordering.method)


def applied(table: RevisionTable, arrangement: Arrangement) -> RevisionTable:
    """A revision in the order of ``arrangement``, with what it throws out in the trash, behind the faces in force."""
    trashed = table.column("trashed").astype(bool)
    out = np.zeros(len(table), bool)
    out[_there(table, arrangement.trashed)] = True
    rank = np.full(len(table), len(arrangement.kept))  # of faces that it has not seen
    kept = table.positions(arrangement.kept)
    rank[kept[kept >= 0]] = np.flatnonzero(kept >= 0)
    rank[out] = len(arrangement.kept) + 1
    rank[trashed] = len(arrangement.kept) + 2
    result = table.replace_column("trashed", trashed | out).take(np.argsort(rank, kind="stable"))
    # Only where trashed faces lie among the others has changed: nobody sees that.
    return table if result.active() == table.active() else result


def by_level(arrangement: Arrangement) -> str:
    """How many duplicates were found at each strength, for people."""
    counts = Counter(arrangement.levels.values())
    return ", ".join(f"{counts[level]} {LEVELS[level]}" for level in sorted(counts))


def _needed(work: Mapping[str, Any]) -> tuple[str, ...]:
    if "strength" in work:
        return DUPLICATE_COLUMNS
    order, options = _order(work)
    # Frames of different footage may have the same number, which matters to what asks who else is in a frame.
    return (*order.columns_for(options), *([SOURCE_NAME] if order.name == "one-face" else []))


def _order(work: Mapping[str, Any]) -> tuple[Order, OrderOptions]:
    options = OrderOptions(reverse=work["reverse"], reference=work["reference"], target_count=work["target_count"])
    return ORDERS[work["order"]], options


def _frame_names(rows: RevisionTable) -> np.ndarray:
    """Names of the frames of one clip, whose alphabet is their order."""
    return np.array([f"{number:012d}" for number in rows.column("frame_number").tolist()], object)


def _duplicates(ids: Sequence[str], places: np.ndarray, rest: np.ndarray, table: Columns, strength: int) -> Arrangement:
    """Nothing changes its place but what repeats another face."""
    levels: dict[str, int] = {}
    kept_for: dict[str, str] = {}
    trashed: list[int] = []
    groups = find_duplicates(table, strength)
    for group in groups:
        for at, level in zip(group.duplicates.tolist(), group.strengths.tolist(), strict=True):
            levels[ids[places[at]]] = level
            kept_for[ids[places[at]]] = ids[places[group.kept]]
            trashed.append(at)
    kept = np.sort(np.concatenate([np.delete(places, trashed), rest])) if len(ids) else rest
    how = f"{len(trashed)} duplicates of {len(groups)} faces at strength {strength}"
    return Arrangement(_named(ids, kept), _named(ids, places[trashed]), how, levels, kept_for)


def _named(ids: Sequence[str], places: np.ndarray) -> list[str]:
    return [ids[at] for at in places.tolist()]


def _there(table: RevisionTable, faces: Sequence[str]) -> np.ndarray:
    at = table.positions(faces)
    return at[at >= 0]
