"""The registry of weight files: what each is, where it comes from, under which licence, and the bytes it must have.

What a reader would get wrong: there are two kinds. *Fetched* weights are pinned here by their SHA-256
(``FetchedWeights``). *User* weights (``UserWeights``) are networks whose weights somebody else publishes: a user adds a
file, it is converted to our names, and a small JSON file beside it (``WeightRecord``) says which bytes it must have and
where they came from; without that record the file counts as not there.

Nothing here downloads or converts: ``services.kit.weights`` fills a folder, this module only finds a file in a folder
that it is given and checks it. A weight file is always safetensors; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

State = Literal["ok", "missing", "damaged", "not added"]

OWNER_STATES = "as the owner of the file states; not shipped"
"""The licence of a file that a user added without saying which it has."""

_RECORD_SCHEMA = 1


class MissingWeights(ValueError):
    """A registered weight file is not in the folder, or its bytes are not the registered ones."""


@dataclass(frozen=True, slots=True)
class FetchedWeights:
    """Weights that ``understudy weights fetch`` brings. ``sha256``: hex digest of the file's bytes; ``licence``: an
    SPDX id; ``source``: where they come from; ``note``: what they are for.
    """

    name: str
    sha256: str
    licence: str
    source: str
    note: str

    @property
    def file(self) -> str:
        """The file's name in the weights folder."""
        return f"{self.name}.safetensors"

    @property
    def bring(self) -> str:
        """The command that brings them."""
        return "understudy weights fetch"


@dataclass(frozen=True, slots=True)
class UserWeights:
    """Weights that a user brings. ``bring``: the command that does it; ``source``: who publishes them; ``note``: what
    they are for.
    """

    name: str
    bring: str
    source: str
    note: str

    @property
    def file(self) -> str:
        """The file's name in the weights folder: our state dict, float32."""
        return f"{self.name}.safetensors"

    @property
    def record_file(self) -> str:
        """The name of the record beside it."""
        return f"{self.name}.json"


@dataclass(frozen=True, slots=True)
class WeightRecord:
    """What is known of user weights in a folder: the JSON beside the file.

    ``sha256``: of the safetensors file. ``source_*``: of the file that the user gave (of several, one digest over all
    and their names joined by ", "). ``source_kind``: such as "deepfacelab-npy". ``licence``: an SPDX id or
    ``OWNER_STATES``. ``added_time``: RFC 3339, UTC.
    """

    name: str
    sha256: str
    source_file: str
    source_sha256: str
    source_kind: str
    licence: str
    added_time: str

    def to_json_bytes(self) -> bytes:
        """The record as it is stored."""
        return (json.dumps({"schema": _RECORD_SCHEMA, **asdict(self)}, indent=2) + "\n").encode()

    @classmethod
    def from_json_bytes(cls, data: bytes) -> WeightRecord:
        """Raises ValueError for anything that ``to_json_bytes`` does not write."""
        try:
            values = json.loads(data)
        except RecursionError as error:
            raise ValueError("a weight record is not nested") from error
        if not isinstance(values, dict) or values.pop("schema", None) != _RECORD_SCHEMA:
            raise ValueError(f"a weight record is an object with schema {_RECORD_SCHEMA}")
        if set(values) != {field.name for field in fields(cls)} or not all(isinstance(v, str) for v in values.values()):
            raise ValueError(f"a weight record has the texts {', '.join(field.name for field in fields(cls))}")
        return cls(**values)


@dataclass(frozen=True, slots=True)
class WeightStatus:
    """One registered file as it is in a folder. ``sha256`` and ``licence`` are empty where the record is not there;
    ``advice`` is the command that makes it ok, empty where it is.
    """

    name: str
    path: Path
    state: State
    sha256: str
    licence: str
    source: str
    note: str
    advice: str


_WHEEL = "pypi:mediapipe==0.10.21 mediapipe/modules"
_FETCHED = (
    FetchedWeights(
        "blazeface_full_range",
        "9eedfdb880bda285c9cd40ce58131779413083084d3746f5e110dd1bbd7d9358",
        "Apache-2.0",
        f"{_WHEEL}/face_detection/face_detection_full_range_sparse.tflite",
        "face boxes and six keypoints, 192 px tiles, faces from 8 to 50 % of a tile",
    ),
    FetchedWeights(
        "blazeface_short_range",
        "9d670df8283bd0532c482b06da7e62779dd37d3a3bfdae30525d6840270ad71c",
        "Apache-2.0",
        f"{_WHEEL}/face_detection/face_detection_short_range.tflite",
        "face boxes and six keypoints, 128 px tiles, faces from 20 to 100 % of a tile",
    ),
    FetchedWeights(
        "face_mesh_468",
        "ad24ecaaca5c88009163913e41c7a19e656a69b24e0aa676f225ec375c402679",
        "Apache-2.0",
        f"{_WHEEL}/face_landmark/face_landmark.tflite",
        "468 face vertices and presence, 192 px upright crops",
    ),
)
_USER = (
    UserWeights(
        "s3fd",
        "understudy weights add S3FD.npy",
        "S3FD.npy of DeepFaceLab, or s3fd-619a316812.pth of the face-alignment project",
        "face boxes, detector s3fd",
    ),
    UserWeights(
        "fan2d",
        "understudy weights add 2DFAN.npy",
        "2DFAN.npy of DeepFaceLab, or 2DFAN4 of the face-alignment project",
        "68 points, landmarker fan2d",
    ),
    UserWeights(
        "fan3d",
        "understudy weights add 3DFAN.npy",
        "3DFAN.npy of DeepFaceLab, or 3DFAN4 of the face-alignment project",
        "68 points that follow hidden jaws, landmarker fan3d",
    ),
    UserWeights(
        "mtcnn",
        "understudy weights fetch --with mtcnn",
        "pnet.pt, rnet.pt and onet.pt of facenet-pytorch",
        "face boxes and five keypoints, detector mtcnn",
    ),
)


def fetched() -> tuple[FetchedWeights, ...]:
    """All weights that are pinned here."""
    return _FETCHED


def user() -> tuple[UserWeights, ...]:
    """All weights that a user may bring."""
    return _USER


def entry(name: str) -> FetchedWeights | UserWeights:
    """The entry of that name. Raises ValueError listing the known names."""
    known = (*_FETCHED, *_USER)
    for candidate in known:
        if candidate.name == name:
            return candidate
    raise ValueError(f"unknown weights {name!r}; known are {', '.join(e.name for e in known)}")


def record(wanted: UserWeights, weights_dir: Path) -> WeightRecord | None:
    """The record of user weights in a folder, None where there is none. Raises ValueError where it cannot be read."""
    try:
        data = (weights_dir / wanted.record_file).read_bytes()
    except FileNotFoundError:
        return None
    read = WeightRecord.from_json_bytes(data)
    if read.name != wanted.name:
        raise ValueError(f"the record is of {read.name}")
    return read


def status(name: str, weights_dir: Path) -> WeightStatus:
    """One registered file as it is, by reading it (once per process and file state). Raises ValueError for an unknown
    name.

    Fetched weights are "missing" where the file is absent, user weights "not added" where file or record is; both are
    "damaged" where the bytes are others.
    """
    wanted = entry(name)
    path = weights_dir / wanted.file
    if isinstance(wanted, FetchedWeights):
        state = "missing" if not path.is_file() else _state_of(path, wanted.sha256)
        advice = "" if state == "ok" else wanted.bring
        return WeightStatus(name, path, state, wanted.sha256, wanted.licence, wanted.source, wanted.note, advice)
    try:
        found = record(wanted, weights_dir)
    except ValueError:
        return WeightStatus(name, path, "damaged", "", "", wanted.source, wanted.note, wanted.bring)
    if found is None or not path.is_file():
        return WeightStatus(name, path, "not added", "", "", wanted.source, wanted.note, wanted.bring)
    state = _state_of(path, found.sha256)
    source = f"{found.source_kind}: {found.source_file}, SHA-256 {found.source_sha256}"
    advice = "" if state == "ok" else wanted.bring
    return WeightStatus(name, path, state, found.sha256, found.licence, source, wanted.note, advice)


def locate(name: str, weights_dir: Path) -> Path:
    """The path of a registered file in ``weights_dir``, after its SHA-256 was found right.

    Raises MissingWeights, saying what to run, when the file is absent or altered; ValueError for an unknown name.
    """
    return _found(name, weights_dir).path


def digest(name: str, weights_dir: Path) -> str:
    """SHA-256 of a file that ``locate`` finds, hex: which weights these are."""
    return _found(name, weights_dir).sha256


def complaint(found: WeightStatus) -> str:
    """What is wrong with a file that is not ok, and what to do, as one sentence."""
    match found.state:
        case "damaged":
            return f"{found.path} is damaged or of another version; run `{found.advice}` to replace it"
        case "not added":
            return f"{found.path} was not added; run `{found.advice}` ({found.source})"
        case _:
            return f"{found.path} is missing; run `{found.advice}`"


def _found(name: str, weights_dir: Path) -> WeightStatus:
    found = status(name, weights_dir)
    if found.state != "ok":
        raise MissingWeights(complaint(found))
    return found


def _state_of(path: Path, sha256: str) -> State:
    stat = path.stat()
    return "ok" if _sha256(path, stat.st_size, stat.st_mtime_ns, stat.st_ino) == sha256 else "damaged"


@lru_cache(maxsize=64)
def _sha256(path: Path, size_bytes: int, mtime_ns: int, inode: int) -> str:
    # Size, time and inode are part of the key, so a file that was replaced is read again.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU, by name."""
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(path)
    return tensors
