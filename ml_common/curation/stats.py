"""What a faceset covers: head poses, light, sharpness, size; and what of dst's poses and lights src lacks.

What a reader would get wrong: more src faces do not cover more. Only a dst pose that src shows too can be learned, so each
part of dst counts by how often dst shows it, and a thousand src faces elsewhere make up for nothing. Left and right are
the picture's: positive yaw turns the nose to the left of the picture.

Shape legend: N = faces, P = bins of pitch, Y = of yaw, B = of brightness, S = sides of the light, K = of a distribution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml_common.curation.fingerprint import THUMBNAIL_PX

Counts = NDArray[np.int64]
F64Array = NDArray[np.float64]

YAW_EDGES_DEG: Final = np.arange(-75.0, 76.0, 10.0)
PITCH_EDGES_DEG: Final = np.arange(-45.0, 46.0, 10.0)
"""The bin in the middle is the frontal one; the outermost bins hold whatever lies beyond, too."""
BRIGHTNESS_EDGES: Final = np.array([0.0, 0.15, 0.3, 0.45, 0.6, 1.0])
SIDES: Final = ("right", "even", "left")
SHARPNESS_EDGES: Final = np.array([0, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, np.inf])
SIZE_EDGES_PX: Final = np.array([0, 64, 96, 128, 192, 256, 384, 512, 768, 1024, np.inf])
ENOUGH_FACES: Final = 10
"""So many src faces in and around a bin make it covered."""

_ONE_SIDED: Final = 0.35  # of light_side: one half of the face gets 1.4 times the light of the other
_WORTH_SAYING: Final = 0.005  # of dst


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """``counts_K`` of the values between ``edges`` [K + 1]; ``low``, ``median`` and ``high`` are the quantiles 5, 50 and
    95 %, 0 where there are no values."""

    edges: F64Array
    counts_K: Counts
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class FacesetStats:
    """``pose_PY``: faces per bin of pitch and yaw (``coverage``). ``light_BS``: per bin of brightness and side that the
    light comes from (``SIDES``), as seen in the picture. Sharpness as in FaceRecord, brightness 0..1, size in pixels of the
    frame."""

    face_count: int
    pose_PY: Counts
    light_BS: Counts
    sharpness: Distribution
    size_px: Distribution
    brightness: Distribution


@dataclass(frozen=True, slots=True)
class Gap:
    """A part of dst that src does not cover. ``where`` in words; ``dst_share`` 0..1 of dst's faces lie in bins with too
    few src faces here, ``dst_count`` of them; src has ``src_count`` in the same bins and ``src_mirrored_count`` in the bins
    that its mirrored pictures would fill."""

    kind: str
    where: str
    dst_count: int
    dst_share: float
    src_count: int
    src_mirrored_count: int


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """``pose_covered``, ``light_covered``: 0..1, the share of dst's faces that src covers; a bin with half as many src faces
    as are enough counts half. ``pose_covered_PY``: that of each bin. ``gaps``: largest first. ``sentences``: all of it for
    people."""

    pose_covered: float
    light_covered: float
    pose_covered_PY: F64Array
    gaps: tuple[Gap, ...]
    sentences: tuple[str, ...]


def coverage(yaw_deg: ArrayLike, pitch_deg: ArrayLike) -> Counts:
    """Faces per bin, int64 [P, Y], by ``PITCH_EDGES_DEG`` and ``YAW_EDGES_DEG``, lowest angles first.

    ValueError for lengths that differ or angles that are not finite.
    """
    yaw, pitch = _values("yaw_deg", yaw_deg), _values("pitch_deg", pitch_deg)
    return _counts_2d(
        _bins(pitch, PITCH_EDGES_DEG), _bins(yaw, YAW_EDGES_DEG), len(PITCH_EDGES_DEG), len(YAW_EDGES_DEG)
    )


def light_side(thumbnail_bgr: ArrayLike) -> F64Array:
    """Which side each face is lit from, [N]: the logarithm of the light on the face's left half of the picture over that on
    its right half. 0 for even light.

    ``thumbnail_bgr``: uint8 [N, 3072] or [N, 32, 32, 3] as in Measures. Only the middle of the crop counts: beyond it a
    turned head shows the room. Measured on rendered heads turned up to 20 degrees, whole-face crops: correlation 0.94 with
    the direction of the lamp.
    """
    thumbnails = np.asarray(thumbnail_bgr)
    if thumbnails.dtype != np.uint8 or thumbnails.size != len(thumbnails) * THUMBNAIL_PX**2 * 3:
        raise ValueError(f"thumbnails must be uint8 [N, 3072], got {thumbnails.dtype} {list(thumbnails.shape)}")
    pictures = thumbnails.reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX, 3)[:, 8:26].astype(np.float64)
    light = (pictures @ (0.114, 0.587, 0.299) / 255.0) ** 2.2
    middle = THUMBNAIL_PX // 2
    left, right = (
        np.median(light[:, :, columns].reshape(len(light), light.shape[1] * 6), axis=1)
        for columns in (slice(middle - 6, middle), slice(middle, middle + 6))
    )
    return np.asarray(np.log(left + 0.003) - np.log(right + 0.003))


def faceset_stats(
    *,
    yaw_deg: ArrayLike,
    pitch_deg: ArrayLike,
    sharpness: ArrayLike,
    source_area_px: ArrayLike,
    brightness: ArrayLike,
    thumbnail_bgr: ArrayLike,
) -> FacesetStats:
    """Statistics from columns of equal length, as a revision and its measures hold them. ValueError for other lengths or
    numbers that are not finite."""
    brightness_N = _values("brightness", brightness)
    sharpness_N, area_N = _values("sharpness", sharpness), _values("source_area_px", source_area_px)
    pose = coverage(yaw_deg, pitch_deg)
    side_N = light_side(thumbnail_bgr)
    lengths = {len(brightness_N), len(sharpness_N), len(area_N), len(side_N), int(pose.sum())}
    if len(lengths) != 1:
        raise ValueError(f"columns must all have one entry a face, got lengths {sorted(lengths)}")
    side_bin = np.digitize(side_N, (-_ONE_SIDED, _ONE_SIDED))
    return FacesetStats(
        face_count=len(brightness_N),
        pose_PY=pose,
        light_BS=_counts_2d(_bins(brightness_N, BRIGHTNESS_EDGES), side_bin, len(BRIGHTNESS_EDGES), len(SIDES) + 1),
        sharpness=distribution(sharpness_N, SHARPNESS_EDGES),
        size_px=distribution(np.sqrt(np.maximum(area_N, 0.0)), SIZE_EDGES_PX),
        brightness=distribution(brightness_N, np.linspace(0.0, 1.0, 11)),
    )


def distribution(values: ArrayLike, edges: F64Array) -> Distribution:
    """How ``values`` spread over the bins between ``edges``; what lies beyond counts in the outermost bins."""
    values_N = _values("values", values)
    counts = np.bincount(_bins(values_N, edges), minlength=len(edges) - 1).astype(np.int64)
    low, median, high = np.quantile(values_N, (0.05, 0.5, 0.95)).tolist() if len(values_N) else (0.0, 0.0, 0.0)
    return Distribution(edges, counts, low, median, high)


def compare(src: FacesetStats, dst: FacesetStats) -> Comparison:
    """What of dst src covers. ValueError where dst has no faces."""
    if dst.face_count < 1:
        raise ValueError("dst has no faces, so there is nothing to cover; extract its faces first")
    pose_covered_PY = _covered(src.pose_PY)
    light_covered_BS = np.minimum(src.light_BS / ENOUGH_FACES, 1.0)
    pose_covered = float((dst.pose_PY * pose_covered_PY).sum() / dst.face_count)
    light_covered = float((dst.light_BS * light_covered_BS).sum() / dst.face_count)
    gaps = [
        *_gaps("pose", src.pose_PY, dst.pose_PY, pose_covered_PY, _pose_words(), dst.face_count),
        *_gaps("light", src.light_BS, dst.light_BS, light_covered_BS, _light_words(), dst.face_count),
    ]
    gaps.sort(key=lambda gap: -gap.dst_share)
    sentences = [
        f"src covers {percent(pose_covered)} of dst's poses ({src.face_count} src faces, {dst.face_count} dst faces).",
        *(_sentence(gap) for gap in gaps if gap.kind == "pose" and gap.dst_share >= _WORTH_SAYING),
        f"src covers {percent(light_covered)} of dst's light.",
        *(_sentence(gap) for gap in gaps if gap.kind == "light" and gap.dst_share >= _WORTH_SAYING),
        *_size_sentence(src, dst),
    ]
    return Comparison(pose_covered, light_covered, pose_covered_PY, tuple(gaps), tuple(sentences))


def _values(name: str, values: ArrayLike) -> F64Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be one finite number a face, got shape {list(array.shape)}")
    return array


def _bins(values_N: F64Array, edges: F64Array) -> NDArray[np.intp]:
    return np.clip(np.searchsorted(edges, values_N, side="right") - 1, 0, len(edges) - 2)


def _counts_2d(row_N: NDArray[np.intp], column_N: NDArray[np.intp], row_edges: int, column_edges: int) -> Counts:
    if len(row_N) != len(column_N):
        raise ValueError(f"columns must all have one entry a face, got lengths {len(row_N)} and {len(column_N)}")
    rows, columns = row_edges - 1, column_edges - 1
    return np.bincount(row_N * columns + column_N, minlength=rows * columns).reshape(rows, columns).astype(np.int64)


def _covered(src_PY: Counts) -> F64Array:
    """Share of enough, 0..1. A pose next to it helps half: the network learns between poses, not far beyond them."""
    kernel = np.array([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]])
    around = cv2.filter2D(src_PY.astype(np.float64), cv2.CV_64F, kernel, borderType=cv2.BORDER_CONSTANT)
    return np.minimum(np.asarray(around, dtype=np.float64) / ENOUGH_FACES, 1.0)


def _gaps(
    kind: str, src: Counts, dst: Counts, covered: F64Array, words: Sequence[Sequence[str]], dst_count: int
) -> Iterator[Gap]:
    """One gap for all bins of the same words. A mirror turns the second axis round, of poses and of lights."""
    lacking: dict[str, list[tuple[int, int]]] = {}
    for row, column in np.argwhere((dst > 0) & (covered < 1.0)).tolist():
        lacking.setdefault(words[row][column], []).append((row, column))
    for where, bins in lacking.items():
        at = tuple(np.array(bins).T)
        missing = float((dst[at] * (1.0 - covered[at])).sum()) / dst_count
        yield Gap(kind, where, int(dst[at].sum()), missing, int(src[at].sum()), int(src[:, ::-1][at].sum()))


def _pose_words() -> list[list[str]]:
    turns = ((45, "far to the {}"), (15, "to the {}"))
    yaw_words = []
    for angle in middles(YAW_EDGES_DEG):
        turn = next((text for least, text in turns if abs(angle) > least), "")
        yaw_words.append(turn.format("left" if angle > 0 else "right"))
    pitch_words = ["" if abs(angle) <= 15 else "up" if angle > 0 else "down" for angle in middles(PITCH_EDGES_DEG)]
    return [
        [" and ".join(part for part in (yaw, pitch) if part) or "straight ahead" for yaw in yaw_words]
        for pitch in pitch_words
    ]


def _light_words() -> list[list[str]]:
    levels = ("very dark", "dark", "of middling brightness", "bright", "very bright")
    sides = {"left": "lit from the left", "even": "lit evenly", "right": "lit from the right"}
    return [[f"{level} and {sides[side]}" for side in SIDES] for level in levels]


def middles(edges: F64Array) -> list[float]:
    """The middle of each bin."""
    return [float(middle) for middle in (edges[1:] + edges[:-1]) / 2.0]


def percent(share: float) -> str:
    """A share 0..1 for people; not 100 % where something is missing."""
    return f"{100.0 * share:.0f} %" if share >= 0.995 or share < 0.985 else f"{100.0 * share:.1f} %"


def _sentence(gap: Gap) -> str:
    does = "look" if gap.kind == "pose" else "are"
    has = "none" if gap.src_count == 0 else f"only {gap.src_count}"
    mirrored = ""
    if gap.src_mirrored_count >= max(ENOUGH_FACES, 2 * gap.src_count):
        mirrored = f" Mirrored, it has {gap.src_mirrored_count}: flipping src at random while training would help."
    return (
        f"{gap.dst_count} dst faces {does} {gap.where} where src has {has} ({percent(gap.dst_share)} of dst).{mirrored}"
    )


def _size_sentence(src: FacesetStats, dst: FacesetStats) -> Iterator[str]:
    ours, theirs = src.size_px.median, dst.size_px.median
    if src.face_count and ours < 0.75 * theirs:
        yield f"src faces are smaller ({ours:.0f} px in the middle) than dst's ({theirs:.0f} px): the result will look soft."
