"""What stands behind the head and under it: a textured wall and the clothed shoulders.

What a reader would get wrong: the garment belongs to the scene, not to the identity. Its colour comes from
`background_seed` and its outline is the same for everyone, because a face swap changes no clothes; so every pixel
outside the head masks of two identities is the same in both renderings.

Shape legend: H, W = rows and columns of the picture, 3 = B, G, R.
"""

from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ml_common.synthetic.head_mesh import PIVOT_XYZ
from ml_common.synthetic.scene import Light

Array32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_WALLS_BGR: Final = ((120, 104, 88), (92, 110, 104), (96, 98, 126), (128, 122, 112), (84, 92, 100), (112, 96, 112))
_CLOTHS_BGR: Final = ((96, 72, 52), (60, 84, 58), (66, 58, 104), (70, 70, 74), (118, 108, 92), (52, 74, 104))


@lru_cache(maxsize=4)
def wall(seed: int, width: int, height: int) -> Bytes:
    """`wall_bgr_HW3` uint8, read-only: a lit wall with pictures out of focus and a fine plaster."""
    noise = np.random.default_rng([seed, 11])
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
    aspect = width / height
    base = np.array(_WALLS_BGR[seed % len(_WALLS_BGR)], dtype=np.float32) * noise.uniform(0.75, 1.2)
    picture = np.empty((height, width, 3), dtype=np.float32)
    lamp_x, lamp_y = noise.uniform(0.0, aspect), noise.uniform(-0.2, 0.4)
    picture[:] = base * (0.72 + 0.55 * np.exp(-np.square(np.hypot(x - lamp_x, y - lamp_y) / 0.8)))[..., None]
    for _ in range(int(noise.integers(3, 6))):
        left, top = noise.uniform(-0.1, aspect), noise.uniform(-0.1, 0.8)
        size_x, size_y = noise.uniform(0.12, 0.45), noise.uniform(0.15, 0.5)
        tone = base * noise.uniform(0.45, 1.5) + noise.uniform(-30, 30, 3)
        panel = _soft_box(x, left, left + size_x) * _soft_box(y, top, top + size_y)
        picture += (tone.astype(np.float32) - picture) * (0.75 * panel)[..., None]
    plaster = cv2.resize(
        noise.standard_normal((45, 80)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    grain = cv2.GaussianBlur(noise.standard_normal((height, width)).astype(np.float32), (0, 0), 0.8)
    picture += (2.5 * plaster + 4.0 * grain)[..., None]
    result = np.asarray(np.round(np.clip(picture, 0, 255)), dtype=np.uint8)
    result.flags.writeable = False
    return result


def _soft_box(value: Array32, low: float, high: float) -> Array32:
    box: Array32 = (0.5 + 0.5 * np.tanh((value - low) * 45.0)) * (0.5 - 0.5 * np.tanh((value - high) * 45.0))
    return box


def draw_shoulders(
    image_bgr_HW3: Array32, light: Light, seed: int, center_px: tuple[float, float], px_per_mm: float
) -> None:
    """Paint the clothed shoulders over a float32 picture (0..255) in place; they stay upright under any head pose."""
    height, width = image_bgr_HW3.shape[:2]
    x = (np.arange(width, dtype=np.float32) - center_px[0]) / px_per_mm
    edge = _shoulder_line(x)
    first = int(np.floor((edge.min() - PIVOT_XYZ[1]) * px_per_mm + center_px[1])) - 1
    first = max(first, 0)
    if first >= height:
        return
    y = ((np.arange(first, height, dtype=np.float32) - center_px[1]) / px_per_mm + np.float32(PIVOT_XYZ[1]))[:, None]
    slope = np.gradient(edge, x)
    inside = (y - edge) / np.sqrt(1.0 + slope**2)
    alpha = np.clip(inside * px_per_mm + 0.5, 0.0, 1.0)

    # A rounded body: the surface turns away at the sides and over the shoulders.
    normal_x = np.clip(x / 235.0, -0.95, 0.95) * 0.9
    roll = np.exp(-np.maximum(inside, 0.0) / 24.0)
    normal_y = -0.75 * roll + 0.12
    normal_z = -np.sqrt(np.clip(1.0 - normal_x**2 - normal_y**2, 0.05, 1.0))
    lamp = np.array(light.direction_xyz) / np.linalg.norm(light.direction_xyz)
    lambert = np.clip(normal_x * lamp[0] + normal_y * lamp[1] + normal_z * lamp[2], 0.0, 1.0)
    knit = 1.0 + 0.05 * np.sin(x * 1.9 + 0.6 * np.sin(y * 1.9)) * min(1.0, px_per_mm / 0.8)
    folds = 1.0 + 0.10 * np.sin(x * 0.055 + 2.5 * np.sin(y * 0.021 + seed)) * np.clip(inside / 60.0, 0.0, 1.0)
    collar = _collar(x, y)
    shade = knit * folds * (1.0 - 0.22 * collar)
    shade *= 1.0 - 0.45 * np.exp(-np.square(x / 85.0) - np.square((y - 118.0) / 38.0))  # the head's own shadow

    cloth = (np.array(_CLOTHS_BGR[(seed // 2) % len(_CLOTHS_BGR)], dtype=np.float32) / 255.0) ** 2.2
    lit = cloth * (shade * light.ambient)[..., None]
    lit = lit + cloth * (shade * lambert * light.intensity)[..., None] * np.array(light.color_bgr, dtype=np.float32)
    tone = 255.0 * np.power(np.clip(lit, 0.0, 1.0).astype(np.float32), np.float32(1 / 2.2))
    below = image_bgr_HW3[first:]
    below += (tone - below) * alpha[..., None]


def _shoulder_line(x: Array32) -> Array32:
    """Height of the outline over x, millimetres in head axes of an upright head; y grows downward."""
    reach = np.abs(x)
    slope = 98.0 + 58.0 * (1.0 - np.exp(-np.maximum(reach - 45.0, 0.0) / 110.0))
    drop = np.square(np.maximum(reach - 185.0, 0.0)) / 22.0
    line: Array32 = (slope + drop).astype(np.float32)
    return line


def _collar(x: Array32, y: Array32) -> Array32:
    """1 on the ribbed band around the neckline."""
    across = np.clip(np.abs(x) / 73.0, 0.0, 1.0)
    neckline = 112.0 + 32.0 * (0.5 + 0.5 * np.sqrt(1.0 - across**2)) ** 1.5
    below = y - neckline
    band: Array32 = ((below > -30.0) * np.clip((10.0 - below) / 2.0, 0.0, 1.0) * (np.abs(x) < 84.0)).astype(np.float32)
    return band
