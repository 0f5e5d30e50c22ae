"""Logging of servers and workers: one line an event, with the request id and the operation it belongs to.

``bind`` sets facts for everything logged below it in the same task or thread. The text form is for people at a terminal, the JSON
form for collectors. Bytes and tokens are never logged.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import sys
from collections.abc import Iterator

_facts: contextvars.ContextVar[dict[str, str] | None] = contextvars.ContextVar("log_facts", default=None)


def bound_facts() -> dict[str, str]:
    """Facts bound in this context."""
    return dict(_facts.get() or {})


@contextlib.contextmanager
def bind(**facts: str) -> Iterator[None]:
    """Adds facts (request_id, operation, ...) to every line logged inside."""
    token = _facts.set({**bound_facts(), **facts})
    try:
        yield
    finally:
        with contextlib.suppress(
            ValueError
        ):  # an abandoned stream is closed in another context, which has no such facts
            _facts.reset(token)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = " ".join(f"{name}={value}" for name, value in bound_facts().items())
        return f"{super().format(record)}{'  ' + facts if facts else ''}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **bound_facts(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(log_format: str, level: str) -> None:
    """Sends every logger of the process to standard error in the given form. Call once, from a main."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonFormatter()
        if log_format == "json"
        else _TextFormatter("%(asctime)s %(levelname).1s %(name)s: %(message)s")
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.getLogger("grpc").setLevel(logging.WARNING)
