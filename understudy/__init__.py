"""Understudy for Python: connect to the services, or start them here. Importable without torch and without Ray.

import understudy

with understudy.connect("127.0.0.1:50051", token_file=Path(".understudy/token")) as client:
    ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.client import Client, connect
    from understudy.errors import UnderstudyError

__all__ = ["Client", "UnderstudyError", "connect"]


def __getattr__(name: str) -> Any:
    """Imports on first use: the command line's help must not wait for gRPC."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = importlib.import_module("understudy.errors" if name == "UnderstudyError" else "understudy.client")
    return getattr(module, name)
