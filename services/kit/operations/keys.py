"""Where work lies in the store. One place, so that a person with a bucket browser finds it too."""

from __future__ import annotations


def plan_key(action_key: str) -> str:
    """The plan of an action."""
    return f"work/{action_key}/plan.json"


def chunk_prefix(action_key: str) -> str:
    """Manifests of an action's chunks."""
    return f"work/{action_key}/chunks/"


def chunk_key(action_key: str, index: int) -> str:
    """Manifest of one chunk."""
    return f"{chunk_prefix(action_key)}{index:06d}.json"


def result_key(action_key: str) -> str:
    """Result manifest: names the chunk manifests with digests, and all failed items."""
    return f"work/{action_key}/result.json"


def output_prefix(action_key: str) -> str:
    """For outputs that belong to the action rather than to a resource (merged segments)."""
    return f"work/{action_key}/out/"
