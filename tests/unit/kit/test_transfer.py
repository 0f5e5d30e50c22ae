"""TransferService on a folder: files are dropped into an inbox and taken in only when they are what was announced."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import grpc
import pytest

from services.kit.context import ServiceContext
from services.kit.errors import Corrupt, InvalidInput, NotFound
from services.kit.server import Registrar
from services.kit.transfer.rpc import MAX_UPLOAD_BYTES, Transfer
from tests.support.contexts import PROJECT, context_in
from understudy.v1 import common_pb2
from understudy.v1 import transfer_service_pb2 as pb

CONTENT = b"the film" * 1000


@pytest.fixture
def context(tmp_path: Path) -> ServiceContext:
    return context_in(tmp_path)


@pytest.fixture
def transfer(context: ServiceContext) -> Transfer:
    return Transfer(context, Registrar(cast(grpc.aio.Server, None)))


def item(content: bytes = CONTENT) -> pb.UploadItem:
    digest = common_pb2.Digest(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    return pb.UploadItem(digest=digest, media_type="video/mp4")


def call(method: Callable[..., Any], request: Any) -> Any:
    return asyncio.run(method(request, None))


def asked(transfer: Transfer, *items: pb.UploadItem) -> list[pb.SignedUrl]:
    return list(call(transfer.CreateUploadUrls, pb.CreateUploadUrlsRequest(parent=PROJECT, items=items)).urls)


def completed(transfer: Transfer, *items: pb.UploadItem) -> list[common_pb2.ObjectRef]:
    return list(call(transfer.CompleteUploads, pb.CompleteUploadsRequest(parent=PROJECT, items=items)).objects)


def path_of(signed: pb.SignedUrl) -> Path:
    assert signed.url.startswith("file:///")
    return Path(unquote(urlsplit(signed.url).path))


def drop(signed: pb.SignedUrl, content: bytes) -> Path:
    path = path_of(signed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_file_is_sent_and_fetched(transfer: Transfer, context: ServiceContext) -> None:
    signed = asked(transfer, item())[0]
    assert (signed.present, signed.method) == (False, "PUT")
    dropped = drop(signed, CONTENT)
    reference = completed(transfer, item())[0]
    assert reference == signed.object
    assert context.store.get(context.store.key_of(reference.uri)) == CONTENT
    assert not dropped.exists(), "the inbox is emptied"
    fetched = call(transfer.CreateDownloadUrls, pb.CreateDownloadUrlsRequest(parent=PROJECT, objects=[reference])).urls[
        0
    ]
    assert path_of(fetched).read_bytes() == CONTENT
    assert fetched.method == "GET"


def test_the_inbox_is_outside_the_store(transfer: Transfer, context: ServiceContext) -> None:
    """Half-copied files must not be objects."""
    path = path_of(asked(transfer, item())[0])
    root = context.settings.store.root.resolve()
    assert not path.is_relative_to(root)
    assert path.is_relative_to(root.parent)


def test_sending_is_idempotent(transfer: Transfer) -> None:
    drop(asked(transfer, item())[0], CONTENT)
    first = completed(transfer, item())
    assert completed(transfer, item()) == first
    again = asked(transfer, item())[0]
    assert again.present
    assert again.object == first[0]


def test_other_bytes_than_announced_are_refused(transfer: Transfer, context: ServiceContext) -> None:
    signed = asked(transfer, item())[0]
    drop(signed, CONTENT[:-1] + b"!")
    with pytest.raises(Corrupt):
        completed(transfer, item())
    with pytest.raises(NotFound):
        context.store.stat(f"{PROJECT}/uploads/{item().digest.sha256}")
    drop(signed, CONTENT)
    assert completed(transfer, item())[0] == signed.object


def test_half_a_file_is_refused(transfer: Transfer) -> None:
    drop(asked(transfer, item())[0], CONTENT[: len(CONTENT) // 2])
    with pytest.raises(Corrupt):
        completed(transfer, item())


def test_what_was_never_sent_is_not_found(transfer: Transfer) -> None:
    asked(transfer, item())
    with pytest.raises(NotFound, match="copy it there first"):
        completed(transfer, item())


@pytest.mark.parametrize(
    "digest",
    [
        common_pb2.Digest(sha256="../../../etc/passwd", size_bytes=1),
        common_pb2.Digest(sha256="A" * 64, size_bytes=1),
        common_pb2.Digest(sha256="a" * 64 + "\n", size_bytes=1),
        common_pb2.Digest(sha256="", size_bytes=1),
        common_pb2.Digest(sha256="a" * 64, size_bytes=0),
        common_pb2.Digest(sha256="a" * 64, size_bytes=-1),
        common_pb2.Digest(sha256="a" * 64, size_bytes=MAX_UPLOAD_BYTES + 1),
    ],
)
def test_wrong_digests_are_refused(transfer: Transfer, digest: common_pb2.Digest) -> None:
    with pytest.raises(InvalidInput) as caught:
        asked(transfer, pb.UploadItem(digest=digest))
    assert all(field.startswith("items.digest") for field in caught.value.fields)


@pytest.mark.parametrize("count", [0, 1001])
def test_too_few_and_too_many(transfer: Transfer, count: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 1000"):
        asked(transfer, *[item()] * count)


@pytest.mark.parametrize("parent", ["", "p", "projects/../q", "projects/p/clips/c"])
def test_the_parent_must_be_a_project(transfer: Transfer, parent: str) -> None:
    with pytest.raises(InvalidInput):
        call(transfer.CreateUploadUrls, pb.CreateUploadUrlsRequest(parent=parent, items=[item()]))


@pytest.mark.parametrize("key", ["projects/q/uploads/x", "records/projects/p/@/1.json", "active/x", "projects/pp/x"])
def test_only_objects_of_the_project_are_handed_out(transfer: Transfer, context: ServiceContext, key: str) -> None:
    context.store.put(key, b"private")
    reference = common_pb2.ObjectRef(uri=context.store.uri(key))
    with pytest.raises(InvalidInput, match="does not belong"):
        call(transfer.CreateDownloadUrls, pb.CreateDownloadUrlsRequest(parent=PROJECT, objects=[reference]))


@pytest.mark.parametrize("uri", ["file:///etc/passwd", "s3://b/k", "", "https://x/y", "/etc/passwd"])
def test_foreign_addresses_are_refused(transfer: Transfer, uri: str) -> None:
    request = pb.CreateDownloadUrlsRequest(parent=PROJECT, objects=[common_pb2.ObjectRef(uri=uri)])
    with pytest.raises(InvalidInput):
        call(transfer.CreateDownloadUrls, request)
