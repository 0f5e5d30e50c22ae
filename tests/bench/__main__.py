"""`make bench`: runs tests/bench/bench_*.py, prints a table, writes build/bench.json.

Each module has ``run() -> list[dict]`` with rows {name, value, unit, baseline, ratio}; this adds the peak memory of the process so far and
the machine. Every module runs in a process of its own, so that one's memory and threads are not another's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.bench.measure import measured

_HERE = Path(__file__).parent


def main() -> int:
    """Returns 1 when a benchmark failed; the others' rows are written all the same."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--only", default="", help="names, comma separated: faces,media")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    flags = parser.parse_args()
    names = sorted(path.stem.removeprefix("bench_") for path in _HERE.glob("bench_*.py"))
    wanted = [name for name in flags.only.split(",") if name]
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(names)}")
    rows, failed = [], []
    for name in wanted or names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                rows += pool.submit(measured, name).result()
            except Exception as error:  # noqa: BLE001  one failing benchmark must not hide the others
                failed.append(f"{name}: {type(error).__name__}: {error}")
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(json.dumps(rows, indent=1) + "\n")
    _print_table(rows)
    for line in failed:
        print(f"FAILED {line}", file=sys.stderr)
    return 1 if failed else 0


def _print_table(rows: list[dict[str, Any]]) -> None:
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        ratio = f"  {row['ratio']:.2f} x" if row.get("ratio") is not None else ""
        print(f"{row['name']:<{width}}  {row['value']:>12.4g} {row['unit']}{ratio}")


if __name__ == "__main__":
    sys.exit(main())
