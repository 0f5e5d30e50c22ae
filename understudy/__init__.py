"""Understudy for Python: connect to the services, or start them here. Importable without torch and without Ray.

import understudy

with understudy.connect("127.0.0.1:50051", token_file=Path(".understudy/token")) as client:
    ...
"""

from understudy.client import Client, connect
from understudy.errors import UnderstudyError

__all__ = ["Client", "UnderstudyError", "connect"]
