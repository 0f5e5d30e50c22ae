"""Which terms make up the loss of a swap model. Apart from the terms themselves, so that options are checked without torch.

Easy to get wrong: the style powers are 0 to 100 as people type them; the terms use hundredths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """Which terms make up the loss.

    family: "saehd", or "quick96", whose soft mask is blurred only once and which has none of the options below.
    masked_training: compare images inside the soft masks only. eyes_mouth_prio: extra weight on eyes and mouth.
    blur_out_mask: replace the targets' background near the face by its own blur, so that skin does not bleed out.
    face_style_power, bg_style_power: 0..100, 0 is off; both need the swap among the outputs (see `needs_swap`).
    reference: weigh the background style by the src mask, as the original does by mistake, instead of by the masks
    that the model predicts for the dst pose.
    """

    family: Literal["saehd", "quick96"] = "saehd"
    masked_training: bool = True
    eyes_mouth_prio: bool = False
    blur_out_mask: bool = False
    face_style_power: float = 0.0
    bg_style_power: float = 0.0
    reference: bool = False

    def __post_init__(self) -> None:
        if self.family not in ("saehd", "quick96"):
            raise ValueError(f'loss family {self.family!r} is unknown; it is "saehd" or "quick96"')
        for name in ("face_style_power", "bg_style_power"):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 100")
        options = self.eyes_mouth_prio or self.blur_out_mask or self.face_style_power or self.bg_style_power
        if self.family == "quick96" and (options or not self.masked_training):
            raise ValueError("quick96 always trains masked and has no other loss options; choose saehd for them")

    @property
    def needs_swap(self) -> bool:
        """Pass it to the model's forward as `with_swap`."""
        return self.face_style_power > 0 or self.bg_style_power > 0

    @property
    def needs_stopped_swap(self) -> bool:
        """Pass it to the model's forward as `with_stopped_swap`."""
        return self.face_style_power > 0
