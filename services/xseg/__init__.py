"""Masks drawn by people and predicted by XSeg. The API is there so that tools can be written against it; this release serves none of its
methods yet: every call answers UNIMPLEMENTED with an ErrorInfo."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.kit.context import ServiceContext
    from services.kit.server import Registrar


def register(registrar: Registrar, context: ServiceContext) -> None:
    """Adds XSegService to a server."""
    from understudy.v1 import xseg_service_pb2_grpc

    xseg_service_pb2_grpc.add_XSegServiceServicer_to_server(
        xseg_service_pb2_grpc.XSegServiceServicer(), registrar.server
    )
    registrar.added("understudy.v1.XSegService")
