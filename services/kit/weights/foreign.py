"""Takes in weight files that a user brings: recognised by their content, converted, written with their record.

What a reader would get wrong: the file itself is not kept. What is stored is our own state dict as safetensors, and the
record says which file it was made from. Whoever adds the same file again changes nothing; another file under the same
name has to be asked for with ``replace``, since results depend on it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_common import weights as registry
from ml_common.weights import OWNER_STATES, UserWeights, WeightRecord, WeightStatus
from services.kit.errors import AlreadyExists, InvalidInput
from services.kit.weights import folder as files

if TYPE_CHECKING:
    import numpy as np

    from ml_common.foreign_weights import ForeignWeights

_FAN_2D_OR_3D = re.compile(r"(?<![a-z0-9])([23])d(?![a-z0-9])|([23])dfan|fan[-_]?([23])d", re.IGNORECASE)
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+()-]{0,99}")
_KINDS = {
    ("s3fd", "torch"): "face-alignment-pth",
    ("fan2d", "torch"): "face-alignment-pth",
    ("fan3d", "torch"): "face-alignment-pth",
    ("fan2d", "torchscript"): "face-alignment-torchscript",
    ("fan3d", "torchscript"): "face-alignment-torchscript",
    ("mtcnn", "torch"): "facenet-pytorch",
}


@dataclass(frozen=True, slots=True)
class _Given:
    """A file of the user's, read. ``parts``: a wheel has several."""

    path: Path
    sha256: str
    parts: list[ForeignWeights]


@dataclass(frozen=True, slots=True)
class _Converted:
    """What some files became."""

    name: str
    content: bytes
    given: list[_Given]
    format: str


def add(
    paths: Sequence[Path],
    weights_dir: Path,
    *,
    on_event: Callable[[str], None],
    name: str | None = None,
    licence: str | None = None,
    replace: bool = False,
) -> list[WeightStatus]:
    """Converts files into ``weights_dir`` and returns what is there now of each network that they hold.

    ``name``: what the one network is, where the files do not say. ``licence``: an SPDX expression, for the record. All
    files are read and converted before any is written. Raises InvalidInput for a file that is not weights or not of a
    network that we know, AlreadyExists where other weights have the name and ``replace`` is not set, QuotaOrCapacity or
    Denied where the folder cannot be written.
    """
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise InvalidInput(f"{licence!r:.120} is not an SPDX id such as MIT", fields={"licence": "not an SPDX id"})
    converted = _convert(_networks([_read(path) for path in paths], name))
    with files.writing(weights_dir):
        for one in converted:
            _refuse_other(one, weights_dir, replace=replace)
        for one in converted:
            _write(one, weights_dir, licence, on_event)
    return files.status(weights_dir, [one.name for one in converted])


def _read(path: Path) -> _Given:
    from ml_common.foreign_weights import MAX_BYTES, NotWeights, read_foreign

    if not path.is_file():
        raise InvalidInput(f"there is no file {path}", fields={"file": "no such file"})
    if path.stat().st_size > MAX_BYTES:
        raise InvalidInput(f"{path} is larger than any weight file that is read ({MAX_BYTES / 1e9:.1f} GB)")
    data = path.read_bytes()
    try:
        return _Given(path, hashlib.sha256(data).hexdigest(), read_foreign(data, path.name))
    except NotWeights as error:
        raise InvalidInput(str(error), fields={"file": "not a weight file"}) from error


def _networks(given: list[_Given], name: str | None) -> dict[str, list[tuple[_Given, str, ForeignWeights]]]:
    """Name of weights to the sets of arrays that make them, each with the file it came in and what it is of the whole."""
    from ml_common.detect.mtcnn_keys import recognise_part
    from ml_common.detect.weight_keys import recognise

    networks: dict[str, list[tuple[_Given, str, ForeignWeights]]] = {}
    for file in given:
        for part in file.parts:
            of_mtcnn = recognise_part(part.shapes)
            what = "mtcnn" if of_mtcnn else _name_of(recognise(part.shapes), part, name)
            networks.setdefault(what, []).append((file, of_mtcnn or "", part))
    if name is not None and set(networks) != {name}:
        files.known(name)
        held = ", ".join(sorted(networks))
        raise InvalidInput(f"--as {name} does not fit: what was given is {held}", fields={"as": f"is {held}"})
    for what, parts in networks.items():
        roles = [role for _, role, _ in parts]
        if len(set(roles)) != len(roles):
            raise InvalidInput(f"several of the files are {what}: add the one that you want")
    return networks


def _name_of(kind: str | None, part: ForeignWeights, name: str | None) -> str:
    if kind is None:
        known = ", ".join(item.name for item in registry.user())
        shown = ", ".join(list(part.arrays)[:3])
        raise InvalidInput(
            f"{part.file} holds {len(part.arrays)} arrays ({shown}, ...) but is none of the networks that can be added: "
            f"{known}",
            fields={"file": "not a known network"},
        )
    if kind != "fan":
        return kind
    if name is not None:
        return name if name in ("fan2d", "fan3d") else "fan"
    said = {found for match in _FAN_2D_OR_3D.findall(part.file) for found in match if found}
    if len(said) != 1:
        raise InvalidInput(
            f"{part.file} is a FAN, and the 2D and the 3D one look alike: say which with --as fan2d or --as fan3d",
            fields={"as": "fan2d or fan3d"},
        )
    return f"fan{said.pop()}d"


def _convert(networks: Mapping[str, list[tuple[_Given, str, ForeignWeights]]]) -> list[_Converted]:
    from safetensors.numpy import save

    converted = []
    for name, parts in networks.items():
        try:
            state = _state_dict(name, {role: part for _, role, part in parts})
        except ValueError as error:
            shown = ", ".join(part.file for _, _, part in parts)
            raise InvalidInput(f"{shown}: {error}", fields={"file": f"does not fit {name}"}) from error
        given = list({file.path: file for file, _, _ in parts}.values())
        converted.append(_Converted(name, save(state), given, parts[0][2].format))
    return converted


def _state_dict(name: str, parts: Mapping[str, ForeignWeights]) -> dict[str, np.ndarray[Any, Any]]:
    if name == "mtcnn":
        from ml_common.detect import mtcnn_keys

        missing = [role for role in mtcnn_keys.PARTS if role not in parts]
        if missing:
            raise ValueError(f"MTCNN is three networks, and {', '.join(missing)} is not there: add all in one command")
        return mtcnn_keys.convert({role: part.arrays for role, part in parts.items()})
    from ml_common.detect.weight_keys import CONVERTERS

    (part,) = parts.values()
    return dict(CONVERTERS[name](part.arrays))


def _refuse_other(one: _Converted, weights_dir: Path, *, replace: bool) -> None:
    there = registry.status(one.name, weights_dir)
    if there.state == "ok" and there.sha256 != hashlib.sha256(one.content).hexdigest() and not replace:
        raise AlreadyExists(
            f"{one.name} is there already, from {there.source}: replace it with --replace", metadata={"name": one.name}
        )


def _write(one: _Converted, weights_dir: Path, licence: str | None, on_event: Callable[[str], None]) -> None:
    item = files.known(one.name)
    assert isinstance(item, UserWeights)
    sha256 = hashlib.sha256(one.content).hexdigest()
    there = registry.status(one.name, weights_dir)
    if there.state == "ok" and there.sha256 == sha256 and licence in (None, there.licence):
        on_event(f"{item.file} is there")
        return
    digests = [given.sha256 for given in one.given]
    record = WeightRecord(
        name=one.name,
        sha256=sha256,
        source_file=", ".join(given.path.name for given in one.given),
        source_sha256=digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
        source_kind="deepfacelab-npy"
        if one.format == "deepfacelab"
        else _KINDS.get((one.name, one.format), one.format),
        licence=licence or OWNER_STATES,
        added_time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    (weights_dir / item.record_file).unlink(missing_ok=True)
    files.put_bytes(weights_dir / item.file, one.content, sha256)
    files.put_record(record, item, weights_dir)
    on_event(f"added {item.file} ({len(one.content) / 1e6:.1f} MB) from {record.source_file}")
