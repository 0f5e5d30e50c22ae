"""Contexts and operations for tests of the kit: a folder store, the inline executor, a ledger whose clock a test may turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.kit.config import Settings, load_settings
from services.kit.context import ServiceContext, build_context
from services.kit.operations.driver import drive_operation
from services.kit.operations.ledger import Submission
from services.kit.operations.plan import Plan

PROJECT = "projects/p"


class Clock:
    """A clock that stands until a test moves it."""

    def __init__(self, now_s: float = 1_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def settings_in(folder: Path, **overrides: Any) -> Settings:
    """Settings whose files all lie in ``folder``; the inline executor unless said otherwise."""
    values = {
        "store.root": str(folder / "objects"),
        "store.cache_dir": str(folder / "cache"),
        "server.token_file": str(folder / "token"),
        "execution.kind": "inline",
        **overrides,
    }
    return load_settings(overrides=values)


def context_in(folder: Path, **overrides: Any) -> ServiceContext:
    """A context that nobody drives: its reconciler is not started."""
    return build_context(settings_in(folder, **overrides))


def submission(plan: Plan, *, request_id: str = "", project: str = PROJECT, kind: str = "test") -> Submission:
    """A submission of ``plan``."""
    return Submission(
        project=project,
        kind=kind,
        method="tests/Scripted",
        target=f"{project}/facesets/f",
        plan=plan,
        request_id=request_id,
        actor="tester",
        labels={"shot": "s1"},
    )


def submitted(context: ServiceContext, plan: Plan) -> str:
    """Name of the operation of a plan, recorded now."""
    return context.ledger.submit(submission(plan))[0].name


def driven(context: ServiceContext, name: str, **overrides: Any) -> dict[str, Any]:
    """Claims and drives an operation here and now; returns its record's body."""
    assert context.ledger.claim(name) is not None, "somebody drives it already"
    arguments: dict[str, Any] = {
        "env": context.env,
        "ledger": context.ledger,
        "executor": context.executor,
        "metrics": context.metrics,
    }
    drive_operation(name, **(arguments | overrides))
    return context.ledger.get(name).body


def eventually(condition: Callable[[], Any], what: str, *, within_s: float = 60.0) -> Any:
    """Waits until ``condition`` gives something true, and returns it. The limit only ends a test that hangs."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {within_s:.0f} s in vain: {what}")
