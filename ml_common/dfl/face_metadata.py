"""What DeepFaceLab's metadata says of a face, checked; and the same written down as DeepFaceLab writes it.

Easy to get wrong: `landmarks` are pixels of the face's file and `source_landmarks` pixels of the frame. Both have pixel
centres at integer coordinates, as here, so nothing is shifted (pinned by the golden faces). Source: spec: faceset,
sections 11.2 and 19.1.

Legend: 68x2 = landmarks (x, y) in pixels, iBUG order; 2x3 = affine matrix, face = M frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml_common.dfl.face_jpeg import Metadata
from ml_common.dfl.mask_picture import decode_mask
from ml_common.dfl.restricted_pickle import PickledValue
from ml_common.facesets import Polygon, PolygonKind
from ml_common.geometry import FaceType

KNOWN_KEYS: Final = (
    "face_type",
    "landmarks",
    "source_filename",
    "source_rect",
    "source_landmarks",
    "image_to_face_mat",
    "eyebrows_expand_mod",
    "seg_ie_polys",
    "xseg_mask",
)
"""DeepFaceLab's keys, in the order in which it writes them."""

_OURS: Final = (FaceType.HEAD_NOSE, FaceType.FRAME_SQUARE)
_KINDS: Final = {0: PolygonKind.EXCLUDE, 1: PolygonKind.INCLUDE}
_NUMBERS: Final = {kind: number for number, kind in _KINDS.items()}
_MAX_EXTENT_PX: Final = 1e7


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DflFace:
    """One face as DeepFaceLab describes it.

    landmarks_px_68x2: float64, in pixels of the file. frame_landmarks_px_68x2, frame_to_face_2x3: None where the file
    does not say; a MARK_ONLY face is a whole frame and has no matrix. source_box_px: left, top, right, bottom in the
    frame, in that order whatever the file's. polygons: includes first, then excludes, each in the order drawn.
    mask: the applied XSeg mask, a PNG or JPEG of one channel and any size. other: keys that DeepFaceLab does not know.
    """

    face_type: FaceType
    landmarks_px_68x2: NDArray[np.float64]
    source_filename: str = ""
    source_box_px: NDArray[np.float64] | None = None
    frame_landmarks_px_68x2: NDArray[np.float64] | None = None
    frame_to_face_2x3: NDArray[np.float64] | None = None
    eyebrows_expand: float = 1.0
    polygons: tuple[Polygon, ...] = ()
    mask: bytes | None = None
    other: Metadata = field(default_factory=dict)


def parse_metadata(metadata: Mapping[str, PickledValue]) -> DflFace:
    """The face that metadata describes. ValueError beginning with the key whose value makes no sense.

    Values of None count as absent. A missing face type means full_face. Polygons of fewer than three points are dropped,
    as DeepFaceLab does; both its forms of polygons are read.
    """
    given = {key: value for key, value in metadata.items() if value is not None}
    if "landmarks" not in given:
        raise ValueError("landmarks are missing; the file is no aligned face of DeepFaceLab")
    box = _optional(given, "source_rect", (4,))
    matrix = _optional(given, "image_to_face_mat", (2, 3))
    face_type = _face_type(given.get("face_type", "full_face"))
    eyebrows = _array("eyebrows_expand_mod", given.get("eyebrows_expand_mod", 1.0), ())
    if eyebrows < 0:
        raise ValueError(f"eyebrows_expand_mod is {float(eyebrows)}; it must not be negative")
    return DflFace(
        face_type=face_type,
        landmarks_px_68x2=_array("landmarks", given["landmarks"], (68, 2)),
        source_filename=_text("source_filename", given.get("source_filename", "")),
        source_box_px=None if box is None else np.concatenate((np.fmin(box[:2], box[2:]), np.fmax(box[:2], box[2:]))),
        frame_landmarks_px_68x2=_optional(given, "source_landmarks", (68, 2)),
        frame_to_face_2x3=None if face_type is FaceType.MARK_ONLY else matrix,
        eyebrows_expand=float(eyebrows),
        polygons=_polygons(given.get("seg_ie_polys")),
        mask=_mask(given.get("xseg_mask")),
        other={key: value for key, value in given.items() if key not in KNOWN_KEYS},
    )


def metadata_of(face: DflFace) -> Metadata:
    """The metadata as DeepFaceLab writes it, with its keys in its order, `other` behind. Absent values have no key.

    ValueError for a face type that DeepFaceLab does not know.
    """
    if face.face_type in _OURS:
        raise ValueError(
            f"DeepFaceLab has no face type {face.face_type.metadata_name}; change the faceset's type before exporting it"
        )
    box, matrix = face.source_box_px, face.frame_to_face_2x3
    frame_landmarks = face.frame_landmarks_px_68x2
    known: Metadata = {
        "face_type": face.face_type.metadata_name,
        "landmarks": face.landmarks_px_68x2.tolist(),
        "source_filename": face.source_filename or None,
        "source_rect": None if box is None else np.rint(box).astype(np.int64),
        "source_landmarks": None if frame_landmarks is None else frame_landmarks.tolist(),
        "image_to_face_mat": None if matrix is None else np.array(matrix, np.float64),
        "eyebrows_expand_mod": None if face.eyebrows_expand == 1.0 else face.eyebrows_expand,
        "seg_ie_polys": polygons_value(face.polygons) if face.polygons else None,
        "xseg_mask": None if face.mask is None else np.frombuffer(face.mask, np.uint8).copy(),
    }
    return {key: value for key, value in {**known, **face.other}.items() if value is not None}


def polygons_value(polygons: Sequence[Polygon]) -> dict[str, PickledValue]:
    """The value of `seg_ie_polys`: includes first, then excludes, each in the order given."""
    ordered = sorted(polygons, key=lambda polygon: polygon.kind is PolygonKind.EXCLUDE)
    return {
        "polys": [{"type": _NUMBERS[polygon.kind], "pts": polygon.points_px.astype(np.float32)} for polygon in ordered]
    }


def _face_type(value: PickledValue) -> FaceType:
    name = _text("face_type", value).strip().lower()
    for face_type in FaceType:
        if face_type.metadata_name == name and face_type not in _OURS:
            return face_type
    raise ValueError(f"face_type {name[:40]!r} is unknown")


def _polygons(value: PickledValue) -> tuple[Polygon, ...]:
    """Both forms: {"polys": [{"type", "pts"}]}, and the older list of (type, points)."""
    if value is None:
        return ()
    if isinstance(value, dict):
        entries = [
            (entry.get("type"), entry.get("pts")) if isinstance(entry, dict) else None
            for entry in _sequence("seg_ie_polys", value.get("polys", []))
        ]
    else:
        entries = [
            (entry[0], entry[1]) if isinstance(entry, (list, tuple)) and len(entry) == 2 else None
            for entry in _sequence("seg_ie_polys", value)
        ]
    polygons: list[Polygon] = []
    for entry in entries:
        if entry is None or not isinstance(entry[0], int) or entry[0] not in _KINDS:
            raise ValueError("seg_ie_polys holds something that is not a polygon")
        points_N2 = _array("seg_ie_polys", entry[1], (None, 2))
        if len(points_N2) >= 3:
            polygons.append(Polygon(kind=_KINDS[entry[0]], points_px=points_N2))
    return tuple(sorted(polygons, key=lambda polygon: polygon.kind is PolygonKind.EXCLUDE))


def _mask(value: PickledValue) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
        raise ValueError("xseg_mask is not an encoded picture")
    data = value.tobytes()
    try:
        decode_mask(data)
    except ValueError as error:
        raise ValueError(f"xseg_mask cannot be read: {error}") from error
    return data


def _optional(given: Metadata, key: str, shape: tuple[int | None, ...]) -> NDArray[np.float64] | None:
    return _array(key, given[key], shape) if key in given else None


def _array(key: str, value: PickledValue, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{key} does not hold numbers") from None
    if array.size == 0 and shape[:1] == (None,):
        array = array.reshape(0, *(length or 0 for length in shape[1:]))
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        wanted = "x".join("n" if length is None else str(length) for length in shape)
        raise ValueError(f"{key} has shape {list(array.shape)} instead of {wanted or 'a single number'}")
    if not (np.abs(array) < _MAX_EXTENT_PX).all():  # also false for NaN
        raise ValueError(f"{key} holds numbers that are not finite or absurdly large")
    return array


def _text(key: str, value: PickledValue) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key} is a {type(value).__name__} instead of text")
    return value


def _sequence(key: str, value: PickledValue) -> Sequence[PickledValue]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{key} is a {type(value).__name__} instead of a list")
    return value
