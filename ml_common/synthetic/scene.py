"""What is in front of the camera in one frame, apart from who it is: pose, expression, light, place, occluder.

What a reader would get wrong: angles follow the faceset specification, section 4: positive yaw turns the nose to
image-left, positive pitch looks up, positive roll turns clockwise in the image. The camera's axes are x right, y down,
z away from the camera, for light directions too.
"""

from dataclasses import dataclass, field
from math import hypot, isfinite
from typing import Literal, get_args

OccluderKind = Literal["bar", "hand"]


@dataclass(frozen=True, slots=True)
class Expression:
    """Every part 0..1 but the gaze, which is -1..1. The default is neutral: mouth shut, eyes open and straight ahead.

    Gaze turns with the head: positive `gaze_x` looks to image-right, positive `gaze_y` looks down (of an upright,
    frontal head).
    """

    mouth_open: float = 0.0
    smile: float = 0.0
    brow_raise: float = 0.0
    blink_left: float = 0.0  # the subject's left eye, at image-right
    blink_right: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no face can do."""
        for name in ("mouth_open", "smile", "brow_raise", "blink_left", "blink_right"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: choose a value in 0..1.")
        for name in ("gaze_x", "gaze_y"):
            if not -1.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: choose a value in -1..1.")


@dataclass(frozen=True, slots=True)
class Light:
    """One distant lamp and an even surrounding light, both in linear light (1.0 shows a white card as white)."""

    direction_xyz: tuple[float, float, float] = (-0.55, -0.60, -0.65)  # from the face to the lamp, any length but 0
    intensity: float = 0.80  # 0..3
    ambient: float = 0.22  # 0..2
    color_bgr: tuple[float, float, float] = (0.94, 0.98, 1.0)  # of the lamp, each part 0..1

    def __post_init__(self) -> None:
        """Refuse a light without a direction or below zero."""
        if not hypot(*self.direction_xyz) > 1e-6:
            raise ValueError("direction_xyz of a light must not be zero: it points from the face to the lamp.")
        if not (0.0 <= self.intensity <= 3.0 and 0.0 <= self.ambient <= 2.0):
            raise ValueError("A light has intensity 0..3 and ambient 0..2.")
        if not all(0.0 <= part <= 1.0 for part in self.color_bgr):
            raise ValueError("color_bgr of a light: every part is 0..1.")


@dataclass(frozen=True, slots=True)
class Occluder:
    """A thing between the camera and the head, fixed to the frame. It is the same for every identity."""

    kind: OccluderKind
    center_x: float  # fraction of the frame's width
    center_y: float  # fraction of the frame's height
    size: float  # bar: its width, hand: wrist to fingertips; fraction of the frame's height
    angle_deg: float = 0.0  # clockwise; at 0 a bar stands upright and a hand's fingers point up

    def __post_init__(self) -> None:
        """Refuse an unknown kind or an empty thing."""
        if self.kind not in get_args(OccluderKind):
            raise ValueError(f"occluder kind {self.kind!r}: choose one of {', '.join(get_args(OccluderKind))}.")
        if not 0.0 < self.size <= 2.0:
            raise ValueError(f"occluder size {self.size}: choose a fraction of the frame's height in 0..2.")


@dataclass(frozen=True, slots=True)
class FrameState:
    """One moment. `center_*` is where the middle of the head (between the ears, at the height of the eyes' lower lids)
    is seen, as a fraction of the frame; `face_height` is chin to hairline of the mean face when frontal (180 mm of the
    model), as a fraction of the frame's height, and sets the scale for every identity alike.
    """

    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    center_x: float = 0.5
    center_y: float = 0.45
    face_height: float = 0.5
    expression: Expression = field(default_factory=Expression)
    light: Light = field(default_factory=Light)
    background_seed: int = 0
    occluder: Occluder | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that give no picture."""
        angles_and_place = (self.yaw_deg, self.pitch_deg, self.roll_deg, self.center_x, self.center_y)
        if not all(isfinite(value) for value in angles_and_place):
            raise ValueError("Angles and centre of a frame state must be finite numbers.")
        if not 0.02 <= self.face_height <= 4.0:
            raise ValueError(f"face_height={self.face_height}: choose a fraction of the frame's height in 0.02..4.")
        if self.background_seed < 0:
            raise ValueError(f"background_seed={self.background_seed}: choose 0 or more.")
