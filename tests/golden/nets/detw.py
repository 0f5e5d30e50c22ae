"""The weights behind the golden numbers: small integers times a scale, drawn from a hash of the variable's name."""

import zlib

import numpy as np


def detw(full_name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of `full_name` ("<net>/<path>/weight:0" or ".../bias:0") in DeepFaceLab's layout, float32."""
    draw = np.random.RandomState(zlib.crc32(full_name.encode()) & 0x7FFFFFFF)
    levels = draw.randint(-2, 3, size=shape).astype(np.float32)
    if full_name.endswith("/weight:0"):
        fan_in = int(np.prod(shape[:-1]))
        return (levels * np.float32(1.3 / np.sqrt(2.0 * fan_in))).astype(np.float32)
    return (0.05 * levels).astype(np.float32)
