"""Plans, chunks and chunk manifests: plain data, JSON in the store.

A plan is a pure function of a request whose defaults are filled in. Its action key names everything the result depends on, so equal
work has an equal key, and `work/<key>/` holds all of it. Change a stage's ``version`` when its results change: it is part of the key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA_VERSION = 1


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def action_key(method: str, stage: str, stage_version: str, inputs: Mapping[str, Any]) -> str:
    """Digest that names work: the method, the stage with its version, and every input by value or digest. 64 hex digits."""
    return hashlib.sha256(
        canonical_json({"inputs": inputs, "method": method, "stage": stage, "stage_version": stage_version})
    ).hexdigest()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a plan: ``units`` things counted for progress, ``data`` what the stage needs to know (JSON).

    Chunks of a ``phase`` begin when all of the phases before have manifests: joining pieces is the chunk of a later phase, not the
    business of ``finish``, which nobody sees the progress of.
    """

    index: int
    units: int
    data: dict[str, Any]
    phase: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operation will do. ``stage`` is `module:Class`; ``params`` are its settings with defaults filled in (JSON)."""

    action_key: str
    stage: str
    params: dict[str, Any]
    chunks: tuple[Chunk, ...]
    unit: str

    @property
    def total_units(self) -> int:
        """Units over all chunks."""
        return sum(chunk.units for chunk in self.chunks)

    def to_bytes(self) -> bytes:
        """For `work/<key>/plan.json`."""
        return canonical_json({"schema": SCHEMA_VERSION, **asdict(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Reads what ``to_bytes`` wrote; ValueError on another schema."""
        body = _checked(data)
        return cls(
            action_key=body["action_key"],
            stage=body["stage"],
            params=body["params"],
            chunks=tuple(Chunk(**chunk) for chunk in body["chunks"]),
            unit=body["unit"],
        )


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """One item of a chunk that could not be done: data, not an exception."""

    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ChunkManifest:
    """What a chunk produced: written last, put-once. ``summary`` is the stage's own JSON, small (numbers, keys, digests)."""

    index: int
    units: int
    summary: dict[str, Any]
    failures: tuple[ItemFailure, ...] = field(default=())
    seconds: float = 0.0

    def to_bytes(self) -> bytes:
        """For `work/<key>/chunks/<index>.json`."""
        return canonical_json({"schema": SCHEMA_VERSION, **asdict(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> ChunkManifest:
        """Reads what ``to_bytes`` wrote; ValueError on another schema."""
        body = _checked(data)
        return cls(
            index=body["index"],
            units=body["units"],
            summary=body["summary"],
            failures=tuple(ItemFailure(**failure) for failure in body["failures"]),
            seconds=body["seconds"],
        )


def frame_chunks(numbers: Iterable[int], per_chunk: int) -> tuple[Chunk, ...]:
    """Cuts frame numbers, in order, into chunks of at most ``per_chunk``; consecutive numbers stay together.

    ``data`` is ``{"frames": [[first, last, step], ...]}`` with inclusive ends, so that a million frames stay a short plan.
    """
    chunks: list[Chunk] = []
    pending: list[int] = []
    for number in numbers:
        pending.append(number)
        if len(pending) == per_chunk:
            chunks.append(_frame_chunk(len(chunks), pending))
            pending = []
    if pending:
        chunks.append(_frame_chunk(len(chunks), pending))
    return tuple(chunks)


def chunk_frames(chunk: Chunk) -> list[int]:
    """The frame numbers of a chunk made by ``frame_chunks``."""
    return [number for first, last, step in chunk.data["frames"] for number in range(first, last + 1, step)]


def _frame_chunk(index: int, numbers: list[int]) -> Chunk:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number, 1])
    return Chunk(index=index, units=len(numbers), data={"frames": runs})


def _checked(data: bytes) -> dict[str, Any]:
    body = json.loads(data)
    if not isinstance(body, dict) or body.pop("schema", None) != SCHEMA_VERSION:
        raise ValueError("a plan or manifest of another release: it cannot be continued by this one")
    return body
