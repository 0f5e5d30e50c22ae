"""The token file: made once, for its owner alone, whole or not at all."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from services.kit.errors import Denied
from services.kit.token import server_token


def test_made_once_with_mode_600(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "token"
    token = server_token(path)
    assert len(token) >= 43, "32 random bytes"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert server_token(path) == token
    assert [entry.name for entry in path.parent.iterdir()] == ["token"]
    assert server_token(tmp_path / "other") != token


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666, 0o610, 0o620])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    server_token(path)
    path.chmod(mode)
    with pytest.raises(Denied, match="chmod 600"):
        server_token(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    with pytest.raises(Denied, match="empty"):
        server_token(path)


def test_servers_that_start_at_once_agree(tmp_path: Path) -> None:
    for attempt in range(10):
        path = tmp_path / str(attempt) / "token"
        barrier = threading.Barrier(8)
        found: list[str | Exception] = []

        def start(
            path: Path = path, barrier: threading.Barrier = barrier, found: list[str | Exception] = found
        ) -> None:
            barrier.wait()
            try:
                found.append(server_token(path))
            except Denied as error:
                found.append(error)

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1, found
        assert isinstance(found[0], str)
