"""Footage in the store, opened as frames by their numbers. Used by every worker that reads a clip.

A video is one object. An image sequence is a manifest that lists its files; they appear side by side in a scratch folder. Frame
*numbers* are the clip's (a video counts from 0, a sequence keeps its files' numbers), *indices* are positions among the frames that
exist: only this module converts between them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath

import numpy as np

from ml_common.media import ClipInfo, FrameSource, MediaError, open_source, probe
from services.kit.errors import Corrupt, InvalidInput, UnderstudyError
from services.kit.operations.plan import ItemFailure
from services.kit.storage import ObjectStore

_LOG = logging.getLogger(__name__)
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
SEQUENCE_MEDIA_TYPE = "application/vnd.understudy.sequence+json"
_REASONS = {
    "NOT_MEDIA": "NOT_MEDIA",
    "NO_VIDEO": "NOT_MEDIA",
    "TRUNCATED": "TRUNCATED_MEDIA",
    "NO_FRAMES": "NO_FRAMES",
    "CORRUPT_FRAME": "CORRUPT_FRAME",
}


@dataclass(frozen=True, slots=True)
class MediaFile:
    """What a worker needs to open a clip: the object's key and media type, and the rate of a sequence.

    ``sequence_rate`` as `24000/1001`; empty for what the pictures' headers say, else 25.
    """

    key: str
    media_type: str
    sequence_rate: str = ""

    def to_json(self) -> dict[str, str]:
        """For a plan."""
        return {"key": self.key, "media_type": self.media_type, "sequence_rate": self.sequence_rate}


class ClipFrames:
    """An open clip by frame number. One thread only."""

    def __init__(self, source: FrameSource, name: str) -> None:
        self._source = source
        self._name = name
        self.info = source.info
        self.numbers = frame_numbers(source.info)

    def read(
        self, numbers: Sequence[int], *, on_corrupt: Callable[[int, UnderstudyError], None] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(number, image_bgr_HWC) for each of ``numbers``, which must rise and exist. Consecutive ones are decoded in one go.

        A damaged frame raises Corrupt. With ``on_corrupt`` it is left out instead, and its number is handed there with the error;
        so are frames that a video builds from a damaged one. All others keep their numbers.
        """
        indices = [self.index(number) for number in numbers]
        position = 0
        while position < len(indices):
            end = position + 1
            while end < len(indices) and indices[end] == indices[end - 1] + 1:
                end += 1
            with media_errors(self._name):
                frames = self._source.frames(
                    indices[position],
                    indices[end - 1] + 1,
                    on_corrupt=self._reporter(on_corrupt) if on_corrupt is not None else None,
                )
                for index, image in frames:
                    yield numbers[position + index - indices[position]], image
            position = end

    def _reporter(self, on_corrupt: Callable[[int, UnderstudyError], None]) -> Callable[[MediaError], None]:
        def report(error: MediaError) -> None:
            assert error.frame_index is not None  # every CORRUPT_FRAME names its frame
            on_corrupt(int(self.numbers[error.frame_index]), _reported(error, self._name))

        return report

    def index(self, number: int) -> int:
        """Position of a frame number; InvalidInput when the clip does not have it."""
        position = number - self.info.first_number
        if isinstance(self.numbers, range):
            if number not in self.numbers:
                raise InvalidInput(
                    f"{self._name} has frames {self.numbers.start} to {self.numbers.stop - 1}, not {number}",
                    reason="NO_FRAMES",
                )
            return position
        position = int(np.searchsorted(self.numbers, number))
        if position == len(self.numbers) or self.numbers[position] != number:
            raise InvalidInput(f"{self._name} has no frame {number}", reason="NO_FRAMES")
        return position

    def time_s(self, number: int) -> float:
        """When a frame is shown, on the timeline that its audio shares."""
        return self._source.time_s(self.index(number))


class CorruptFrames:
    """For ``on_corrupt``: collects the frames of a chunk that cannot be decoded, as failed items."""

    def __init__(self) -> None:
        self._found: list[ItemFailure] = []

    def __call__(self, number: int, error: UnderstudyError) -> None:
        self._found.append(ItemFailure(str(number), error.reason, error.message))

    @property
    def failures(self) -> tuple[ItemFailure, ...]:
        """What the chunk reports."""
        return tuple(self._found)


def frame_numbers(info: ClipInfo) -> Sequence[int]:
    """All frame numbers of a clip, rising."""
    if not info.missing_numbers:
        return range(info.first_number, info.first_number + info.frame_count)
    last = info.first_number + info.frame_count + len(info.missing_numbers)
    missing = set(info.missing_numbers)
    return [number for number in range(info.first_number, last) if number not in missing]


@contextlib.contextmanager
def media_path(store: ObjectStore, media: MediaFile) -> Iterator[Path]:
    """The clip as a local path that ``open_source`` understands."""
    with contextlib.ExitStack() as stack:
        if media.media_type != SEQUENCE_MEDIA_TYPE:
            yield stack.enter_context(store.local_path(media.key))
            return
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="understudy-sequence-")))
        for name, key in _sequence_files(store, media.key):
            (folder / name).symlink_to(stack.enter_context(store.local_path(key)))
        yield folder


@contextlib.contextmanager
def open_clip(store: ObjectStore, media: MediaFile, name: str, *, hardware: str | None = None) -> Iterator[ClipFrames]:
    """Opens a clip for reading. ``name`` is used in errors.

    ``hardware``: the device that decodes a video (`cuda` is NVDEC); what it does not decode, the processor does, and the log says so.
    """
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(media_path(store, media))
        with media_errors(name):
            source = stack.enter_context(_opened(path, media, hardware))
        yield ClipFrames(source, name)


def _opened(path: Path, media: MediaFile, hardware: str | None) -> FrameSource:
    if hardware is not None and media.media_type != SEQUENCE_MEDIA_TYPE:
        try:
            return open_source(path, sequence_rate=_rate(media), hardware=hardware)
        except MediaError as error:
            if error.reason != "UNSUPPORTED":
                raise
            _LOG.warning("decoded by the processor: %s", error)
    return open_source(path, sequence_rate=_rate(media))


def probe_clip(store: ObjectStore, media: MediaFile, name: str) -> ClipInfo:
    """What a clip holds, by reading it."""
    with media_path(store, media) as path, media_errors(name):
        return probe(path, sequence_rate=_rate(media))


def _rate(media: MediaFile) -> Fraction | None:
    return Fraction(media.sequence_rate) if media.sequence_rate else None


@contextlib.contextmanager
def media_errors(name: str) -> Iterator[None]:
    """Turns what is wrong with footage into errors that a caller reads."""
    try:
        yield
    except MediaError as error:
        raise _reported(error, name) from error


def _reported(error: MediaError, name: str) -> UnderstudyError:
    """What a caller reads of ``error`` in the clip ``name``."""
    reason = _REASONS.get(error.reason, "UNSUPPORTED_MEDIA")
    metadata = {"clip": name}
    if error.frame_index is not None:
        metadata["frame_index"] = str(error.frame_index)
    if error.decodable_frames is not None:
        metadata["decodable_frames"] = str(error.decodable_frames)
    kind: type[UnderstudyError] = Corrupt if reason == "CORRUPT_FRAME" else InvalidInput
    # Objects are named by digest; a person knows the clip by its own name.
    text = _DIGEST.sub(name, str(error), count=1)
    return kind(text if name in text else f"{name}: {text}", reason=reason, metadata=metadata)


def _sequence_files(store: ObjectStore, key: str) -> list[tuple[str, str]]:
    """(file name, object key) of each file that a sequence manifest lists. The names come from a client: only bare names pass."""
    try:
        files = [(str(entry["name"]), store.key_of(str(entry["uri"]))) for entry in json.loads(store.get(key))["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"the sequence manifest {store.uri(key)} is not one: {error}", reason="NOT_MEDIA") from error
    for name, _ in files:
        if not name or PurePosixPath(name).name != name or name.startswith("."):
            raise InvalidInput(
                f"the sequence manifest names the file {name!r}: only bare file names may stand there",
                reason="NOT_MEDIA",
            )
    if not files:
        raise InvalidInput("the sequence manifest lists no files", reason="NO_FRAMES")
    return files
