"""Resource names: `projects/p/facesets/f/faces/x`. Parsing, building and refusing bad ones.

Names come from callers and become object keys, so nothing that this module lets through may contain a separator, a dot segment or a
character that a file system or an URL treats specially.
"""

from __future__ import annotations

import re

from services.kit.errors import InvalidInput

_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_FACE_ID = re.compile(r"f[0-9]{6,12}_[0-9]{1,3}-[0-9a-f]{8}")
_CHECKPOINT_ID = re.compile(r"[0-9]{8}")
_ID_RULES = {"faces": _FACE_ID, "checkpoints": _CHECKPOINT_ID}
_COLLECTIONS = frozenset(
    {
        "projects",
        "clips",
        "facesets",
        "faces",
        "revisions",
        "runs",
        "checkpoints",
        "models",
        "sessions",
        "operations",
        "consents",
    }
)


def check_id(value: str, field: str) -> str:
    """Returns ``value`` if it may be the last part of a resource name, else raises InvalidInput naming ``field``."""
    if not _ID.fullmatch(value):
        raise InvalidInput(
            f"{field} {value!r} is not a valid id: use 1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'",
            fields={field: "must match [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"},
        )
    return value


def parse(name: str, *collections: str, field: str = "name") -> tuple[str, ...]:
    """The ids in ``name``, which must be exactly `collections[0]/id/collections[1]/id/...`; InvalidInput otherwise."""
    parts = name.split("/")
    if len(parts) != 2 * len(collections) or tuple(parts[::2]) != collections:
        pattern = "/".join(f"{collection}/*" for collection in collections)
        raise InvalidInput(f"{field} {name!r} is not of the form {pattern}", fields={field: f"must be {pattern}"})
    for collection, identifier in zip(parts[::2], parts[1::2], strict=True):
        rule = _ID_RULES.get(collection, _ID)
        if collection not in _COLLECTIONS or not rule.fullmatch(identifier):
            raise InvalidInput(f"{field} {name!r} holds the invalid id {identifier!r}", fields={field: "invalid id"})
    return tuple(parts[1::2])


def project_of(name: str) -> str:
    """`projects/p` of any resource name below it."""
    parts = name.split("/")
    if len(parts) < 2 or parts[0] != "projects":
        raise InvalidInput(f"{name!r} does not begin with projects/*", fields={"name": "must begin with projects/*"})
    return "/".join(parts[:2])
