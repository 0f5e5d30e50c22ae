"""How to open the store under test from any process, and how to run code in other processes on it.

The one thing to get wrong: the fixtures are in ``tests.support.stores``, which a suite names in ``pytest_plugins`` and
does not import, or pytest cannot rewrite its assertions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services.kit.storage import ObjectStore, open_store

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class StoreSpec:
    """How to open the store under test, also from another process."""

    kind: str
    root: str = ""
    endpoint: str = ""
    bucket: str = ""
    access_key: str = ""
    secret_key: str = ""
    prefix: str = ""
    cache_dir: str = ""

    def open(self, **overrides: Any) -> ObjectStore:
        """A new store object, as another process would have it."""
        if self.kind == "folder":
            return open_store("folder", root=Path(self.root), **overrides)
        settings: dict[str, Any] = {
            "endpoint": self.endpoint,
            "bucket": self.bucket,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "prefix": self.prefix,
            "cache_dir": Path(self.cache_dir),
        }
        return open_store("s3", **(settings | overrides))

    def start(self, code: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Run ``code`` in a new process; it finds ``store`` opened and ``arguments`` in ``sys.argv[2:]``."""
        preamble = (
            "import json, sys\n"
            "from pathlib import Path\n"
            "from services.kit.storage import open_store\n"
            "settings = json.loads(sys.argv[1])\n"
            "paths = {name: Path(settings.pop(name)) for name in ('root', 'cache_dir')}\n"
            "store = open_store(settings.pop('kind'), **settings, **paths)\n"
        )
        return subprocess.Popen(
            [sys.executable, "-c", preamble + code, json.dumps(asdict(self)), *arguments],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def finish(processes: list[subprocess.Popen[bytes]]) -> list[str]:
    """Wait for processes of ``StoreSpec.start``; their output, or an assertion error with what they complained of."""
    outputs = [process.communicate(timeout=120) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors.decode()
    return [output.decode() for output, _ in outputs]


def with_bucket(spec: StoreSpec) -> StoreSpec:
    """``spec`` itself, after making sure that its bucket is there."""
    from minio import Minio

    scheme, _, host = spec.endpoint.rpartition("://")
    client = Minio(host, spec.access_key, spec.secret_key, region="us-east-1", secure=scheme != "http")
    if not client.bucket_exists(spec.bucket):
        client.make_bucket(spec.bucket)
    return spec
