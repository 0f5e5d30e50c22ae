"""The token that opens an embedded server: made at the first start, readable by its owner alone."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from services.kit.errors import Denied


def server_token(path: Path) -> str:
    """Reads the token, or makes one (32 random bytes, mode 600). Denied when others may read the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass  # made at an earlier start
    else:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise Denied(f"{path} can be read by others: run `chmod 600 {path}`, or delete it to have a new token made")
    token = path.read_text().strip()
    if not token:
        raise Denied(f"{path} is empty: delete it to have a new token made")
    return token
