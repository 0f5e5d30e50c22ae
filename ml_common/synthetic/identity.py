"""Who a synthetic head is: the numbers that make one face differ from another.

What a reader would get wrong: an identity holds nothing of the moment. Pose, expression, light, background and clothing
belong to the scene (`scene.FrameState`), so that one state drawn with two identities differs in the head alone. The
face's scale is no part of it either: a millimetre of the model is as many pixels for every identity.

Colours are sRGB in BGR order, 0..1. Shape parameters are -1..1 where 0 is the mean face.
"""

from dataclasses import dataclass, fields
from typing import Final, Literal, get_args

HairStyle = Literal["short", "tied", "bob", "cropped"]
"""short: ears free, fringe up; tied: drawn back, ears free; bob: to the jaw, over the ears; cropped: a few millimetres."""

Color = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Identity:
    """A synthetic person. Raises ValueError for a parameter outside its range."""

    name: str

    # shape, all -1..1
    face_width: float = 0.0  # breadth of the whole head
    face_length: float = 0.0  # distance from the nose to the chin
    jaw_width: float = 0.0  # breadth at the angle of the jaw
    chin_forward: float = 0.0  # how far the chin stands out
    cheekbone: float = 0.0  # how far the cheekbones stand out
    brow_ridge: float = 0.0  # how far the bone under the brows stands out
    brow_height: float = 0.0  # brows above the eyes, 1 is higher
    eye_size: float = 0.0  # height of the opening between the lids
    eye_spacing: float = 0.0  # distance between the eyes
    eye_tilt: float = 0.0  # 1 lifts the outer corners
    nose_length: float = 0.0
    nose_width: float = 0.0
    nose_forward: float = 0.0  # how far the tip stands out
    mouth_width: float = 0.0
    lip_fullness: float = 0.0

    # skin
    skin_bgr: Color = (0.60, 0.68, 0.84)
    redness: float = 0.5  # 0..1, of cheeks, nose and ears
    freckles: float = 0.0  # 0..1
    stubble: float = 0.0  # 0..1, shadow of a shaved beard
    creases: float = 0.3  # 0..1, folds beside the nose, under the eyes, on the forehead

    # eyes, brows, lips
    iris_bgr: Color = (0.25, 0.35, 0.45)
    lashes: float = 0.5  # 0..1, how dark the line of the upper lid is
    brow_bgr: Color = (0.15, 0.20, 0.26)
    brow_thickness_mm: float = 6.0  # 3..10
    brow_density: float = 0.7  # 0..1
    lips_bgr: Color = (0.45, 0.45, 0.70)

    # hair
    hair_style: HairStyle = "short"
    hair_bgr: Color = (0.12, 0.18, 0.24)
    hair_volume_mm: float = 10.0  # 0..25, thickness over the skull

    def __post_init__(self) -> None:
        """Refuse what the renderer was not built for."""
        limits = dict.fromkeys(SHAPE_PARAMETERS, (-1.0, 1.0))
        limits |= dict.fromkeys(("redness", "freckles", "stubble", "creases", "lashes", "brow_density"), (0.0, 1.0))
        limits |= {"brow_thickness_mm": (3.0, 10.0), "hair_volume_mm": (0.0, 25.0)}
        for parameter, (low, high) in limits.items():
            value = getattr(self, parameter)
            if not low <= value <= high:
                raise ValueError(f"{parameter}={value} of identity {self.name!r}: choose a value in {low}..{high}.")
        for field in fields(self):
            if field.name.endswith("_bgr") and not all(0.0 <= part <= 1.0 for part in getattr(self, field.name)):
                raise ValueError(f"{field.name} of identity {self.name!r}: every part of a colour is 0..1.")
        if self.hair_style not in get_args(HairStyle):
            raise ValueError(f"hair_style={self.hair_style!r}: choose one of {', '.join(get_args(HairStyle))}.")


SHAPE_PARAMETERS: Final[tuple[str, ...]] = (
    "face_width",
    "face_length",
    "jaw_width",
    "chin_forward",
    "cheekbone",
    "brow_ridge",
    "brow_height",
    "eye_size",
    "eye_spacing",
    "eye_tilt",
    "nose_length",
    "nose_width",
    "nose_forward",
    "mouth_width",
    "lip_fullness",
)

# The demo pair, ada and bruno, is chosen to differ in everything that a swap changes and to agree in the outline of the
# hair (both short of the ears, a volume within two millimetres), because a swap leaves the hair of the footage alone.
IDENTITIES: Final[dict[str, Identity]] = {
    person.name: person
    for person in (
        Identity(
            name="ada",
            face_width=-0.45,
            face_length=-0.3,
            jaw_width=-0.6,
            chin_forward=0.1,
            cheekbone=0.5,
            brow_ridge=-0.6,
            brow_height=0.5,
            eye_size=0.4,
            eye_spacing=0.1,
            eye_tilt=0.4,
            nose_length=-0.4,
            nose_width=-0.6,
            nose_forward=-0.2,
            mouth_width=-0.1,
            lip_fullness=0.4,
            skin_bgr=(0.66, 0.74, 0.90),
            redness=0.6,
            freckles=0.5,
            creases=0.1,
            iris_bgr=(0.36, 0.47, 0.41),
            lashes=0.9,
            brow_bgr=(0.12, 0.20, 0.33),
            brow_thickness_mm=4.5,
            brow_density=0.75,
            lips_bgr=(0.38, 0.34, 0.72),
            hair_style="tied",
            hair_bgr=(0.10, 0.20, 0.38),
            hair_volume_mm=10.0,
        ),
        Identity(
            name="bruno",
            face_width=0.35,
            face_length=0.35,
            jaw_width=0.6,
            chin_forward=0.4,
            cheekbone=-0.1,
            brow_ridge=0.7,
            brow_height=-0.5,
            eye_size=-0.4,
            eye_spacing=0.0,
            eye_tilt=-0.2,
            nose_length=0.4,
            nose_width=0.5,
            nose_forward=0.4,
            mouth_width=0.3,
            lip_fullness=-0.4,
            skin_bgr=(0.40, 0.52, 0.70),
            redness=0.4,
            stubble=0.6,
            creases=0.6,
            iris_bgr=(0.12, 0.20, 0.30),
            lashes=0.4,
            brow_bgr=(0.05, 0.06, 0.08),
            brow_thickness_mm=8.0,
            brow_density=0.9,
            lips_bgr=(0.34, 0.36, 0.60),
            hair_style="short",
            hair_bgr=(0.06, 0.07, 0.09),
            hair_volume_mm=12.0,
        ),
        Identity(
            name="chidi",
            face_width=0.1,
            face_length=0.1,
            jaw_width=0.2,
            cheekbone=0.4,
            brow_ridge=0.3,
            eye_size=0.1,
            eye_spacing=0.3,
            nose_length=-0.1,
            nose_width=0.9,
            nose_forward=-0.4,
            mouth_width=0.4,
            lip_fullness=0.9,
            skin_bgr=(0.19, 0.27, 0.42),
            redness=0.2,
            stubble=0.2,
            creases=0.3,
            iris_bgr=(0.06, 0.10, 0.16),
            lashes=0.6,
            brow_bgr=(0.03, 0.04, 0.05),
            brow_thickness_mm=6.5,
            brow_density=0.8,
            lips_bgr=(0.24, 0.25, 0.44),
            hair_style="cropped",
            hair_bgr=(0.04, 0.045, 0.05),
            hair_volume_mm=4.0,
        ),
        Identity(
            name="mei",
            face_width=0.0,
            face_length=-0.4,
            jaw_width=-0.2,
            chin_forward=-0.2,
            cheekbone=0.6,
            brow_ridge=-0.8,
            brow_height=0.3,
            eye_size=-0.1,
            eye_spacing=0.3,
            eye_tilt=0.7,
            nose_length=-0.3,
            nose_width=0.1,
            nose_forward=-0.6,
            mouth_width=-0.3,
            lip_fullness=0.3,
            skin_bgr=(0.60, 0.74, 0.88),
            redness=0.4,
            creases=0.05,
            iris_bgr=(0.08, 0.13, 0.20),
            lashes=0.8,
            brow_bgr=(0.07, 0.08, 0.10),
            brow_thickness_mm=5.0,
            brow_density=0.6,
            lips_bgr=(0.42, 0.40, 0.72),
            hair_style="bob",
            hair_bgr=(0.05, 0.05, 0.06),
            hair_volume_mm=14.0,
        ),
        Identity(
            name="olaf",
            face_width=-0.1,
            face_length=0.7,
            jaw_width=0.0,
            chin_forward=0.0,
            cheekbone=-0.5,
            brow_ridge=0.4,
            brow_height=0.0,
            eye_size=-0.1,
            eye_spacing=-0.4,
            eye_tilt=-0.5,
            nose_length=0.7,
            nose_width=-0.2,
            nose_forward=0.7,
            mouth_width=0.0,
            lip_fullness=-0.7,
            skin_bgr=(0.62, 0.66, 0.86),
            redness=0.55,
            freckles=0.2,
            stubble=0.35,
            creases=0.9,
            iris_bgr=(0.55, 0.45, 0.32),
            lashes=0.25,
            brow_bgr=(0.42, 0.46, 0.50),
            brow_thickness_mm=6.0,
            brow_density=0.55,
            lips_bgr=(0.50, 0.50, 0.68),
            hair_style="short",
            hair_bgr=(0.55, 0.58, 0.60),
            hair_volume_mm=8.0,
        ),
    )
}
