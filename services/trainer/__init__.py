"""Training: runs that last for days and are steered while they go on.

``rpc`` and ``convert`` face the callers, ``app`` holds the use cases: every verb is one update of the run's record. ``driver`` takes a
run that nobody drives and sees it to its end; ``backend`` starts its workers (Ray Train, or this process for tests); ``worker`` is what
they do, with ``link`` as their line to the store. ``run`` says what stands in a record. The one thing to get wrong: nothing is sent to
workers. They read wishes in the record and write what they did beside them, so a server may die and be replaced meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.kit.context import ServiceContext
    from services.kit.server import Registrar


def register(registrar: Registrar, context: ServiceContext) -> None:
    """Adds TrainingService to a server, and runs to what its reconciler looks after."""
    from services.trainer import rpc

    rpc.register(registrar, context)
