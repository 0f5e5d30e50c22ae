"""The skull and its skin as one smooth surface: a radius for every direction from the middle of the head.

The surface runs through anatomical control points: the published 68-point head model, made symmetric, and points that
it lacks (profile, cheeks, sockets, skull). An `Identity` moves the control points; the surface follows. What a reader
would get wrong: the radius is a function of direction only, so everything on the face is addressed by two angles
(`azimuth`, `elevation`), and skin that slides (lids, brows) moves in angles and takes its depth from the surface.

Head axes, millimetres: x to image-right, y down, z away from the camera, for a frontal head (specification: faceset,
section 2.4). Azimuth 0 is straight ahead, positive to image-right; elevation is positive downward. Radians.

Shape legend: N = points, 3 = (x, y, z), 68 = iBUG landmarks.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml_common.geometry import HEAD_MODEL_68x3, mirror_landmarks
from ml_common.synthetic.identity import Identity

Array = NDArray[np.float64]

HEAD_CENTER_XYZ: Final = np.array([0.0, -35.0, 78.0])
"""Directions start here."""

EYE_CENTER_X, EYE_CENTER_Y = 32.4, -39.0

# On the middle line: (y, z).
_PROFILE: Final = (
    *((-150, 84), (-144, 45), (-129, 16), (-109, -1), (-88, -9), (-70, -14), (-57, -16.5)),
    *((-36, -16.5), (-25.5, -24.7), (-14, -33.2), (-3.5, -36.5), (2.0, -32.5)),
    *((13.5, -23.2), (49, -17.5), (56, -18.2), (64, -18), (72, -12)),
    *((81, 20), (80, 45), (84, 75), (80, 110), (25, 150), (60, 135)),
    *((-15, 165), (-50, 172), (-82, 171), (-113, 157), (-141, 126)),
)
# On image-right, mirrored to the left: (x, y, z).
_SIDE: Final = (
    # skull
    *((77, -85, 95), (72, -62, 56), (64, -85, 30), (50, -98, 10), (27, -106, 1), (25, -84, -7), (46, -80, 2)),
    *((61, -68, 21), (42, -136, 72), (62, -118, 80), (46, -126, 42), (25, -139, 40), (58, -60, 142), (40, -88, 157)),
    *((54, -106, 130), (58, -20, 140), (75, -38, 110), (45, 25, 138), (68, 10, 105), (30, -145, 100)),
    # behind and under the jaw
    *((62, 36, 82), (44, 63, 72), (25, 79, 62), (22, 79, 28), (40, 62, 105)),
    # cheeks
    *((53, -18, 11), (61, -26, 24), (40, -14, 0), (29, -20, 0), (57, 8, 20), (46, 6, 5), (36, 8, -5), (27, 4, -9.5)),
    *((47, 24, 10), (38, 26, 2), (27, 14, -10.5), (37, 44, 6), (52, 40, 24), (20, 52, -10.5), (25, 61, -2)),
    *((13, 66, -15), (34, 33, 1.5)),
    # sockets and brow ridge
    *(
        (33, -39.5, -2.2),
        (25, -39.5, -1.2),
        (41, -38.5, 1.2),
        (33, -50.5, 2.6),
        (22, -50, -1),
        (44, -49, 8),
        (52, -44, 15),
    ),
    *((32, -29.5, 1.2), (44, -29, 8), (20, -29, -0.5), (14, -47, -5.5), (54, -34, 17), (30, -70, -5.5), (52, -69, 9.5)),
    *((14, -62, -12),),
    # nose: flank of the bridge, ball of the tip, wing and its groove, foot
    *(
        (7, -42, -10.5),
        (8, -31, -14),
        (15, -30, -4.5),
        (10, -20, -18.5),
        (17.5, -17, -8.5),
        (7.5, -9.5, -31),
        (6.5, -2, -31),
    ),
    *((14.5, -5, -20), (17.2, 0.5, -16), (21.5, -3, -10), (20, 6, -12), (11, 10, -20.5), (13, -12, -16)),
    # lips: red of the upper and the lower, and the line between
    *((8.5, 49, -17), (14, 43.5, -15), (24, 40, -6.5), (24, 20, -9), (4.2, 13.5, -24)),
)
# Height and depth of the line between the closed lips, at x >= 0: (x, y, z).
_LIP_LINE: Final = ((0, 29.2, -21.6), (8, 28.5, -20.4), (16, 28.9, -13.6), (24.4, 28.6, -5.8), (28.9, 28.3, -3.0))


@dataclass(frozen=True, slots=True)
class HeadSurface:
    """The skin of one identity: landmarks and the control points behind `radius`."""

    control_directions_N3: Array
    weights_N: Array  # of the control points, then of 1, x, y, z
    landmarks_angles_68x2: Array  # (azimuth, elevation); inner lips lie on the lip line
    lip_line_angles_N2: Array  # from the subject's right corner to the left
    lid_line_angles_N2: Array  # image-right eye, closed, from the inner corner to the outer

    def radius(self, azimuth: Array, elevation: Array) -> Array:
        """Millimetres from the head's centre to the skin, in the shape of the angles given."""
        directions = direction(azimuth, elevation).reshape(-1, 3)
        parts = np.array_split(directions, max(1, len(directions) // 4096))
        values = [_basis(part, self.control_directions_N3) @ self.weights_N for part in parts]
        return np.concatenate(values).reshape(np.shape(azimuth))

    def point(self, azimuth: Array, elevation: Array) -> Array:
        """Head coordinates in millimetres, shape of the angles + (3,)."""
        return HEAD_CENTER_XYZ + direction(azimuth, elevation) * self.radius(azimuth, elevation)[..., None]


def direction(azimuth: Array, elevation: Array) -> Array:
    """Unit vectors, shape of the angles + (3,)."""
    cosine = np.cos(elevation)
    return np.stack([np.sin(azimuth) * cosine, np.sin(elevation), -np.cos(azimuth) * cosine], axis=-1)


def angles(points_N3: Array) -> Array:
    """(azimuth, elevation) of points in head coordinates, shape (..., 2)."""
    offset = points_N3 - HEAD_CENTER_XYZ
    horizontal = np.hypot(offset[..., 0], offset[..., 2])
    return np.stack([np.arctan2(offset[..., 0], -offset[..., 2]), np.arctan2(offset[..., 1], horizontal)], axis=-1)


def smooth_step(value: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, smooth between; `low` may be above `high`."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def bell(value: Array, width: float) -> Array:
    """exp(-(value/width)^2): 1 at 0."""
    return np.exp(-np.square(value / width))


def smooth_curve(knots_x: Array, knots_y: Array, x: Array) -> Array:
    """A cubic through the knots (rising x), flat beyond its ends. Tangents by central difference (Catmull-Rom)."""
    tangents = np.gradient(knots_y, knots_x)
    x = np.clip(x, knots_x[0], knots_x[-1])
    index = np.clip(np.searchsorted(knots_x, x) - 1, 0, len(knots_x) - 2)
    width = knots_x[index + 1] - knots_x[index]
    t = (x - knots_x[index]) / width
    start, stop = knots_y[index], knots_y[index + 1]
    slope_start, slope_stop = tangents[index] * width, tangents[index + 1] * width
    curve: Array = (
        start * (1 + 2 * t) * (1 - t) ** 2
        + slope_start * t * (1 - t) ** 2
        + stop * t * t * (3 - 2 * t)
        - slope_stop * t * t * (1 - t)
    )
    return curve


@lru_cache(maxsize=16)
def head_surface(who: Identity) -> HeadSurface:
    """The surface of an identity."""
    landmarks = _symmetric_landmarks()
    lip_line = _mirrored(np.array(_LIP_LINE))
    # Inner lips of the mean face stand open; here they are closed, and the mouth opens by expression.
    for index, row in ((60, 0), (61, 3), (62, 4), (63, 5), (64, 8), (65, 5), (66, 4), (67, 3)):
        landmarks[index] = lip_line[[1, 1, 2, 3, 4, 5, 6, 7, 7][row]]
    landmarks[[61, 67], 0], landmarks[[63, 65], 0] = -7.6, 7.6
    side = _mirrored(np.array(_SIDE, dtype=np.float64))
    profile = np.array([(0.0, y, z) for y, z in _PROFILE])

    fullness = who.lip_fullness
    reds = np.array([(0.0, 24.4, -24.4 - fullness), (0.0, 34.6, -24.0 - 1.2 * fullness)])
    reds = np.concatenate([reds, _mirrored(np.array([(8.5, 23.6, -23.6), (9.0, 34.2, -22.6), (18, 32.5, -14.3)]))])
    lids_outline = _fuller_lips(landmarks, fullness)
    outline = lids_outline[_SHAPING_LANDMARKS]
    control = _shaped(np.concatenate([outline, lip_line, reds, profile, side]), who)
    shaped_landmarks = _shaped(_features_moved(lids_outline, who), who)

    control_directions = control - HEAD_CENTER_XYZ
    radii = np.linalg.norm(control_directions, axis=1)
    control_directions /= radii[:, None]
    count = len(control)
    system = np.zeros((count + 4, count + 4))
    system[:count] = _basis(control_directions, control_directions)
    # A little slack lets neighbouring control points disagree without a ripple between them.
    system[:count, :count] += np.eye(count) * 2e-5
    system[count:, :count] = system[:count, count:].T
    weights = np.linalg.solve(system, np.concatenate([radii, np.zeros(4)]))

    landmarks_angles = angles(shaped_landmarks)
    return HeadSurface(
        control_directions_N3=control_directions,
        weights_N=weights,
        landmarks_angles_68x2=landmarks_angles,
        lip_line_angles_N2=angles(_shaped(lip_line, who)),
        lid_line_angles_N2=_lid_line(landmarks_angles),
    )


# Brows slide on the surface and nostril or inner lip points are shaped by the side points: these landmarks carry bone.
_SHAPING_LANDMARKS: Final = np.array(
    [*range(31), 31, 33, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, *range(48, 60)]
)


def _basis(directions_N3: Array, control_N3: Array) -> Array:
    """Cubes of the distances to the control points (the smooth kernel of three dimensions), then 1, x, y, z."""
    squared = np.maximum(2.0 - 2.0 * directions_N3 @ control_N3.T, 0.0)
    ones = np.ones((len(directions_N3), 1))
    return np.concatenate([squared * np.sqrt(squared), ones, directions_N3], axis=1)


def _symmetric_landmarks() -> Array:
    model = np.array(HEAD_MODEL_68x3, dtype=np.float64)
    mirrored_xy = mirror_landmarks(model[:, :2], 1)
    mirrored_yz = mirror_landmarks(model[:, 1:], 1)
    mirrored = np.column_stack([mirrored_xy, mirrored_yz[:, 1]])
    return (model + mirrored) / 2.0


def _mirrored(points_N3: Array) -> Array:
    """The points and their mirror images, without doubling those on the middle line; x rises when it did for x >= 0."""
    away = points_N3[np.abs(points_N3[:, 0]) > 1e-9]
    return np.concatenate([away[::-1] * (-1.0, 1.0, 1.0), points_N3])


def _fuller_lips(landmarks_68x3: Array, fullness: float) -> Array:
    moved = landmarks_68x3.copy()
    moved[49:54, 1] -= fullness * np.array([1.0, 1.8, 2.0, 1.8, 1.0])
    moved[55:60, 1] += fullness * np.array([1.4, 2.2, 2.4, 2.2, 1.4])
    return moved


def _features_moved(landmarks_68x3: Array, who: Identity) -> Array:
    """Brows and lids where the identity wears them; they slide on the surface, so their depth is found there."""
    moved = landmarks_68x3.copy()
    moved[17:27, 1] -= 3.5 * who.brow_height
    for upper_and_lower, corners in (((37, 38, 40, 41), (36, 39)), ((43, 44, 46, 47), (42, 45))):
        chord = landmarks_68x3[list(corners), 1].mean()
        rows = list(upper_and_lower)
        moved[rows, 1] = chord + (moved[rows, 1] - chord) * (1.04 + 0.22 * who.eye_size)
    return moved


def _shaped(points_N3: Array, who: Identity) -> Array:
    """Move points of the mean head to where this identity has them: one smooth map of space."""
    x, y, z = (points_N3[:, axis].copy() for axis in range(3))
    side, reach = np.sign(x), np.abs(x)
    eye = bell(reach - EYE_CENTER_X, 18.0) * bell(y - EYE_CENTER_Y, 14.0)
    cheek = bell(reach - 52.0, 16.0) * bell(y + 14.0, 16.0)
    chin = bell(y - 66.0, 15.0) * bell(reach, 24.0)
    below_nose = np.maximum(y - 6.0, 0.0)

    new_x = x * (1.0 + 0.055 * who.face_width)
    new_x += x * 0.11 * who.jaw_width * smooth_step(y, -10.0, 55.0) * smooth_step(reach, 8.0, 48.0)
    new_x += side * (3.0 * who.cheekbone * cheek + 2.4 * who.eye_spacing * eye)
    new_x += x * 0.22 * who.nose_width * bell(reach, 22.0) * bell(y - 0.5, 12.0)
    new_x += x * 0.13 * who.mouth_width * bell(y - 29.0, 12.0) * bell(reach, 42.0)

    new_y = y + 0.085 * who.face_length * below_nose
    new_y -= 2.6 * who.eye_tilt * eye * (reach - EYE_CENTER_X) / 13.0
    new_y += 4.0 * who.nose_length * bell(reach, 24.0) * smooth_step(y, -40.0, 0.0) * smooth_step(y, 21.0, 4.0)

    new_z = z - 6.0 * who.chin_forward * chin - 3.0 * who.cheekbone * cheek
    new_z -= 3.5 * who.brow_ridge * bell(y + 58.0, 9.0) * bell(reach, 42.0)
    new_z -= 5.0 * who.nose_forward * bell(reach, 13.0) * bell(y + 8.0, 15.0)
    return np.column_stack([new_x, new_y, new_z])


def _lid_line(landmarks_angles_68x2: Array) -> Array:
    """Where the image-right eye's lids meet when closed: below the corners, two thirds of the way to the lower lid."""
    inner, outer = landmarks_angles_68x2[42], landmarks_angles_68x2[45]
    azimuth = np.linspace(inner[0], outer[0], 15)
    t = (azimuth - inner[0]) / (outer[0] - inner[0])
    lower = lid_curve(landmarks_angles_68x2, upper=False, azimuth=azimuth)
    chord = inner[1] + t * (outer[1] - inner[1])
    return np.column_stack([azimuth, chord + 0.65 * (lower - chord)])


def lid_curve(landmarks_angles_68x2: Array, *, upper: bool, azimuth: Array) -> Array:
    """Elevation of an open lid's edge of the image-right eye, exactly through its four landmarks; corners beyond."""
    rows = [42, 43, 44, 45] if upper else [42, 47, 46, 45]
    knots = landmarks_angles_68x2[rows]
    t_knots = (knots[:, 0] - knots[0, 0]) / (knots[3, 0] - knots[0, 0])
    t = np.clip((azimuth - knots[0, 0]) / (knots[3, 0] - knots[0, 0]), 0.0, 1.0)
    above_chord = knots[:, 1] - (knots[0, 1] + t_knots * (knots[3, 1] - knots[0, 1]))
    inside = t_knots[1:3]
    # above = t(1-t)(a + bt) meets both lid landmarks and both corners.
    slope_and_level = np.polyfit(inside, above_chord[1:3] / (inside * (1.0 - inside)), 1)
    chord = knots[0, 1] + t * (knots[3, 1] - knots[0, 1])
    curve: Array = chord + t * (1.0 - t) * np.polyval(slope_and_level, t)
    return curve
