"""Records: nothing is lost whoever writes at the same time, whoever dies, and however slow a writer is."""

from __future__ import annotations

import json
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.kit import records as records_module
from services.kit.errors import AlreadyExists, Conflict, Corrupt, InvalidInput, NotFound, WrongState
from services.kit.records import Record, Records
from services.kit.storage import ObjectStore
from tests.support.store_spec import StoreSpec, finish

pytest_plugins = ["tests.support.stores"]


@pytest.fixture
def records(store: ObjectStore) -> Records:
    return Records(store)


def increment(body: dict[str, Any]) -> dict[str, Any]:
    body["n"] = body.get("n", 0) + 1
    return body


def names_of(records: Records, prefix: str, **options: Any) -> list[str]:
    """All names, page after page."""
    names: list[str] = []
    after = ""
    while True:
        page, after = records.list(prefix, after=after, **options)
        names += [record.name for record in page]
        if not after:
            return names


def test_create_get_update_delete(records: Records) -> None:
    created = records.create("projects/p", {"title": "Ä film", "fps": [24000, 1001]})
    assert (created.name, created.version) == ("projects/p", 1)
    assert records.get("projects/p") == created
    assert created.body == {"title": "Ä film", "fps": [24000, 1001]}
    updated = records.update("projects/p", lambda body: body | {"title": "B"})
    assert (updated.version, updated.body["title"]) == (2, "B")
    assert updated.etag != created.etag
    assert updated.updated_s >= created.updated_s
    assert records.get("projects/p") == updated
    with pytest.raises(AlreadyExists):
        records.create("projects/p", {})
    records.delete("projects/p")
    for call in (records.get, records.delete, lambda name: records.update(name, increment)):
        with pytest.raises(NotFound):
            call("projects/p")
    again = records.create("projects/p", {"title": "C"})
    assert again.version == 4
    assert records.get("projects/p").body == {"title": "C"}


def test_no_change_writes_no_version(records: Records) -> None:
    created = records.create("r", {"n": 1})
    assert records.update("r", lambda body: None) == created
    assert records.update("r", lambda body: body.clear()) == created  # it gets a copy
    assert records.get("r") == created


def test_etag(records: Records) -> None:
    first = records.create("r", {"n": 0})
    second = records.update("r", increment, etag=first.etag)
    with pytest.raises(Conflict):
        records.update("r", increment, etag=first.etag)
    with pytest.raises(Conflict):
        records.update("r", lambda body: None, etag="stale")
    assert records.get("r") == second

    def overtaken(body: dict[str, Any]) -> dict[str, Any]:
        records.update("r", increment)
        return body

    with pytest.raises(Conflict):
        records.update("r", overtaken, etag=second.etag)
    assert records.get("r").body == {"n": 2}


def test_bad_input(records: Records) -> None:
    for name in ("", "a//b", "a/@/b", "@", "../a", "a/"):
        with pytest.raises(InvalidInput):
            records.create(name, {})
        with pytest.raises(InvalidInput):
            records.get(name)
    for body in ({"x": object()}, {"x": float("nan")}, {"x": b"bytes"}, {(1, 2): 3}):
        with pytest.raises(InvalidInput):
            records.create("r", body)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        records.get("r")
    with pytest.raises(InvalidInput):
        records.list("", limit=0)


def test_an_error_in_change_changes_nothing(records: Records) -> None:
    created = records.create("r", {"n": 1})

    def fail(body: dict[str, Any]) -> dict[str, Any]:
        body["n"] = 2
        raise WrongState("not now")

    with pytest.raises(WrongState, match="not now"):
        records.update("r", fail)
    assert records.get("r") == created


def test_the_stored_text_is_canonical(records: Records, store: ObjectStore) -> None:
    records.create("a/b", {"z": 1, "a": {"y": "ü", "x": None}})
    (info,) = store.list("records/").objects
    assert info.key == "records/a/b/@/9999999998.json"
    text = store.get(info.key).decode()
    document = json.loads(text)
    assert text == json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert document["schema"] == 1
    assert document["body"] == {"z": 1, "a": {"y": "ü", "x": None}}
    assert store.stat(info.key).media_type == "application/json"


def test_foreign_text_and_later_schemas_are_refused(records: Records, store: ObjectStore) -> None:
    for text, error in [(b"{", Corrupt), (b"{}", Corrupt), (b'{"schema":2}', WrongState), (b"[]", Corrupt)]:
        store.put("records/r/@/9999999998.json", text)
        with pytest.raises(error):
            records.get("r")


# -- listing -------------------------------------------------------------------------------------------------------------

NAMES = ["p", "p/clips/a", "p/clips/a-b", "p/clips/a/notes/1", "p/clips/b", "p/runs/1", "q", "q/clips/z"]


@pytest.fixture
def listed(records: Records) -> Records:
    for name in NAMES:
        records.create(f"projects/{name}", {"name": name})
    records.create("projects/gone", {})
    records.delete("projects/gone")
    records.create("other/x", {})
    for _ in range(3):
        records.update("projects/p/clips/a", increment)
    return records


def test_list_nested(listed: Records) -> None:
    for prefix in ("projects", "projects/p", "projects/p/clips/", "projects/p/clips/a", "nothing", "proj"):
        inside = prefix.rstrip("/") + "/"
        expected = [f"projects/{name}" for name in NAMES if f"projects/{name}".startswith(inside)]
        for limit in (1, 2, 100):
            assert names_of(listed, prefix, limit=limit) == sorted(expected, key=lambda name: f"{name}/@"), prefix


def test_list_direct_children(listed: Records) -> None:
    clips = [f"projects/p/clips/{name}" for name in ("a-b", "a", "b")]
    for limit in (1, 2, 100):
        assert names_of(listed, "projects", limit=limit, nested=False) == ["projects/p", "projects/q"]
        assert names_of(listed, "projects/p/clips", limit=limit, nested=False) == clips
        assert names_of(listed, "projects/p", limit=limit, nested=False) == []


def test_list_shows_newest_versions(listed: Records) -> None:
    page, after = listed.list("projects/p/clips", limit=3)
    assert {record.name: record for record in page}["projects/p/clips/a"] == listed.get("projects/p/clips/a")
    assert after == page[-1].name
    everything, after = listed.list("")
    assert len(everything) == len(NAMES) + 1
    assert after == ""


# -- history -------------------------------------------------------------------------------------------------------------


def versions_of(store: ObjectStore, name: str) -> int:
    return len(store.list(f"records/{name}/@/").objects)


def test_old_versions_go_and_young_ones_stay(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(store, keep_versions=4)
    records.create("r", {"n": 0})
    for _ in range(20):
        records.update("r", increment)
    assert versions_of(store, "r") == 21
    monkeypatch.setattr(records_module, "PRUNE_AGE_S", -1.0)
    for _ in range(20):
        records.update("r", increment)
    assert 4 <= versions_of(store, "r") <= 8
    assert records.get("r").body == {"n": 40}
    with pytest.raises(InvalidInput):
        Records(store, keep_versions=0)


def test_a_writer_that_slept_for_ages_loses_nothing(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version it wants to create has existed and been pruned, so that creating it succeeds."""
    monkeypatch.setattr(records_module, "PRUNE_AGE_S", -1.0)
    for updates in (1, 2, 3, 4, 9):
        fast, slow = Records(store, keep_versions=2), Records(store, keep_versions=2)
        name = f"r{updates}"
        fast.create(name, {"n": 0})
        calls = 0

        def sleep(
            body: dict[str, Any], name: str = name, updates: int = updates, fast: Records = fast
        ) -> dict[str, Any]:
            nonlocal calls
            calls += 1
            if calls == 1:
                for _ in range(updates):
                    fast.update(name, increment)
            return increment(body)

        record = slow.update(name, sleep)
        assert calls == 2
        assert record.body == fast.get(name).body == {"n": updates + 1}
        assert record.version == updates + 2


def test_a_creator_that_slept_for_ages(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "PRUNE_AGE_S", -1.0)
    records = Records(store, keep_versions=2)
    real = records._latest

    def overtaken(name: str) -> Any:
        latest = real(name)
        monkeypatch.setattr(records, "_latest", real)
        records.create(name, {"n": 0})
        for _ in range(9):
            records.update(name, increment)
        return latest

    monkeypatch.setattr(records, "_latest", overtaken)
    with pytest.raises(AlreadyExists):
        records.create("r", {"n": -1})
    assert records.get("r").body == {"n": 9}


def test_a_reader_whose_version_is_pruned_reads_the_newer_one(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_module, "PRUNE_AGE_S", -1.0)
    records = Records(store, keep_versions=1)
    records.create("r", {"n": 0})
    real, overtaking = store.get, threading.Event()

    def overtaken(key: str, *args: Any, **kwargs: Any) -> bytes:
        if not overtaking.is_set():  # between a reader's listing and its reading, three writers come and prune
            overtaking.set()
            for _ in range(3):
                records.update("r", increment)
        return real(key, *args, **kwargs)

    monkeypatch.setattr(store, "get", overtaken)
    assert records.get("r").body == {"n": 3}
    overtaking.clear()
    assert [record.body for record in records.list("")[0]] == [{"n": 6}]


# -- concurrency ---------------------------------------------------------------------------------------------------------

COUNT = """
from services.kit.records import Records
records = Records(store, keep_versions=3)
def change(body):
    body["n"] += 1
    body["by"][sys.argv[2]] = body["by"].get(sys.argv[2], 0) + 1
    return body
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    records.update("counter", change)
    print("done", flush=True)
"""


def test_processes_count_together(records: Records, store_spec: StoreSpec) -> None:
    records.create("counter", {"n": 0, "by": {}})
    each = 40 if store_spec.kind == "folder" else 15
    finish([store_spec.start(COUNT, str(writer), str(each)) for writer in range(3)])
    record = records.get("counter")
    assert record.body == {"n": 3 * each, "by": {str(writer): each for writer in range(3)}}
    assert record.version == 3 * each + 1


def test_threads_count_together(records: Records) -> None:
    records.create("counter", {"n": 0})

    def work(_: int) -> list[Record]:
        return [records.update("counter", increment) for _ in range(8)]

    with ThreadPoolExecutor(4) as pool:
        versions = [record.version for batch in pool.map(work, range(4)) for record in batch]
    assert sorted(versions) == list(range(2, 34))
    assert records.get("counter").body == {"n": 32}


def test_of_many_creators_one_wins(records: Records) -> None:
    barrier = threading.Barrier(6)

    def create(writer: int) -> int:
        barrier.wait()
        try:
            records.create("r", {"by": writer})
        except AlreadyExists:
            return 0
        return 1

    for _ in range(3):
        with ThreadPoolExecutor(6) as pool:
            wins = list(pool.map(create, range(6)))
        assert sum(wins) == 1
        assert records.get("r").body == {"by": wins.index(1)}
        records.delete("r")


def test_killed_writers_lose_at_most_what_they_did_not_finish(records: Records, store_spec: StoreSpec) -> None:
    records.create("counter", {"n": 0, "by": {}})
    writers = [store_spec.start(COUNT, str(writer), "100000") for writer in range(3)]
    generator = random.Random(9)
    finished = 0
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdout is not None
        for _ in range(generator.randrange(3, 12)):
            assert writer.stdout.readline() == b"done\n"
            finished += 1
        writer.send_signal(signal.SIGKILL)
        with writer:  # closes the pipes and waits
            finished += writer.stdout.read().count(b"done\n")
        assert writer.returncode == -signal.SIGKILL
    body = records.get("counter").body
    assert finished <= body["n"] <= finished + len(writers)
    assert sum(body["by"].values()) == body["n"]
    assert records.update("counter", increment).body["n"] == body["n"] + 1


def test_records_are_files_one_can_read(tmp_path: Path) -> None:
    spec = StoreSpec("folder", root=str(tmp_path))
    Records(spec.open()).create("projects/p", {"title": "x"})
    assert json.loads((tmp_path / "records/projects/p/@/9999999998.json").read_text())["body"] == {"title": "x"}
