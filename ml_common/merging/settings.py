"""What a person can set about a merge.

What a reader would get wrong: `erode` and `blur` are measured in quarters of a model pixel and are the full width of
the kernel, and a positive `face_scale` makes the pasted face smaller: 20 divides its size by 1.2. Both are
DeepFaceLab's meanings, kept so that its settings carry over.

Specification: merge, sections 4 and 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

MergeMode = Literal["original", "overlay", "hist-match", "raw-rgb"]
MaskMode = Literal["full", "dst", "learned-prd", "learned-dst", "learned-prd*learned-dst", "learned-prd+learned-dst"]
MergeColorTransfer = Literal["none", "rct", "lct", "mkl", "mkl-m", "idt", "idt-m", "sot-m", "mix-m"]
Flavour = Literal["default", "reference"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "mode": get_args(MergeMode),
    "mask_mode": get_args(MaskMode),
    "color_transfer": get_args(MergeColorTransfer),
    "flavour": get_args(Flavour),
}
_RANGES: dict[str, tuple[int, int]] = {
    "erode": (-400, 400),
    "blur": (0, 400),
    "face_scale": (-50, 50),
    "hist_match_threshold": (0, 255),
    "color_seed": (0, 2**32 - 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """The settings of one frame's merge; immutable, compared by value. ValueError names the field that is wrong.

    mode: `original` leaves the picture and returns the mask; `overlay` blends the face in; `hist-match` does so after
        matching histograms; `raw-rgb` pastes the whole predicted square.
    mask_mode: which mask says where the face is: the whole square, the landmarks' hull, or the model's masks.
    erode: -400 to 400, moves the mask's edge inwards (or outwards) by half as many quarter model pixels.
    blur: 0 to 400, width of the feather in quarter model pixels.
    color_transfer: how the face is matched to the footage; names of `ml_common.color.COLOR_TRANSFERS`, or `none`.
    color_seed: directions of the random transfers (idt, sot, mix): keep it for a clip, or the clip flickers.
    face_scale: -50 to 50, the pasted face is 1 / (1 + face_scale / 100) of its size.
    masked_hist_match, hist_match_threshold: for `hist-match`: look only at the face; 0 to 255, darker below 255.
    flavour: `default`, or `reference` for DeepFaceLab's numbers with their defects.
    """

    mode: MergeMode = "overlay"
    mask_mode: MaskMode = "learned-prd*learned-dst"
    erode: int = 0
    blur: int = 0
    color_transfer: MergeColorTransfer = "rct"
    color_seed: int = 0
    face_scale: int = 0
    masked_hist_match: bool = True
    hist_match_threshold: int = 238
    flavour: Flavour = "default"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            # bool is an int in Python, and True as a blur of 1 is a mistake, not a wish.
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} must be a whole number from {low} to {high}; got {value!r}")
        if type(self.masked_hist_match) is not bool:
            raise ValueError(f"masked_hist_match must be true or false; got {self.masked_hist_match!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MergeSettings:
        """Settings from named values, defaults for those absent; ValueError for a name that does not exist."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            known = ", ".join(field.name for field in fields(cls))
            raise ValueError(f"unknown merge settings {', '.join(unknown)}; known are {known}")
        return cls(**values)

    def to_dict(self) -> dict[str, str | int | bool]:
        """All settings by name, ready for JSON; `from_dict` gives an equal object back."""
        return asdict(self)

    @property
    def paste_scale(self) -> float:
        """The `scale` of the alignment matrix that the face is pasted with."""
        return 1.0 + 0.01 * self.face_scale
