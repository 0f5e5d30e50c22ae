"""One benchmark in the process that calls this. A module of its own: a spawned process cannot import a ``__main__``."""

from __future__ import annotations

import importlib
import os
import platform
import resource
from typing import Any


def measured(name: str) -> list[dict[str, Any]]:
    """Rows of tests/bench/bench_<name>.py, with this process' peak memory and the machine."""
    module = importlib.import_module(f"tests.bench.bench_{name}")
    rows = module.run()
    peak_rss_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    machine = (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}"
    )
    return [{**row, "peak_rss_mb": peak_rss_mb, "machine": machine} for row in rows]
