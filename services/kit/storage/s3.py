"""The S3 store: a bucket of MinIO, AWS or anything that speaks the same, through the ``minio`` client.

Only a small part of S3 is used: PUT, GET with Range, HEAD, DELETE, list-v2 with start-after, multipart uploads,
presigned URLs and ``If-None-Match: *``. The digest of an object travels as ``x-amz-meta-sha256``, so it is computed
before the bytes are sent: streams go through a temporary file, files are read twice.

The one thing to get wrong: a conditional PUT whose answer got lost looks, when repeated, like a PUT that lost the race.
Each one carries a ``x-amz-meta-put-id``; when a repetition is refused, that id tells whether the winner was us.

Objects up to 64 MiB, and up to 5 GiB when conditional, are one PUT; larger ones go in parts, and the condition then
stands on completing the upload (fewer servers know that one: AWS, MinIO). A server that ignores ``If-None-Match`` is
found out before the first conditional write and refused with ``WrongState``: there is no safe way to do without.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar
from xml.etree import ElementTree

import urllib3
from minio import Minio
from minio.datatypes import parse_list_objects
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from services.kit.errors import (
    AlreadyExists,
    Corrupt,
    Denied,
    InvalidInput,
    NotFound,
    QuotaOrCapacity,
    Transient,
    UnderstudyError,
    WrongState,
)
from services.kit.storage.keys import (
    check_key,
    check_list,
    check_media_type,
    check_range,
    check_sha256,
    check_sign,
    is_key,
)
from services.kit.storage.node_cache import NodeCache
from services.kit.storage.port import ListPage, ObjectInfo, SignedUrl
from services.kit.storage.sigv4 import presign
from services.kit.storage.source import chunks_of, mismatch, open_source
from services.kit.storage.verify import CHUNK_BYTES, check_digest, verifying_stream

SINGLE_PUT_BYTES = 64 << 20
SINGLE_CONDITIONAL_PUT_BYTES = 5 << 30  # what S3 takes in one PUT
PART_BYTES = 16 << 20
MAX_PARTS = 10_000
PART_THREADS = 4
MANY_THREADS = 16
IN_MEMORY_BYTES = 8 << 20
ATTEMPTS = 6
FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 3.0
REQUEST_EXPIRES_S = 900
LIST_REQUEST_KEYS = 1000  # what S3 answers at most
PROBE_NAME = "~conditional-create-probe"  # not a key, so never listed

_FULL = {
    "XMinioStorageFull",
    "QuotaExceeded",
    "EntityTooLarge",
    "XMinioAdminBucketQuotaExceeded",
    "InsufficientCapacity",
}
_WRONG_BYTES = {"BadDigest", "XAmzContentSHA256Mismatch", "InvalidDigest"}
_LATER = {
    "SlowDown",
    "RequestTimeout",
    "ConditionalRequestConflict",
    "OperationAborted",
    "ServiceUnavailable",
    "InternalError",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Payload:
    """Bytes about to be sent, in memory or in a file that is read with pread, so that threads may share it."""

    data: bytes | None
    descriptor: int
    size_bytes: int
    sha256: str
    md5: str

    def window(self, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``."""
        if self.data is not None:
            return self.data[start : start + length]
        pieces = []
        while length:
            piece = os.pread(self.descriptor, length, start)
            if not piece:
                raise InvalidInput("the file became shorter while it was being stored")
            pieces.append(piece)
            start, length = start + len(piece), length - len(piece)
        return b"".join(pieces)

    def body(self) -> bytes | Iterator[bytes]:
        """All of it, for one request."""
        if self.data is not None:
            return self.data
        return (
            self.window(start, min(CHUNK_BYTES, self.size_bytes - start))
            for start in range(0, self.size_bytes, CHUNK_BYTES)
        )


def _md5(data: bytes) -> str:
    """Content-MD5: the one body check that every S3 server does."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _failure(status: int, code: str, message: str, uri: str) -> UnderstudyError:
    """The exception for an answer of the server that is not a success."""
    text = f"{uri}: {code or status} {message}".strip()
    if status == 507 or code in _FULL:
        return QuotaOrCapacity(f"the object store is full: {text}")
    if status >= 500 or status in (408, 429) or code in _LATER:
        return Transient(f"the object store did not answer properly: {text}")
    if status == 412 or code == "PreconditionFailed":
        return AlreadyExists(f"there is an object {uri} already", metadata={"uri": uri})
    if code == "NoSuchBucket":
        return WrongState(f"the object store has no such bucket, create it first: {text}")
    if status == 404:
        return NotFound(f"there is no object {uri}", metadata={"uri": uri})
    if status in (401, 403):
        return Denied(f"the object store refuses these credentials: {text}")
    if code in _WRONG_BYTES:
        return Corrupt(f"the bytes were damaged on their way to the store: {text}", metadata={"uri": uri})
    return WrongState(f"the object store refuses the request: {text}")


@contextmanager
def _s3_errors(uri: str) -> Iterator[None]:
    """Turn what minio and urllib3 raise into the family of ``errors``."""
    try:
        yield
    except S3Error as error:
        raise _failure(error.response.status, error.code or "", error.message or "", uri) from error
    except ServerError as error:
        raise _failure(error.status_code, "", str(error), uri) from error
    except InvalidResponseError as error:
        raise Transient(
            f"the object store gave an answer that is not S3's, a proxy's perhaps: {uri}: {error}"
        ) from error
    except (MinioException, HTTPError) as error:
        raise Transient(f"the object store cannot be reached: {uri}: {error}") from error


def _retrying(attempt: Callable[[], T]) -> T:
    """Call until it does not raise ``Transient``, at most ``ATTEMPTS`` times, with full jitter between."""
    for number in range(ATTEMPTS - 1):
        try:
            return attempt()
        except Transient:
            time.sleep(random.uniform(0, min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**number)))
    return attempt()


def _recorded(headers: Mapping[str, str]) -> list[str]:
    sha256 = headers.get("x-amz-meta-sha256", "")
    return [sha256] if sha256 else []


class S3Store:
    """An ``ObjectStore`` in ``bucket`` at ``endpoint`` (``host[:port]``), under ``prefix``. The bucket must exist."""

    def __init__(
        self,
        *,
        endpoint: str,
        bucket: str,
        access_key: str,
        secret_key: str,
        region: str,
        secure: bool,
        prefix: str,
        cache_dir: Path,
        cache_bytes: int,
    ) -> None:
        self._origin = f"{'https' if secure else 'http'}://{endpoint}"
        self._bucket = bucket
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._prefix = f"{check_key(prefix)}/" if prefix else ""
        self._cache = NodeCache(cache_dir, cache_bytes)
        # Without retries of urllib3's own: it cannot know which requests may be repeated.
        self._http = urllib3.PoolManager(
            maxsize=2 * MANY_THREADS, retries=False, timeout=urllib3.Timeout(connect=5.0, read=60.0)
        )
        self._minio = Minio(endpoint, access_key, secret_key, region=region, secure=secure, http_client=self._http)
        self._probe_lock = threading.Lock()
        self._probed = False

    # -- writing -------------------------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: bytes | BinaryIO | Path,
        *,
        media_type: str = "application/octet-stream",
        if_absent: bool = False,
        sha256: str | None = None,
    ) -> ObjectInfo:
        """See ``ObjectStore.put``."""
        check_key(key)
        check_media_type(media_type)
        check_sha256(sha256)
        if if_absent:
            self._require_conditional_create()
            if not isinstance(data, bytes):  # worth asking before reading a whole file
                with suppress(NotFound):
                    self.stat(key)
                    raise AlreadyExists(f"there is an object {self.uri(key)} already", metadata={"uri": self.uri(key)})
        with self._payload(data) as payload:
            if sha256 is not None and payload.sha256 != sha256:
                raise mismatch(key, sha256, payload.sha256)
            return self._put(key, payload, media_type, if_absent)

    def put_many(self, items: Iterable[tuple[str, bytes, str]]) -> list[ObjectInfo]:
        """See ``ObjectStore.put_many``. Up to 16 PUTs are under way at once."""

        def put(item: tuple[str, bytes, str]) -> ObjectInfo:
            key, data, media_type = item
            return self.put(key, data, media_type=media_type)

        stored: list[ObjectInfo] = []
        remaining = iter(items)
        with ThreadPoolExecutor(MANY_THREADS) as pool:
            while batch := list(islice(remaining, 4 * MANY_THREADS)):
                stored.extend(pool.map(put, batch))
        return stored

    def delete(self, key: str) -> None:
        """See ``ObjectStore.delete``."""
        name = self._name(key)

        def attempt() -> None:
            with suppress(NotFound), _s3_errors(self.uri(key)):
                self._minio.remove_object(self._bucket, name)

        _retrying(attempt)

    @contextmanager
    def _payload(self, data: bytes | BinaryIO | Path) -> Iterator[_Payload]:
        if isinstance(data, bytes):
            yield _Payload(data, -1, len(data), hashlib.sha256(data).hexdigest(), _md5(data))
            return
        sha256, md5, size_bytes = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        source: AbstractContextManager[BinaryIO]
        source = open_source(data) if isinstance(data, Path) else self._cache.scratch()
        with source as file:
            copying = not isinstance(data, Path)
            for chunk in chunks_of(data):
                sha256.update(chunk)
                md5.update(chunk)
                size_bytes += len(chunk)
                if copying:
                    with self._cache.errors():
                        file.write(chunk)
            if copying:
                with self._cache.errors():
                    file.flush()
            yield _Payload(None, file.fileno(), size_bytes, sha256.hexdigest(), base64.b64encode(md5.digest()).decode())

    def _put(self, key: str, payload: _Payload, media_type: str, if_absent: bool) -> ObjectInfo:
        put_id = uuid.uuid4().hex
        headers = {"Content-Type": media_type, "x-amz-meta-sha256": payload.sha256, "x-amz-meta-put-id": put_id}
        condition = {"If-None-Match": "*"} if if_absent else {}
        in_doubt = False

        def attempt() -> float:
            nonlocal in_doubt
            try:
                if payload.size_bytes <= (SINGLE_CONDITIONAL_PUT_BYTES if if_absent else SINGLE_PUT_BYTES):
                    return self._put_single(key, payload, headers | condition)
                return self._put_parts(key, payload, headers, condition)
            except Transient:
                in_doubt = True
                raise
            except AlreadyExists:
                if in_doubt and self._head(key).get("x-amz-meta-put-id") == put_id:
                    return time.time()  # an earlier attempt did arrive; only its answer was lost
                raise

        modified_s = _retrying(attempt)
        return ObjectInfo(key, payload.size_bytes, payload.sha256, media_type, modified_s)

    def _put_single(self, key: str, payload: _Payload, headers: Mapping[str, str]) -> float:
        response = self._send(
            "PUT",
            self._name(key),
            headers=dict(headers) | {"Content-MD5": payload.md5},
            body=payload.body(),
            size_bytes=payload.size_bytes,
        )
        return _answered_s(response)

    def _put_parts(
        self, key: str, payload: _Payload, headers: Mapping[str, str], condition: Mapping[str, str]
    ) -> float:
        name = self._name(key)
        started = ElementTree.fromstring(self._send("POST", name, query={"uploads": ""}, headers=headers).data)
        upload = {"uploadId": started.findtext("{*}UploadId") or ""}
        part_bytes = max(PART_BYTES, -(-payload.size_bytes // MAX_PARTS))

        def send_part(number: int) -> str:
            start = (number - 1) * part_bytes
            data = payload.window(start, min(part_bytes, payload.size_bytes - start))
            query = upload | {"partNumber": str(number)}
            response = _retrying(
                lambda: self._send(
                    "PUT", name, query=query, headers={"Content-MD5": _md5(data)}, body=data, size_bytes=len(data)
                )
            )
            return response.headers["ETag"]

        try:
            with ThreadPoolExecutor(PART_THREADS) as pool:
                tags = list(pool.map(send_part, range(1, -(-payload.size_bytes // part_bytes) + 1)))
            rows = "".join(
                f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"
                for number, tag in enumerate(tags, 1)
            )
            body = f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()
            response = self._send("POST", name, query=upload, headers=condition, body=body, size_bytes=len(body))
            # Completion may take so long that the status has been sent before it fails; then the body tells.
            answer = ElementTree.fromstring(response.data)
            if answer.tag.endswith("Error"):
                code = answer.findtext("{*}Code") or answer.findtext("Code") or ""
                raise _failure(500, code, answer.findtext("Message") or "", self.uri(key))
            return _answered_s(response)
        except BaseException:
            # If this fails too, the parts stay until the bucket's rule for incomplete uploads takes them.
            with suppress(UnderstudyError):
                self._send("DELETE", name, query=upload)
            raise

    def _require_conditional_create(self) -> None:
        """Once per store: a server that ignores the condition must be found out before it loses someone's object."""
        with self._probe_lock:
            if self._probed:
                return
            body = b"Understudy writes this object twice to see that the server honours If-None-Match.\n"
            name = self._prefix + PROBE_NAME

            def attempt() -> bool:
                try:
                    self._send("PUT", name, headers={"If-None-Match": "*"}, body=body, size_bytes=len(body))
                except AlreadyExists:
                    return True
                return False

            if not _retrying(attempt) and not _retrying(attempt):
                raise WrongState(
                    f"the object store at {self._origin} ignores If-None-Match, so two writers could overwrite "
                    "each other; use a server with conditional writes"
                )
            self._probed = True

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes:
        """See ``ObjectStore.get``."""

        def attempt() -> bytes:
            response = self._fetch(key)
            with _s3_errors(self.uri(key)), response:
                data = response.read(decode_content=False)
            check_digest(hashlib.sha256(data).hexdigest(), _recorded(response.headers), self.uri(key))
            return data

        return _retrying(attempt)

    def read(self, key: str, start: int, length: int) -> bytes:
        """See ``ObjectStore.read``."""
        check_range(start, length)
        if length == 0:
            self.stat(key)
            return b""

        def attempt() -> bytes:
            with _s3_errors(self.uri(key)):
                try:
                    response = self._minio.get_object(self._bucket, self._name(key), offset=start, length=length)
                except S3Error as error:
                    if error.response.status == 416:  # the range begins beyond the end
                        return b""
                    raise
                with response:
                    return response.read(decode_content=False)

        return _retrying(attempt)

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """See ``ObjectStore.open``. A connection lost on the way is taken up again where it broke."""
        with closing(self._body(key)) as body:
            yield verifying_stream(body.read, size_bytes=body.size_bytes, digests=body.digests, uri=self.uri(key))

    def local_path(self, key: str) -> AbstractContextManager[Path]:
        """See ``ObjectStore.local_path``. A file of the node's cache; its digest was checked when it was fetched."""
        info = self.stat(key)
        identity = f"{self.uri(key)}\n{info.modified_s}\n{info.size_bytes}"
        name = info.sha256 or hashlib.sha256(identity.encode()).hexdigest()

        def fill(file: BinaryIO) -> None:
            with closing(self._body(key)) as body:
                if body.size_bytes != info.size_bytes or body.digests != ([info.sha256] if info.sha256 else []):
                    raise Transient(f"{self.uri(key)} was replaced while it was being fetched")
                stream = verifying_stream(
                    body.read, size_bytes=body.size_bytes, digests=body.digests, uri=self.uri(key)
                )
                for chunk in chunks_of(stream):
                    file.write(chunk)

        return self._cache.file(name, info.size_bytes, fill)

    def stat(self, key: str) -> ObjectInfo:
        """See ``ObjectStore.stat``."""
        headers = self._head(key)
        return ObjectInfo(
            key,
            int(headers.get("content-length", "0")),
            headers.get("x-amz-meta-sha256"),
            headers.get("content-type", ""),
            parsedate_to_datetime(headers["last-modified"]).timestamp(),
        )

    def list(self, prefix: str, *, after: str = "", limit: int = 1000, delimiter: str = "") -> ListPage:
        """See ``ObjectStore.list``. One request per 1000 entries."""
        check_list(prefix, after, limit, delimiter)
        # A cursor that is itself a folded prefix must skip all that it folds; "~" sorts after every character of a key.
        start_after = f"{after}~" if delimiter and after.endswith("/") else after
        query = {"list-type": "2", "prefix": self._prefix + prefix, "delimiter": delimiter}
        if after:
            query["start-after"] = self._prefix + start_after
        found: dict[str, ObjectInfo | None] = {}
        truncated = True
        while truncated and len(found) <= limit:
            query["max-keys"] = str(min(LIST_REQUEST_KEYS, limit + 1 - len(found)))
            response = _retrying(lambda: self._send("GET", "", query=query))
            entries, truncated, token, _ = parse_list_objects(response)
            query["continuation-token"] = token or ""
            for entry in entries:
                name = (entry.object_name or "")[len(self._prefix) :]
                folded = entry.last_modified is None
                if name <= after or not is_key(name.removesuffix("/") if folded else name):
                    continue  # not ours: a probe, or a name that cannot be a key
                modified_s = 0.0 if entry.last_modified is None else entry.last_modified.timestamp()
                found[name] = None if folded else ObjectInfo(name, entry.size or 0, None, "", modified_s)
        names = sorted(found)
        page = names[:limit]
        infos = [found[name] for name in page]
        return ListPage(
            tuple(info for info in infos if info is not None),
            tuple(name for name in page if found[name] is None),
            page[-1] if len(names) > limit else "",
        )

    def _head(self, key: str) -> Mapping[str, str]:
        name = self._name(key)

        def attempt() -> Mapping[str, str]:
            with _s3_errors(self.uri(key)):
                return self._minio.stat_object(self._bucket, name).metadata or {}

        return _retrying(attempt)

    def _body(self, key: str) -> _Body:
        return _Body(lambda start: _retrying(lambda: self._fetch(key, start)), self.uri(key))

    def _fetch(self, key: str, start: int = 0) -> BaseHTTPResponse:
        """A response with the unread bytes of the object from ``start`` on."""
        with _s3_errors(self.uri(key)):
            return self._minio.get_object(self._bucket, self._name(key), offset=start)

    # -- names and requests --------------------------------------------------------------------------------------------

    def sign(
        self, key: str, method: Literal["GET", "PUT"], *, expires_s: int = 900, sha256: str | None = None
    ) -> SignedUrl:
        """See ``ObjectStore.sign``."""
        check_sign(method, expires_s)
        check_sha256(sha256)
        headers: dict[str, str] = {}
        if method == "PUT":
            self._require_conditional_create()
            headers["If-None-Match"] = "*"
            if sha256 is not None:
                headers["x-amz-meta-sha256"] = sha256
        return SignedUrl(self._url(method, self._name(key), {}, headers, expires_s), method, headers, expires_s)

    def uri(self, key: str) -> str:
        """See ``ObjectStore.uri``."""
        return f"s3://{self._bucket}/{self._name(key)}"

    def key_of(self, uri: str) -> str:
        """See ``ObjectStore.key_of``."""
        base = f"s3://{self._bucket}/{self._prefix}"
        if not uri.startswith(base):
            raise InvalidInput(f"{uri!r:.300} is not in this store, which is {base}")
        return check_key(uri[len(base) :])

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _url(self, method: str, name: str, query: Mapping[str, str], headers: Mapping[str, str], expires_s: int) -> str:
        return presign(
            method=method,
            origin=self._origin,
            path=f"/{self._bucket}/{name}" if name else f"/{self._bucket}",
            query=query,
            headers=headers,
            access_key=self._access_key,
            secret_key=self._secret_key,
            region=self._region,
            expires_s=expires_s,
            now=datetime.now(UTC),
        )

    def _send(
        self,
        method: str,
        name: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterator[bytes] = b"",
        size_bytes: int = 0,
    ) -> BaseHTTPResponse:
        """One presigned request, for what ``minio`` has no public call: signed conditions, parts, a page of a list."""
        uri = f"s3://{self._bucket}/{name}"
        url = self._url(method, name, query or {}, headers or {}, REQUEST_EXPIRES_S)
        sent = dict(headers or {})
        if method in ("PUT", "POST"):
            sent["Content-Length"] = str(size_bytes)
        with _s3_errors(uri):
            response = self._http.request(method, url, headers=sent, body=body or None, redirect=False)
        if response.status >= 300:
            code, message = _error_of(response)
            raise _failure(response.status, code, message, uri)
        return response


class _Body:
    """The bytes of an object from one or, if connections break, several responses."""

    def __init__(self, fetch: Callable[[int], BaseHTTPResponse], uri: str) -> None:
        self._fetch = fetch
        self._uri = uri
        self._response = fetch(0)
        self._position = 0
        self.size_bytes = int(self._response.headers["content-length"])
        self.digests = _recorded(self._response.headers)

    def read(self, size_bytes: int) -> bytes:
        def attempt() -> bytes:
            try:
                with _s3_errors(self._uri):
                    return self._response.read(size_bytes, decode_content=False)
            except Transient:
                self._response.close()
                self._response = self._fetch(self._position)
                raise

        data = _retrying(attempt)
        self._position += len(data)
        return data

    def close(self) -> None:
        self._response.close()


def _answered_s(response: BaseHTTPResponse) -> float:
    """When the server answered, by its own clock."""
    date = response.headers.get("date")
    return parsedate_to_datetime(date).timestamp() if date else time.time()


def _error_of(response: BaseHTTPResponse) -> tuple[str, str]:
    """Code and message of an S3 error document; a proxy's page has neither."""
    try:
        document = ElementTree.fromstring(response.data)
    except ElementTree.ParseError:
        return "", response.data[:200].decode("utf-8", "replace")
    return document.findtext("Code") or "", document.findtext("Message") or ""
