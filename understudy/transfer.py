"""Sending files to the store and fetching results, by signed addresses; no store credentials needed here."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from understudy.client import Client
from understudy.errors import UnderstudyError
from understudy.v1 import common_pb2, transfer_service_pb2

_BLOCK_BYTES = 1 << 20
_PER_CALL = 200  # addresses live a quarter of an hour, and so many are sent long before
_THREADS = 8
_BATCH_WITHIN_S = 600.0


def file_digest(path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> common_pb2.Digest:
    """SHA-256 and size of a file, read once."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            on_bytes(len(block))
        size = file.tell()
    return common_pb2.Digest(sha256=digest.hexdigest(), size_bytes=size)


def upload(
    client: Client, project: str, path: Path, *, media_type: str, digest: common_pb2.Digest | None = None
) -> common_pb2.ObjectRef:
    """Sends a file unless the store has it. UnderstudyError when the file cannot be read or does not arrive whole."""
    if not path.is_file():
        raise UnderstudyError(f"there is no file {path}", code="INVALID_ARGUMENT", reason="NOT_FOUND")
    item = transfer_service_pb2.UploadItem(digest=digest or file_digest(path), media_type=media_type)
    if item.digest.size_bytes == 0:
        raise UnderstudyError(f"{path} is empty", code="INVALID_ARGUMENT", reason="NOT_MEDIA")
    signed = client.transfer.CreateUploadUrls(
        transfer_service_pb2.CreateUploadUrlsRequest(parent=project, items=[item])
    ).urls[0]
    if not signed.present:
        _send(path, signed)
    done = client.transfer.CompleteUploads(
        transfer_service_pb2.CompleteUploadsRequest(parent=project, items=[item]), timeout=_BATCH_WITHIN_S
    )
    reference: common_pb2.ObjectRef = done.objects[0]
    return reference


def upload_many(
    client: Client,
    project: str,
    files: Sequence[tuple[Path, str]],
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> list[common_pb2.ObjectRef]:
    """Sends files (path, media type), none of them empty, unless the store has them; a batch of them costs two questions.

    ``on_done(done, total)`` is called after each batch. OSError when a file cannot be read, UnderstudyError when one does not arrive.
    """
    references: list[common_pb2.ObjectRef] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(files), _PER_CALL):
            part = files[start : start + _PER_CALL]
            digests = pool.map(lambda item: file_digest(item[0]), part)
            items = [
                transfer_service_pb2.UploadItem(digest=digest, media_type=media_type)
                for digest, (_, media_type) in zip(digests, part, strict=True)
            ]
            request = transfer_service_pb2.CreateUploadUrlsRequest(parent=project, items=items)
            signed = client.transfer.CreateUploadUrls(request, timeout=_BATCH_WITHIN_S).urls
            # Equal files are one object: two threads must not send it at once.
            wanted = {
                url.object.uri: (path, url) for (path, _), url in zip(part, signed, strict=True) if not url.present
            }
            for _ in pool.map(lambda item: _send(*item), wanted.values()):
                pass
            done = transfer_service_pb2.CompleteUploadsRequest(parent=project, items=items)
            references += client.transfer.CompleteUploads(done, timeout=_BATCH_WITHIN_S).objects
            on_done(len(references), len(files))
    return references


def download(client: Client, project: str, reference: common_pb2.ObjectRef, path: Path) -> None:
    """Fetches an object to ``path``: checked against its digest, then put in place at once. Never leaves half a file there."""
    signed = client.transfer.CreateDownloadUrls(
        transfer_service_pb2.CreateDownloadUrlsRequest(parent=project, objects=[reference])
    ).urls[0]
    fetch(signed, reference, path)


def fetch(signed: transfer_service_pb2.SignedUrl, reference: common_pb2.ObjectRef, path: Path) -> None:
    """As ``download``, from an address that CreateDownloadUrls gave for ``reference``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as target, _opened(signed) as source:
            while block := source.read(_BLOCK_BYTES):
                digest.update(block)
                target.write(block)
            target.flush()
            os.fsync(target.fileno())
        if digest.hexdigest() != reference.digest.sha256:
            raise UnderstudyError(
                f"{reference.uri} arrived damaged: try again", code="DATA_LOSS", reason="CORRUPT_OBJECT"
            )
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _send(path: Path, signed: transfer_service_pb2.SignedUrl) -> None:
    if signed.url.startswith("file://"):
        target = _local(signed.url)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copyfile(path, temporary)
        temporary.replace(target)
        return
    with path.open("rb") as file:
        request = urllib.request.Request(
            signed.url, data=file, method=signed.method, headers=dict(signed.required_headers)
        )
        request.add_header("Content-Length", str(path.stat().st_size))
        try:
            with urllib.request.urlopen(request):
                pass
        except urllib.error.HTTPError as error:
            if error.code != 412:  # someone else sent the same file meanwhile
                raise UnderstudyError(
                    f"the store refused {path}: {error}", code="UNAVAILABLE", reason="UNAVAILABLE"
                ) from error


def _opened(signed: transfer_service_pb2.SignedUrl):  # type: ignore[no-untyped-def]
    if signed.url.startswith("file://"):
        return _local(signed.url).open("rb")
    return urllib.request.urlopen(urllib.request.Request(signed.url, headers=dict(signed.required_headers)))


def _local(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
