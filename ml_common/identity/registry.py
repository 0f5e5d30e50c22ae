"""Face embeddings by name.

What a reader would get wrong: `learned` embeds as `appearance` does; what it adds is learned from all faces of a faceset at
once, by ``learn_within_person``, after they are embedded. It needs tracks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml_common import weights

if TYPE_CHECKING:
    from ml_common.identity.port import Embedder

DEFAULT_EMBEDDER = "appearance"


@dataclass(frozen=True, slots=True)
class EmbedderEntry:
    """One embedder. ``weights``: what it needs of ``ml_common.weights``; ``load(paths, digests)`` makes it from those files.
    ``learns``: its embeddings are to be passed, with the faces' tracks, through ``learn_within_person`` and ``quietened``
    before they are clustered."""

    weights: tuple[str, ...]
    load: Callable[[list[Path], list[str]], Embedder]
    learns: bool
    note: str


def _load_appearance(paths: list[Path], digests: list[str]) -> Embedder:
    from ml_common.identity.appearance_embedder import AppearanceEmbedder

    return AppearanceEmbedder()


EMBEDDERS: Mapping[str, EmbedderEntry] = {
    "appearance": EmbedderEntry((), _load_appearance, False, "skin, brows, eyes and lips; works out of the box"),
    "learned": EmbedderEntry(
        (), _load_appearance, True, "as appearance, then learned on the faceset itself; wants faces in tracks"
    ),
}


def embedder_entry(name: str) -> EmbedderEntry:
    """The entry of that name. Raises ValueError listing the known names."""
    if name not in EMBEDDERS:
        raise ValueError(f"unknown embedder {name!r}; known are {', '.join(EMBEDDERS)}")
    return EMBEDDERS[name]


def load_embedder(name: str, weights_dir: Path) -> Embedder:
    """An embedder with its weights from ``weights_dir`` (see ``understudy weights``).

    Raises ValueError for an unknown name, ``ml_common.weights.MissingWeights`` where a file is missing or changed.
    """
    entry = embedder_entry(name)
    paths = [weights.locate(needed, weights_dir) for needed in entry.weights]
    return entry.load(paths, [weights.digest(needed, weights_dir) for needed in entry.weights])
