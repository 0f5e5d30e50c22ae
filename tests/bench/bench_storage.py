"""What the object store costs: small objects as extraction writes them, large ones as clips and checkpoints are, lists, records.

The one thing to get wrong: the S3 numbers are those of moto, a Python server in this process. They measure our client's
overhead and compare its ways of doing a thing; a real server is several times faster.
"""

from __future__ import annotations

import io
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.kit.records import Records
from services.kit.storage import FolderStore, ObjectStore
from tests.support.store_spec import StoreSpec, with_bucket

Row = dict[str, Any]
SMALL_BYTES = 60_000  # an aligned face of 512 px as JPEG
LARGE_BYTES = 256 << 20


def _seconds(action: Callable[[], Any]) -> float:
    start_s = time.perf_counter()
    action()
    return time.perf_counter() - start_s


def _row(name: str, value: float, unit: str, baseline: float | None = None) -> Row:
    ratio = value / baseline if baseline else None
    return {"name": f"storage.{name}", "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}


def _read_through(store: ObjectStore, key: str) -> None:
    with store.open(key) as stream:
        while stream.read(1 << 20):
            pass


def _rows(kind: str, store: ObjectStore, small_count: int, large_bytes: int) -> Iterator[Row]:
    data = os.urandom(SMALL_BYTES)
    items = [
        (f"faces/{number:05d}{end}", data[number:], "image/jpeg") for number in range(small_count) for end in ("j", "s")
    ]
    one_by_one = len(items) / _seconds(
        lambda: [store.put(f"one/{key}", data, if_absent=True) for key, data, _ in items]
    )
    together = len(items) / _seconds(lambda: store.put_many(items))
    again = len(items) / _seconds(lambda: store.put_many(items))
    yield _row(f"{kind}.put_if_absent", one_by_one, "objects/s")
    yield _row(f"{kind}.put_many", together, "objects/s", one_by_one)
    yield _row(f"{kind}.put_many_again", again, "objects/s", together)
    yield _row(f"{kind}.get", len(items) / _seconds(lambda: [store.get(key) for key, _, _ in items]), "objects/s")
    yield _row(f"{kind}.stat", len(items) / _seconds(lambda: [store.stat(key) for key, _, _ in items]), "objects/s")

    large = os.urandom(1 << 20) * (large_bytes >> 20)
    mb = large_bytes / 1e6
    yield _row(f"{kind}.put_stream", mb / _seconds(lambda: store.put("large", io.BytesIO(large))), "MB/s")
    yield _row(f"{kind}.read_stream", mb / _seconds(lambda: _read_through(store, "large")), "MB/s")
    ranges = range(0, large_bytes, large_bytes // 50)
    yield _row(
        f"{kind}.range_64k", 50 / _seconds(lambda: [store.read("large", start, 65536) for start in ranges]), "reads/s"
    )

    records = Records(store)
    records.create("r", {"n": 0})
    count = 50
    yield _row(
        f"{kind}.record_update",
        count / _seconds(lambda: [records.update("r", lambda body: {"n": body["n"] + 1}) for _ in range(count)]),
        "updates/s",
    )
    yield _row(f"{kind}.record_get", count / _seconds(lambda: [records.get("r") for _ in range(count)]), "reads/s")
    for number in range(count):
        records.create(f"many/{number}", {})
    yield _row(f"{kind}.record_list", count / _seconds(lambda: records.list("many")), "records/s")


def _list_rows(folder: Path) -> Iterator[Row]:
    store = FolderStore(folder)
    for count in (10_000, 100_000):
        where = folder / f"n{count}"
        where.mkdir()
        for number in range(count):
            (where / f"{number:06d}.jpg").touch()

        def pages(prefix: str = f"n{count}/") -> None:
            after = ""
            while after := store.list(prefix, after=after, limit=5000).next_after:
                pass

        yield _row(f"folder.list_{count}_by_5000", count / _seconds(pages), "keys/s")


@contextmanager
def _moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def run() -> list[Row]:
    """Rows of {name, value, unit, baseline, ratio}; ``ratio`` is value / baseline, so larger is better."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as scratch:
        rows += _rows("folder", FolderStore(Path(scratch, "store")), 500, LARGE_BYTES)
        rows += _list_rows(Path(scratch, "lists"))
        with _moto() as endpoint:
            spec = StoreSpec(
                "s3",
                endpoint=endpoint,
                bucket="understudy-bench",
                access_key="test",
                secret_key="test-secret",
                cache_dir=str(Path(scratch, "cache")),
            )
            rows += _rows("moto", with_bucket(spec).open(), 50, LARGE_BYTES // 4)
    return rows


if __name__ == "__main__":
    for row in run():
        print(
            f"{row['name']:34} {row['value']:12.1f} {row['unit']:10} {'' if row['ratio'] is None else round(row['ratio'], 2)}"
        )
