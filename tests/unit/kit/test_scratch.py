"""Scratch folders of workers: each its own, gone with its process, also with one that was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from services.kit.execution.executor import drop_env, worker_env
from services.kit.storage import open_store
from tests.support.contexts import settings_in

REPOSITORY = Path(__file__).resolve().parents[3]
MAKE = """
import sys
from pathlib import Path
from tests.support.contexts import context_in
print(context_in(Path(sys.argv[1])).env.scratch_dir, flush=True)
sys.stdin.read()
"""


def test_a_killed_processs_folder_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    settings = settings_in(tmp_path)
    store = open_store("folder", root=tmp_path / "objects")
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE, str(tmp_path)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        (folder / "frame.png").write_bytes(b"x")
        mine = worker_env(settings, store, "cpu")
        assert folder.is_dir(), "its process lives"
        assert mine.scratch_dir != folder
    finally:
        process.kill()
        process.communicate()
    again = worker_env(settings, store, "cpu")
    assert not folder.exists()
    assert mine.scratch_dir.is_dir()
    drop_env(mine)
    assert not mine.scratch_dir.exists()
    drop_env(mine)
    drop_env(again)
