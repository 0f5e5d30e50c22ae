"""The keys of a folder store in byte order, from a cursor, without reading folders that cannot contribute.

The one thing to get wrong: the order is that of whole keys. A folder sorts as its name with the slash (``a-b`` <
``a/x`` < ``a0``), so the entries of a folder are sorted with that slash in place, and then depth-first is byte order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from services.kit.storage.keys import is_segment


def _entries(folder: str) -> list[str]:
    """Names in ``folder`` that can be part of a key, those of folders with a slash at the end; links are left out."""
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_segment(entry.name):
                    continue
                if entry.is_file(follow_symlinks=False):
                    names.append(entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    names.append(entry.name + "/")
    except (FileNotFoundError, NotADirectoryError):  # no such folder, or removed meanwhile: nothing in it
        return []
    return names


def _holds_an_object(folder: str) -> bool:
    """Whether there is an object anywhere below; S3 knows no empty folders, so neither do we."""
    names = sorted(_entries(folder), key=lambda name: name.endswith("/"))
    return any(not name.endswith("/") or _holds_an_object(f"{folder}/{name[:-1]}") for name in names)


def walk(root: str, prefix: str, after: str, *, fold: bool) -> Iterator[str]:
    """Keys that start with ``prefix`` and sort after ``after``; with ``fold`` those of a folder appear as its name."""
    start = prefix[: prefix.rfind("/") + 1]
    yield from _walk(root, start, prefix, after, fold)


def _walk(root: str, folder: str, prefix: str, after: str, fold: bool) -> Iterator[str]:
    candidates = []
    for name in _entries(f"{root}/{folder}"):
        path = folder + name
        # A folder may hold keys after the cursor although its own name sorts before it, when the cursor lies inside.
        if path.startswith(prefix) and (path > after or (name.endswith("/") and after.startswith(path))):
            candidates.append(path)
    for path in sorted(candidates):
        if not path.endswith("/"):
            yield path
        elif not fold:
            yield from _walk(root, path, prefix, after, fold)
        elif path > after and _holds_an_object(f"{root}/{path[:-1]}"):
            yield path
