"""The colours of a head, painted on the unrolled skin: an albedo atlas that matches the vertex atlas of `head_mesh`.

What a reader would get wrong: every channel is stored as a square root (255 means `ALBEDO_SCALE`), so that a renderer
squares after sampling; eight linear bits would band in dark hair. The fourth channel is no alpha but the region of the
face (brows to chin: 1 inside, 0 outside, soft at its border), which becomes the face mask.

Shape legend: R, C = rows and columns of texels; H, W = of a picture; 3 = B, G, R; 4 = B, G, R, face region.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from zlib import crc32

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_common.synthetic.head_mesh import EYE_PATCH_HALF_MM, HeadMesh, Patch, head_mesh
from ml_common.synthetic.head_surface import bell, smooth_curve, smooth_step
from ml_common.synthetic.identity import Color, Identity

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]

TEXELS_PER_CELL: Final = 4
LEVELS: Final = 3  # each half the size of the one before
ALBEDO_SCALE: Final = 1.3
IRIS_RADIUS_MM: Final = 5.9
GAZE_REACH_MM: Final = (5.5, 3.2)
_GUTTER = 3  # texels copied around every patch, so that filtering does not reach a neighbour


@dataclass(frozen=True, slots=True)
class HeadPaint:
    """Textures of one identity. Arrays are read-only by agreement."""

    levels_RC4: tuple[Bytes, ...]
    eye_RC3: Bytes  # looking straight ahead, larger than the patch so that it can be shifted
    gloss_RC: Array32  # of the vertex atlas: strength of the highlight
    softness_RC: Array32  # of the vertex atlas: 1 skin, which lets light bleed into the shadow, 0 hair and teeth


def linear(color_bgr: Color) -> Array:
    """Linear light of an sRGB colour."""
    color = np.array(color_bgr)
    light: Array = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    return light


@lru_cache(maxsize=8)
def head_paint(who: Identity) -> HeadPaint:
    """The textures of an identity."""
    mesh = head_mesh(who)
    generator = np.random.default_rng(crc32(who.name.encode()))
    rows, columns = mesh.atlas_shape
    atlas = np.zeros((rows * TEXELS_PER_CELL, columns * TEXELS_PER_CELL, 4))
    skin, gloss_skin, softness_skin = _skin(who, mesh, generator)
    _place(atlas, mesh.patches["skin"], skin)
    for name, redness in (("neck", 0.15), ("ear_right", 0.9), ("ear_left", 0.9)):
        if name not in mesh.patches:  # long hair hides the ears
            continue
        _place(atlas, mesh.patches[name], _plain_skin(who, mesh.patches[name], redness, generator))
    for name in ("mouth", "teeth_upper", "teeth_lower"):
        _place(atlas, mesh.patches[name], _inside_of_mouth(mesh.patches[name], name))
    for name in ("eye_right", "eye_left"):
        atlas[(*_texels(mesh.patches[name]), 3)] = 1.0

    levels = [_encoded(atlas)]
    for _ in range(LEVELS - 1):
        levels.append(np.asarray(cv2.pyrDown(levels[-1]), dtype=np.uint8))

    gloss = np.full(mesh.atlas_shape, 0.5, dtype=np.float32)
    softness = np.ones(mesh.atlas_shape, dtype=np.float32)
    gloss[mesh.patches["skin"].window] = gloss_skin
    softness[mesh.patches["skin"].window] = softness_skin
    for name, shine in (
        ("mouth", 0.3),
        ("teeth_upper", 1.2),
        ("teeth_lower", 1.0),
        ("eye_left", 0.0),
        ("eye_right", 0.0),
    ):
        gloss[mesh.patches[name].window] = shine
        softness[mesh.patches[name].window] = 0.4
    return HeadPaint(tuple(levels), _eye(who, generator), gloss, softness)


def eye_patch_texels(paint: HeadPaint, patch: Patch, gaze_x: float, gaze_y: float, level: int) -> Bytes:
    """The eye's texture [R, C, 3] at a mip level, looking as told."""
    rows, columns = (patch.rows - 1) * TEXELS_PER_CELL + 1, (patch.columns - 1) * TEXELS_PER_CELL + 1
    texel_mm = _eye_texel_mm()
    middle_x, middle_y = (paint.eye_RC3.shape[1] - 1) / 2.0, (paint.eye_RC3.shape[0] - 1) / 2.0
    shift_x = (columns - 1) / 2.0 - middle_x + gaze_x * GAZE_REACH_MM[0] / texel_mm
    shift_y = (rows - 1) / 2.0 - middle_y + gaze_y * GAZE_REACH_MM[1] / texel_mm
    shift_2x3 = np.array([[1.0, 0.0, shift_x], [0.0, 1.0, shift_y]])
    eye = cv2.warpAffine(paint.eye_RC3, shift_2x3, (columns, rows), borderMode=cv2.BORDER_REPLICATE)
    for _ in range(level):
        eye = cv2.pyrDown(eye)
    return np.asarray(eye, dtype=np.uint8)


def _eye_texel_mm() -> float:
    return EYE_PATCH_HALF_MM[0] * 2.0 / (24 * TEXELS_PER_CELL)


def _texels(patch: Patch, margin: int = 0) -> tuple[slice, slice]:
    top, left = patch.row * TEXELS_PER_CELL, patch.column * TEXELS_PER_CELL
    bottom = top + (patch.rows - 1) * TEXELS_PER_CELL + 1
    right = left + (patch.columns - 1) * TEXELS_PER_CELL + 1
    return slice(max(top - margin, 0), bottom + margin), slice(max(left - margin, 0), right + margin)


def _place(atlas: Array, patch: Patch, texels: Array) -> None:
    """Write a patch and let its border run on into the gap beside it."""
    window = _texels(patch, _GUTTER)
    target = atlas[window]
    top, left = min(_GUTTER, patch.row * TEXELS_PER_CELL), min(_GUTTER, patch.column * TEXELS_PER_CELL)
    bottom = target.shape[0] - top - texels.shape[0]
    right = target.shape[1] - left - texels.shape[1]
    target[:] = np.pad(texels, ((top, bottom), (left, right), (0, 0)), mode="edge")


def _to_texels(field: Array) -> Array:
    """A vertex field of a patch [R, C] or [R, C, n], interpolated to its texels."""
    rows, columns = ((size - 1) * TEXELS_PER_CELL + 1 for size in field.shape[:2])
    x = np.arange(columns, dtype=np.float32) / TEXELS_PER_CELL
    y = np.arange(rows, dtype=np.float32) / TEXELS_PER_CELL
    maps = np.meshgrid(x, y)
    return np.asarray(cv2.remap(field.astype(np.float32), maps[0], maps[1], cv2.INTER_LINEAR), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Grain:
    """Smooth noise of mean 0 and deviation 1 on a patch, the same on both edges of an opening."""

    generator: np.random.Generator
    row_of_texel_R: NDArray[np.intp]
    columns: int

    def __call__(self, sigma_x: float, sigma_y: float) -> Array:
        raw = self.generator.standard_normal((int(self.row_of_texel_R[-1]) + 1, self.columns))
        smooth = cv2.GaussianBlur(raw, (0, 0), sigmaX=sigma_x, sigmaY=sigma_y)
        normal: Array = (smooth - smooth.mean()) / smooth.std()
        return normal[self.row_of_texel_R]


def _grain(generator: np.random.Generator, patch: Patch, doubled_rows: tuple[int, ...] = ()) -> _Grain:
    rows, columns = (patch.rows - 1) * TEXELS_PER_CELL + 1, (patch.columns - 1) * TEXELS_PER_CELL + 1
    step = np.ones(rows, dtype=np.intp)
    step[0] = 0
    for row in doubled_rows:  # the texels between two coinciding rows of vertices are no surface
        step[row * TEXELS_PER_CELL + 1 : (row + 1) * TEXELS_PER_CELL + 1] = 0
    return _Grain(generator, np.cumsum(step), columns)


def _distance(x: Array, y: Array, line_N2: Array) -> tuple[Array, Array, Array]:
    """To a polyline: distance, height above it (negative y is above) and how far along it the nearest place is, 0..1."""
    best = np.full(x.shape, np.inf)
    above, along = np.zeros(x.shape), np.zeros(x.shape)
    lengths = np.linalg.norm(np.diff(line_N2, axis=0), axis=1)
    starts = np.concatenate([[0.0], np.cumsum(lengths)])
    for index, length in enumerate(lengths):
        (x0, y0), (x1, y1) = line_N2[index], line_N2[index + 1]
        t = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length**2, 0.0, 1.0)
        near_x, near_y = x0 + t * (x1 - x0), y0 + t * (y1 - y0)
        distance = np.hypot(x - near_x, y - near_y)
        closer = distance < best
        best[closer] = distance[closer]
        above[closer] = (near_y - y)[closer]
        along[closer] = ((starts[index] + t * length) / starts[-1])[closer]
    return best, above, along


def _over(base: Array, color: Array, alpha: Array) -> None:
    base += (color - base) * alpha[..., None]


def _skin(who: Identity, mesh: HeadMesh, generator: np.random.Generator) -> tuple[Array, Array, Array]:
    """Texels [R, C, 4] of the skin grid, and gloss and softness of its vertices."""
    k = TEXELS_PER_CELL
    position = _to_texels(mesh.skin_rest_RC3)
    x, y, z = position[..., 0], position[..., 1], position[..., 2]
    reach, front = np.abs(x), smooth_step(z, 70.0, 40.0)
    marks = mesh.landmarks_rest_68x3[:, :2]
    grain = _grain(generator, mesh.patches["skin"], (mesh.lid_row, mesh.lip_row))
    color = np.empty((*x.shape, 3))
    color[:] = linear(who.skin_bgr)

    # Broad tones: blood near the surface, a yellower forehead, thin skin around the eyes.
    blood = color[0, 0] * (0.66, 0.62, 1.0)
    nose_tip, mouth_y = marks[30], float(marks[48, 1])
    flush = 0.75 * bell(reach - 40.0, 17.0) * bell(y - 2.0, 17.0)
    flush += 0.8 * np.exp(-(np.square(x - nose_tip[0]) + np.square(y - nose_tip[1] - 3)) / 13.0**2)
    flush += 0.35 * bell(reach, 20.0) * bell(y - marks[8, 1] + 8.0, 12.0) + 0.3 * bell(reach - 32.0, 18.0) * bell(
        y + 40, 9
    )
    _over(color, blood, np.clip(flush * who.redness * front, 0.0, 1.0))
    _over(color, color * (0.90, 0.98, 1.02), 0.6 * smooth_step(y, -55.0, -80.0) * front)
    under_eye = bell(reach - 29.0, 13.0) * bell(y + 26.5, 5.5) * front
    _over(color, color * (0.86, 0.74, 0.78), under_eye * (0.25 + 0.5 * who.creases))
    mottle = 0.025 * grain(14, 14) + 0.018 * grain(4, 4)
    pores = 0.022 * grain(0.8, 0.8)
    color *= (1.0 + mottle + pores)[..., None]
    if who.freckles > 0:
        spots = smooth_step(grain(1.3, 1.3), 1.5, 2.4)
        where = bell(reach - 22.0, 26.0) * bell(y + 6.0, 20.0) * front
        _over(color, color * (0.45, 0.55, 0.70), spots * where * who.freckles)

    _paint_folds(color, who, x, y, marks, front)
    _paint_stubble(color, who, x, y, z, marks, grain)
    _paint_lids(color, who, mesh, x, y, grain)
    _paint_nostrils(color, x, y, marks)
    lips = _paint_lips(color, who, mesh, x, y, marks, front, grain)
    _paint_brows(color, who, x, y, z, marks, grain)
    hair = _paint_hair(color, who, mesh, grain)

    texels = np.concatenate([color, _face_region(mesh, hair)[..., None]], axis=-1)
    oily = (
        0.8
        + 0.8 * bell(reach, 14.0) * bell(y + 12.0, 30.0) * front
        + 0.5 * bell(reach, 40.0) * bell(y + 80, 22) * front
    )
    oily *= 1.0 - 0.5 * bell(y - mouth_y + 14.0, 8.0) * front
    gloss = (oily * (1.0 - lips) + 1.0 * lips) * (1.0 - hair) + 0.45 * hair
    return texels, gloss[::k, ::k], 1.0 - hair[::k, ::k]


def _paint_folds(color: Array, who: Identity, x: Array, y: Array, marks: Array, front: Array) -> None:
    for side in (-1.0, 1.0):
        wing, corner = (marks[31], marks[48]) if side < 0 else (marks[35], marks[54])
        fold = np.array(
            [
                (wing[0] + side * 6.0, wing[1] - 6.0),
                (wing[0] + side * 13.0, wing[1] + 6.0),
                (corner[0] + side * 6.0, corner[1] - 4.0),
                (corner[0] + side * 8.0, corner[1] + 6.0),
            ]
        )
        distance, _, along = _distance(x, y, fold)
        depth = bell(distance, 2.2) * np.sin(np.pi * np.clip(along * 0.9 + 0.1, 0, 1))
        _over(color, color * (0.62, 0.62, 0.72), depth * front * 0.65 * who.creases)
    for height, weight in ((-88.0, 0.5), (-78.0, 0.8), (-69.0, 0.5)):
        line = bell(y - height - 2.0 * np.cos(x / 16.0), 1.1) * bell(x, 30.0)
        _over(color, color * (0.70, 0.70, 0.78), line * front * weight * 0.5 * who.creases)


def _paint_stubble(color: Array, who: Identity, x: Array, y: Array, z: Array, marks: Array, grain: _Grain) -> None:
    jaw, _, _ = _distance(x, y, marks[2:15])
    beard = smooth_step(jaw, 40.0, 14.0) * smooth_step(y, 6.0, 22.0)
    cheek = np.exp(-(np.square(np.abs(x) - 30.0) / 13.0**2 + np.square(y - 8.0) / 13.0**2))
    moustache = bell(y - 14.5, 7.0) * bell(x, 24.0)
    where = np.clip(np.maximum(beard * (1.0 - cheek), moustache), 0.0, 1.0) * smooth_step(z, 92.0, 55.0)
    hairs = 0.75 + 0.25 * grain(0.7, 0.9)
    _over(color, color * (0.55, 0.50, 0.46), np.clip(where * hairs * who.stubble, 0.0, 0.9))


def _paint_lids(color: Array, who: Identity, mesh: HeadMesh, x: Array, y: Array, grain: _Grain) -> None:
    """Creases, lashes and the wet rim, placed by distance from the lids' edges on the closed lid."""
    k = TEXELS_PER_CELL
    elevation = np.degrees(_to_texels(mesh.skin_elevation_RC))
    row = mesh.lid_row * k
    line = elevation[row]
    azimuth = np.degrees(_to_texels(mesh.skin_azimuth_C[None].repeat(2, axis=0))[0])
    marks = mesh.landmarks_rest_68x3
    inner, outer = (float(np.interp(column, *_column_azimuth(mesh))) for column in mesh.landmark_grid_68x2[[42, 45], 1])
    t = (np.abs(azimuth) - inner) / (outer - inner)
    within = smooth_step(t, -0.06, 0.06) * smooth_step(t, 1.06, 0.94)
    near = smooth_step(t, -0.25, 0.05) * smooth_step(t, 1.35, 0.95)
    above = np.where(np.arange(len(elevation))[:, None] <= row, line - elevation, np.inf)
    below = np.where(np.arange(len(elevation))[:, None] > row + k - 1, elevation - line, np.inf)
    crease = bell(above - 5.6 - 1.6 * np.sin(np.pi * np.clip(t, 0, 1)), 0.8) * near
    _over(color, color * (0.50, 0.50, 0.60), crease * 0.75)
    _over(color, color * (0.80, 0.76, 0.84), smooth_step(above, 8.0, 4.0) * near * 0.5)
    dark = linear(who.brow_bgr) * 0.5 + 0.004
    ragged = 1.0 + 0.35 * grain(0.8, 3.0)
    lashes = np.clip(smooth_step(above, 1.5, 0.35) * ragged, 0.0, 1.0) * within
    _over(color, dark, lashes * (0.45 + 0.5 * who.lashes))
    _over(color, color * (0.75, 0.70, 0.9) + (0.02, 0.02, 0.05), smooth_step(below, 1.4, 0.5) * within * 0.5)
    _over(color, dark, smooth_step(below, 1.9, 1.0) * smooth_step(below, 0.5, 1.0) * within * 0.35 * who.lashes)
    corner = np.exp(-(np.square(np.abs(x) - abs(marks[42, 0])) + np.square(y - marks[42, 1])) / 2.2**2)
    _over(color, color * (0.55, 0.5, 0.75), corner * 0.5)


def _column_azimuth(mesh: HeadMesh) -> tuple[Array, Array]:
    return np.arange(len(mesh.skin_azimuth_C), dtype=np.float64), np.degrees(mesh.skin_azimuth_C)


def _paint_nostrils(color: Array, x: Array, y: Array, marks: Array) -> None:
    middle = (marks[32] + marks[31]) / 2.0, (marks[34] + marks[35]) / 2.0
    for side, center in zip((-1.0, 1.0), middle, strict=True):
        across = (x - center[0] - side * -1.3) * 0.94 + side * (y - center[1] + 1.0) * 0.34
        down = (y - center[1] + 1.0) * 0.94 - side * (x - center[0] - side * -1.3) * 0.34
        hole = smooth_step(np.square(across / 4.6) + np.square(down / 2.5), 1.25, 0.45)
        _over(color, np.array([0.010, 0.010, 0.020]), hole * 0.88)
        groove = np.hypot(x - marks[31 if side < 0 else 35][0] - side * 4.0, y - marks[31][1] + 5.0)
        _over(
            color,
            color * (0.68, 0.68, 0.78),
            bell(groove - 5.2, 1.6) * smooth_step(side * (x - center[0]), 1.0, 7.0) * 0.55,
        )


def _paint_lips(
    color: Array, who: Identity, mesh: HeadMesh, x: Array, y: Array, marks: Array, front: Array, grain: _Grain
) -> Array:
    """Returns how much of each texel is lip."""
    seam_row = mesh.lip_row * TEXELS_PER_CELL
    upper = np.concatenate([_spline(marks[48:55])])
    lower = np.concatenate([_spline(marks[[48, 59, 58, 57, 56, 55, 54]])])
    upper_y = np.interp(x, upper[:, 0], upper[:, 1])
    lower_y = np.interp(x, lower[:, 0], lower[:, 1])
    is_upper = np.arange(x.shape[0])[:, None] <= seam_row + 1
    inside = np.where(is_upper, y - upper_y, lower_y - y)
    sideways = smooth_step(np.abs(x), marks[54, 0] + 0.3, marks[54, 0] - 2.0)
    lips = smooth_step(inside, -0.7, 0.8) * sideways * front
    near_seam = np.abs(np.arange(x.shape[0])[:, None] - seam_row - TEXELS_PER_CELL / 2.0) / TEXELS_PER_CELL
    red = linear(who.lips_bgr) * (1.0 + 0.04 * grain(0.9, 2.5))[..., None]
    _over(color, red, lips * 0.9)
    _over(color, color * 0.72, lips * np.where(is_upper, 0.55, 0.0))
    mouth_corner = smooth_step(np.abs(x), marks[54, 0] + 3.5, marks[54, 0] - 1.0) * front
    _over(color, color * (0.25, 0.22, 0.32), bell(near_seam - 0.5, 0.8) * mouth_corner * 0.9)
    below_lip = bell(y - lower_y - 4.0, 3.0) * bell(x - marks[57, 0], 15.0) * front
    _over(color, color * (0.72, 0.72, 0.78), below_lip * 0.35)
    clipped: Array = np.clip(lips, 0.0, 1.0)
    return clipped


def _spline(points_N2: Array) -> Array:
    """The polyline with its corners rounded a little, exactly through the points."""
    t = np.arange(len(points_N2), dtype=np.float64)
    fine = np.linspace(0.0, t[-1], 8 * (len(t) - 1) + 1)
    return np.column_stack([smooth_curve(t, points_N2[:, 0], fine), smooth_curve(t, points_N2[:, 1], fine)])


def _paint_brows(color: Array, who: Identity, x: Array, y: Array, z: Array, marks: Array, grain: _Grain) -> None:
    strands = 0.7 * grain(1.5, 0.6) + 0.5 * grain(0.7, 0.7)
    for line in (_spline(marks[17:22]), _spline(marks[22:27])[::-1]):
        distance, above, along = _distance(x, y, line)
        # `along` runs from the outer end: the brow is widest near its inner third and thins outward.
        half = who.brow_thickness_mm / 2.0 * np.interp(along, [0.0, 0.35, 0.8, 1.0], [0.35, 0.85, 1.05, 0.8])
        ends = smooth_step(distance - half, 0.8, -0.8)
        ragged = np.clip(0.88 + 0.14 * strands, 0.0, 1.0)
        edge = smooth_step(np.abs(above) / half, 1.15, 0.55)
        _over(color, linear(who.brow_bgr), ends * (0.35 + 0.65 * edge) * ragged * who.brow_density * (z < 45.0))


def _paint_hair(color: Array, who: Identity, mesh: HeadMesh, grain: _Grain) -> Array:
    """Returns how much of each texel is hair."""
    extent = _to_texels(mesh.hair_RC)
    long = {"short": 8.0, "tied": 24.0, "bob": 30.0, "cropped": 1.5}[who.hair_style]
    ragged = 0.5 * grain(3.0, 3.0) + 0.6 * grain(0.8, min(long, 5.0))
    hair: Array = smooth_step(extent + ragged, -0.8, 3.6)
    if who.hair_style == "cropped":
        hair = hair * np.clip(0.93 + 0.05 * grain(0.9, 0.9), 0.0, 1.0)
    strands = 0.22 * grain(0.9, long) + 0.10 * grain(2.5, 3.0 * long)
    tone = linear(who.hair_bgr) * np.clip(1.0 + strands, 0.35, 2.0)[..., None]
    _over(color, color * 0.75, smooth_step(extent + ragged, -4.0, 1.0) * 0.5)
    _over(color, tone, hair)
    return hair


def _face_region(mesh: HeadMesh, hair: Array) -> Array:
    """1 from just above the brows to the jaw line, 0 outside and under hair; soft over about one texel."""
    k = TEXELS_PER_CELL
    grid = mesh.landmark_grid_68x2
    brows = grid[17:27] - (3.2, 0.0)  # rows: about 7 mm, the brows' own height included
    outline = np.concatenate([grid[:17], brows[::-1]])
    points = np.round(outline[:, ::-1] * k * 16.0).astype(np.int32)
    region = np.zeros(hair.shape, dtype=np.uint8)
    cv2.fillPoly(region, [points[None]], 255, lineType=cv2.LINE_AA, shift=4)
    return region / 255.0 * (1.0 - smooth_step(hair, 0.35, 0.65))


def _plain_skin(who: Identity, patch: Patch, redness: float, generator: np.random.Generator) -> Array:
    """Texels of neck and ears."""
    shape = (patch.rows - 1) * TEXELS_PER_CELL + 1, (patch.columns - 1) * TEXELS_PER_CELL + 1
    grain = _grain(generator, patch)
    texels = np.zeros((*shape, 4))
    texels[..., :3] = linear(who.skin_bgr)
    _over(texels[..., :3], texels[..., :3] * (0.66, 0.62, 1.0), np.full(shape, redness * who.redness))
    texels[..., :3] *= (1.0 + 0.03 * grain(5, 5) + 0.02 * grain(0.8, 0.8))[..., None]
    return texels


def _inside_of_mouth(patch: Patch, name: str) -> Array:
    rows, columns = (patch.rows - 1) * TEXELS_PER_CELL + 1, (patch.columns - 1) * TEXELS_PER_CELL + 1
    texels = np.empty((rows, columns, 4))
    texels[..., 3] = 1.0
    if name == "mouth":
        texels[..., :3] = (0.045, 0.040, 0.15)
        return texels
    texels[..., :3] = (0.50, 0.60, 0.66)
    column = np.linspace(-1.0, 1.0, columns)
    gaps = np.abs(np.sin(np.arcsin(column) * 5.0))
    texels[..., :3] *= (1.0 - 0.35 * bell(gaps, 0.10))[None, :, None]
    edge = np.linspace(0.0, 1.0, rows)
    gum = smooth_step(edge, 0.38, 0.22) if name == "teeth_upper" else smooth_step(edge, 0.58, 0.75)
    _over(texels[..., :3], np.array([0.16, 0.15, 0.42]), np.broadcast_to(gum[:, None], (rows, columns)))
    return texels


def _eye(who: Identity, generator: np.random.Generator) -> Bytes:
    """Sclera, iris, pupil, looking straight ahead; square roots as in the atlas."""
    texel_mm = _eye_texel_mm()
    half_x, half_y = EYE_PATCH_HALF_MM[0] + GAZE_REACH_MM[0] + 1.0, EYE_PATCH_HALF_MM[1] + GAZE_REACH_MM[1] + 1.0
    columns, rows = 2 * round(half_x / texel_mm) + 1, 2 * round(half_y / texel_mm) + 1
    x = (np.arange(columns) - (columns - 1) / 2.0)[None] * texel_mm
    y = (np.arange(rows) - (rows - 1) / 2.0)[:, None] * texel_mm
    radius, turn = np.hypot(x, y), np.arctan2(y, x)
    eye = np.empty((rows, columns, 3))
    eye[:] = (0.52, 0.54, 0.60)
    _over(eye, np.array([0.34, 0.34, 0.58]), smooth_step(radius, 8.0, 17.0) * 0.6)
    spokes = cv2.GaussianBlur(generator.standard_normal((1, 180)), (0, 0), 1.2, borderType=cv2.BORDER_REFLECT)[0]
    streak = np.interp(np.abs(turn), np.linspace(0.0, np.pi, 180), spokes / spokes.std())
    iris = linear(who.iris_bgr) * 1.15
    tone = (1.0 + 0.22 * streak) * (1.0 + 0.35 * bell(radius - 3.2, 1.2)) * (1.0 - 0.72 * smooth_step(radius, 4.2, 5.9))
    _over(
        eye,
        iris * np.clip(tone, 0.1, 2.0)[..., None],
        smooth_step(radius, IRIS_RADIUS_MM + 0.35, IRIS_RADIUS_MM - 0.35),
    )
    _over(eye, np.array([0.006, 0.006, 0.006]), smooth_step(radius, 2.75, 2.25))
    return _encoded(eye)


def _encoded(values: Array) -> Bytes:
    return np.asarray(np.round(np.sqrt(np.clip(values / ALBEDO_SCALE, 0.0, 1.0)) * 255.0), dtype=np.uint8)
