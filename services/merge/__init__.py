"""Merging predicted faces into footage, and encoding the film.

``app`` plans chunks of frames, ``stages`` does them on workers: MergeStage writes lossless segments, EncodeStage one film from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.kit.context import ServiceContext
    from services.kit.server import Registrar


def register(registrar: Registrar, context: ServiceContext) -> None:
    """Adds MergeService to a server."""
    from services.merge import rpc

    rpc.register(registrar, context)
