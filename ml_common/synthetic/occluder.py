"""A bar or a gloved hand in front of the face, with its exact coverage.

What a reader would get wrong: coverage is anti-aliased (0..1), and masks are made from it by the renderer; the picture
of the occluder itself is uncovered colour, to be blended once.

Shape legend: H, W = rows and columns of the picture, 3 = B, G, R.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml_common.synthetic.scene import Light, Occluder

Array32 = NDArray[np.float32]

_Capsule = tuple[float, float, float, float, float, float]

# Wrist at (0, 0.5), fingertips at -0.5: (start x, y, end x, y, radius at start, at end), in parts of the hand's length.
_HAND: Final[tuple[_Capsule, ...]] = (
    (0.00, 0.62, 0.00, 0.30, 0.115, 0.125),
    (-0.10, 0.24, -0.125, -0.02, 0.085, 0.075),
    (0.00, 0.26, -0.03, -0.06, 0.100, 0.080),
    (0.09, 0.24, 0.10, 0.00, 0.085, 0.075),
    (-0.12, 0.00, -0.165, -0.36, 0.052, 0.040),
    (-0.04, -0.04, -0.055, -0.45, 0.054, 0.042),
    (0.045, -0.03, 0.055, -0.41, 0.053, 0.041),
    (0.115, 0.02, 0.150, -0.28, 0.048, 0.036),
    (-0.12, 0.26, -0.27, 0.02, 0.066, 0.050),
)
_BAR: Final[tuple[_Capsule, ...]] = ((0.0, -1e3, 0.0, 1e3, 0.5, 0.5),)  # longer than any frame
_GLOVE_BGR: Final = (0.105, 0.075, 0.062)  # linear light
_BAR_BGR: Final = (0.075, 0.120, 0.180)


def draw_occluder(occluder: Occluder, light: Light, width: int, height: int) -> tuple[Array32, Array32]:
    """(`color_bgr_HW3` float32 0..255, `coverage_HW` float32 0..1)."""
    angle = np.radians(occluder.angle_deg)
    size_px = occluder.size * height
    x = np.arange(width, dtype=np.float32) - np.float32(occluder.center_x * width - 0.5)
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(occluder.center_y * height - 0.5)
    across = (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32) / np.float32(size_px)
    along = (y * np.cos(angle) - x * np.sin(angle)).astype(np.float32) / np.float32(size_px)

    coverage = np.zeros((height, width), dtype=np.float32)
    relief = np.full((height, width), -1.0, dtype=np.float32)  # towards the camera, in parts of the size
    normal_across = np.zeros((height, width), dtype=np.float32)
    normal_along = np.zeros((height, width), dtype=np.float32)
    capsules, albedo = (_BAR, _BAR_BGR) if occluder.kind == "bar" else (_HAND, _GLOVE_BGR)
    for x0, y0, x1, y1, radius0, radius1 in capsules:
        length_squared = (x1 - x0) ** 2 + (y1 - y0) ** 2
        t = np.clip(((across - x0) * (x1 - x0) + (along - y0) * (y1 - y0)) / length_squared, 0.0, 1.0)
        off_across, off_along = across - (x0 + t * (x1 - x0)), along - (y0 + t * (y1 - y0))
        distance, radius = np.hypot(off_across, off_along), radius0 + t * (radius1 - radius0)
        coverage = np.maximum(coverage, np.clip((radius - distance) * size_px + 0.5, 0.0, 1.0))
        bulge = np.sqrt(np.maximum(radius**2 - distance**2, 0.0))
        nearer = (distance < radius + 1.0 / size_px) & (bulge > relief)
        relief = np.where(nearer, bulge, relief)
        normal_across = np.where(nearer, off_across / radius, normal_across)
        normal_along = np.where(nearer, off_along / radius, normal_along)

    normal_x = normal_across * np.cos(angle) - normal_along * np.sin(angle)
    normal_y = normal_across * np.sin(angle) + normal_along * np.cos(angle)
    normal_z = -np.sqrt(np.clip(1.0 - normal_x**2 - normal_y**2, 0.0, 1.0))
    lamp = np.array(light.direction_xyz) / np.linalg.norm(light.direction_xyz)
    lambert = np.clip(normal_x * lamp[0] + normal_y * lamp[1] + normal_z * lamp[2], 0.0, 1.0)
    lit = (light.ambient + light.intensity * lambert[..., None] * np.array(light.color_bgr)) * np.array(albedo)
    color = 255.0 * np.power(np.clip(lit, 0.0, 1.0), 1 / 2.2)
    return color.astype(np.float32), coverage.astype(np.float32)
