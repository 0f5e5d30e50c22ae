"""What went wrong, as one sentence on standard error, an exit code, and with --json an object on standard output.

The one thing to get wrong: whether a *call* was refused or the *work* failed. The same gRPC code means 2 in the first case and 3 in the
second; ``UnderstudyError.work`` tells them apart.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

import click

DONE, UNEXPECTED, BAD_INPUT, WORK_FAILED, INTERRUPTED, UNREACHABLE, REFUSED = range(7)

EXIT_CODES = {
    DONE: "Done.",
    UNEXPECTED: "Something unexpected failed.",
    BAD_INPUT: "The command line or its input is wrong: unknown name, unreadable file, impossible value.",
    WORK_FAILED: "The work failed, wholly or for some frames.",
    INTERRUPTED: "Cancelled or interrupted. The same command goes on where it stood.",
    UNREACHABLE: "The server cannot be reached, did not start or did not answer in time.",
    REFUSED: "No permission: the token is missing, wrong or not allowed to do this.",
}
_OF_CODE = {
    "INVALID_ARGUMENT": BAD_INPUT,
    "NOT_FOUND": BAD_INPUT,
    "ALREADY_EXISTS": BAD_INPUT,
    "FAILED_PRECONDITION": BAD_INPUT,
    "OUT_OF_RANGE": BAD_INPUT,
    "CANCELLED": INTERRUPTED,
    "UNAVAILABLE": UNREACHABLE,
    "DEADLINE_EXCEEDED": UNREACHABLE,
    "UNAUTHENTICATED": REFUSED,
    "PERMISSION_DENIED": REFUSED,
}
_WHAT_TO_DO = {
    "MISSING_WEIGHTS": "`understudy weights list` on that machine shows what is missing.",
    "NOT_FOUND": "The `list` commands show what there is.",
    "UNAUTHENTICATED": "Check --token-file: the server wrote its token there at its first start.",
    "UNIMPLEMENTED": "This server's release does not do that.",
    "INTERNAL": "The server's log says more.",
}


def report(error: Exception, *, as_json: bool) -> int:
    """Says what went wrong and returns the exit code. A traceback appears only for what nobody expected."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and not as_json:
        error.show()
        return BAD_INPUT
    facts = _facts(error)
    if facts is None:
        traceback.print_exception(error, file=sys.stderr)
        facts = {"code": "INTERNAL", "reason": "INTERNAL", "message": f"unexpected {type(error).__name__}: {error}"}
    facts = {"code": "", "reason": "", "message": "", "fields": {}, "request_id": "", **facts}
    click.echo(_sentences(error, facts), err=True)
    if as_json:
        click.echo(json.dumps({"error": facts}, ensure_ascii=False))
    if facts.get("work") and facts["code"] != "CANCELLED":
        return WORK_FAILED
    return _OF_CODE.get(facts["code"], UNEXPECTED)


def _facts(error: Exception) -> dict[str, Any] | None:
    """An expected error as plain values; None for an unexpected one."""
    if isinstance(error, click.Abort):
        return {"code": "CANCELLED", "reason": "CANCELLED", "message": "interrupted"}
    if isinstance(error, click.UsageError | click.BadParameter | click.FileError):
        return {"code": "INVALID_ARGUMENT", "reason": "INVALID_INPUT", "message": error.format_message()}
    if isinstance(error, _sdk_error()):
        facts = {name: getattr(error, name) for name in ("code", "reason", "message", "fields", "request_id")}
        return {**facts, "work": error.work} if error.work else facts
    if isinstance(error, _kit_error()):
        facts = {name: getattr(error, name) for name in ("code", "reason", "message")}
        return {**facts, "fields": getattr(error, "fields", {})}
    if isinstance(error, OSError) and error.filename is not None:
        wrong = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)
        code, reason = ("INVALID_ARGUMENT", "INVALID_INPUT") if wrong else ("RESOURCE_EXHAUSTED", "CAPACITY")
        return {"code": code, "reason": reason, "message": f"{error.filename}: {error.strerror}"}
    return None


def _sentences(error: Exception, facts: dict[str, Any]) -> str:
    lines = [f"error: {facts['message']}"]
    lines += [f"  {field}: {wrong}" for field, wrong in facts["fields"].items() if wrong not in facts["message"]]
    if isinstance(error, click.UsageError) and error.ctx is not None:
        lines.append(f"See `{error.ctx.command_path} --help`.")
    elif facts["reason"] in _WHAT_TO_DO:
        lines.append(_WHAT_TO_DO[facts["reason"]])
    if facts["code"] in ("INTERNAL", "UNKNOWN") and facts["request_id"]:
        lines.append(f"Request {facts['request_id']} finds it in the server's log.")
    return "\n".join(lines)


def _sdk_error() -> type[Any]:
    """Imported only once something failed: the SDK brings gRPC, which a help text has no use for."""
    from understudy.errors import UnderstudyError

    return UnderstudyError


def _kit_error() -> type[Any] | tuple[()]:
    """The exceptions of a server hosted here, or of fetching weights; nothing when neither was imported."""
    module = sys.modules.get("services.kit.errors")
    return module.UnderstudyError if module else ()
