"""Image sequences, folders of photos and single pictures as frames.

What one would get wrong: the file number is not the frame index. Frame i is the i-th file that exists; its number, and
so its time, counts the gaps (``ClipInfo.first_number``, ``missing_numbers``). A sequence does not know its frame rate:
24 per second unless the caller says otherwise.

Shapes: H height, W width, C channels (B, G, R).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np

from ml_common.media.color import Image
from ml_common.media.errors import MediaError
from ml_common.media.info import ClipInfo, ColorTags

DEFAULT_RATE = Fraction(24)

_CODECS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff"}
_NOT_YET = {".exr", ".dpx"}
_NUMBERED = re.compile(r"^(?P<prefix>.*?)(?P<number>\d+)$")
_PATTERN = re.compile(r"%0?(\d*)d|#+")
_PIXEL_FORMATS = {"uint8": ("bgr24", 8), "uint16": ("bgr48le", 16), "float32": ("bgrf32le", 32)}


@dataclass(frozen=True, slots=True)
class _Files:
    """``numbers`` ascending, one per path; ``uniform``: a numbered sequence, whose pictures must all have one size."""

    paths: list[Path]
    numbers: list[int]
    uniform: bool


def is_sequence(path: Path) -> bool:
    """True for a folder, a pattern (``shot.%04d.png``, ``shot.####.png``) or a picture file."""
    suffix = path.suffix.lower()
    return path.is_dir() or bool(_PATTERN.search(path.name)) or suffix in _CODECS or suffix in _NOT_YET


class SequenceSource:
    """Picture files as a ``FrameSource``."""

    def __init__(self, path: Path, rate: Fraction = DEFAULT_RATE) -> None:
        self._files = _find(path)
        self._rate = rate
        first = _read(self._files.paths[0], 0)
        name, depth = _PIXEL_FORMATS[first.dtype.name]
        numbers = self._files.numbers
        present = set(numbers)
        self.info = ClipInfo(
            kind="sequence",
            frame_count=len(numbers),
            rate=rate,
            variable_rate=False,
            width=first.shape[1],
            height=first.shape[0],
            rotation_deg=0,
            pixel_format=name,
            bit_depth=depth,
            color=ColorTags(range="pc", matrix="gbr"),
            timecode=None,
            start_time_s=0.0,
            duration_s=float((numbers[-1] - numbers[0] + 1) / rate),
            audio=(),
            codec=_CODECS[self._files.paths[0].suffix.lower()],
            first_number=numbers[0],
            missing_numbers=tuple(n for n in range(numbers[0], numbers[-1]) if n not in present),
        )

    def __len__(self) -> int:
        return len(self._files.paths)

    def frame(self, index: int) -> Image:
        """Frame ``index`` as ``image_bgr_HWC``: uint8, uint16 (white 65535) or float32, as the file stores it; alpha is
        left out.

        IndexError outside 0 to ``len(self) - 1``. MediaError CORRUPT_FRAME where the file is damaged or of another
        size.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"the sequence has frames 0 to {len(self) - 1}, not {index}")
        path = self._files.paths[index]
        image_bgr_HWC = _read(path, index)
        if self._files.uniform and image_bgr_HWC.shape[:2] != (self.info.height, self.info.width):
            raise MediaError(
                "CORRUPT_FRAME",
                f"frame {index} ({path.name}) is {image_bgr_HWC.shape[1]}x{image_bgr_HWC.shape[0]}, "
                f"the sequence {self.info.width}x{self.info.height}; export it again at one size",
                frame_index=index,
            )
        return image_bgr_HWC

    def frames(self, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        """(index, frame) for ``start`` up to but without ``stop``, in order; as ``frame``."""
        for index in range(start, stop):
            yield index, self.frame(index)

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
    pictures = sorted(file for file in path.iterdir() if file.suffix.lower() in _CODECS.keys() | _NOT_YET)
    if not pictures:
        raise MediaError("NO_FRAMES", f"the folder {path.name} has no PNG, JPEG or TIFF pictures in it")
    for file in pictures:
        _check_format(file)
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
    suffix = path.suffix.lower()
    if suffix in _NOT_YET:
        raise MediaError(
            "UNSUPPORTED", f"{suffix[1:].upper()} pictures are not read yet; convert {path.name} to 16-bit TIFF or PNG"
        )
    if suffix not in _CODECS:
        raise MediaError("UNSUPPORTED", f"{path.name} is no picture format that is read; use PNG, JPEG or TIFF")


def _read(path: Path, index: int) -> Image:
    data = path.read_bytes()
    image = None
    if _is_whole(data, _CODECS[path.suffix.lower()]):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image is None:
        raise MediaError(
            "CORRUPT_FRAME",
            f"frame {index} ({path.name}) cannot be decoded; export or copy it again",
            frame_index=index,
        )
    if image.dtype.name not in _PIXEL_FORMATS:
        raise MediaError(
            "UNSUPPORTED", f"{path.name} has samples of type {image.dtype}; convert it to 8 or 16 bits or float"
        )
    return np.asarray(image)


def _is_whole(data: bytes, codec: str) -> bool:
    """Whether the file has its end: OpenCV fills what a PNG or JPEG lacks with grey and says nothing."""
    if codec == "png":
        return b"IEND" in data
    if codec == "jpeg":
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")  # an end of image after the last start of scan
    return bool(data)
