"""Extraction on Ray: any number of workers gives the same bytes, and a worker that is killed costs nothing but time."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.faces.app import extraction_plan
from services.faces.options import ExtractionOptions
from services.faces.stages import ExtractStage
from services.kit.claims import is_alive
from services.kit.clips import MediaFile
from services.kit.config import Settings
from services.kit.execution.executor import Executor, InlineExecutor, drop_env, open_settings_store, worker_env
from services.kit.operations.chunk import read_manifests
from services.kit.operations.keys import plan_key
from services.kit.operations.plan import Plan
from services.kit.storage import ObjectStore
from tests.support.contexts import settings_in
from tests.support.footage import head_clip

FRAMES, PER_CHUNK = 30, 5
FACESET = "projects/p/facesets/f"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return head_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", identity="mei", frame_count=FRAMES, seed=4)


@pytest.fixture(scope="module")
def uninterrupted(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one process makes of the clip, chunk after chunk: the digest of every object of the faceset."""
    settings = settings_in(tmp_path_factory.mktemp("inline"))
    store = open_settings_store(settings)
    env = worker_env(settings, store, "cpu")
    extracted = _extract(InlineExecutor(env), store, clip)
    drop_env(env)
    assert len(extracted) > 2 * FRAMES, "a picture and a sidecar for every frame, and the revision"
    return extracted


@pytest.fixture
def on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], tuple[Executor, ObjectStore]]]:
    """Starts Ray with a number of workers; their scratch folders, which carry their pids, are in a folder of this test."""
    from services.kit.execution.ray_executor import RayExecutor

    scratch = tempfile.mkdtemp(prefix="us-")  # short: Ray's sockets lie in it, and their paths may not be long
    monkeypatch.setenv("TMPDIR", scratch)
    monkeypatch.setattr(tempfile, "tempdir", None)
    started: list[Executor] = []

    def start(workers: int) -> tuple[Executor, ObjectStore]:
        settings: Settings = settings_in(tmp_path, **{"execution.kind": "ray", "execution.workers": workers})
        started.append(RayExecutor(settings))
        return started[0], open_settings_store(settings)

    yield start
    for executor in started:
        executor.close()
    shutil.rmtree(scratch, ignore_errors=True)


def test_two_workers_make_the_same_bytes_as_one_process(
    clip: Path, uninterrupted: dict[str, str], on_ray: Callable[[int], tuple[Executor, ObjectStore]]
) -> None:
    executor, store = on_ray(2)
    pids: set[int] = set()
    assert _extract(executor, store, clip, on_progress=lambda: pids.update(_workers())) == uninterrupted
    assert len(pids) == 2


def test_a_killed_worker_costs_nothing(
    clip: Path, uninterrupted: dict[str, str], on_ray: Callable[[int], tuple[Executor, ObjectStore]]
) -> None:
    executor, store = on_ray(1)
    killed: list[int] = []
    retries: list[str] = []

    def kill_once() -> None:
        if not killed:
            killed.extend(_workers())
            os.kill(killed[0], signal.SIGKILL)

    extracted = _extract(executor, store, clip, on_progress=kill_once, on_retry=retries.append)
    assert killed
    assert any("died" in why for why in retries)
    assert extracted == uninterrupted


def _extract(
    executor: Executor,
    store: ObjectStore,
    clip: Path,
    *,
    on_progress: Callable[[], None] = lambda: None,
    on_retry: Callable[[str], None] = lambda why: None,
) -> dict[str, str]:
    store.put("projects/p/uploads/clip", clip)
    plan = _plan()
    store.put(plan_key(plan.action_key), plan.to_bytes())
    executor.run_chunks(
        plan,
        plan.chunks,
        on_done=lambda manifest: None,
        on_progress=lambda index, units: on_progress(),
        on_retry=lambda index, why: on_retry(why),
        check=lambda: None,
    )
    env = worker_env(Settings(), store, "cpu")
    ExtractStage().finish(env, plan, read_manifests(store, plan), "test")
    drop_env(env)
    return {
        info.key: hashlib.sha256(_without_root(store, info.key)).hexdigest()
        for info in store.list(FACESET).objects
        if not info.key.endswith("0001.json")  # says when the revision was made
    }


def _without_root(store: ObjectStore, key: str) -> bytes:
    """An object's bytes without the store's own address, which sidecars name."""
    return store.get(key).replace(store.uri("root").removesuffix("root").encode(), b"")


def _plan() -> Plan:
    return extraction_plan(
        clip="projects/p/clips/c",
        clip_file="clip",
        media=MediaFile("projects/p/uploads/clip", "video/mp4"),
        media_sha256="0" * 64,
        faceset=FACESET,
        frames=range(FRAMES),
        options=ExtractionOptions(size_px=96),
        chunk_frames=PER_CHUNK,
    )


def _workers() -> list[int]:
    """The pids of living workers: other than this process, and with a scratch folder."""
    pids = {int(folder.name.split("-")[-2]) for folder in Path(tempfile.gettempdir()).glob("understudy-worker-*")}
    return [pid for pid in pids if pid != os.getpid() and is_alive(pid)]
