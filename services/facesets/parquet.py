"""Tables of a step of work, kept in the store for the step after it."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from services.kit.storage import ObjectStore

PARQUET = "application/vnd.apache.parquet"


def put_table(store: ObjectStore, key: str, table: pa.Table) -> None:
    """Stores a table; equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    store.put(key, sink.getvalue().to_pybytes(), media_type=PARQUET)


def get_table(store: ObjectStore, key: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads what ``put_table`` stored, or some columns of it."""
    data = pa.BufferReader(store.get(key))
    return pq.read_table(data, columns=None if columns is None else list(columns), use_threads=False)
