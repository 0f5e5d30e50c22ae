"""How the table of ``mesh68`` is found: for each of the 68 points, the best mixture of a few Face Mesh vertices.

What a reader would get wrong: the fit may not go where it likes. A point chooses among the vertices of its own feature
alone (a lid point on the lid's edge, a jaw point on the face oval), and ``pull`` draws it back to the vertex that the
field commonly takes for it, because the heads of the training set are drawn and real faces differ from them. Truth must
be synthetic: photos are for measuring, and a table fitted to them would flatter itself.

More freedom does not help: six to sixty vertices a point with weights of either sign (ridge, fitted to 600 frames of 60
heads) lower the inner error on rendered heads left out from 2.6 to 1.9 % and raise it on photos from 4.0 to 4.3 %. Such
a map learns how the network sees drawn heads.

Vertex numbers: mediapipe/modules/face_geometry/data/canonical_face_model_uv_visualization.png (Apache-2.0).

Legend: K faces, 468 mesh vertices, 68 points in iBUG order, N mixtures, C candidate vertices of a point.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Final

import numpy as np

from ml_common.detect.blazeface import F64Array
from ml_common.detect.mesh68 import MIRROR_68

Table = tuple[tuple[tuple[int, float], ...], ...]

STEPS: Final = 8
"""Weights are multiples of 1/8."""

_MOST_VERTICES: Final = 3

# For every point of the right half and the middle: the vertex commonly taken for it, then what else its feature offers.
_CANDIDATES: Final[dict[int, tuple[int, ...]]] = {
    # jaw, along the face oval
    0: (162, 21, 127, 234),
    1: (234, 162, 127, 93),
    2: (93, 127, 234, 132, 58),
    3: (58, 93, 132, 172),
    4: (172, 132, 58, 136, 150),
    5: (136, 58, 172, 150, 149),
    6: (149, 136, 150, 176, 148),
    7: (148, 149, 176, 152),
    8: (152, 175),
    # brow, its upper and its lower edge
    17: (70, 46, 63, 53),
    18: (63, 53, 70, 46, 105, 52),
    19: (105, 52, 63, 53, 66, 65),
    20: (66, 65, 105, 52, 107, 55),
    21: (107, 55, 66, 65),
    # ridge of the nose
    27: (168, 8, 6),
    28: (197, 6, 195),
    29: (5, 195, 4),
    30: (4, 5, 1),
    # foot of the nose
    31: (75, 240, 98, 64),
    32: (97, 99, 98, 2),
    33: (2, 94, 164),
    # edge of the lids
    36: (33, 246, 7),
    37: (160, 246, 161, 159, 158),
    38: (158, 160, 159, 157, 173),
    39: (133, 173, 155),
    40: (153, 144, 145, 154, 155),
    41: (144, 7, 163, 145, 153),
    # edge of the lips
    48: (61, 185, 146),
    49: (39, 185, 40, 37),
    50: (37, 40, 39, 0),
    51: (0,),
    57: (17,),
    58: (84, 91, 181, 17),
    59: (181, 146, 91, 84),
    # where the lips meet
    60: (78, 191, 95),
    61: (82, 80, 81, 13),
    62: (13,),
    66: (14,),
    67: (87, 88, 178, 14),
}

# A vertex of the right half and its mirror image.
_MIRRORED: Final[dict[int, int]] = {
    21: 251, 162: 389, 127: 356, 234: 454, 93: 323, 132: 361, 58: 288, 172: 397, 136: 365, 150: 379, 149: 378,
    176: 400, 148: 377,
    70: 300, 63: 293, 105: 334, 66: 296, 107: 336, 46: 276, 53: 283, 52: 282, 65: 295, 55: 285,
    75: 305, 240: 460, 98: 327, 64: 294, 97: 326, 99: 328,
    33: 263, 246: 466, 161: 388, 160: 387, 159: 386, 158: 385, 157: 384, 173: 398, 133: 362,
    7: 249, 163: 390, 144: 373, 145: 374, 153: 380, 154: 381, 155: 382,
    61: 291, 185: 409, 40: 270, 39: 269, 37: 267, 146: 375, 91: 321, 181: 405, 84: 314,
    78: 308, 191: 415, 80: 310, 81: 311, 82: 312, 95: 324, 88: 318, 178: 402, 87: 317,
}  # fmt: skip


def fit(
    mesh_K468x2: np.ndarray[Any, Any],
    truth_K68x2: np.ndarray[Any, Any],
    seen_K68: np.ndarray[Any, Any],
    *,
    pull: float,
) -> Table:
    """The table for ``mesh68.MESH_TO_68`` with the least mean squared error; left and right are exact mirrors.

    Mesh and truth in one unit, any size per face: each face counts by its own extent. ``seen_K68`` (bool): which points
    of the truth count. ``pull`` >= 0: a weight on a vertex d away from the common one costs ``pull`` * d^2, so 0 is the
    plain fit and a large number gives the common vertices. Every mixture of up to three candidates in steps of 1/8 is
    tried, so the result is the exact optimum. Raises ValueError for shapes that do not match, a point that is seen in
    no face, points that are not finite, or a negative pull.
    """
    count = len(mesh_K468x2)
    if (mesh_K468x2.shape, truth_K68x2.shape, seen_K68.shape) != ((count, 468, 2), (count, 68, 2), (count, 68)):
        raise ValueError(
            "fit needs meshes K x 468 x 2, truth K x 68 x 2 and seen K x 68 of the same K faces, "
            f"got {mesh_K468x2.shape}, {truth_K68x2.shape}, {seen_K68.shape}"
        )
    if pull < 0:
        raise ValueError(f"pull must not be negative, got {pull}")
    extent_K = np.linalg.norm(truth_K68x2 - truth_K68x2.mean(axis=1, keepdims=True), axis=(1, 2))[:, None, None]
    if not (np.isfinite(mesh_K468x2).all() and np.isfinite(truth_K68x2).all() and (extent_K > 0).all()):
        raise ValueError("fit needs finite points, and truth that does not lie on one spot")
    mesh, truth = mesh_K468x2 / extent_K, truth_K68x2 / extent_K
    rows: dict[int, tuple[tuple[int, float], ...]] = {}
    for point, candidates in _CANDIDATES.items():
        sides = {point: candidates, MIRROR_68[point]: tuple(_MIRRORED.get(vertex, vertex) for vertex in candidates)}
        errors, distances = [], []
        for side, vertices in sides.items():
            seen = seen_K68[:, side]
            at_vertices = mesh[seen][:, vertices]
            errors.append(at_vertices - truth[seen, side][:, None])
            distances.append(at_vertices - at_vertices[:, :1])
        weights = _best_mixture(np.concatenate(errors), np.concatenate(distances), pull, point)
        for side, vertices in sides.items():
            rows[side] = tuple((v, float(w)) for v, w in zip(vertices, weights, strict=True) if w > 0)
    return tuple(rows[point] for point in range(68))


def _best_mixture(errors_KC2: F64Array, distances_KC2: F64Array, pull: float, point: int) -> F64Array:
    if not len(errors_KC2):
        raise ValueError(f"point {point} and its mirror image are seen in no face: show more poses")
    # Weights add up to 1, so the mixture's error is the mixture of the vertices' errors: a quadratic form.
    products_CC = np.einsum("kcd,ked->ce", errors_KC2, errors_KC2) / len(errors_KC2)
    away_C = np.square(distances_KC2).sum(axis=2).mean(axis=0)
    mixtures_NC = _mixtures(errors_KC2.shape[1])
    costs_N = np.einsum("nc,ce,ne->n", mixtures_NC, products_CC, mixtures_NC) + pull * mixtures_NC @ away_C
    best: F64Array = mixtures_NC[np.argmin(costs_N)]
    return best


def _mixtures(candidates: int) -> F64Array:
    """All N x C weights of up to three candidates in steps of 1/8 that add up to 1."""
    rows = []
    for count in range(1, min(_MOST_VERTICES, candidates) + 1):
        for chosen in combinations(range(candidates), count):
            for cuts in combinations(range(1, STEPS), count - 1):
                row = np.zeros(candidates)
                row[list(chosen)] = np.diff((0, *cuts, STEPS)) / STEPS
                rows.append(row)
    return np.stack(rows)
