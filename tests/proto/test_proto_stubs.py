"""The committed stubs are those of the committed .proto files."""

from __future__ import annotations

from pathlib import Path

from tests.proto.conftest import REPOSITORY

COMMITTED = REPOSITORY / "understudy" / "v1"
HOW = "run `make proto` and commit what it writes"


def stubs_in(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if "_pb2" in path.name}


def test_regenerated_stubs_equal_the_committed_ones(generated: Path) -> None:
    fresh, committed = stubs_in(generated / "understudy" / "v1"), stubs_in(COMMITTED)
    assert sorted(fresh) == sorted(committed), HOW
    stale = [name for name in fresh if fresh[name] != committed[name]]
    assert not stale, f"{stale} differ from proto/understudy/v1: {HOW}"


def test_every_service_has_typed_stubs() -> None:
    for path in COMMITTED.glob("*_pb2*.py"):
        assert path.with_suffix(".pyi").is_file(), f"{path.name} has no type stub: {HOW}"
