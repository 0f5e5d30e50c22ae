"""The map from Face Mesh vertices to the 68 iBUG points (order: spec/faceset 2.1).

What a reader would get wrong: the two conventions mark different places. iBUG's eye corners lie inside the lid line,
its brow points near the middle of the hair, its jaw points on the visible outline; so most points are a fixed mixture
of two to four neighbouring vertices. Weights are anatomy first (which edge of the mesh a point lies on), then the best
quarter step along that edge over sixteen public annotated faces and their mirror images; left and right are exact
mirrors. Against hand-made 300-W annotations the 51 inner points miss by about 4 % of the distance between the outer eye
corners, the 17 jaw points by about 8 % (measured by tests/bench/bench_detect.py).

Vertex numbers: mediapipe/modules/face_geometry/data/canonical_face_model_uv_visualization.png (Apache-2.0).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ml_common.detect.blazeface import F64Array

# Point i is the sum of weight * vertex over row i.
MESH_TO_68: tuple[tuple[tuple[int, float], ...], ...] = (
    # jaw, along the face oval
    ((162, 0.25), (127, 0.75)),  # 0
    ((234, 1),),  # 1
    ((93, 0.5), (132, 0.5)),  # 2
    ((132, 0.5), (58, 0.5)),  # 3
    ((58, 0.25), (172, 0.75)),  # 4
    ((136, 0.75), (150, 0.25)),  # 5
    ((150, 0.25), (149, 0.75)),  # 6
    ((176, 0.5), (148, 0.5)),  # 7
    ((152, 1),),  # 8
    ((400, 0.5), (377, 0.5)),  # 9
    ((379, 0.25), (378, 0.75)),  # 10
    ((365, 0.75), (379, 0.25)),  # 11
    ((288, 0.25), (397, 0.75)),  # 12
    ((361, 0.5), (288, 0.5)),  # 13
    ((323, 0.5), (361, 0.5)),  # 14
    ((454, 1),),  # 15
    ((389, 0.25), (356, 0.75)),  # 16
    # right brow: between its upper and its lower edge
    ((70, 0.75), (46, 0.25)),  # 17
    ((63, 0.5625), (105, 0.1875), (53, 0.1875), (52, 0.0625)),  # 18
    ((105, 0.375), (66, 0.125), (52, 0.375), (65, 0.125)),  # 19
    ((66, 0.5625), (107, 0.1875), (65, 0.1875), (55, 0.0625)),  # 20
    ((107, 0.5), (55, 0.5)),  # 21
    # left brow
    ((336, 0.5), (285, 0.5)),  # 22
    ((296, 0.5625), (336, 0.1875), (295, 0.1875), (285, 0.0625)),  # 23
    ((334, 0.375), (296, 0.125), (282, 0.375), (295, 0.125)),  # 24
    ((293, 0.5625), (334, 0.1875), (283, 0.1875), (282, 0.0625)),  # 25
    ((300, 0.75), (276, 0.25)),  # 26
    # nose bridge and nostrils
    ((168, 0.75), (6, 0.25)),  # 27
    ((6, 0.25), (197, 0.75)),  # 28
    ((195, 0.5), (5, 0.5)),  # 29
    ((4, 1),),  # 30
    ((98, 0.5), (75, 0.5)),  # 31
    ((97, 1),),  # 32
    ((2, 1),),  # 33
    ((326, 1),),  # 34
    ((327, 0.5), (305, 0.5)),  # 35
    # right eye
    ((33, 0.25), (246, 0.375), (7, 0.375)),  # 36
    ((160, 0.5), (159, 0.5)),  # 37
    ((158, 0.5), (157, 0.5)),  # 38
    ((133, 1),),  # 39
    ((145, 0.25), (153, 0.75)),  # 40
    ((144, 1),),  # 41
    # left eye
    ((362, 1),),  # 42
    ((385, 0.5), (384, 0.5)),  # 43
    ((387, 0.5), (386, 0.5)),  # 44
    ((263, 0.25), (466, 0.375), (249, 0.375)),  # 45
    ((373, 1),),  # 46
    ((374, 0.25), (380, 0.75)),  # 47
    # outer lips
    ((61, 1),),  # 48
    ((40, 0.25), (39, 0.75)),  # 49
    ((37, 1),),  # 50
    ((0, 1),),  # 51
    ((267, 1),),  # 52
    ((270, 0.25), (269, 0.75)),  # 53
    ((291, 1),),  # 54
    ((321, 0.5), (405, 0.5)),  # 55
    ((314, 1),),  # 56
    ((17, 1),),  # 57
    ((84, 1),),  # 58
    ((91, 0.5), (181, 0.5)),  # 59
    # inner lips
    ((78, 0.5), (95, 0.5)),  # 60
    ((81, 0.25), (82, 0.75)),  # 61
    ((13, 1),),  # 62
    ((311, 0.25), (312, 0.75)),  # 63
    ((308, 0.5), (324, 0.5)),  # 64
    ((402, 0.25), (317, 0.75)),  # 65
    ((14, 1),),  # 66
    ((178, 0.25), (87, 0.75)),  # 67
)

# MIRROR_68[i] is the point that point i becomes in a mirrored picture.
MIRROR_68 = (
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
)  # fmt: skip


def landmarks_of_mesh(mesh_px_Kx468xD: np.ndarray[Any, Any]) -> F64Array:
    """The 68 points of K meshes, float64 K x 68 x 2 (x, y), in the unit of the mesh (its further coordinates are
    ignored).
    """
    points: F64Array = np.einsum("pv,kvd->kpd", _weights(), mesh_px_Kx468xD[..., :2].astype(np.float64))
    return points


def _weights() -> F64Array:
    weights_68x468 = np.zeros((68, 468))
    for point, row in enumerate(MESH_TO_68):
        for vertex, weight in row:
            weights_68x468[point, vertex] = weight
    return weights_68x468
