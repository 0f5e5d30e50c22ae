"""DeepFaceLab's faceset.pak: many face JPEGs in one file, read one at a time without loading the file.

Easy to get wrong: the last entry of the offset table, the end, is written by DeepFaceLab as a position in the file where
all others count from the start of the data. The end of the last JPEG is therefore the end of the file. Source: spec:
faceset, section 12; pinned by tests/unit/dfl/test_pak.py.

The configuration, a pickled list with one dictionary a face, repeats what the JPEGs' own metadata says; only names are
taken from it here. Nothing in it is executed.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ml_common.dfl.face_jpeg import read_face_jpeg
from ml_common.dfl.restricted_pickle import (
    EnumNumbers,
    PickledValue,
    RefusedPickleError,
    check_extent,
    iterate_pickle,
)

PAK_VERSION: Final = 1
HEADER_BYTES: Final = 16
OFFSET_BYTES: Final = 8

ENUMS: Final[EnumNumbers] = {
    ("samplelib.Sample", "SampleType"): {"FACE": 1},
    ("facelib.FaceType", "FaceType"): {
        "HALF": 0,
        "MID_FULL": 1,
        "FULL": 2,
        "FULL_NO_ALIGN": 3,
        "WHOLE_FACE": 4,
        "HEAD": 10,
        "HEAD_NO_ALIGN": 20,
        "MARK_ONLY": 100,
    },
}
"""The two enumerations a configuration names; their members are read as these numbers."""

_MAX_DEPTH: Final = 16
_MAX_VALUES: Final = 200_000


class PakError(ValueError):
    """The pak, or one face in it, cannot be read. The message says what and where; `item` is the face's name as far as it
    is known, empty where the pak as a whole is meant."""

    def __init__(self, message: str, item: str = "") -> None:
        super().__init__(message)
        self.item = item


@dataclass(frozen=True, slots=True)
class PakFace:
    """Where one face lies. name: its file name. person: the sub-folder it was packed from, empty for none."""

    name: str
    person: str
    offset: int
    size_bytes: int

    @property
    def path(self) -> str:
        """`person/name`, or the name alone."""
        return f"{self.person}/{self.name}" if self.person else self.name


class PakReader:
    """A faceset.pak open for reading. Safe for concurrent threads; a context manager, or `close` it.

    on_error: None refuses a damaged pak. A function is told of each damage (a PakError) instead, and the faces that are
    intact can be read: those that a shortened file still holds, and all of them where only the configuration is
    damaged, under names made up from their order. PakError in any case when there is nothing to read: another version,
    no offset table.
    """

    def __init__(self, path: Path, *, on_error: Callable[[PakError], None] | None = None) -> None:
        self._path = path
        self._file_bytes = path.stat().st_size
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            self._config_bytes = self._read_header()
            self.faces: tuple[PakFace, ...] = self._find_faces(on_error or _refuse)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; harmless when closed already."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __len__(self) -> int:
        return len(self.faces)

    def read_jpeg(self, index: int) -> bytes:
        """The JPEG of face `index` as it was packed. IndexError; PakError when it is cut short."""
        face = self.faces[index]
        data = self._read(face.offset, face.size_bytes)
        if len(data) < face.size_bytes:
            raise PakError(f"{self._path.name}: {face.path} is cut short at byte {face.offset + len(data)}")
        return data

    def __iter__(self) -> Iterator[tuple[PakFace, bytes]]:
        """Every face with its JPEG, in order, one in memory at a time."""
        for index, face in enumerate(self.faces):
            yield face, self.read_jpeg(index)

    def configurations(self) -> Iterator[dict[str, PickledValue]]:
        """What the pak itself says of each face, in order, with the keys of spec: faceset, section 12. Enumerations
        come as numbers. PakError at the first damage."""
        try:
            for index, value in enumerate(iterate_pickle(self._mapped_configuration(), enums=ENUMS)):
                check_extent(value, max_depth=_MAX_DEPTH, max_values=_MAX_VALUES)
                if not isinstance(value, dict):
                    raise RefusedPickleError(f"entry {index} is a {type(value).__name__}, not a dictionary")
                yield value
        except RefusedPickleError as error:
            raise PakError(f"{self._path.name}: the configuration cannot be read: {error}") from error

    def verify(self) -> list[PakError]:
        """What is wrong with the faces: names that repeat, JPEGs that are damaged or carry no metadata. Reads the whole
        file once."""
        problems: list[PakError] = []
        seen: set[str] = set()
        for index, face in enumerate(self.faces):
            if face.path in seen:
                problems.append(PakError(f"{self._path.name}: the name {face.path} repeats"))
            seen.add(face.path)
            try:
                if read_face_jpeg(self.read_jpeg(index)).metadata is None:
                    problems.append(PakError(f"{self._path.name}: {face.path} carries no metadata"))
            except PakError as error:
                problems.append(error)
            except ValueError as error:
                problems.append(PakError(f"{self._path.name}: {face.path} at byte {face.offset}: {error}"))
        return problems

    # ---------------------------------------------------------------------------------------------------------------

    def _read(self, offset: int, size_bytes: int) -> bytes:
        pieces: list[bytes] = []
        while size_bytes > 0 and (piece := os.pread(self._descriptor, size_bytes, offset)):
            pieces.append(piece)
            offset += len(piece)
            size_bytes -= len(piece)
        return b"".join(pieces)

    def _read_header(self) -> int:
        header = self._read(0, HEADER_BYTES)
        if len(header) < HEADER_BYTES:
            raise PakError(f"{self._path.name}: the file is cut short within its header")
        version, config_bytes = struct.unpack("<QQ", header)
        if version != PAK_VERSION:
            raise PakError(f"{self._path.name}: the pak has version {version}; only version {PAK_VERSION} can be read")
        if HEADER_BYTES + config_bytes > self._file_bytes:
            raise PakError(
                f"{self._path.name}: the file is cut short within its configuration, which should take "
                f"{config_bytes} bytes; copy it again"
            )
        return int(config_bytes)

    def _mapped_configuration(self) -> memoryview:
        # Mapped, not read: it takes gigabytes for a large faceset. Never closed by hand, because whoever holds an error
        # holds a view of it; it goes with its last user.
        mapped = mmap.mmap(self._descriptor, HEADER_BYTES + self._config_bytes, access=mmap.ACCESS_READ)
        return memoryview(mapped)[HEADER_BYTES:]

    def _find_faces(self, on_error: Callable[[PakError], None]) -> tuple[PakFace, ...]:
        names: list[tuple[str, str]] = []
        try:
            names.extend(self._name(index, value, on_error) for index, value in enumerate(self.configurations()))
        except PakError as error:
            on_error(error)
            names.extend((_made_up_name(index), "") for index in range(len(names), self._count_by_offsets()))
        table_start = HEADER_BYTES + self._config_bytes
        table_bytes = OFFSET_BYTES * (len(names) + 1)
        table = self._read(table_start, table_bytes)
        if len(table) < table_bytes:
            raise PakError(f"{self._path.name}: the file is cut short within its offset table; copy it again")
        offsets = struct.unpack(f"<{len(names) + 1}Q", table)
        return tuple(self._intact_faces(names, offsets, table_start + table_bytes, on_error))

    def _intact_faces(
        self,
        names: list[tuple[str, str]],
        offsets: tuple[int, ...],
        data_start: int,
        on_error: Callable[[PakError], None],
    ) -> Iterator[PakFace]:
        data_bytes = self._file_bytes - data_start
        # The end, as DeepFaceLab writes it (a position in the file) or as it should be (counted from the data's start).
        end = data_bytes if offsets[-1] == self._file_bytes else offsets[-1]
        if end > data_bytes:
            on_error(
                PakError(
                    f"{self._path.name}: the file is cut short: it ends at byte {self._file_bytes}, its offset table "
                    f"at {offsets[-1]}; copy it again"
                )
            )
        intact_stop = 0
        for index, (name, person) in enumerate(names):
            start, stop = offsets[index], end if index == len(names) - 1 else offsets[index + 1]
            face = PakFace(name, person, data_start + start, stop - start)
            if not intact_stop <= start < stop:
                on_error(
                    PakError(
                        f"{self._path.name}: {face.path} (number {index}) has an impossible offset {start}", face.path
                    )
                )
            elif stop > data_bytes:
                on_error(
                    PakError(
                        f"{self._path.name}: {face.path} (number {index}) lies behind the end of the file", face.path
                    )
                )
            else:
                intact_stop = stop
                yield face

    def _name(
        self, index: int, configuration: dict[str, PickledValue], on_error: Callable[[PakError], None]
    ) -> tuple[str, str]:
        name, person = configuration.get("filename"), configuration.get("person_name")
        if is_plain_name(name) and (person is None or is_plain_name(person)):
            return str(name), str(person or "")
        made_up = _made_up_name(index)
        on_error(PakError(f"{self._path.name}: entry {index} of the configuration has no usable file name", made_up))
        return made_up, ""

    def _count_by_offsets(self) -> int:
        """How many faces there are, from the offset table alone: it begins with 0, ascends, and ends with the end."""
        position, previous, count = HEADER_BYTES + self._config_bytes, -1, 0
        while True:
            entry = self._read(position, OFFSET_BYTES)
            offset = int.from_bytes(entry, "little")
            data_start = position + OFFSET_BYTES
            if len(entry) < OFFSET_BYTES or offset <= previous or (count == 0 and offset != 0):
                raise PakError(f"{self._path.name}: neither the configuration nor the offset table can be read")
            if count and offset in (self._file_bytes, self._file_bytes - data_start):
                return count
            position, previous, count = data_start, offset, count + 1


def _refuse(error: PakError) -> None:
    raise error


def is_plain_name(name: PickledValue) -> bool:
    """Text that names a file or a folder and leads nowhere else when it is made a path."""
    return isinstance(name, str) and bool(name) and not {"/", "\\", "\0"} & set(name) and name not in (".", "..")


def _made_up_name(index: int) -> str:
    return f"{index:05d}.jpg"
