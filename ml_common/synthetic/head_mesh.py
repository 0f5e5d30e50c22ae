"""The head as a mesh that moves: grids of vertices, what each expression adds to them, and where the landmarks sit.

Every surface (skin with hair, ears, eyes, mouth, teeth, neck) is a rectangular grid, and all grids lie side by side in
one array, the atlas; a vertex's place in the atlas is its texture coordinate too. What a reader would get wrong: two
rows of the skin grid are doubled, along the line of the closed lids and along the line of the lips. The pairs coincide
until lids or lips part; the opening is then a true hole through which the eye or the mouth behind it is seen.

Expressions are linear in their coefficients (`expression_coefficients`), so one product of a vector with a matrix poses
the whole head.

Shape legend: R, C = rows and columns of a grid (of the atlas where no grid is named), K = expression coefficients,
T = triangles, 3 = (x, y, z) in head axes and millimetres, 68 = iBUG landmarks.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import cos, radians, sin
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_common.synthetic.head_surface import (
    HEAD_CENTER_XYZ,
    HeadSurface,
    angles,
    bell,
    direction,
    head_surface,
    lid_curve,
    smooth_curve,
    smooth_step,
)
from ml_common.synthetic.identity import HairStyle, Identity
from ml_common.synthetic.scene import Expression

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

PIVOT_XYZ: Final = np.array([0.0, -25.0, 80.0])
"""The head turns about this point, and `FrameState.center_*` is where it is seen."""

EXPRESSION_COUNT: Final = 8
JAW_HINGE_YZ: Final = (-14.0, 60.0)
JAW_ANGLE_RAD: Final = radians(15.0)  # at mouth_open 1
EYE_INSET_MM: Final = 1.3
EYE_PATCH_HALF_MM: Final = (20.0, 14.0)

_FINE_DEG, _COARSE_DEG, _BACK_DEG = 1.25, 3.25, 4.0
_LID_ROW_DEG, _LIP_ROW_DEG = -1.25, 32.5
_LID_SLIDE = radians(12.0)  # how far above its edge the upper lid's skin still follows


@dataclass(frozen=True, slots=True)
class Patch:
    """One grid's place in the atlas."""

    row: int
    column: int
    rows: int
    columns: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The grid's rows and columns of an atlas array."""
        return slice(self.row, self.row + self.rows), slice(self.column, self.column + self.columns)


@dataclass(frozen=True, slots=True)
class HeadMesh:
    """One identity's head. Arrays are read-only by agreement."""

    patches: dict[str, Patch]
    atlas_shape: tuple[int, int]
    rest_RC3: Array32
    expression_K_RC3: Array32  # [K, R * C * 3]
    triangles_T3: NDArray[np.int32]  # indices into the flattened atlas
    neck_share_R: Array  # per row of the neck's grid: 1 turns with the head, 0 stays with the shoulders
    occlusion_RC: Array32  # how much of the surrounding light arrives, 0..1
    lid_row: int  # of the skin grid: upper edge, the lower edge is the next row
    lip_row: int
    lid_aperture_R: NDArray[np.bool_]  # columns of the skin grid whose lid edges may part
    lip_aperture_R: NDArray[np.bool_]
    landmarks_rest_68x3: Array
    landmarks_expression_K_68x3: Array
    landmark_grid_68x2: Array  # (row, column) of the skin grid, fractional
    skin_rest_RC3: Array  # the skin grid without hair
    skin_azimuth_C: Array
    skin_elevation_RC: Array  # with the lids closed
    hair_RC: Array  # of the skin grid: positive under hair, negative on bare skin, in degrees from the hairline


def expression_coefficients(expression: Expression) -> Array32:
    """What `expression_K_RC3` is multiplied with."""
    jaw = JAW_ANGLE_RAD * expression.mouth_open
    right, left = expression.blink_right, expression.blink_left
    return np.array(
        [
            sin(jaw),
            1.0 - cos(jaw),
            expression.smile,
            expression.brow_raise,
            right,
            right * (1.0 - right),
            left,
            left * (1.0 - left),
        ],
        dtype=np.float32,
    )


@lru_cache(maxsize=8)
def head_mesh(who: Identity) -> HeadMesh:
    """The mesh of an identity."""
    surface = head_surface(who)
    azimuth = _columns(surface)
    closed, lid_row, lip_row = _closed_elevation(surface, azimuth)
    rows, columns = closed.shape
    azimuth_RC = np.broadcast_to(azimuth, closed.shape)

    lid_aperture = _inside(azimuth, surface.landmarks_angles_68x2[[42, 45], 0], both_sides=True)
    lip_aperture = _inside(azimuth, surface.landmarks_angles_68x2[[60, 64], 0], both_sides=False)
    opened = _opened_elevation(surface, azimuth, closed, lid_row)
    skin = surface.point(azimuth_RC, opened)

    deltas = np.zeros((EXPRESSION_COUNT, rows, columns, 3))
    jaw_share = _jaw_share(surface, skin, azimuth, lip_row)
    deltas[0:2] = _jaw(skin, jaw_share)
    deltas[2] = _smile(skin)
    raised = opened - radians(4.5) * bell(skin[..., 1] + 62.0, 17.0) * smooth_step(np.abs(azimuth_RC), 1.25, 0.75)
    deltas[3] = surface.point(azimuth_RC, raised) - skin
    half_closed = surface.point(azimuth_RC, (opened + closed) / 2.0) - skin
    shut = surface.point(azimuth_RC, closed) - skin
    for first, half in ((4, azimuth < 0), (6, azimuth > 0)):
        deltas[first] = shut * half[:, None]
        deltas[first + 1] = 4.0 * (half_closed - shut / 2.0) * half[:, None]  # the lid follows the eye, not the chord

    hair = _hair_extent(who.hair_style, azimuth_RC, closed)
    with_hair = (
        skin + direction(azimuth_RC, opened) * _hair_thickness(who, surface, azimuth_RC, closed, hair)[..., None]
    )
    grid = _landmark_grid(surface, azimuth, opened, lid_row, lip_row)

    builder = _AtlasBuilder(width=columns)
    omit = np.zeros((rows - 1, columns - 1), dtype=bool)
    omit[lid_row] = lid_aperture[1:] & lid_aperture[:-1]
    omit[lip_row] = lip_aperture[1:] & lip_aperture[:-1]
    builder.add("skin", with_hair, deltas, occlusion=_cavities(surface, azimuth_RC, opened), omit=omit)
    neck_share = _add_neck(builder, who)
    _add_mouth(builder, surface, skin, deltas, lip_row, lip_aperture)
    if who.hair_style != "bob":
        for name, side in (("ear_right", -1.0), ("ear_left", 1.0)):
            _add_ear(builder, name, surface, side)
    for name, side in (("eye_right", -1.0), ("eye_left", 1.0)):
        _add_eye(builder, name, surface, side)
    atlas = builder.joined()
    return HeadMesh(
        patches=atlas.patches,
        atlas_shape=atlas.shape,
        rest_RC3=atlas.rest_RC3,
        expression_K_RC3=atlas.expression_K_RC3,
        triangles_T3=atlas.triangles_T3,
        occlusion_RC=atlas.occlusion_RC,
        neck_share_R=neck_share,
        lid_row=lid_row,
        lip_row=lip_row,
        lid_aperture_R=lid_aperture,
        lip_aperture_R=lip_aperture,
        landmarks_rest_68x3=_sample(skin, grid),
        landmarks_expression_K_68x3=np.stack([_sample(delta, grid) for delta in deltas]),
        landmark_grid_68x2=grid,
        skin_rest_RC3=skin,
        skin_azimuth_C=azimuth,
        skin_elevation_RC=closed,
        hair_RC=hair,
    )


def _columns(surface: HeadSurface) -> Array:
    """Azimuths, dense in front, -pi..pi, symmetric, with a column through every corner of eye and mouth."""
    front = np.arange(0.0, 66.3, _FINE_DEG)
    back = np.linspace(front[-1], 180.0, 1 + round((180.0 - front[-1]) / _BACK_DEG))[1:]
    half = np.radians(np.concatenate([front, back]))
    nominal, wanted = [0.0], [0.0]
    for corner in sorted(surface.landmarks_angles_68x2[[42, 64, 54, 45], 0]):
        column = half[np.argmin(np.abs(half - corner))]
        if column <= nominal[-1]:
            column = half[np.searchsorted(half, nominal[-1]) + 1]
        nominal.append(float(column))
        wanted.append(float(corner))
    nominal.append(radians(66.0))
    wanted.append(radians(66.0))
    nominal.append(np.pi)
    wanted.append(np.pi)
    half = np.interp(half, nominal, wanted)
    return np.concatenate([-half[:0:-1], half])


def _closed_elevation(surface: HeadSurface, azimuth: Array) -> tuple[Array, int, int]:
    """Elevation of every vertex with lids and lips closed, and the rows of the upper edges of lids and lips."""
    fine = np.arange(-35.0, 62.6, _FINE_DEG)
    top = np.linspace(-90.0, -35.0, 1 + round(55.0 / _COARSE_DEG))[:-1]
    bottom = np.linspace(fine[-1], 86.0, 1 + round((86.0 - fine[-1]) / _COARSE_DEG))[1:]
    nominal = np.concatenate([top, fine, bottom])
    lid_row = int(np.argmin(np.abs(nominal - _LID_ROW_DEG)))
    lip_row = int(np.argmin(np.abs(nominal - _LIP_ROW_DEG))) + 1
    nominal = np.radians(np.insert(nominal, [lid_row, lip_row - 1], nominal[[lid_row, lip_row - 1]]))

    lids, lips = surface.lid_line_angles_N2, surface.lip_line_angles_N2
    lid_shift = np.interp(np.abs(azimuth), lids[:, 0], lids[:, 1]) - radians(_LID_ROW_DEG)
    lip_shift = smooth_curve(lips[:, 0], lips[:, 1], azimuth) - radians(_LIP_ROW_DEG)
    near_lids = 0.5 + 0.5 * np.cos(np.clip((nominal - radians(_LID_ROW_DEG)) / radians(17.0), -1, 1) * np.pi)
    near_lips = 0.5 + 0.5 * np.cos(np.clip((nominal - radians(_LIP_ROW_DEG)) / radians(17.0), -1, 1) * np.pi)
    in_front = smooth_step(np.abs(azimuth), radians(110.0), radians(60.0))
    elevation = nominal[:, None] + near_lids[:, None] * lid_shift * in_front + near_lips[:, None] * lip_shift * in_front
    return elevation, lid_row, lip_row


def _opened_elevation(surface: HeadSurface, azimuth: Array, closed: Array, lid_row: int) -> Array:
    marks = surface.landmarks_angles_68x2
    reach = np.abs(azimuth)
    line = closed[lid_row]
    rise = np.minimum(lid_curve(marks, upper=True, azimuth=reach) - line, 0.0)
    fall = np.maximum(lid_curve(marks, upper=False, azimuth=reach) - line, 0.0)
    between_corners = _inside(azimuth, marks[[42, 45], 0], both_sides=True)
    opened = closed.copy()
    above = np.clip((line - closed[: lid_row + 1]) / _LID_SLIDE, 0.0, 1.0)
    opened[: lid_row + 1] += np.where(between_corners, rise, 0.0) * (1.0 - above) ** 1.5
    below = np.clip((closed[lid_row + 1 :] - line) / _LID_SLIDE, 0.0, 1.0)
    opened[lid_row + 1 :] += np.where(between_corners, fall, 0.0) * (1.0 - below) ** 1.5
    return opened


def _inside(azimuth: Array, corners: Array, *, both_sides: bool) -> NDArray[np.bool_]:
    where = np.abs(azimuth) if both_sides else azimuth
    inside: NDArray[np.bool_] = (where >= corners[0] - 1e-9) & (where <= corners[1] + 1e-9)
    return inside


def _jaw_share(surface: HeadSurface, skin: Array, azimuth: Array, lip_row: int) -> Array:
    """How much of the jaw's turn each vertex makes: chin 1, upper lip 0, a smooth passage in the cheeks."""
    corner = surface.landmarks_angles_68x2[64, 0]
    line_y = float(skin[lip_row, len(azimuth) // 2, 1])
    below = skin[..., 1] - line_y
    cheek = smooth_step(below, -36.0, 34.0)
    across = np.clip(np.abs(azimuth) / corner, 0.0, 1.0)
    parted = np.sqrt(1.0 - across**2)
    share = cheek.copy()
    above = below[: lip_row + 1]
    upper_lip = parted * smooth_step(above, -34.0, -2.0)
    nose = smooth_step(np.abs(azimuth), 2.0 * corner, 1.1 * corner) * smooth_step(above, -8.0, -22.0)
    share[: lip_row + 1] *= 1.0 - np.maximum(upper_lip, nose)
    # Past the mouth's corners the halves must meet again, and below the lower lip everything is jaw.
    share[lip_row + 1 :] += (1.0 - share[lip_row + 1 :]) * parted
    under_chin = smooth_step(skin[..., 2], 75.0, 30.0)
    return share * under_chin * smooth_step(np.abs(azimuth), radians(100.0), radians(70.0))


def _jaw(points: Array, share: Array) -> Array:
    """[2, ...]: factors of sin and 1 - cos of the jaw's angle, a turn about the hinge."""
    y, z = points[..., 1] - JAW_HINGE_YZ[0], points[..., 2] - JAW_HINGE_YZ[1]
    nothing = np.zeros_like(y)
    # The corners of an open mouth come a little together.
    inward = -0.45 * points[..., 0] * bell(points[..., 1] - 28.5, 13.0) * bell(points[..., 0], 38.0)
    turn = np.stack([inward, -z * share, y * share], axis=-1)
    back = np.stack([nothing, -y * share, -z * share], axis=-1)
    return np.stack([turn, back])


def _smile(skin: Array) -> Array:
    x, y = skin[..., 0], skin[..., 1]
    side, reach = np.sign(x), np.abs(x)
    front = smooth_step(skin[..., 2], 60.0, 20.0)
    corner = bell(reach - 29.0, 17.0) * bell(y - 28.5, 17.0) * front
    cheek = bell(reach - 42.0, 17.0) * bell(y + 4.0, 19.0) * front
    lips = bell(reach, 22.0) * bell(y - 28.5, 12.0) * front
    return np.stack(
        [
            side * 6.0 * corner,
            -6.0 * corner - 3.0 * cheek - 0.8 * lips,
            4.0 * corner - 2.8 * cheek + 1.2 * lips,
        ],
        axis=-1,
    )


# Hairlines: azimuth -> elevation above which hair grows, in degrees; the nape's line is far below.
_HAIRLINES: Final[dict[HairStyle, tuple[tuple[float, float], ...]]] = {
    "short": (
        (0, -43),
        (20, -43),
        (38, -40),
        (52, -33),
        (60, -20),
        (66, -2),
        (73, 4),
        (80, -4),
        (90, -14),
        (103, 8),
        (118, 34),
        (180, 38),
    ),
    "tied": (
        (0, -44),
        (20, -42),
        (40, -36),
        (54, -26),
        (63, -15),
        (72, -5),
        (80, -9),
        (92, -12),
        (106, 6),
        (122, 28),
        (180, 32),
    ),
    "bob": (
        (0, -46),
        (6, -44),
        (30, -38),
        (48, -30),
        (58, -21),
        (66, -6),
        (70, 12),
        (72, 40),
        (74, 70),
        (80, 80),
        (180, 80),
    ),
    "cropped": (
        (0, -45),
        (22, -45),
        (40, -42),
        (50, -34),
        (60, -22),
        (68, -8),
        (80, -8),
        (92, -14),
        (105, 8),
        (118, 32),
        (180, 36),
    ),
}


def _hair_extent(style: HairStyle, azimuth: Array, elevation: Array) -> Array:
    knots = np.array(_HAIRLINES[style])
    line = smooth_curve(knots[:, 0], knots[:, 1], np.degrees(np.abs(azimuth)))
    extent: Array = line - np.degrees(elevation)
    return extent


def _hair_thickness(who: Identity, surface: HeadSurface, azimuth: Array, elevation: Array, hair: Array) -> Array:
    steep = {"short": 13.0, "tied": 24.0, "bob": 9.0, "cropped": 12.0}[who.hair_style]
    thickness = who.hair_volume_mm * (1.0 - np.exp(-np.square(np.maximum(hair, 0.0) / steep * 1.6)))
    if who.hair_style == "bob":
        # Hair falls from its widest place instead of following the jaw.
        radius = surface.radius(azimuth, elevation)
        hanging = np.minimum(92.0 / np.cos(elevation), 112.0 / np.sin(np.maximum(elevation, 0.3)))
        falls = smooth_step(np.degrees(elevation), -12.0, 12.0) * smooth_step(np.abs(azimuth), 1.33, 1.47)
        thickness += falls * np.maximum(hanging - radius - thickness, 0.0)
    return thickness


def _cavities(surface: HeadSurface, azimuth: Array, elevation: Array) -> Array:
    """Ambient occlusion from how far a point lies below its surroundings."""
    radius = surface.radius(azimuth, elevation)
    occlusion = np.ones_like(radius)
    for sigma, strength in ((2.2, 0.17), (6.0, 0.045)):
        hollow = np.maximum(cv2.GaussianBlur(radius, (0, 0), sigma) - radius, 0.0)
        occlusion -= strength * hollow
    under_chin = smooth_step(elevation, radians(50.0), radians(68.0))
    return np.clip(occlusion, 0.3, 1.0) * (1.0 - 0.45 * under_chin)


def _landmark_grid(surface: HeadSurface, azimuth: Array, opened: Array, lid_row: int, lip_row: int) -> Array:
    """Fractional (row, column) of every landmark, found where the grid's angles are the landmark's."""
    marks = surface.landmarks_angles_68x2
    column = np.interp(marks[:, 0], azimuth, np.arange(len(azimuth)))
    grid = np.empty((68, 2))
    for index in range(68):
        left = min(int(column[index]), len(azimuth) - 2)
        share = column[index] - left
        elevations = (1.0 - share) * opened[:, left] + share * opened[:, left + 1]
        grid[index] = np.interp(marks[index, 1], elevations, np.arange(len(elevations))), column[index]
    grid[[36, 37, 38, 39, 42, 43, 44, 45], 0] = lid_row
    grid[[40, 41, 46, 47], 0] = lid_row + 1
    grid[[48, 54, 60, 61, 62, 63, 64], 0] = lip_row
    grid[[65, 66, 67], 0] = lip_row + 1
    return grid


def _sample(field_RC3: Array, grid_N2: Array) -> Array:
    row = np.minimum(grid_N2[:, 0].astype(int), field_RC3.shape[0] - 2)
    column = np.minimum(grid_N2[:, 1].astype(int), field_RC3.shape[1] - 2)
    down, right = (grid_N2 - np.column_stack([row, column])).T[:, :, None]
    upper = field_RC3[row, column] * (1.0 - right) + field_RC3[row, column + 1] * right
    lower = field_RC3[row + 1, column] * (1.0 - right) + field_RC3[row + 1, column + 1] * right
    sampled: Array = upper * (1.0 - down) + lower * down
    return sampled


@dataclass(frozen=True, slots=True)
class _Atlas:
    patches: dict[str, Patch]
    shape: tuple[int, int]
    rest_RC3: Array32
    expression_K_RC3: Array32
    triangles_T3: NDArray[np.int32]
    occlusion_RC: Array32


class _AtlasBuilder:
    """Lays grids beside and below each other, a gap of two vertices between them, and joins their triangles."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._row, self._column, self._shelf_rows = 0, 0, 0
        self._grids: list[tuple[str, Patch, Array, Array, Array, NDArray[np.bool_]]] = []

    def add(
        self,
        name: str,
        points: Array,
        deltas: Array | None = None,
        *,
        occlusion: Array | float = 1.0,
        omit: NDArray[np.bool_] | None = None,
    ) -> None:
        rows, columns = points.shape[:2]
        if self._column + columns > self._width:
            self._row, self._column, self._shelf_rows = self._row + self._shelf_rows + 2, 0, 0
        patch = Patch(self._row, self._column, rows, columns)
        self._column += columns + 2
        self._shelf_rows = max(self._shelf_rows, rows)
        still = np.zeros((EXPRESSION_COUNT, rows, columns, 3))
        none = np.zeros((rows - 1, columns - 1), dtype=bool)
        self._grids.append(
            (
                name,
                patch,
                points,
                still if deltas is None else deltas,
                np.broadcast_to(occlusion, (rows, columns)),
                none if omit is None else omit,
            )
        )

    def joined(self) -> _Atlas:
        shape = (self._row + self._shelf_rows, self._width)
        rest = np.zeros((*shape, 3), dtype=np.float32)
        expression = np.zeros((EXPRESSION_COUNT, *shape, 3), dtype=np.float32)
        occlusion = np.zeros(shape, dtype=np.float32)
        index = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
        triangles = []
        for _, patch, points, deltas, light, omit in self._grids:
            rest[patch.window] = points
            expression[:, patch.window[0], patch.window[1]] = deltas
            occlusion[patch.window] = light
            inside = index[patch.window]
            corners = (inside[:-1, :-1], inside[:-1, 1:], inside[1:, 1:], inside[1:, :-1])
            a, b, c, d = (corner[~omit] for corner in corners)
            triangles += [np.stack([a, b, c], axis=-1), np.stack([a, c, d], axis=-1)]
        return _Atlas(
            patches={name: patch for name, patch, *_ in self._grids},
            shape=shape,
            rest_RC3=rest,
            expression_K_RC3=expression.reshape(EXPRESSION_COUNT, -1),
            triangles_T3=np.concatenate(triangles),
            occlusion_RC=occlusion,
        )


def _add_neck(builder: _AtlasBuilder, who: Identity) -> Array:
    """From inside the skull to the neckline of the garment, whose edge is the same for every identity.

    Returns how much of the head's turn each row makes.
    """
    turn = np.linspace(-np.pi, np.pi, 49)
    t = np.linspace(0.0, 1.0, 14)[:, None]
    front = 0.5 + 0.5 * np.cos(turn)
    bottom = 112.0 + 32.0 * front**1.5
    y = 40.0 + (bottom - 40.0) * t
    flare = smooth_step(t, 0.55, 1.0)
    breadth = (53.0 + 3.5 * who.jaw_width) * (1.0 - flare) + 72.0 * flare
    depth = 47.0 + 8.0 * flare
    middle_z = 92.0 + 14.0 * t
    points = np.stack([breadth * np.sin(turn), y + 0.0 * turn, middle_z - depth * np.cos(turn)], axis=-1)
    shade = 1.0 - 0.5 * smooth_step(y, 118.0, 76.0) - 0.15 * smooth_step(t, 0.9, 1.0)
    builder.add("neck", points, occlusion=shade)
    return 1.0 - smooth_step(t[:, 0], 0.25, 0.95)


def _add_mouth(
    builder: _AtlasBuilder,
    surface: HeadSurface,
    skin: Array,
    deltas: Array,
    lip_row: int,
    lip_aperture: NDArray[np.bool_],
) -> None:
    """The cavity, hung between the edges of the lips, and two rows of teeth."""
    upper, lower = skin[lip_row, lip_aperture], skin[lip_row + 1, lip_aperture]
    inward = HEAD_CENTER_XYZ + np.array([0.0, 40.0, 0.0]) - upper
    inward /= np.linalg.norm(inward, axis=-1, keepdims=True)
    across = np.linspace(-1.0, 1.0, len(upper))
    t = np.linspace(0.0, 1.0, 9)[:, None, None]
    depth = (4.0 + 16.0 * np.sqrt(1.0 - across**2))[:, None]
    cavity = upper + (lower - upper) * t + inward * depth * np.sin(np.pi * t) ** 0.7
    follows = deltas[:, None, lip_row, lip_aperture] * (1.0 - t) + deltas[:, None, lip_row + 1, lip_aperture] * t
    dark = np.broadcast_to(0.75 - 0.70 * np.sin(np.pi * t[..., 0]) ** 0.4, cavity.shape[:2])
    builder.add("mouth", cavity, follows, occlusion=dark)

    narrow = 0.92 * surface.landmarks_angles_68x2[64, 0] * np.linspace(-1.0, 1.0, 33)
    line = smooth_curve(surface.lip_line_angles_N2[:, 0], surface.lip_line_angles_N2[:, 1], narrow)
    gum = surface.point(narrow, line) - direction(narrow, line) * 6.5
    gum[:, 1] = gum[16, 1]
    heights = np.linspace(0.0, 1.0, 4)[:, None, None] * (0.0, 1.0, 0.0)
    light = 0.85 - 0.5 * np.abs(np.linspace(-1, 1, 33)) ** 2
    builder.add("teeth_upper", gum + (0.0, -7.0, 0.0) + heights * 13.0, occlusion=light)
    low = gum + (0.0, 4.0, 1.5) + heights * 9.0
    jaw = np.zeros((EXPRESSION_COUNT, *low.shape))
    jaw[0:2] = _jaw(low, np.ones(low.shape[:2]))
    jaw[0, ..., 0] = 0.0
    builder.add("teeth_lower", low, jaw, occlusion=light * 0.75)


def _add_ear(builder: _AtlasBuilder, name: str, surface: HeadSurface, side: float) -> None:
    """A shell with a rolled rim; its edge runs into the skull."""
    where = angles(np.array([side * 75.0, -22.0, 74.0]))
    center = surface.point(where[0], where[1])
    rho = np.linspace(0.0, 1.0, 11)[:, None]
    turn = np.linspace(0.0, 2.0 * np.pi, 29)
    turn = -turn if side > 0 else turn
    back, down = np.cos(turn), np.sin(turn)
    stands_out = smooth_step(back, -0.75, 1.15) * (1.0 - 0.35 * smooth_step(rho * down, 0.1, 0.9))
    rim = 10.0 * bell(rho - 0.82, 0.22) * stands_out + 2.5 * bell(rho - 0.82, 0.12)
    lift = rim + 5.0 * rho * stands_out + 1.5 * bell(rho, 0.6) - 6.0 * smooth_step(rho, 0.88, 1.0)
    height = 29.0 - 3.0 * smooth_step(down, 0.0, 1.0)
    breadth = 16.0 - 4.5 * smooth_step(down, 0.0, 1.0)
    along, below = rho * breadth * back, rho * height * down
    points = np.stack([side * lift, below + 0.12 * along, along - 0.16 * below], axis=-1) + center
    shade = 0.45 + 0.55 * smooth_step(rho, 0.15, 0.75) + 0.0 * turn
    builder.add(name, points, occlusion=shade)


def _add_eye(builder: _AtlasBuilder, name: str, surface: HeadSurface, side: float) -> None:
    """A cap a little behind the lids, wide enough that its edge never shows."""
    marks = surface.landmarks_angles_68x2
    corners = marks[[36, 39]] if side < 0 else marks[[42, 45]]
    middle = corners.mean(axis=0)
    center = surface.point(middle[0], middle[1])
    half_x, half_y = EYE_PATCH_HALF_MM
    distance = float(np.linalg.norm(center - HEAD_CENTER_XYZ))
    columns = middle[0] + np.linspace(-half_x, half_x, 25) / (distance * cos(middle[1]) * 0.93)
    rows = middle[1] + np.linspace(-half_y, half_y, 17) / distance
    azimuth, elevation = np.meshgrid(columns, rows)
    points = surface.point(azimuth, elevation) - direction(azimuth, elevation) * EYE_INSET_MM
    # Under the upper lid's shadow above, lighter below.
    shade = 0.92 - 0.62 * smooth_step(points[..., 1] - center[1], -0.5, -6.5)
    shade *= 1.0 - 0.45 * smooth_step(np.abs(points[..., 0] - center[0]), 6.0, 15.0)
    builder.add(name, points, occlusion=shade)
