"""What a training run is: the model and every option, validated, JSON-shaped.

The one thing a reader would get wrong: `MUTABLE_FIELDS` lists what may change between and during runs. Everything
else is fixed by the first iteration, because weights or the order of samples depend on it.

Options and their meaning: models specification, section 10.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from ml_common.augment import AugmentSpec, Flavour
from ml_common.geometry import FaceType
from ml_common.losses import LossConfig
from ml_common.nets import FAMILIES, ModelConfig

OptimizerName = Literal["adabelief", "rmsprop"]
LossFamily = Literal["saehd", "quick96"]
Reduction = Literal["mean", "sum"]
Precision = Literal["float32", "bfloat16"]

_FIXED = {"mutable": False}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A run's options. Every ValueError names the field, the value it had and what it may be.

    model: architecture, resolution, dims and face type. seed: weights, order of samples and augmentation follow from it.
    batch_size: samples of each side per iteration, over all workers together.

    optimizer, learning_rate. lr_warmup_iterations: the rate rises from 0 over so many; the optimizers' first steps are
    three times too long (they have no bias correction), which at a high rate saturates a net for good.
    lr_cosine_period: iterations of one cosine of the rate, 0 = constant; twice the target lets it fall to 0 at the end.
    lr_dropout: share of weights that move in an iteration, 1 = all, 0.3 is usual late in a run. clipgrad: clip the
    gradient's norm at 1.

    random_warp: warp the network's input. unwarped_every: every n-th iteration repeats the previous samples unwarped,
    0 = never. random_src_flip, random_dst_flip: mirror at random. scale_range: 0.15 draws scales from 1/1.15 to 1.15.
    random_hsv_power: 0 to 0.3, colour jitter of the src input. augmentation: "reference" reproduces DeepFaceLab's draws,
    biases included. uniform_yaw: draw every yaw equally often.

    masked_training, eyes_mouth_prio, blur_out_mask, loss_family: see LossConfig. loss_reduction: "mean" over the batch,
    or the reference's "sum". freeze_inter_ab_without_warp: the reference's hidden rule for liae: with random_warp off,
    inter_AB does not train. precision: "bfloat16" runs the networks under autocast; losses and weights stay float32.

    target_iteration: where the run ends, 0 = endless. save_every_s, save_every_iterations: checkpoints, 0 = not by that
    measure. preview_every_iterations (0 = none), report_every_iterations: cadence of events.
    """

    model: ModelConfig = field(metadata=_FIXED)
    seed: int = field(default=0, metadata=_FIXED)
    batch_size: int = 8
    optimizer: OptimizerName = field(default="adabelief", metadata=_FIXED)
    learning_rate: float = 5e-5
    lr_dropout: float = 1.0
    lr_cosine_period: int = 0
    lr_warmup_iterations: int = 0
    clipgrad: bool = False
    random_warp: bool = True
    unwarped_every: int = 0
    random_src_flip: bool = False
    random_dst_flip: bool = True
    scale_range: float = 0.15
    random_hsv_power: float = 0.0
    augmentation: Flavour = "default"
    uniform_yaw: bool = False
    masked_training: bool = True
    eyes_mouth_prio: bool = False
    blur_out_mask: bool = False
    loss_family: LossFamily = "saehd"
    loss_reduction: Reduction = "mean"
    freeze_inter_ab_without_warp: bool = False
    precision: Precision = "float32"
    target_iteration: int = 0
    save_every_s: float = 300.0
    save_every_iterations: int = 0
    preview_every_iterations: int = 100
    report_every_iterations: int = 10

    def __post_init__(self) -> None:
        for name, smallest in _WHOLE_NUMBERS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {smallest}")
        for name, (low, high, text) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} is {value!r}; it must be {text}")
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; it must be {text}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be true or false")
        self.augment_spec("src")
        self.loss_config()
        FaceType.from_string(self.model.face_type)
        if self.model.family not in FAMILIES:
            raise ValueError(f"model family {self.model.family!r} is unknown; known are {', '.join(FAMILIES)}")

    def augment_spec(self, side: Literal["src", "dst"]) -> AugmentSpec:
        """What may be drawn for one side: flips are chosen per side, and only src's input has its colours shifted."""
        is_src = side == "src"
        return AugmentSpec(
            resolution=self.model.resolution,
            flavour=self.augmentation,
            flip=self.random_src_flip if is_src else self.random_dst_flip,
            scale_range=self.scale_range,
            hsv_power=self.random_hsv_power if is_src else 0.0,
        )

    def loss_config(self) -> LossConfig:
        """Which terms the loss has."""
        return LossConfig(
            family=self.loss_family,
            masked_training=self.masked_training,
            eyes_mouth_prio=self.eyes_mouth_prio,
            blur_out_mask=self.blur_out_mask,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Inverse of to_dict; absent options take their defaults. ValueError for unknown options, listing the known."""
        _refuse_unknown(values)
        if "model" not in values:
            raise ValueError("model is missing; it must describe the architecture")
        return cls(**{**values, "model": ModelConfig.from_dict(values["model"])})

    def with_options(self, changes: Mapping[str, Any]) -> TrainConfig:
        """The same run with some mutable options changed. ValueError for unknown and for fixed options."""
        _refuse_unknown(changes)
        locked = sorted(name for name in changes if name not in MUTABLE_FIELDS)
        if locked:
            raise ValueError(
                f"{', '.join(locked)} cannot change once a run exists; start a new run. "
                f"What can change: {', '.join(sorted(MUTABLE_FIELDS))}"
            )
        return replace(self, **changes)

    def require_same_run(self, other: TrainConfig) -> None:
        """Raises ValueError naming the fixed options in which `other` differs."""
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            if item.name not in MUTABLE_FIELDS and mine != theirs:
                raise ValueError(
                    f"{item.name} differs from the checkpoint's: {theirs!r} there, {mine!r} here; "
                    "it is fixed by a run's first iteration"
                )


def _refuse_unknown(values: Mapping[str, Any]) -> None:
    known = [item.name for item in fields(TrainConfig)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}; known options are {', '.join(sorted(known))}")


MUTABLE_FIELDS = frozenset(item.name for item in fields(TrainConfig) if item.metadata.get("mutable", True))

_WHOLE_NUMBERS = {
    "seed": 0,
    "batch_size": 1,
    "lr_cosine_period": 0,
    "lr_warmup_iterations": 0,
    "unwarped_every": 0,
    "target_iteration": 0,
    "save_every_iterations": 0,
    "preview_every_iterations": 0,
    "report_every_iterations": 1,
}
_RANGES = {
    "learning_rate": (1e-8, 1.0, "between 1e-8 and 1"),
    "lr_dropout": (0.01, 1.0, "between 0.01 and 1 (1 = every weight moves)"),
    "scale_range": (0.0, 0.5, "between 0 and 0.5"),
    "random_hsv_power": (0.0, 0.3, "between 0 and 0.3"),
    "save_every_s": (0.0, math.inf, "0 or a number of seconds"),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": get_args(OptimizerName),
    "augmentation": get_args(Flavour),
    "loss_family": get_args(LossFamily),
    "loss_reduction": get_args(Reduction),
    "precision": get_args(Precision),
}
_SWITCHES = (
    "clipgrad",
    "random_warp",
    "random_src_flip",
    "random_dst_flip",
    "uniform_yaw",
    "masked_training",
    "eyes_mouth_prio",
    "blur_out_mask",
    "freeze_inter_ab_without_warp",
)
