"""The object store, where all of Understudy's state lives: a folder on one machine, a bucket of MinIO or S3 on many.

``port`` says what a store does, ``folder`` and ``s3`` do it, and one contract suite
(tests/contract/test_object_store.py) runs on both. The one thing to get wrong: objects are put once. What changes is a
record (``services.kit.records``), which is a row of objects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from services.kit.errors import InvalidInput
from services.kit.storage.folder import FolderStore
from services.kit.storage.keys import check_key
from services.kit.storage.port import ListPage, ObjectInfo, ObjectStore, SignedUrl
from services.kit.storage.s3 import S3Store

__all__ = [
    "FolderStore",
    "ListPage",
    "ObjectInfo",
    "ObjectStore",
    "S3Store",
    "SignedUrl",
    "check_key",
    "open_store",
]

DEFAULT_REGION = "us-east-1"
DEFAULT_CACHE_BYTES = 20 << 30


def open_store(
    kind: Literal["folder", "s3"],
    *,
    root: Path | None = None,
    endpoint: str | None = None,
    bucket: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    region: str = DEFAULT_REGION,
    secure: bool = True,
    prefix: str = "",
    cache_dir: Path | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> ObjectStore:
    """A store from settings; raises ``InvalidInput`` that names a missing one.

    ``folder`` needs ``root``. ``s3`` needs ``endpoint`` (``host:port`` or a URL, whose scheme then decides instead of
    ``secure``), ``bucket``, ``access_key`` and ``secret_key``. ``prefix`` is a folder inside either that holds all
    keys. ``cache_dir`` is where ``local_path`` of an S3 store keeps files, up to ``cache_bytes``; without it
    ``~/.cache/understudy/objects``. Nothing is contacted yet, except that the folder is created.
    """
    if kind == "folder":
        if root is None:
            raise InvalidInput("a folder store needs the setting 'root'", fields={"root": "missing"})
        return FolderStore(root / check_key(prefix) if prefix else root)
    if kind != "s3":
        raise InvalidInput(f"a store is 'folder' or 's3', not {kind!r}", fields={"kind": "unknown"})
    if not endpoint or not bucket or not access_key or not secret_key:
        required = {"endpoint": endpoint, "bucket": bucket, "access_key": access_key, "secret_key": secret_key}
        missing = [name for name, value in required.items() if not value]
        raise InvalidInput(
            f"an s3 store needs the settings {', '.join(missing)}", fields=dict.fromkeys(missing, "missing")
        )
    scheme, separator, host = endpoint.rpartition("://")
    return S3Store(
        endpoint=host.rstrip("/"),
        bucket=bucket,
        access_key=access_key,
        secret_key=secret_key,
        region=region,
        secure=scheme == "https" if separator else secure,
        prefix=prefix,
        cache_dir=cache_dir or Path.home() / ".cache" / "understudy" / "objects",
        cache_bytes=cache_bytes,
    )
