"""Who is who in a faceset: embeddings of faces, and groups of faces that are one person.

What a reader would get wrong: nothing here knows a name. Groups are numbered by size, and the largest of a faceset need not
be the performer that is wanted. Names are imported on first use: a server checks the name of an embedder without loading
scikit-learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_common.lazy_names import lazy_names

if TYPE_CHECKING:
    from ml_common.identity.cluster import DEFAULT_MIN_GROUP_SIZE, Persons, cluster_faces, person_names
    from ml_common.identity.port import Embedder
    from ml_common.identity.registry import DEFAULT_EMBEDDER, EMBEDDERS, EmbedderEntry, embedder_entry, load_embedder
    from ml_common.identity.within_person import WithinPerson, learn_within_person

_HOMES = {
    "DEFAULT_EMBEDDER": "registry",
    "DEFAULT_MIN_GROUP_SIZE": "cluster",
    "EMBEDDERS": "registry",
    "Embedder": "port",
    "EmbedderEntry": "registry",
    "Persons": "cluster",
    "WithinPerson": "within_person",
    "cluster_faces": "cluster",
    "embedder_entry": "registry",
    "learn_within_person": "within_person",
    "load_embedder": "registry",
    "person_names": "cluster",
}

__all__ = [
    "DEFAULT_EMBEDDER",
    "DEFAULT_MIN_GROUP_SIZE",
    "EMBEDDERS",
    "Embedder",
    "EmbedderEntry",
    "Persons",
    "WithinPerson",
    "cluster_faces",
    "embedder_entry",
    "learn_within_person",
    "load_embedder",
    "person_names",
]

__getattr__ = lazy_names(__name__, _HOMES)
