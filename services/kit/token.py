"""The token that opens an embedded server: made at the first start, readable by its owner alone."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from services.kit.errors import Denied


def server_token(path: Path) -> str:
    """Reads the token, or makes one (32 random bytes, mode 600). Denied when others may read the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _make(path)
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise Denied(f"{path} can be read by others: run `chmod 600 {path}`, or delete it to have a new token made")
    token = path.read_text().strip()
    if not token:
        raise Denied(f"{path} is empty: delete it to have a new token made")
    return token


def _make(path: Path) -> None:
    # Linked into place whole: a server that starts at the same moment must never read half a token.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # the other server was first; its token is the one
            os.link(temporary, path)
    finally:
        Path(temporary).unlink()
