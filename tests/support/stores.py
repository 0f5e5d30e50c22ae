"""Object stores for tests: a folder, and S3 over HTTP, so that a suite written once runs on both.

Use in a suite: ``pytest_plugins = ["tests.support.stores"]``, and take the fixture ``store``, or ``store_spec``, which
other processes can open too. The parameters are ``folder``, ``moto`` (a real HTTP server on a loopback port) and, where
``UNDERSTUDY_TEST_S3_ENDPOINT`` names one, ``endpoint`` (with ``..._ACCESS_KEY``, ``..._SECRET_KEY``, ``..._BUCKET``).

The one thing to get wrong: moto looks whether a key exists and stores it in two steps, so under concurrent requests its
``If-None-Match`` lets two writers win. S3 decides atomically; ``_make_creation_atomic`` gives moto a lock around the
two steps.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.kit.storage import ObjectStore
from tests.support.store_spec import StoreSpec, with_bucket

KINDS = ["folder", "moto"] + (["endpoint"] if os.environ.get("UNDERSTUDY_TEST_S3_ENDPOINT") else [])


def _make_creation_atomic() -> None:
    from moto.s3.responses import S3Response

    if getattr(S3Response, "_creates_atomically", False):
        return
    lock = threading.Lock()
    for name in ("put_object", "_key_response_post"):
        plain = getattr(S3Response, name, None)
        if plain is None:
            continue

        def locked(self: Any, *args: Any, _plain: Any = plain, **kwargs: Any) -> Any:
            with lock:
                return _plain(self, *args, **kwargs)

        setattr(S3Response, name, locked)
    S3Response._creates_atomically = True  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of an S3 server on a loopback port, empty at first."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    _make_creation_atomic()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(params=KINDS)
def store_spec(request: pytest.FixtureRequest, tmp_path: Path) -> StoreSpec:
    """An empty store of each kind."""
    if request.param == "folder":
        return StoreSpec("folder", root=str(tmp_path / "store"))
    if request.param == "moto":
        return with_bucket(
            StoreSpec(
                "s3",
                endpoint=request.getfixturevalue("s3_server"),
                bucket="understudy-tests",
                access_key="test",
                secret_key="test-secret",
                prefix=uuid.uuid4().hex,
                cache_dir=str(tmp_path / "cache"),
            )
        )
    return with_bucket(
        StoreSpec(
            "s3",
            endpoint=os.environ["UNDERSTUDY_TEST_S3_ENDPOINT"],
            bucket=os.environ.get("UNDERSTUDY_TEST_S3_BUCKET", "understudy-tests"),
            access_key=os.environ["UNDERSTUDY_TEST_S3_ACCESS_KEY"],
            secret_key=os.environ["UNDERSTUDY_TEST_S3_SECRET_KEY"],
            prefix=f"contract/{uuid.uuid4().hex}",
            cache_dir=str(tmp_path / "cache"),
        )
    )


@pytest.fixture
def store(store_spec: StoreSpec) -> ObjectStore:
    """The same, opened."""
    return store_spec.open()
