"""Checkpoints: seen whole or not at all, never written over, verified when fetched."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from services.kit.checkpoint_store import CheckpointStore
from services.kit.errors import Corrupt, NotFound, QuotaOrCapacity
from services.kit.storage import ObjectStore, open_store

RUN = "projects/p/runs/r"


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store("folder", root=tmp_path / "objects")


@pytest.fixture
def checkpoints(store: ObjectStore) -> CheckpointStore:
    return CheckpointStore(store)


def saved(folder: Path, content: str) -> Path:
    """A folder as training saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(content.encode() * 100)
    (folder / "state.json").write_text(content)
    return folder


def test_published_checkpoints_come_back(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    assert checkpoints.newest(RUN) is None
    first = checkpoints.publish(RUN, saved(tmp_path / "a", "one"), iteration=100, losses={"src": 0.5})
    second = checkpoints.publish(RUN, saved(tmp_path / "b", "two"), iteration=50, losses={})
    assert (first.name, first.number) == (f"{RUN}/checkpoints/00000001", 1)
    # Going back and training on makes a newer one, though of fewer iterations.
    assert checkpoints.newest(RUN) == second
    assert [info.iteration for info in checkpoints.newest_first(RUN)] == [50, 100]
    assert checkpoints.get(first.name) == first
    assert (first.losses, sorted(first.files)) == ({"src": 0.5}, ["model.safetensors", "state.json"])
    fetched = checkpoints.fetch(first, tmp_path / "deep" / "down")
    assert (fetched / "state.json").read_text() == "one"
    assert (fetched / "model.safetensors").read_bytes() == b"one" * 100
    with pytest.raises(NotFound):
        checkpoints.get(f"{RUN}/checkpoints/00000003")
    assert checkpoints.newest("projects/p/runs/r2") is None


def test_a_checkpoint_is_seen_only_when_whole(
    checkpoints: CheckpointStore, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = checkpoints.publish(RUN, saved(tmp_path / "a", "one"), iteration=1, losses={})
    real = store.put

    def full_disk(key: str, *args: Any, **kwargs: Any) -> Any:
        if key.endswith("state.json"):
            raise QuotaOrCapacity("the disk is full")
        return real(key, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(QuotaOrCapacity):
        patch.setattr(store, "put", full_disk)
        checkpoints.publish(RUN, saved(tmp_path / "b", "two"), iteration=2, losses={})
    assert checkpoints.newest(RUN) == whole
    # The half one does not keep the next from being saved, whatever it holds.
    third = checkpoints.publish(RUN, saved(tmp_path / "c", "three"), iteration=3, losses={})
    assert checkpoints.newest(RUN) == third
    assert (checkpoints.fetch(third, tmp_path / "f") / "state.json").read_text() == "three"


def test_a_slow_saver_never_writes_over_a_published_checkpoint(
    checkpoints: CheckpointStore, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two drivers save at once: the one that lost its lease found out the same number and comes late."""
    newest = checkpoints.newest

    def then_overtaken(run: str) -> Any:
        found = newest(run)
        monkeypatch.setattr(checkpoints, "newest", newest)
        checkpoints.publish(RUN, saved(tmp_path / "fast", "fast"), iteration=2, losses={})
        return found

    monkeypatch.setattr(checkpoints, "newest", then_overtaken)
    slow = checkpoints.publish(RUN, saved(tmp_path / "slow", "slow"), iteration=1, losses={})
    fast = checkpoints.get(f"{RUN}/checkpoints/00000001")
    assert (checkpoints.fetch(fast, tmp_path / "x") / "state.json").read_text() == "fast"
    assert (checkpoints.fetch(slow, tmp_path / "y") / "state.json").read_text() == "slow"


def test_many_savers_at_once(store: ObjectStore, tmp_path: Path) -> None:
    def save(number: int) -> None:
        content = f"saver {number}"
        info = CheckpointStore(store).publish(RUN, saved(tmp_path / str(number), content), iteration=number, losses={})
        published[number] = info.name

    published: dict[int, str] = {}
    threads = [threading.Thread(target=save, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(published.values())) == 6
    for number, name in published.items():
        info = CheckpointStore(store).get(name)
        fetched = CheckpointStore(store).fetch(info, tmp_path / f"out{number}")
        assert (fetched / "state.json").read_text() == f"saver {number}"


def test_files_other_than_the_manifest_says_are_refused(
    checkpoints: CheckpointStore, store: ObjectStore, tmp_path: Path
) -> None:
    info = checkpoints.publish(RUN, saved(tmp_path / "a", "one"), iteration=1, losses={})
    store.put(f"{info.name}/state.json", b"somebody else's")
    with pytest.raises(Corrupt, match=r"state\.json") as caught:
        checkpoints.fetch(info, tmp_path / "f")
    assert caught.value.metadata["uri"].endswith("state.json")
    store.delete(f"{info.name}/state.json")
    with pytest.raises(NotFound):
        checkpoints.fetch(info, tmp_path / "f")


@pytest.mark.parametrize("manifest", [b"{", b"[]", b"{}", b'{"iteration": "many"}'])
def test_an_unreadable_manifest_is_passed_over(
    checkpoints: CheckpointStore, store: ObjectStore, tmp_path: Path, manifest: bytes
) -> None:
    good = checkpoints.publish(RUN, saved(tmp_path / "a", "one"), iteration=1, losses={})
    store.put(f"{RUN}/checkpoints/00000002/manifest.json", manifest)
    with pytest.raises(Corrupt):
        checkpoints.get(f"{RUN}/checkpoints/00000002")
    assert checkpoints.newest(RUN) == good


def test_pruning_leaves_the_newest_whole_ones_and_the_kept(
    checkpoints: CheckpointStore, store: ObjectStore, tmp_path: Path
) -> None:
    infos = [
        checkpoints.publish(RUN, saved(tmp_path / str(number), str(number)), iteration=number, losses={})
        for number in range(5)
    ]
    checkpoints.keep(infos[1].name)
    store.put(f"{RUN}/checkpoints/00000006/model.safetensors", b"a save that died")
    assert sorted(checkpoints.prune(RUN, newest=2)) == [infos[0].name, infos[2].name]
    assert [info.number for info in checkpoints.newest_first(RUN)] == [5, 4, 2]
    assert not store.list(f"{infos[0].name}/").objects
    assert checkpoints.prune(RUN, newest=2) == []
