"""Emptying the trash: everything of the project goes, nothing of another, and a kill in the middle does no harm."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from services.frames.app import Projects
from services.frames.purge import Purge
from services.kit.clips import SEQUENCE_MEDIA_TYPE
from services.kit.context import ServiceContext
from services.kit.errors import InvalidInput, NotFound, WrongState
from services.kit.operations.plan import canonical_json
from tests.support.contexts import context_in, driven, submission
from tests.support.stages import scripted_plan

P, Q = "projects/p", "projects/p2"  # one name begins with the other


@pytest.fixture
def context(tmp_path: Path) -> ServiceContext:
    """Two projects with a clip each; `p` has done work, too."""
    context = context_in(tmp_path / "projects" / "p")  # the store's own path looks like a name
    for project in (P, Q):
        context.records.create(project, {"name": project, "displayName": "secret title"})
        context.store.put(f"{project}/uploads/footage", b"frames")
        context.records.create(f"{project}/clips/c", _clip(context, project, f"{project}/uploads/footage"))
        context.store.put(f"{project}/facesets/f/faces/x.jpg", b"face")
    return context


def _clip(context: ServiceContext, project: str, key: str, media_type: str = "video/mp4") -> dict[str, Any]:
    return {"name": f"{project}/clips/c", "media": {"uri": context.store.uri(key), "mediaType": media_type}}


def _trash(context: ServiceContext) -> None:
    Projects(context).set_deleted(P, "2026-01-01T00:00:00Z", None)


def _keys(context: ServiceContext, prefix: str = "") -> list[str]:
    return [info.key for info in context.store.list(prefix, limit=100_000).objects]


def _work(context: ServiceContext, project: str) -> str:
    """Work of a project that has ended, as real plans are: they name what they work on."""
    plan = scripted_plan({}, {}, clip=f"{project}/clips/c")
    name = context.ledger.submit(submission(plan, project=project))[0].name
    driven(context, name)
    return plan.action_key


def test_everything_goes_and_the_other_project_stays(context: ServiceContext) -> None:
    own, other = _work(context, P), _work(context, Q)
    forgotten = scripted_plan({}, seed=5, clip=f"{P}/clips/c")
    name = context.ledger.submit(submission(forgotten, project=P))[0].name
    driven(context, name)
    context.ledger.delete(name)
    before = [key for key in _keys(context) if key.startswith((f"{Q}/", f"records/{Q}/", f"work/{other}/"))]
    _trash(context)
    Purge(context).purge(P, "p")
    after = _keys(context)
    assert [key for key in after if key in set(before)] == before
    left = [
        key
        for key in after
        if key.startswith((f"{P}/", f"records/{P}/", f"work/{own}/", f"work/{forgotten.action_key}/"))
    ]
    assert len(left) == 1, "the tombstone of the project's record"
    assert b"secret title" not in context.store.get(left[0])
    assert not _keys(context, "active/")
    with pytest.raises(NotFound):
        context.records.get(P)
    with pytest.raises(NotFound):
        Purge(context).purge(P, "p")
    assert Projects(context).create(P, {"name": P}).body == {"name": P}, "the name is free again"
    assert context.records.list(f"{P}/clips")[0] == []


def test_only_what_is_in_the_trash_and_only_when_confirmed(context: ServiceContext) -> None:
    with pytest.raises(WrongState, match="not in the trash"):
        Purge(context).purge(P, "p")
    _trash(context)
    for wrong in ("", "projects/p", "p2"):
        with pytest.raises(InvalidInput, match="confirm_project_id"):
            Purge(context).purge(P, wrong)
    assert context.store.get(f"{P}/uploads/footage") == b"frames"


@pytest.mark.parametrize("kind", ["operation", "run", "paused run", "operation that is just being made"])
def test_not_while_something_runs(context: ServiceContext, kind: str) -> None:
    if kind == "operation":
        context.ledger.submit(submission(scripted_plan({}), project=P))
    elif kind == "operation that is just being made":
        context.store.put(f"active/operations/{P.replace('/', '=')}=operations=test-1", b"")
    else:
        context.store.put(f"active/runs/{P.replace('/', '=')}=runs=r", b"")
        context.records.create(f"{P}/runs/r", {"state": "STATE_PAUSED" if kind == "paused run" else "STATE_RUNNING"})
    _trash(context)
    with pytest.raises(WrongState) as caught:
        Purge(context).purge(P, "p")
    assert caught.value.reason == "OPERATION_IN_PROGRESS"
    assert context.store.get(f"{P}/uploads/footage") == b"frames"
    assert "purgeTime" not in context.records.get(P).body


@pytest.mark.parametrize("how", ["record", "sequence", "work", "faceset"])
def test_what_another_project_uses_is_never_removed(context: ServiceContext, how: str) -> None:
    if how == "record":
        context.records.create(f"{Q}/clips/borrowed", _clip(context, Q, f"{P}/uploads/footage"))
    elif how == "sequence":
        listed = {"files": [{"name": "a.1.png", "uri": context.store.uri(f"{P}/uploads/footage")}]}
        context.store.put(f"{Q}/uploads/list", canonical_json(listed))
        context.records.create(f"{Q}/clips/borrowed", _clip(context, Q, f"{Q}/uploads/list", SEQUENCE_MEDIA_TYPE))
    elif how == "work":
        key = f"work/{_work(context, P)}/out/film.mp4"
        context.store.put(key, b"film")
        context.records.create(f"{Q}/clips/borrowed", _clip(context, Q, key))
    else:
        context.records.create(f"{Q}/clips/borrowed", {"srcFaceset": f"{P}/facesets/f"})
    _trash(context)
    before = _keys(context)
    with pytest.raises(WrongState, match=f"{Q}/clips/borrowed"):
        Purge(context).purge(P, "p")
    assert _keys(context) == before
    context.records.delete(f"{Q}/clips/borrowed")
    Purge(context).purge(P, "p")


@pytest.mark.parametrize("killed_at", range(0, 40, 3))
def test_a_kill_in_the_middle_is_taken_up_by_the_next_call(
    context: ServiceContext, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _work(context, P)
    _trash(context)
    delete, left = context.store.delete, killed_at

    class Killed(Exception):
        pass

    def dying(key: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        delete(key)

    with monkeypatch.context() as patch:
        patch.setattr(context.store, "delete", dying)
        try:
            Purge(context).purge(P, "p")
        except Killed:
            with pytest.raises((WrongState, NotFound), match=r"removed for good|no record"):
                Projects(context).set_deleted(P, None, None)
        else:
            return
    with contextlib.suppress(NotFound):  # it died after the tombstone was written
        Purge(context).purge(P, "p")
    left_over = [key for key in _keys(context) if key.startswith((f"{P}/", "work/", "active/", f"records/{P}/"))]
    assert len(left_over) <= 2
    assert not [key for key in left_over if b"secret title" in context.store.get(key)]


def test_a_project_in_the_trash_takes_no_new_work(context: ServiceContext) -> None:
    _trash(context)
    with pytest.raises(WrongState, match="in the trash"):
        context.ledger.submit(submission(scripted_plan({}), project=P))
    assert not _keys(context, "active/")
