"""The weights folder of a machine: fetched, added from a user's files, checked, and shared through the store.

``folder`` knows what lies where and writes it, ``wheels`` downloads, ``foreign`` converts files that a user brings,
``bucket`` copies between the folder and the store. What each file has to be is in ``ml_common.weights``. The one thing
to get wrong: neither a server nor the command line may load torch to look at a folder; only conversions import it.
"""

from __future__ import annotations

from services.kit.weights.bucket import ensure, publish
from services.kit.weights.folder import default_weights_dir, remove, status, verify
from services.kit.weights.foreign import add
from services.kit.weights.wheels import EXTRAS, GRAPHS, Graph, fetch

__all__ = [
    "EXTRAS",
    "GRAPHS",
    "Graph",
    "add",
    "default_weights_dir",
    "ensure",
    "fetch",
    "publish",
    "remove",
    "status",
    "verify",
]
