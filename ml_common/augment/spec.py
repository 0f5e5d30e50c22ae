"""What may be drawn for a sample. Apart from the drawing, so that options are checked without torch.

The one thing a reader would get wrong: the reference flavour exists for 64 pixels and more only; below, the original resizes
to 64 and back, a second interpolation that is not done here.
"""

from dataclasses import dataclass
from typing import Literal

Flavour = Literal["default", "reference"]

_REFERENCE_SMALLEST_RESOLUTION = 64


@dataclass(frozen=True, kw_only=True)
class AugmentSpec:
    """What may be drawn. `resolution` (pixels, a multiple of 16) is the side of the square crop and of the output.

    `scale_range` r draws the scale from U(1 / (1 + r), 1 + r). `hsv_power` is 0 (off) to 0.3.
    """

    resolution: int
    flavour: Flavour = "default"
    flip: bool = False
    scale_range: float = 0.15
    hsv_power: float = 0.0

    def __post_init__(self) -> None:
        if self.resolution < 16 or self.resolution % 16:
            raise ValueError(f"resolution must be a positive multiple of 16, got {self.resolution}")
        if self.flavour not in ("default", "reference"):
            raise ValueError(f"flavour must be 'default' or 'reference', got {self.flavour!r}")
        if self.flavour == "reference" and self.resolution < _REFERENCE_SMALLEST_RESOLUTION:
            raise ValueError(f"the reference flavour needs a resolution of 64 or more, got {self.resolution}")
        if not 0.0 <= self.scale_range < 1.0:
            raise ValueError(f"scale_range must be in [0, 1), got {self.scale_range}")
        if not 0.0 <= self.hsv_power <= 1.0:
            raise ValueError(f"hsv_power must be in [0, 1], got {self.hsv_power}")
