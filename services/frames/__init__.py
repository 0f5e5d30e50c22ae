"""Clips and their frames, and the projects they live in.

``rpc`` validates and converts, ``app`` does, ``convert`` translates between messages and plain values. The tools of clips (pictures, cuts,
denoising, scenes) are planned in ``plans`` and done in ``stages``; ``purge`` removes a project for good. Frames are decoded by
``services.kit.clips`` wherever they are needed; nothing is unpacked to disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.kit.context import ServiceContext
    from services.kit.server import Registrar


def register(registrar: Registrar, context: ServiceContext) -> None:
    """Adds FrameService and ProjectService to a server."""
    from services.frames import rpc

    rpc.register(registrar, context)
