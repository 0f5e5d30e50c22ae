"""Finding and aligning faces: from a clip to a faceset.

``app`` plans (clip and options to chunks of frames), ``stages`` does the chunks on workers, ``rpc`` and ``convert`` face the callers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.kit.context import ServiceContext
    from services.kit.server import Registrar


def register(registrar: Registrar, context: ServiceContext) -> None:
    """Adds FaceService to a server."""
    from services.faces import rpc

    rpc.register(registrar, context)
