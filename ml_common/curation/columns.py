"""What an order reads: named columns of equal length, one entry a face, in the faceset's present order.

What a reader would get wrong: nothing is looked up by face here. Position i of every column is face i, and an ordering
answers with such positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml_common.curation.measures import MEASURE_COLUMNS
from ml_common.facesets import SCHEMA, RevisionTable

SOURCE_NAME = "source_name"
"""File name of the frame or picture a face was cut from; the one column that neither a revision nor the measures hold."""


class Columns:
    """Columns of equal length, immutable. ValueError when lengths differ, there is no column, or a number is not finite.

    Values are NumPy arrays with one entry a face along their first axis: numbers, or object arrays of str or bytes.
    """

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        lengths = {name: len(values) for name, values in columns.items()}
        if not columns:
            raise ValueError("at least one column is needed, to say how many faces there are")
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns must all have one entry a face, got lengths {lengths}")
        for name, values in columns.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(f"{name} holds NaN or infinity; measure those faces again or leave them out")
        self._columns = MappingProxyType(dict(columns))
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> NDArray[Any]:
        """One column. ValueError, naming it, when it is not there."""
        if name not in self._columns:
            raise ValueError(
                f"column {name!r} is needed; give it, or measure the faces first (have {sorted(self._columns)})"
            )
        return self._columns[name]


def columns_from(
    revision: RevisionTable,
    measures: pa.Table | None,
    names: Iterable[str],
    source_names: Sequence[str] | None = None,
) -> Columns:
    """The named columns of a revision's faces, in its order (trashed faces included; pass `revision.active()` without).

    `measures` has MEASURE_COLUMNS and may hold other faces too, in any order; of a face that comes twice the last counts.
    `source_names` gives one name a face, for `source_name`. face_id is always there. ValueError when a face was not
    measured, or a name is unknown.
    """
    wanted = list(dict.fromkeys(("face_id", *names)))
    columns: dict[str, NDArray[Any]] = {}
    measured = [name for name in wanted if name not in SCHEMA.names and name in MEASURE_COLUMNS.names]
    rows = _measured_rows(revision, measures, measured) if measured else None
    for name in wanted:
        if name in SCHEMA.names:
            columns[name] = revision.column(name)
        elif rows is not None and name in measured:
            columns[name] = _array(rows[name])
        elif name == SOURCE_NAME and source_names is not None:
            columns[name] = np.array(source_names, dtype=object)
        else:
            raise ValueError(
                f"column {name!r} is in neither the revision nor the measures; source_name has to be given"
            )
    return Columns(columns)


def _measured_rows(revision: RevisionTable, measures: pa.Table | None, names: Sequence[str]) -> pa.Table:
    """The measures of the revision's faces, in its order."""
    if measures is None:
        raise ValueError("the faces have to be measured first: no measures were given")
    if not measures.schema.equals(MEASURE_COLUMNS):
        raise ValueError(f"measures must have the columns {MEASURE_COLUMNS.names}, got {measures.schema.names}")
    backwards = measures["face_id"].combine_chunks()[::-1]
    found = pc.index_in(revision.table["face_id"].combine_chunks(), value_set=backwards)
    if found.null_count:
        missing = revision.table["face_id"].filter(found.is_null()).slice(0, 3).to_pylist()
        raise ValueError(f"{found.null_count} faces are not measured, such as {', '.join(missing)}; measure them first")
    return measures.select(list(names)).take(pc.subtract(len(backwards) - 1, found))


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    whole = column.combine_chunks()
    if pa.types.is_fixed_size_list(whole.type):
        flat: NDArray[Any] = whole.flatten().to_numpy()
        return flat.reshape(len(whole), whole.type.list_size)
    if pa.types.is_fixed_size_binary(whole.type):
        return np.array(whole.to_pylist(), dtype=object)
    values: NDArray[Any] = whole.to_numpy()
    return values
