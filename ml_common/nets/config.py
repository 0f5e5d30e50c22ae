"""What a swap model is made of: architecture string, resolution and widths. Immutable, comparable, JSON-shaped.

Easy to get wrong: the flags after the dash are letters in any order ("liae-ud" equals "liae-du" as a network), and
`d` or `t` each make the resolution a multiple of 32 instead of 16: with `t` alone five halvings meet a dense layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

FAMILIES = ("df", "liae")
"""Families that the registry builds; a test compares."""

FLAGS = "udtc"
"""u: normalise the encoder's output. d: double the resolution in the head. t: a deeper net. c: x*cos(x) activations."""

# (smallest, largest) a network is built for. The upper bounds are the reference's; its lower bounds are 64 for the
# resolution, 32 for ae_dims and 16 for the others. Narrower nets are allowed here because tests and the demonstration
# have to train on a CPU within minutes.
_RANGES: dict[str, tuple[int, int]] = {
    "resolution": (32, 640),
    "ae_dims": (8, 1024),
    "e_dims": (4, 256),
    "d_dims": (4, 256),
    "d_mask_dims": (4, 256),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of a df or liae model (spec: models, sections 2 and 10.2).

    arch: family, optionally a dash and flags, e.g. "df", "liae-udt".
    resolution: edge of the square face in pixels, input and output alike.
    ae_dims: width of the code; e_dims, d_dims, d_mask_dims: base widths of encoder, decoder and mask branch (even).
    face_type: framing of the crops the model was trained on; carried, never interpreted here.

    Raises ValueError naming the field and what it may be.
    """

    arch: str
    resolution: int
    ae_dims: int
    e_dims: int
    d_dims: int
    d_mask_dims: int
    face_type: str

    def __post_init__(self) -> None:
        family, dash, flags = self.arch.partition("-")
        if not family or (dash and not flags):
            raise ValueError(f'arch {self.arch!r} must be a family or a family and flags, such as "df" or "liae-ud"')
        if unknown := sorted(set(flags) - set(FLAGS)):
            raise ValueError(f"arch {self.arch!r} has unknown flags {', '.join(unknown)}; known are {', '.join(FLAGS)}")
        if len(set(flags)) != len(flags):
            raise ValueError(f"arch {self.arch!r} repeats a flag; write each once")
        for name, (smallest, largest) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name} must be a whole number, not {value!r}")
            if not smallest <= value <= largest:
                raise ValueError(f"{name} is {value}; it must be between {smallest} and {largest}")
        for name in ("e_dims", "d_dims", "d_mask_dims"):
            if getattr(self, name) % 2:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be even")
        if self.resolution % self.resolution_multiple:
            raise ValueError(
                f"resolution {self.resolution} must be a multiple of {self.resolution_multiple} for arch {self.arch!r}"
            )
        if not self.face_type:
            raise ValueError('face_type must not be empty; "wf" is the usual one')

    @property
    def family(self) -> str:
        """Name in the registry: what stands before the dash."""
        return self.arch.partition("-")[0]

    @property
    def flags(self) -> frozenset[str]:
        """The letters after the dash."""
        return frozenset(self.arch.partition("-")[2])

    @property
    def resolution_multiple(self) -> int:
        """The resolution must be divisible by this."""
        return 32 if self.flags & {"d", "t"} else 16

    def to_dict(self) -> dict[str, str | int]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> ModelConfig:
        """Inverse of to_dict. Raises ValueError for missing or unknown fields and for values of the wrong kind."""
        expected = {field.name for field in fields(cls)}
        if missing := sorted(expected - values.keys()):
            raise ValueError(f"model configuration lacks {', '.join(missing)}")
        if unknown := sorted(values.keys() - expected):
            raise ValueError(f"model configuration has unknown fields {', '.join(unknown)}")
        for name in ("arch", "face_type"):
            if not isinstance(values[name], str):
                raise ValueError(f"{name} must be text, not {values[name]!r}")
        return cls(**values)  # type: ignore[arg-type]  # each value is checked above or in __post_init__


QUICK96 = ModelConfig(arch="df-ud", resolution=96, ae_dims=128, e_dims=64, d_dims=64, d_mask_dims=16, face_type="f")
"""The reference's no-questions model (spec: models, section 4): a df-ud network of fixed size."""
