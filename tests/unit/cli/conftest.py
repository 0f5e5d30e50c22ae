"""A command line whose server is a fake: methods are recorded, and answer what the test puts in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from understudy.cli import connection, main


class FakeService:
    """Answers each method with what was set for it: a message, an exception, or a function of the request."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self._answers: dict[str, Any] = {}

    def answers(self, method: str, answer: Any) -> None:
        self._answers[method] = answer

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method not in self._answers:
            raise AttributeError(f"nobody said what {method} answers")

        def call(request: Any, timeout: float | None = None) -> Any:
            kept = type(request)()
            kept.CopyFrom(request)
            self.requests.append(kept)
            answer = self._answers[method]
            if isinstance(answer, BaseException):
                raise answer
            return answer(request) if callable(answer) else answer

        return call


class FakeClient:
    """Has the services that the tests speak to."""

    address = "127.0.0.1:1"

    def __init__(self) -> None:
        self.projects = FakeService()
        self.frames = FakeService()
        self.faces = FakeService()
        self.facesets = FakeService()
        self.training = FakeService()
        self.merge = FakeService()
        self.operations = FakeService()
        self.events: list[Any] = []

    def watch(self, _name: str) -> Iterator[Any]:
        yield from self.events

    def watch_run(self, _name: str) -> Iterator[Any]:
        yield from self.events

    def result(self, operation: Any, response: Any) -> Any:
        from understudy.client import Client

        return Client.result(self, operation, response)  # type: ignore[arg-type]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """The fake that every command of the test talks to."""
    fake = FakeClient()

    @contextlib.contextmanager
    def opened(_options: Any, _starting: Any) -> Iterator[FakeClient]:
        yield fake

    monkeypatch.setattr(connection, "_opened", opened)
    return fake


@pytest.fixture
def run() -> Callable[..., Result]:
    """Runs a command line as a shell would: always to an exit code, both streams apart."""

    def invoke(*arguments: str, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(main, list(arguments), env=env)

    return invoke


def document(result: Result) -> Any:
    """The one JSON document that standard output must be."""
    return json.loads(result.stdout)
