"""From an identity and a state to a frame, with the truth about it: landmarks, visibility, masks.

The posed mesh is rasterised at twice the size in a box around the head (texture coordinates and depth, OpenCV's
triangle rasteriser), sampled from the painted atlas, lit, averaged down and laid over the backdrop. What a reader would
get wrong: the camera is a pinhole 1.1 m from the head, but its principal point travels with the head, so that a head at
the frame's edge shows the same pose as one in the middle; the pose of a state is exact wherever it stands.

Shape legend: H, W = rows and columns of the frame, R, C = of the vertex atlas, 68 = iBUG landmarks, 2 = (x, y) pixels
with pixel centres at integers, 3 = B, G, R or (x, y, z).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import atan, floor, log2
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_common.synthetic.backdrop import draw_shoulders, wall
from ml_common.synthetic.head_mesh import (
    EYE_PATCH_HALF_MM,
    PIVOT_XYZ,
    HeadMesh,
    Patch,
    expression_coefficients,
    head_mesh,
)
from ml_common.synthetic.head_paint import (
    ALBEDO_SCALE,
    GAZE_REACH_MM,
    LEVELS,
    TEXELS_PER_CELL,
    HeadPaint,
    eye_patch_texels,
    head_paint,
)
from ml_common.synthetic.identity import Identity
from ml_common.synthetic.occluder import draw_occluder
from ml_common.synthetic.scene import FrameState, Light

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]

FACE_HEIGHT_MM: Final = 180.0  # what FrameState.face_height measures
CAMERA_DISTANCE_MM: Final = 1100.0
_SAMPLES: Final = 2  # per pixel and axis
_FAR_MM: Final = 5000.0
_UV_RANGE: Final = 1024.0  # the rasteriser wants values in 0..1
_TEXEL_MM: Final = 0.52  # of the face at the finest texture level


@dataclass(frozen=True, slots=True)
class RenderedFrame:
    """A frame and its truth.

    `head_mask_HW` is 255 wherever the head (hair, ears and neck included) contributes to a pixel at all: outside the
    head masks of two identities the same state gives identical pixels. `face_mask_HW` is 255 where facial skin, eyes
    or mouth, from just above the brows to the jaw line, fill at least half of the pixel. Occluders are cut out of both.
    `visible_68` is False for a landmark behind another part of the head, behind the occluder, or outside the frame.
    """

    image_bgr_HWC: Bytes
    landmarks_px_68x2: Array
    visible_68: NDArray[np.bool_]
    face_mask_HW: Bytes
    head_mask_HW: Bytes
    state: FrameState


@dataclass(frozen=True, slots=True)
class _Camera:
    angles_deg: tuple[float, float, float]  # yaw, pitch, roll
    rotation_3x3: Array
    center_px: tuple[float, float]
    px_per_mm: float  # at the pivot

    def turned(self, points_N3: Array) -> Array:
        """Head axes to camera axes, the origin still at the pivot."""
        turned: Array = (points_N3 - PIVOT_XYZ) @ self.rotation_3x3.T
        return turned

    def seen(self, points_N3: Array | Array32) -> Array:
        """Pixels [N, 2] of points in camera axes about the pivot."""
        scale = self.px_per_mm * CAMERA_DISTANCE_MM / (points_N3[:, 2:] + CAMERA_DISTANCE_MM)
        return np.asarray(points_N3[:, :2] * scale + self.center_px, dtype=np.float64)


def render_clip(identity: Identity, states: Iterable[FrameState], width: int, height: int) -> Iterator[RenderedFrame]:
    """`render` for every state, in order, one frame in memory at a time."""
    for state in states:
        yield render(identity, state, width, height)


def render(identity: Identity, state: FrameState, width: int, height: int) -> RenderedFrame:
    """Draw one frame of `width` x `height` pixels (16..8192 each; ValueError otherwise).

    The same arguments give the same bytes. The first frame of an identity builds its mesh and paint (under a second).
    """
    if not (16 <= width <= 8192 and 16 <= height <= 8192):
        raise ValueError(f"A frame of {width} x {height} pixels: choose 16..8192 for each side.")
    mesh, paint = head_mesh(identity), head_paint(identity)
    camera = _Camera(
        angles_deg=(state.yaw_deg, state.pitch_deg, state.roll_deg),
        rotation_3x3=_rotation(state.yaw_deg, state.pitch_deg, state.roll_deg),
        center_px=(state.center_x * width - 0.5, state.center_y * height - 0.5),
        px_per_mm=state.face_height * height / FACE_HEIGHT_MM,
    )
    coefficients = expression_coefficients(state.expression)
    posed_RC3 = _pose(mesh, camera, coefficients)
    landmarks = mesh.landmarks_rest_68x3 + np.tensordot(
        coefficients.astype(np.float64), mesh.landmarks_expression_K_68x3, axes=1
    )
    landmarks_camera = camera.turned(landmarks)
    landmarks_px = camera.seen(landmarks_camera)

    canvas = wall(state.background_seed, width, height).astype(np.float32)
    draw_shoulders(canvas, state.light, state.background_seed, camera.center_px, camera.px_per_mm)
    head_cover = np.zeros((height, width), dtype=np.float32)
    face_cover = np.zeros((height, width), dtype=np.float32)
    inside = ((landmarks_px > -0.5) & (landmarks_px < (width - 0.5, height - 0.5))).all(axis=1)
    visible = np.zeros(68, dtype=bool)
    box = _box(camera.seen(posed_RC3.reshape(-1, 3)), width, height)
    if box is not None:
        coordinates, depth = _rasterise(mesh, posed_RC3, camera, box)
        color, alpha, face = _shade(mesh, paint, posed_RC3, camera, state, coordinates, depth)
        window = (slice(box[1], box[3]), slice(box[0], box[2]))
        canvas[window] += (color - canvas[window]) * alpha[..., None]
        head_cover[window], face_cover[window] = alpha, face
        visible = inside & _unhidden(landmarks_px, landmarks_camera[:, 2] + CAMERA_DISTANCE_MM, depth, box)
    if state.occluder is not None:
        occluder_color, occluder_cover = draw_occluder(state.occluder, state.light, width, height)
        canvas += (occluder_color - canvas) * occluder_cover[..., None]
        head_cover *= 1.0 - occluder_cover
        face_cover *= 1.0 - occluder_cover
        columns, rows = np.clip(np.round(landmarks_px), 0, (width - 1, height - 1)).astype(int).T
        visible &= occluder_cover[rows, columns] < 0.5
    return RenderedFrame(
        image_bgr_HWC=np.asarray(np.clip(np.round(canvas), 0, 255), dtype=np.uint8),
        landmarks_px_68x2=landmarks_px,
        visible_68=visible,
        face_mask_HW=np.where(face_cover >= 0.5, 255, 0).astype(np.uint8),
        head_mask_HW=np.where(head_cover > 0.0, 255, 0).astype(np.uint8),
        state=state,
    )


def _rotation(yaw_deg: float, pitch_deg: float, roll_deg: float) -> Array:
    """Rz(roll) Ry(yaw) Rx(-pitch): the angles that the faceset specification's pose estimate would read back."""
    x, y, z = np.radians((-pitch_deg, yaw_deg, roll_deg))
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x, dtype=np.float64)


def _pose(mesh: HeadMesh, camera: _Camera, coefficients: Array32) -> Array32:
    """Every vertex in camera axes about the pivot; the neck's lower end stays with the upright shoulders."""
    formed = mesh.rest_RC3.reshape(-1) + coefficients @ mesh.expression_K_RC3
    formed_RC3 = formed.reshape(*mesh.atlas_shape, 3) - PIVOT_XYZ.astype(np.float32)
    turned = formed_RC3 @ camera.rotation_3x3.T.astype(np.float32)
    neck = mesh.patches["neck"].window
    turns = np.stack([_rotation(*(angle * share for angle in camera.angles_deg)) for share in mesh.neck_share_R])
    turned[neck] = np.einsum("rck,rjk->rcj", formed_RC3[neck], turns)
    return np.asarray(turned, dtype=np.float32)


def _box(seen_N2: Array, width: int, height: int) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom), half-open, of the pixels that the head may touch."""
    low, high = np.floor(seen_N2.min(axis=0)).astype(int) - 1, np.ceil(seen_N2.max(axis=0)).astype(int) + 2
    left, top = max(int(low[0]), 0), max(int(low[1]), 0)
    right, bottom = min(int(high[0]), width), min(int(high[1]), height)
    return (left, top, right, bottom) if left < right and top < bottom else None


def _rasterise(
    mesh: HeadMesh, posed_RC3: Array32, camera: _Camera, box: tuple[int, int, int, int]
) -> tuple[Array32, Array32]:
    """(column, row) of the vertex atlas, scaled into 0..1 and -1 where nothing is, and depth, at sample resolution."""
    columns, rows = (box[2] - box[0]) * _SAMPLES, (box[3] - box[1]) * _SAMPLES
    focal = camera.px_per_mm * CAMERA_DISTANCE_MM * _SAMPLES
    # Frame pixel p lies at sample 2 (p - box) + 0.5; the rasteriser's own centre is the middle of its picture. A shear
    # along the viewing direction moves the principal point from there to the head.
    middle_x = _SAMPLES * (camera.center_px[0] - box[0]) + (_SAMPLES - 1) / 2.0
    middle_y = _SAMPLES * (camera.center_px[1] - box[1]) + (_SAMPLES - 1) / 2.0
    shear_x, shear_y = (middle_x - (columns - 1) / 2.0) / focal, (middle_y - (rows - 1) / 2.0) / focal
    # Camera axes to the rasteriser's: y up, z towards the viewer.
    to_rasteriser = np.array([[1, 0, 0], [0, -1, 0], [shear_x, -shear_y, -1]], dtype=np.float32)
    offset = np.array([0, 0, CAMERA_DISTANCE_MM], dtype=np.float32)
    vertices = (posed_RC3.reshape(-1, 3) + offset) @ to_rasteriser
    coordinates = np.full((rows, columns, 3), -1.0, dtype=np.float32)
    depth = np.full((rows, columns), _FAR_MM, dtype=np.float32)
    settings = cv2.TriangleRasterizeSettings()
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    settings.setCullingMode(cv2.RASTERIZE_CULLING_CCW)
    cv2.triangleRasterize(
        vertices,
        mesh.triangles_T3,
        _atlas_coordinates(mesh.atlas_shape),
        coordinates,
        depth,
        np.eye(4)[:3],
        2.0 * atan(rows / 2.0 / focal),
        100.0,
        _FAR_MM,
        settings,
    )
    return coordinates, depth


def _atlas_coordinates(shape: tuple[int, int]) -> Array32:
    row, column = np.mgrid[0 : shape[0], 0 : shape[1]]
    stacked = np.stack([column, row, np.zeros_like(row)], axis=-1).reshape(-1, 3) / _UV_RANGE
    return stacked.astype(np.float32)


def _shade(
    mesh: HeadMesh,
    paint: HeadPaint,
    posed_RC3: Array32,
    camera: _Camera,
    state: FrameState,
    coordinates: Array32,
    depth: Array32,
) -> tuple[Array32, Array32, Array32]:
    """(`color_bgr` 0..255, `alpha` 0..1, `face` 0..1) at pixel resolution in the box."""
    sample_mm = 1.0 / (camera.px_per_mm * _SAMPLES)
    level = min(max(floor(log2(sample_mm / _TEXEL_MM) + 0.5), 0), LEVELS - 1)
    texture = paint.levels_RC4[level].copy()
    for name in ("eye_right", "eye_left"):
        _look(texture, paint, mesh.patches[name], state, camera, level)
    light_RC4, highlight_RC = _light(mesh, paint, posed_RC3, state.light)

    vertex_x = cv2.extractChannel(coordinates, 0) * np.float32(_UV_RANGE)
    vertex_y = cv2.extractChannel(coordinates, 1) * np.float32(_UV_RANGE)
    texels = np.float32(TEXELS_PER_CELL / 2**level)
    albedo = cv2.remap(texture, vertex_x * texels, vertex_y * texels, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    light = cv2.remap(light_RC4, vertex_x, vertex_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    shine = cv2.remap(highlight_RC, vertex_x, vertex_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    squared = cv2.multiply(albedo, albedo, scale=ALBEDO_SCALE / 255.0**2, dtype=cv2.CV_32F)
    lit = cv2.multiply(squared, light)

    size = (depth.shape[1] // _SAMPLES, depth.shape[0] // _SAMPLES)
    covered = (depth < _FAR_MM * 0.999).astype(np.float32)
    alpha = np.asarray(cv2.resize(covered, size, interpolation=cv2.INTER_AREA), dtype=np.float32)
    lit = np.asarray(cv2.resize(lit, size, interpolation=cv2.INTER_AREA), dtype=np.float32)
    shine = cv2.resize(shine, size, interpolation=cv2.INTER_AREA)
    lamp_color = np.array(state.light.color_bgr, dtype=np.float32)
    radiance = (lit[..., :3] + shine[..., None] * lamp_color) / np.maximum(alpha, np.float32(1e-3))[..., None]
    index = np.minimum(radiance * np.float32(len(_TONE_CURVE) / _TONE_WHITE), len(_TONE_CURVE) - 1)
    return _TONE_CURVE[index.astype(np.int32)], alpha, np.ascontiguousarray(lit[..., 3])


_TONE_WHITE: Final = 2.5


def _tone_curve() -> Array32:
    """Display value 0..255 over radiance 0.._TONE_WHITE: sRGB, its highlights rolled off instead of clipped."""
    radiance = (np.arange(8192) + 0.5) * (_TONE_WHITE / 8192)
    knee = 0.62
    rolled = np.where(radiance < knee, radiance, knee + (1 - knee) * (1 - np.exp(-(radiance - knee) / (1 - knee))))
    display = np.where(rolled <= 0.0031308, 12.92 * rolled, 1.055 * rolled ** (1 / 2.4) - 0.055)
    return (255.0 * display).astype(np.float32)


_TONE_CURVE: Final = _tone_curve()


def _look(texture: Bytes, paint: HeadPaint, patch: Patch, state: FrameState, camera: _Camera, level: int) -> None:
    """Write an eye, looking as the state tells, with the lamp's reflection in it, into a mip level of the atlas."""
    expression, light = state.expression, state.light
    eye = eye_patch_texels(paint, patch, expression.gaze_x, expression.gaze_y, level)
    texel_mm = 2.0 * EYE_PATCH_HALF_MM[0] / (eye.shape[1] - 1)
    lamp = np.array(light.direction_xyz) / np.linalg.norm(light.direction_xyz)
    halfway = lamp + np.array([0.0, 0.0, -1.0])
    norm = np.linalg.norm(halfway)
    if norm > 0.2 and lamp[2] < 0.3:
        spot = camera.rotation_3x3.T @ (halfway / norm) * 6.5
        x = np.arange(eye.shape[1]) - (eye.shape[1] - 1) / 2.0
        y = np.arange(eye.shape[0])[:, None] - (eye.shape[0] - 1) / 2.0
        off_x = x * texel_mm - spot[0] - expression.gaze_x * GAZE_REACH_MM[0] * 0.7
        off_y = y * texel_mm - spot[1] - expression.gaze_y * GAZE_REACH_MM[1] * 0.7
        glint = np.exp(-np.square((off_x**2 + off_y**2) / 1.5**2)) * min(1.0, light.intensity)
        eye = (eye + (255.0 - eye) * 0.9 * glint[..., None]).astype(np.uint8)
    step = TEXELS_PER_CELL >> level
    top, left = patch.row * step, patch.column * step
    texture[top : top + eye.shape[0], left : left + eye.shape[1], :3] = eye


def _light(mesh: HeadMesh, paint: HeadPaint, posed_RC3: Array32, light: Light) -> tuple[Array32, Array32]:
    """Per vertex: what albedo is multiplied with (its fourth part is 1), and the highlight that is added."""
    normals = _normals(mesh, posed_RC3)
    lamp = (np.array(light.direction_xyz) / np.linalg.norm(light.direction_xyz)).astype(np.float32)
    halfway = lamp + np.array([0, 0, -1], dtype=np.float32)
    halfway /= max(float(np.linalg.norm(halfway)), 1e-6)
    facing = normals @ lamp
    glance = np.maximum(normals @ halfway, 0.0)
    occlusion = mesh.occlusion_RC
    result = np.ones((*mesh.atlas_shape, 4), dtype=np.float32)
    sky = np.float32(light.ambient) * occlusion * (0.75 - 0.30 * normals[..., 1] - 0.15 * normals[..., 2])
    open_to_lamp = np.sqrt(occlusion) * np.float32(light.intensity)
    # Light that enters skin comes out a little farther on, red farthest: the shadow's border is soft and warm.
    for channel, bleed in enumerate((0.10, 0.16, 0.34)):
        wrap = paint.softness_RC * np.float32(bleed)
        lambert = np.maximum((facing + wrap) / (1.0 + wrap), 0.0)
        result[..., channel] = sky + open_to_lamp * np.float32(light.color_bgr[channel]) * lambert
    lobes = 0.055 * glance**9 + 0.11 * glance**36
    grazing = np.clip(facing * 4.0, 0.0, 1.0)
    return result, np.asarray(paint.gloss_RC * open_to_lamp * occlusion * lobes * grazing, dtype=np.float32)


def _normals(mesh: HeadMesh, posed_RC3: Array32) -> Array32:
    """Outward unit normals of every vertex, in camera axes."""
    down, across = np.zeros_like(posed_RC3), np.zeros_like(posed_RC3)
    for patch in mesh.patches.values():
        grid = posed_RC3[patch.window]
        rows_out, columns_out = down[patch.window], across[patch.window]
        rows_out[1:-1] = grid[2:] - grid[:-2]
        rows_out[0], rows_out[-1] = grid[1] - grid[0], grid[-1] - grid[-2]
        columns_out[:, 1:-1] = grid[:, 2:] - grid[:, :-2]
        columns_out[:, 0], columns_out[:, -1] = grid[:, 1] - grid[:, 0], grid[:, -1] - grid[:, -2]
    for name in ("ear_right", "ear_left"):
        if name in mesh.patches:  # a ring: its first and last column are one
            ring, ring_out = posed_RC3[mesh.patches[name].window], across[mesh.patches[name].window]
            ring_out[:, 0] = ring_out[:, -1] = ring[:, 1] - ring[:, -2]
    skin, slope = posed_RC3[mesh.patches["skin"].window], down[mesh.patches["skin"].window]
    for row, aperture in ((mesh.lid_row, mesh.lid_aperture_R), (mesh.lip_row, mesh.lip_aperture_R)):
        # A doubled row: each edge of an opening has its own slope, elsewhere the pair is one smooth surface.
        through = skin[row + 2] - skin[row - 1]
        slope[row] = np.where(aperture[:, None], skin[row] - skin[row - 1], through)
        slope[row + 1] = np.where(aperture[:, None], skin[row + 2] - skin[row + 1], through)
    normals = np.empty_like(down)
    normals[..., 0] = down[..., 1] * across[..., 2] - down[..., 2] * across[..., 1]
    normals[..., 1] = down[..., 2] * across[..., 0] - down[..., 0] * across[..., 2]
    normals[..., 2] = down[..., 0] * across[..., 1] - down[..., 1] * across[..., 0]
    length = np.sqrt(np.einsum("...i,...i->...", normals, normals))
    normals /= np.maximum(length, 1e-12)[..., None]
    return normals


def _unhidden(
    landmarks_px_68x2: Array, distance_68: Array, depth: Array32, box: tuple[int, int, int, int]
) -> NDArray[np.bool_]:
    """Whether no part of the head lies clearly (4 mm) before a landmark, in a neighbourhood of 3 x 3 samples."""
    farthest = cv2.dilate(depth, np.ones((3, 3), dtype=np.uint8))
    sample = np.round(_SAMPLES * (landmarks_px_68x2 - box[:2]) + (_SAMPLES - 1) / 2.0).astype(int)
    sample = np.clip(sample, 0, (depth.shape[1] - 1, depth.shape[0] - 1))
    unhidden: NDArray[np.bool_] = distance_68 <= farthest[sample[:, 1], sample[:, 0]] + 4.0
    return unhidden
