"""The one family of exceptions that callers see, and what each becomes on the wire.

Subclasses say *which gRPC code*; ``reason`` says *why*, as a stable UPPER_SNAKE word that a program may match on (it is a name of
``understudy.v1.ErrorReason``). The text is for people and may change. The one thing to get wrong: anything raised that is not an
``UnderstudyError`` reaches the caller as INTERNAL without its text, so a mistake of the caller must never be reported by a plain
``ValueError`` from a use case: convert it here, at the edge, with ``InvalidInput``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DOMAIN = "understudy"


class UnderstudyError(Exception):
    """Base of everything a caller is meant to read.

    ``reason`` is the machine-readable cause, ``metadata`` small string facts about it (names, limits), ``message`` a sentence that says
    what to do.
    """

    code = "INTERNAL"
    default_reason = "INTERNAL"

    def __init__(self, message: str, *, reason: str | None = None, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})

    def to_json(self) -> dict[str, Any]:
        """For a record, or for the way between processes: pickle would lose the keyword arguments."""
        kind = next(known.__name__ for known in type(self).__mro__ if known.__module__ == __name__)
        return {"kind": kind, "reason": self.reason, "message": self.message, "metadata": self.metadata}


class InvalidInput(UnderstudyError):
    """The request itself is wrong. ``fields`` maps a request field path to what is wrong with it."""

    code = "INVALID_ARGUMENT"
    default_reason = "INVALID_INPUT"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.fields = dict(fields or {})

    def to_json(self) -> dict[str, Any]:
        """See UnderstudyError."""
        return {**super().to_json(), "fields": self.fields}


class NotFound(UnderstudyError):
    """The named resource or object does not exist."""

    code = "NOT_FOUND"
    default_reason = "NOT_FOUND"


class AlreadyExists(UnderstudyError):
    """Something else already has this name: create-if-absent lost."""

    code = "ALREADY_EXISTS"
    default_reason = "ALREADY_EXISTS"


class Conflict(UnderstudyError):
    """The resource changed since the caller read it (etag), or an operation on it is already under way."""

    code = "ABORTED"
    default_reason = "ETAG_MISMATCH"


class WrongState(UnderstudyError):
    """The resource's state does not allow this verb now."""

    code = "FAILED_PRECONDITION"
    default_reason = "WRONG_STATE"


class MissingObject(WrongState):
    """An object that a request refers to is not in the store; ``metadata["uri"]`` names it."""

    default_reason = "MISSING_OBJECT"


class QuotaOrCapacity(UnderstudyError):
    """A limit of size, rate or space is reached (the store is full, too many calls)."""

    code = "RESOURCE_EXHAUSTED"
    default_reason = "CAPACITY"


class Transient(UnderstudyError):
    """The store or Ray cannot be reached at this moment; the same call may work in a while."""

    code = "UNAVAILABLE"
    default_reason = "UNAVAILABLE"


class Corrupt(UnderstudyError):
    """Stored bytes are not what their digest or format says; ``metadata["uri"]`` names the object."""

    code = "DATA_LOSS"
    default_reason = "CORRUPT_OBJECT"


class Unauthenticated(UnderstudyError):
    """No token, or one that is not known."""

    code = "UNAUTHENTICATED"
    default_reason = "UNAUTHENTICATED"


class Denied(UnderstudyError):
    """Known, but not allowed."""

    code = "PERMISSION_DENIED"
    default_reason = "DENIED"


class NotImplementedYet(UnderstudyError):
    """The method is part of the API but this release does not serve it."""

    code = "UNIMPLEMENTED"
    default_reason = "UNIMPLEMENTED"


class Cancelled(UnderstudyError):
    """Work stopped because someone asked for it."""

    code = "CANCELLED"
    default_reason = "CANCELLED"


class OutOfDeadline(UnderstudyError):
    """Too little time was left to begin, or the work outlasted its deadline."""

    code = "DEADLINE_EXCEEDED"
    default_reason = "DEADLINE"


def from_json(data: Mapping[str, Any]) -> UnderstudyError:
    """The error that ``to_json`` described, of the same class."""
    kind: type[UnderstudyError] = globals()[data["kind"]]
    if issubclass(kind, InvalidInput):
        return kind(data["message"], reason=data["reason"], metadata=data["metadata"], fields=data["fields"])
    return kind(data["message"], reason=data["reason"], metadata=data["metadata"])
