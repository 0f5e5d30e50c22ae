"""Log lines: facts bound around a call are in every line of it, in both forms."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest

from services.kit.logs import bind, bound_facts, configure


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Gives the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_text_lines_end_with_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    configure("text", "INFO")
    with bind(request_id="r-1"), bind(operation="projects/p/operations/o"):
        logging.getLogger("a.b").info("hello %s", "you")
    logging.getLogger("a.b").info("outside")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("I a.b: hello you  request_id=r-1 operation=projects/p/operations/o")
    assert second.endswith("I a.b: outside")


def test_json_lines_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "INFO")
    with bind(request_id="r-1"):
        try:
            raise ValueError('tricky \n " text')
        except ValueError:
            logging.getLogger("a").exception("failed\nbadly")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, "one line an event, whatever is in it"
    event = json.loads(lines[0])
    assert (event["level"], event["logger"], event["message"]) == ("ERROR", "a", "failed\nbadly")
    assert event["request_id"] == "r-1"
    assert "tricky" in event["exception"]
    assert event["time"].startswith("2")


def test_levels_are_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    configure("text", "WARNING")
    logging.getLogger("a").info("quiet")
    logging.getLogger("a").warning("loud")
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == ["loud"]


def test_facts_end_with_their_block_also_after_an_error() -> None:
    with pytest.raises(ValueError, match="x"), bind(a="1"):
        raise ValueError("x")
    assert bound_facts() == {}


def test_tasks_do_not_see_each_others_facts() -> None:
    async def call(name: str, seen: list[dict[str, str]]) -> None:
        with bind(request_id=name):
            await asyncio.sleep(0)
            seen.append(bound_facts())
            # Threads that a call waits for log its facts too.
            seen.append(await asyncio.to_thread(bound_facts))

    async def run() -> list[dict[str, str]]:
        seen: list[dict[str, str]] = []
        await asyncio.gather(call("a", seen), call("b", seen))
        return seen

    seen = asyncio.run(run())
    assert sorted(facts["request_id"] for facts in seen) == ["a", "a", "b", "b"]
    assert all(len(facts) == 1 for facts in seen)


def test_a_block_left_in_another_context_is_left_quietly() -> None:
    """A stream that its caller abandons is closed by the event loop, outside of the call."""

    async def stream() -> object:
        with bind(request_id="r"):
            yield 1
            yield 2

    async def run() -> None:
        generator = stream()
        await asyncio.create_task(generator.__anext__())  # type: ignore[attr-defined]
        await asyncio.create_task(generator.aclose())  # type: ignore[attr-defined]
        assert bound_facts() == {}

    asyncio.run(run())
