"""Which strings are keys, and the other arguments that both adapters check alike.

The one thing to get wrong: ``~`` is not a key character, on purpose. The adapters name their own side files with it, so
that no key can meet one, and it sorts after every key character, so that ``prefix + "~"`` is a cursor that skips a
whole folder.
"""

from __future__ import annotations

import re

from services.kit.errors import InvalidInput

MAX_KEY_BYTES = 900  # S3 allows 1024, of which the store's own prefix needs some
MAX_SEGMENT_BYTES = 200  # file systems allow 255; side files add two
MAX_LIST_LIMIT = 100_000
MAX_SIGNED_S = 7 * 24 * 3600  # the limit of Signature Version 4

_SEGMENT = re.compile(rf"[A-Za-z0-9._=+@-]{{1,{MAX_SEGMENT_BYTES}}}")
_KEY = re.compile(r"[A-Za-z0-9._=+@-]+(?:/[A-Za-z0-9._=+@-]+)*")
_PREFIX = re.compile(r"(?:[A-Za-z0-9._=+@-]+/)*[A-Za-z0-9._=+@-]*")
_CURSOR = re.compile(r"[A-Za-z0-9._=+@/~-]*")
_MEDIA_TYPE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,198}[\x21-\x7e])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_segment(name: str) -> bool:
    """Whether ``name`` can stand between the slashes of a key; ``.`` and ``..`` are the caller's to exclude."""
    return _SEGMENT.fullmatch(name) is not None


def is_key(key: str) -> bool:
    """Whether ``check_key`` would accept it."""
    return (
        len(key) <= MAX_KEY_BYTES
        and _KEY.fullmatch(key) is not None
        and all(len(part) <= MAX_SEGMENT_BYTES and part not in (".", "..") for part in key.split("/"))
    )


def check_key(key: str) -> str:
    """Return ``key`` if it is one: segments of ``[A-Za-z0-9._=+@-]`` joined by ``/``, none empty, ``.`` or ``..``.

    Raises ``InvalidInput`` otherwise. At most 900 bytes, each segment at most 200.
    """
    if not isinstance(key, str) or not is_key(key):
        raise InvalidInput(
            f"not a valid object key: {key!r:.200}; use segments of letters, digits and ._=+@- joined by '/', "
            f"without '.' and '..', at most {MAX_SEGMENT_BYTES} characters each and {MAX_KEY_BYTES} in all",
            reason="INVALID_INPUT",
        )
    return key


def check_list(prefix: str, after: str, limit: int, delimiter: str) -> None:
    """Refuse arguments of ``list`` that no adapter could honour."""
    parts = prefix.split("/")
    if len(prefix) > MAX_KEY_BYTES or _PREFIX.fullmatch(prefix) is None or ".." in parts or "." in parts[:-1]:
        raise InvalidInput(f"not a valid key prefix: {prefix!r:.200}; it is the beginning of a key, or empty")
    if _CURSOR.fullmatch(after) is None:
        raise InvalidInput(f"not a listing cursor: {after!r:.200}; pass next_after of the page before, or a key")
    if not 1 <= limit <= MAX_LIST_LIMIT:
        raise InvalidInput(f"limit must be from 1 to {MAX_LIST_LIMIT}, not {limit}")
    if delimiter not in ("", "/"):
        raise InvalidInput(f"delimiter must be '/' or empty, not {delimiter!r:.20}")


def check_media_type(media_type: str) -> str:
    """Return ``media_type`` if it can travel in a header: 1 to 200 printable ASCII characters."""
    if _MEDIA_TYPE.fullmatch(media_type) is None:
        raise InvalidInput(f"not a media type: {media_type!r:.80}; use for example 'image/jpeg'")
    return media_type


def check_sha256(sha256: str | None) -> str | None:
    """Return ``sha256`` if it is 64 lower-case hex digits, or None."""
    if sha256 is not None and _SHA256.fullmatch(sha256) is None:
        raise InvalidInput(f"not a SHA-256 digest: {sha256!r:.80}; use 64 lower-case hex digits")
    return sha256


def check_range(start: int, length: int) -> None:
    """Refuse a negative range."""
    if start < 0 or length < 0:
        raise InvalidInput(f"a range starts at 0 or later and has no negative length: start {start}, length {length}")


def check_sign(method: str, expires_s: int) -> None:
    """Refuse what cannot be signed."""
    if method not in ("GET", "PUT"):
        raise InvalidInput(f"only GET and PUT can be signed, not {method!r:.20}")
    if not 1 <= expires_s <= MAX_SIGNED_S:
        raise InvalidInput(f"a signed URL lives 1 to {MAX_SIGNED_S} seconds, not {expires_s}")
