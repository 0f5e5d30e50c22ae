"""TransferService: validates, signs, answers. See transfer_service.proto."""

from __future__ import annotations

import asyncio
import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from services.kit import names
from services.kit.context import ServiceContext
from services.kit.errors import AlreadyExists, InvalidInput, NotFound
from services.kit.operations.convert import MAX_PAGE_SIZE, duration, key_of_reference, object_ref
from services.kit.storage import ObjectInfo
from understudy.v1 import common_pb2, transfer_service_pb2, transfer_service_pb2_grpc

if TYPE_CHECKING:
    from services.kit.server import Registrar

URL_LIFE_S = 900
MAX_UPLOAD_BYTES = 5 * 2**30  # one S3 PUT
_SHA256 = re.compile(r"[0-9a-f]{64}")


def register(registrar: Registrar, context: ServiceContext) -> None:
    """Adds the service."""
    transfer_service_pb2_grpc.add_TransferServiceServicer_to_server(Transfer(context, registrar), registrar.server)
    registrar.added("understudy.v1.TransferService")


class Transfer(transfer_service_pb2_grpc.TransferServiceServicer):
    """Uploads lie under their digest, `projects/p/uploads/<sha256>`: sending a file twice costs one question."""

    def __init__(self, context: ServiceContext, registrar: Registrar) -> None:
        self._context = context
        self._store = context.store
        self._registrar = registrar
        store = context.settings.store
        # A folder cannot be PUT to: files are dropped beside it and taken in, checked, by CompleteUploads.
        self._inbox = store.root.resolve().parent / "incoming" if store.kind == "folder" else None

    async def CreateUploadUrls(self, request: Any, _context: Any) -> transfer_service_pb2.CreateUploadUrlsResponse:
        """See transfer_service.proto."""
        names.parse(request.parent, "projects", field="parent")
        _check_count(len(request.items), "items")
        urls = [await asyncio.to_thread(self._upload, request.parent, item) for item in request.items]
        return transfer_service_pb2.CreateUploadUrlsResponse(urls=urls)

    async def CompleteUploads(self, request: Any, _context: Any) -> transfer_service_pb2.CompleteUploadsResponse:
        """See transfer_service.proto."""
        names.parse(request.parent, "projects", field="parent")
        _check_count(len(request.items), "items")
        objects = [await asyncio.to_thread(self._complete, request.parent, item) for item in request.items]
        return transfer_service_pb2.CompleteUploadsResponse(objects=objects)

    async def CreateDownloadUrls(self, request: Any, _context: Any) -> transfer_service_pb2.CreateDownloadUrlsResponse:
        """See transfer_service.proto."""
        names.parse(request.parent, "projects", field="parent")
        _check_count(len(request.objects), "objects")
        urls = [await asyncio.to_thread(self._download, request.parent, reference) for reference in request.objects]
        return transfer_service_pb2.CreateDownloadUrlsResponse(urls=urls)

    async def GetCapabilities(self, _request: Any, _context: Any) -> transfer_service_pb2.Capabilities:
        """See transfer_service.proto."""
        return transfer_service_pb2.Capabilities(
            version=version("understudy"),
            services=self._registrar.service_names,
            methods=self._registrar.method_names,
            max_message_bytes=4 * 2**20,
            max_page_size=MAX_PAGE_SIZE,
            executor=self._context.settings.execution.kind,
            store=self._context.settings.store.kind,
        )

    def _upload(self, parent: str, item: transfer_service_pb2.UploadItem) -> transfer_service_pb2.SignedUrl:
        if not 0 < item.digest.size_bytes <= MAX_UPLOAD_BYTES:
            raise InvalidInput(
                f"a file of {item.digest.size_bytes} bytes cannot be sent: 1 byte to {MAX_UPLOAD_BYTES} bytes (5 GiB) can",
                fields={"items.digest.size_bytes": "out of range"},
            )
        key = _upload_key(parent, item)
        try:
            info = self._store.stat(key)
            return transfer_service_pb2.SignedUrl(object=object_ref(self._store, info), present=True)
        except NotFound:
            info = ObjectInfo(key, item.digest.size_bytes, item.digest.sha256, _media_type(item), 0.0)
        reference = object_ref(self._store, info)
        if self._inbox is not None:
            return transfer_service_pb2.SignedUrl(
                object=reference, url=(self._inbox / item.digest.sha256).as_uri(), method="PUT"
            )
        return self._signed(key, "PUT", reference, item.digest.sha256)

    def _complete(self, parent: str, item: transfer_service_pb2.UploadItem) -> common_pb2.ObjectRef:
        key = _upload_key(parent, item)
        try:
            return object_ref(self._store, self._store.stat(key))
        except NotFound:
            if self._inbox is None:
                raise
        sent = self._inbox / item.digest.sha256
        if not sent.is_file():
            raise NotFound(f"no file was sent to {sent}: copy it there first")
        try:
            info = self._store.put(key, sent, media_type=_media_type(item), if_absent=True, sha256=item.digest.sha256)
        except AlreadyExists:
            info = self._store.stat(key)  # the same file was sent twice at once
        sent.unlink(missing_ok=True)
        return object_ref(self._store, info)

    def _download(self, parent: str, reference: common_pb2.ObjectRef) -> transfer_service_pb2.SignedUrl:
        key = key_of_reference(self._store, reference, "objects")
        if not key.startswith((f"{parent}/", "work/")):
            raise InvalidInput(
                f"{reference.uri} does not belong to {parent}", fields={"objects": "outside the project"}
            )
        return self._signed(key, "GET", object_ref(self._store, self._store.stat(key)), None)

    def _signed(
        self, key: str, method: Any, reference: common_pb2.ObjectRef, sha256: str | None
    ) -> transfer_service_pb2.SignedUrl:
        signed = self._store.sign(key, method, expires_s=URL_LIFE_S, sha256=sha256)
        return transfer_service_pb2.SignedUrl(
            object=reference,
            url=signed.url,
            method=signed.method,
            required_headers=signed.headers,
            expires_after=duration(signed.expires_s),
        )


def _upload_key(parent: str, item: transfer_service_pb2.UploadItem) -> str:
    if not _SHA256.fullmatch(item.digest.sha256):
        raise InvalidInput(
            "digest.sha256 must be 64 lower-case hexadecimal digits", fields={"items.digest.sha256": "not a SHA-256"}
        )
    return f"{parent}/uploads/{item.digest.sha256}"


def _media_type(item: transfer_service_pb2.UploadItem) -> str:
    return item.media_type or "application/octet-stream"


def _check_count(count: int, field: str) -> None:
    if not 1 <= count <= MAX_PAGE_SIZE:
        raise InvalidInput(
            f"{field} must hold 1 to {MAX_PAGE_SIZE} entries, not {count}", fields={field: "wrong number"}
        )
