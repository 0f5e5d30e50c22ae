"""Plans: every frame exactly once, keys that name work, bytes that come back as they went."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.operations.plan import (
    Chunk,
    ChunkManifest,
    ItemFailure,
    Plan,
    action_key,
    canonical_json,
    chunk_frames,
    frame_chunks,
)

FRAME_NUMBERS = st.sets(st.integers(0, 400), max_size=150).map(sorted)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
PARAMS = st.dictionaries(st.text(max_size=4), JSON, max_size=4)


@given(numbers=FRAME_NUMBERS, per_chunk=st.integers(1, 64))
def test_every_frame_once_and_in_order(numbers: list[int], per_chunk: int) -> None:
    chunks = frame_chunks(numbers, per_chunk)
    assert [number for chunk in chunks for number in chunk_frames(chunk)] == numbers
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert all(chunk.units == len(chunk_frames(chunk)) for chunk in chunks)
    assert all(chunk.units == per_chunk for chunk in chunks[:-1])
    assert all(1 <= chunk.units <= per_chunk for chunk in chunks)


@given(first=st.integers(0, 10**9), count=st.integers(1, 500), per_chunk=st.integers(1, 200))
def test_long_clips_make_short_plans(first: int, count: int, per_chunk: int) -> None:
    chunks = frame_chunks(range(first, first + count), per_chunk)
    assert all(len(chunk.data["frames"]) == 1 for chunk in chunks)


@given(
    action=st.text("0123456789abcdef", min_size=64, max_size=64),
    params=PARAMS,
    scripts=st.lists(st.tuples(st.integers(0, 10**6), PARAMS), max_size=5),
    unit=st.sampled_from(["frames", "faces"]),
)
def test_plans_come_back_from_bytes(action: str, params: dict[str, Any], scripts: list[Any], unit: str) -> None:
    chunks = tuple(Chunk(index, units, data) for index, (units, data) in enumerate(scripts))
    plan = Plan(action, "services.x.stages:X", params, chunks, unit)
    data = plan.to_bytes()
    assert Plan.from_bytes(data) == plan
    assert Plan.from_bytes(data).to_bytes() == data
    assert plan.total_units == sum(units for units, _ in scripts)


@given(
    summary=PARAMS,
    failures=st.lists(st.builds(ItemFailure, st.text(max_size=5), st.just("NO_FACE"), st.text(max_size=9)), max_size=3),
)
def test_manifests_come_back_from_bytes(summary: dict[str, Any], failures: list[ItemFailure]) -> None:
    manifest = ChunkManifest(3, 48, summary, tuple(failures), 1.5)
    assert ChunkManifest.from_bytes(manifest.to_bytes()) == manifest


@pytest.mark.parametrize("change", [{"schema": 2}, {"schema": None}])
def test_other_schemas_are_refused(change: dict[str, Any]) -> None:
    plan = Plan("a" * 64, "s:S", {}, (), "frames")
    manifest = ChunkManifest(0, 1, {})
    for kind, data in ((Plan, plan.to_bytes()), (ChunkManifest, manifest.to_bytes())):
        with pytest.raises(ValueError, match="another release"):
            kind.from_bytes(canonical_json({**json.loads(data), **change}))


def shuffled(value: Any) -> Any:
    """The same value with the keys of every mapping in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return [shuffled(entry) for entry in value] if isinstance(value, list) else value


@given(inputs=PARAMS)
def test_action_keys_do_not_depend_on_the_order_of_keys(inputs: dict[str, Any]) -> None:
    key = action_key("m", "s", "1", inputs)
    assert len(key) == 64
    assert key == action_key("m", "s", "1", shuffled(inputs))


@given(inputs=PARAMS, other=PARAMS)
def test_action_keys_tell_inputs_apart(inputs: dict[str, Any], other: dict[str, Any]) -> None:
    same = canonical_json(inputs) == canonical_json(other)
    assert (action_key("m", "s", "1", inputs) == action_key("m", "s", "1", other)) == same


def test_action_keys_are_sensitive_to_everything() -> None:
    inputs = {"media": "abc", "options": {"size_px": 512, "types": ["a", "b"]}}
    base = action_key("m", "s", "1", inputs)
    others = [
        action_key("n", "s", "1", inputs),
        action_key("m", "t", "1", inputs),
        action_key("m", "s", "2", inputs),
        action_key("m", "s", "1", {**inputs, "media": "abd"}),
        action_key("m", "s", "1", {**inputs, "options": {"size_px": 513, "types": ["a", "b"]}}),
        action_key("m", "s", "1", {**inputs, "options": {"size_px": 512, "types": ["b", "a"]}}),
        action_key("m", "s", "1", {**inputs, "extra": None}),
    ]
    assert len({base, *others}) == len(others) + 1


def test_action_keys_stay_what_they_are() -> None:
    # A change here orphans all finished work of every store: raise stage versions instead.
    assert action_key("m", "s", "1", {"ä": [1, 2.5], "b": None}) == (
        "5b0a2f6e90a5cabf9da651f76e47514c0a2e915eb1ecda653d38ee3a7c833d9e"
    )


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        action_key("m", "s", "1", {"x": float("nan")})
