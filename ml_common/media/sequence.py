"""Image sequences, folders of photos and single pictures as frames.

What one would get wrong: the file number is not the frame index. Frame i is the i-th file that exists; its number, and
so its time, counts the gaps (``ClipInfo.first_number``, ``missing_numbers``). Most sequences do not know their frame
rate: it is what the caller says, else what the header of a DPX or OpenEXR file says, else 25 per second.

Shapes: H height, W width, C channels (B, G, R).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

from ml_common.imaging.picture import (
    PICTURE_SUFFIXES,
    PictureError,
    PictureHeader,
    read_header,
    read_picture,
)
from ml_common.media.color import Image
from ml_common.media.errors import MediaError
from ml_common.media.info import FLOAT_FORMATS, ClipInfo, ColorTags

DEFAULT_RATE = Fraction(25)

_NUMBERED = re.compile(r"^(?P<prefix>.*?)(?P<number>\d+)$")
_PATTERN = re.compile(r"%0?(\d*)d|#+")
_DAMAGED = ("CORRUPT_FRAME", "NOT_MEDIA")  # one bad file among many is a damaged frame, whatever is in it
_8_BITS = 8


@dataclass(frozen=True, slots=True)
class _Files:
    """``numbers`` ascending, one per path; ``uniform``: a numbered sequence, whose pictures must all have one size."""

    paths: list[Path]
    numbers: list[int]
    uniform: bool


def is_sequence(path: Path) -> bool:
    """True for a folder, a pattern (``shot.%04d.png``, ``shot.####.png``) or a picture file."""
    suffix = path.suffix.lower()
    return path.is_dir() or bool(_PATTERN.search(path.name)) or suffix in PICTURE_SUFFIXES


class SequenceSource:
    """Picture files as a ``FrameSource``."""

    def __init__(self, path: Path, rate: Fraction | None = None) -> None:
        self._files = _find(path)
        first, header = _first_header(self._files)
        self._rate = rate or header.rate or DEFAULT_RATE
        self._sample = _sample(header)
        numbers = self._files.numbers
        present = set(numbers)
        self.info = ClipInfo(
            kind="sequence",
            frame_count=len(numbers),
            rate=self._rate,
            variable_rate=False,
            width=header.width,
            height=header.height,
            rotation_deg=0,
            pixel_format=header.pixel_format,
            bit_depth=header.bit_depth,
            color=ColorTags(range="pc", matrix="gbr"),
            timecode=header.timecode if first == 0 else None,
            start_time_s=0.0,
            duration_s=float((numbers[-1] - numbers[0] + 1) / self._rate),
            audio=(),
            codec=header.codec,
            first_number=numbers[0],
            missing_numbers=tuple(n for n in range(numbers[0], numbers[-1]) if n not in present),
            pixel_aspect=header.pixel_aspect,
        )

    def __len__(self) -> int:
        return len(self._files.paths)

    def frame(self, index: int) -> Image:
        """Frame ``index`` as ``image_bgr_HWC``: uint8, uint16 (white 65535) or float32, as the file stores it; alpha is
        left out.

        IndexError outside 0 to ``len(self) - 1``. MediaError CORRUPT_FRAME where the file is damaged, gone, or unlike
        the sequence in size or depth; UNSUPPORTED where it is of a kind that is not read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"the sequence has frames 0 to {len(self) - 1}, not {index}")
        path = self._files.paths[index]
        try:
            image_bgr_HWC = read_picture(path)
        except (PictureError, FileNotFoundError) as error:
            raise _media_error(error, index, path) from error
        if self._files.uniform and image_bgr_HWC.shape[:2] != (self.info.height, self.info.width):
            raise MediaError(
                "CORRUPT_FRAME",
                f"frame {index} ({path.name}) is {image_bgr_HWC.shape[1]}x{image_bgr_HWC.shape[0]}, "
                f"the sequence {self.info.width}x{self.info.height}; export it again at one size",
                frame_index=index,
            )
        if self._files.uniform and image_bgr_HWC.dtype.name != self._sample:
            raise MediaError(
                "CORRUPT_FRAME",
                f"frame {index} ({path.name}) holds {image_bgr_HWC.dtype} samples, the sequence {self._sample}; "
                "export it again at one depth",
                frame_index=index,
            )
        return image_bgr_HWC

    def frames(
        self, start: int, stop: int, *, on_corrupt: Callable[[MediaError], None] | None = None
    ) -> Iterator[tuple[int, Image]]:
        """(index, frame) for ``start`` up to but without ``stop``, in order; as ``frame``.

        With ``on_corrupt`` a CORRUPT_FRAME is handed to it instead of raised, and the next file is read.
        """
        for index in range(start, stop):
            try:
                image_bgr_HWC = self.frame(index)
            except MediaError as error:
                if on_corrupt is None or error.reason != "CORRUPT_FRAME":
                    raise
                on_corrupt(error)
                continue
            yield index, image_bgr_HWC

    def time_s(self, index: int) -> float:
        """When frame ``index`` is shown, in seconds after the first; missing numbers take their time."""
        numbers = self._files.numbers
        return float((numbers[index] - numbers[0]) / self._rate)

    def close(self) -> None:
        """Nothing is kept open between frames."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _find(path: Path) -> _Files:
    if path.is_dir():
        return _folder(path)
    if match := _PATTERN.search(path.name):
        _check_format(path)
        digits = int(match[1] or 1) if match[0].startswith("%") else len(match[0])
        return _numbered(path.parent, path.name[: match.start()], path.name[match.end() :], digits, 0, path.name)
    _check_format(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    match = _NUMBERED.match(path.stem)
    if match is None:
        return _Files([path], [0], uniform=True)
    return _numbered(path.parent, match["prefix"], path.suffix, len(match["number"]), int(match["number"]), path.name)


def _folder(path: Path) -> _Files:
    """A folder is one numbered sequence when all its pictures share a name and a suffix; else photos in the order of
    their names."""
    pictures = sorted(
        file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".")
    )
    if not pictures:
        raise MediaError("NO_FRAMES", f"the folder {path.name} has no PNG, JPEG, TIFF, DPX or OpenEXR pictures in it")
    matches = [_NUMBERED.match(file.stem) for file in pictures]
    names = {(match["prefix"], file.suffix) for match, file in zip(matches, pictures, strict=True) if match}
    if None not in matches and len(names) == 1:
        by_number = {int(match["number"]): file for match, file in zip(matches, pictures, strict=True) if match}
        if len(by_number) == len(pictures):
            numbers = sorted(by_number)
            return _Files([by_number[number] for number in numbers], numbers, uniform=True)
    return _Files(pictures, list(range(len(pictures))), uniform=False)


def _numbered(folder: Path, prefix: str, suffix: str, digits: int, first: int, name: str) -> _Files:
    """Files ``prefix`` + number + ``suffix``, numbers padded to ``digits`` (longer ones only without a leading
    zero)."""
    number = re.compile(re.escape(prefix) + r"(\d+)" + re.escape(suffix))
    found = {}
    for file in folder.iterdir() if folder.is_dir() else ():
        match = number.fullmatch(file.name)
        if (
            match
            and (len(match[1]) == digits or (len(match[1]) > digits and match[1][0] != "0"))
            and int(match[1]) >= first
        ):
            found[int(match[1])] = file
    if not found:
        raise MediaError("NO_FRAMES", f"no file matches {name}; check the pattern and the number of digits")
    numbers = sorted(found)
    return _Files([found[n] for n in numbers], numbers, uniform=True)


def _check_format(path: Path) -> None:
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise MediaError(
            "UNSUPPORTED", f"{path.name} is no picture format that is read; use PNG, JPEG, TIFF, DPX or OpenEXR"
        )


def _first_header(files: _Files) -> tuple[int, PictureHeader]:
    """(index, header) of the first file that has one: a sequence whose first frame is damaged is still a sequence.

    Where none has, the error of the first.
    """
    failed = None
    for index, path in enumerate(files.paths):
        try:
            return index, read_header(path)
        except (PictureError, FileNotFoundError) as error:
            found = _media_error(error, index, path)
            if found.reason != "CORRUPT_FRAME":
                raise found from error
            failed = failed or found
    assert failed is not None  # _find gives at least one file
    raise failed


def _sample(header: PictureHeader) -> str:
    """The array type that frames with this header have."""
    if header.pixel_format in FLOAT_FORMATS:
        return "float32"
    return "uint8" if header.bit_depth <= _8_BITS else "uint16"


def _media_error(error: PictureError | FileNotFoundError, index: int, path: Path) -> MediaError:
    if isinstance(error, FileNotFoundError):
        return MediaError(
            "CORRUPT_FRAME", f"frame {index} ({path.name}) is gone; export or copy it again", frame_index=index
        )
    reason = "CORRUPT_FRAME" if error.reason in _DAMAGED else "UNSUPPORTED"
    return MediaError(reason, f"frame {index} ({path.name}) cannot be decoded: {error}", frame_index=index)
