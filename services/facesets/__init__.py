"""Facesets: revisions of curated faces. Lists, the trash, older states, orders, best faces, duplicates.

Every change is a revision (``edits`` within a call, ``plans`` and ``stages`` for long work), so nothing is lost and everything can be
undone.
``services.kit.faceset_store`` holds the stored form that extraction, training and merging share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.kit.context import ServiceContext
    from services.kit.server import Registrar


def register(registrar: Registrar, context: ServiceContext) -> None:
    """Adds FacesetService and RightsService to a server."""
    from services.facesets import rpc

    rpc.register(registrar, context)
