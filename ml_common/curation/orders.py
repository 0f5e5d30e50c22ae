"""Every way to put a faceset in order, by name: from columns alone, so that a sort reads no picture.

What a reader would get wrong: directions are the original's (most yaw to the image's left first, sharpest first, fewest
black pixels first), and so are the choices of what goes to the trash; definitions are mended where the original's are
defective, and `reference=True` gives the original's. Equal faces keep the order they had; `reverse` turns the kept ones round.

Legend: N = faces. Specification: faceset, section 16; golden orders: tests/unit/curation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_common.curation.best import best_faces
from ml_common.curation.chain import greedy_chain
from ml_common.curation.columns import SOURCE_NAME, Columns
from ml_common.curation.distances import (
    ColourCosts,
    FarPictureCosts,
    NearPictureCosts,
    bhattacharyya_sums,
    stand_ins,
)
from ml_common.curation.fingerprint import THUMBNAIL_PX
from ml_common.curation.ordering import Ordering

PICTURE = "picture_bgr"
"""Optional column for the absdiff orders: whole faces of one size, uint8 [N, H, W, 3]; thumbnails stand in without it."""

DEFAULT_TARGET_COUNT = 2000

# Above it a chain of unlike faces compares 8x8 stand-ins; what that costs in chain length is measured in the tests.
_FULL_FAR_CHAIN_FACES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderOptions:
    """reverse: the kept faces the other way round. reference: the original's definitions. target_count: how many faces the
    best orders keep; the others ignore it."""

    reverse: bool = False
    reference: bool = False
    target_count: int = DEFAULT_TARGET_COUNT


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One way to sort. needs: the columns it reads; reference_needs: those it reads with `reference`. selects: keeps a target
    count and puts the rest into the trash."""

    name: str
    summary: str
    needs: tuple[str, ...]
    reference_needs: tuple[str, ...]
    selects: bool
    arrange: Callable[[Columns, OrderOptions], Ordering]

    def columns_for(self, options: OrderOptions) -> tuple[str, ...]:
        """The columns that `order` will read."""
        return self.reference_needs if options.reference else self.needs

    def order(self, table: Columns, options: OrderOptions | None = None) -> Ordering:
        """Sorts. ValueError when a column is missing or an option is out of range. No faces give no faces."""
        options = options or OrderOptions()
        if not len(table):
            empty = np.empty(0, dtype=np.int64)
            return Ordering(kept=empty, trashed=empty, method="no faces")
        ordering = self.arrange(table, options)
        if not options.reverse:
            return ordering
        return Ordering(
            kept=np.ascontiguousarray(ordering.kept[::-1]),
            trashed=ordering.trashed,
            method=ordering.method + ", reversed",
        )


def sharpest_first(table: Columns, *, reference: bool = False) -> NDArray[np.int64]:
    """All positions by CPBD sharpness, descending; of equal ones those with the narrower edges first, faces without edges
    last. With `reference` by the original's number alone."""
    if reference:
        return _descending(table["reference_cpbd"])
    width = table["edge_width_px"]
    return np.lexsort((np.where(width > 0, width, np.inf), -table["cpbd"])).astype(np.int64)


def _descending(values: NDArray[np.generic]) -> NDArray[np.int64]:
    return np.argsort(-values.astype(np.float64), kind="stable").astype(np.int64)


def _all(kept: NDArray[np.int64], method: str) -> Ordering:
    return Ordering(kept=kept, trashed=np.empty(0, dtype=np.int64), method=method)


def _dropping(kept: NDArray[np.int64], dropped: NDArray[np.bool_], method: str) -> Ordering:
    return Ordering(kept=kept[~dropped[kept]], trashed=np.flatnonzero(dropped), method=method)


def _blur(table: Columns, options: OrderOptions) -> Ordering:
    measure = table["reference_cpbd" if options.reference else "edge_width_px"]
    return _dropping(
        sharpest_first(table, reference=options.reference),
        measure == 0,
        "CPBD sharpness, descending" + ("" if options.reference else ", then edge width, ascending"),
    )


def _motion_blur(table: Columns, options: OrderOptions) -> Ordering:
    values = table["reference_laplacian_variance" if options.reference else "laplacian_variance"]
    return _dropping(_descending(values), values == 0, "variance of an 11x11 Laplacian, descending")


def _falling(column: str, reference_column: str | None = None) -> Callable[[Columns, OrderOptions], Ordering]:
    def arrange(table: Columns, options: OrderOptions) -> Ordering:
        name = reference_column if options.reference and reference_column else column
        return _all(_descending(table[name]), f"{name}, descending")

    return arrange


def _hue(table: Columns, options: OrderOptions) -> Ordering:
    if options.reference:
        return _all(_descending(table["reference_hue"]), "reference_hue, descending")
    angle = np.radians(table["hue_deg"])
    # The circle is cut opposite the faceset's own mean, so that skin tones on both sides of red stay together.
    mean = np.arctan2(np.sin(angle).sum(), np.cos(angle).sum())
    return _all(
        _descending(np.angle(np.exp(1j * (angle - mean)))),
        f"hue around {np.degrees(mean) % 360:.0f} degrees, descending",
    )


def _black(table: Columns, options: OrderOptions) -> Ordering:
    name = "reference_black_values" if options.reference else "black_fraction"
    return _all(np.argsort(table[name], kind="stable").astype(np.int64), f"{name}, ascending")


def _original_name(table: Columns, options: OrderOptions) -> Ordering:
    names = table[SOURCE_NAME].astype(str)
    if options.reference:
        return _all(np.argsort(names, kind="stable").astype(np.int64), "name of the source picture, ascending")
    kept = np.lexsort((table["face_index"], names)).astype(np.int64)
    return _all(kept, "name of the source picture, then face index, ascending")


def _one_face(table: Columns, options: OrderOptions) -> Ordering:
    frames = np.unique(table["frame_number"], return_inverse=True)[1]
    if SOURCE_NAME in table:
        # Frames of different footage may have the same number.
        names = np.unique(table[SOURCE_NAME].astype(str), return_inverse=True)[1]
        frames = np.unique(np.stack((names, frames)), axis=1, return_inverse=True)[1]
    crowded = np.zeros(int(frames.max()) + 1, dtype=bool)
    crowded[frames[table["face_index"] != 0]] = True
    return _dropping(np.arange(len(table)), crowded[frames], "frames with one face")


def _histogram_chain(table: Columns, options: OrderOptions) -> Ordering:
    return _all(greedy_chain(ColourCosts(table["histogram_bgr"])), "exact greedy chain over B, G, R histograms")


def _histogram_unlike(table: Columns, options: OrderOptions) -> Ordering:
    sums = bhattacharyya_sums(table["histogram_face_grey"])
    return _all(_descending(sums), "exact sum of Bhattacharyya distances to all faces, descending")


def _pictures(table: Columns) -> tuple[NDArray[np.uint8], str]:
    if PICTURE in table:
        pictures = table[PICTURE]
        return pictures, f"whole pictures of {pictures.shape[2]}x{pictures.shape[1]}"
    thumbnails = table["thumbnail_bgr"].reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX, 3)
    return thumbnails, f"thumbnails of {THUMBNAIL_PX}x{THUMBNAIL_PX}"


def _alike_chain(table: Columns, options: OrderOptions) -> Ordering:
    pictures, what = _pictures(table)
    return _all(greedy_chain(NearPictureCosts(pictures)), f"exact greedy chain of the most alike {what}")


def _unlike_chain(table: Columns, options: OrderOptions) -> Ordering:
    pictures, what = _pictures(table)
    if len(table) > _FULL_FAR_CHAIN_FACES:
        pictures, what = stand_ins(pictures), f"8x8 means of {what}"
    return _all(greedy_chain(FarPictureCosts(pictures)), f"exact greedy chain of the least alike {what}")


def _best(*, faster: bool = False, pitch: bool = True) -> Callable[[Columns, OrderOptions], Ordering]:
    def arrange(table: Columns, options: OrderOptions) -> Ordering:
        first = _descending(table["source_area_px"]) if faster else sharpest_first(table, reference=options.reference)
        return best_faces(
            first,
            np.radians(table["yaw_deg"].astype(np.float64)),
            table["histogram_grey"],
            options.target_count,
            pitch_rad=np.radians(table["pitch_deg"].astype(np.float64)) if pitch else None,
            reference=options.reference,
        )

    return arrange


def _entry(
    name: str,
    summary: str,
    arrange: Callable[[Columns, OrderOptions], Ordering],
    *needs: str,
    reference_needs: tuple[str, ...] | None = None,
    selects: bool = False,
) -> tuple[str, Order]:
    order = Order(
        name=name,
        summary=summary,
        needs=needs,
        reference_needs=needs if reference_needs is None else reference_needs,
        selects=selects,
        arrange=arrange,
    )
    return name, order


_SHARPNESS = ("cpbd", "edge_width_px")

ORDERS: dict[str, Order] = dict(
    (
        _entry(
            "blur",
            "sharpest first; faces without any edge to the trash",
            _blur,
            *_SHARPNESS,
            reference_needs=("reference_cpbd",),
        ),
        _entry(
            "motion-blur",
            "least motion blur first; featureless faces to the trash",
            _motion_blur,
            "laplacian_variance",
            reference_needs=("reference_laplacian_variance",),
        ),
        _entry("yaw", "from looking to the image's left to its right", _falling("yaw_deg"), "yaw_deg"),
        _entry("pitch", "from looking up to looking down", _falling("pitch_deg"), "pitch_deg"),
        _entry("source-size", "largest in its frame first", _falling("source_area_px"), "source_area_px"),
        _entry("hist", "each face followed by the one most alike in colour", _histogram_chain, "histogram_bgr"),
        _entry("hist-dissim", "the most unusual light first", _histogram_unlike, "histogram_face_grey"),
        _entry("brightness", "brightest first", _falling("value_mean"), "value_mean"),
        _entry("hue", "by hue, round the colour circle", _hue, "hue_deg", reference_needs=("reference_hue",)),
        _entry(
            "black",
            "least black first",
            _black,
            "black_fraction",
            reference_needs=("reference_black_values",),
        ),
        _entry(
            "original-name",
            "as the source pictures are named",
            _original_name,
            SOURCE_NAME,
            "face_index",
            reference_needs=(SOURCE_NAME,),
        ),
        _entry("one-face", "frames with several faces to the trash", _one_face, "frame_number", "face_index"),
        _entry("absdiff", "each face followed by the one most alike pixel by pixel", _alike_chain, "thumbnail_bgr"),
        _entry(
            "absdiff-dissim", "each face followed by the one least alike pixel by pixel", _unlike_chain, "thumbnail_bgr"
        ),
        _entry(
            "best",
            "the sharpest faces spread over yaw and pitch; the rest to the trash",
            _best(),
            *_SHARPNESS,
            "yaw_deg",
            "pitch_deg",
            "histogram_grey",
            reference_needs=("reference_cpbd", "yaw_deg", "pitch_deg", "histogram_grey"),
            selects=True,
        ),
        _entry(
            "best-faster",
            "the largest faces spread over yaw and pitch; the rest to the trash",
            _best(faster=True),
            "source_area_px",
            "yaw_deg",
            "pitch_deg",
            "histogram_grey",
            selects=True,
        ),
        _entry(
            "final",
            "the sharpest faces spread over yaw alone; the rest to the trash",
            _best(pitch=False),
            *_SHARPNESS,
            "yaw_deg",
            "histogram_grey",
            reference_needs=("reference_cpbd", "yaw_deg", "histogram_grey"),
            selects=True,
        ),
    )
)
"""By name. `final` is DeepFaceLab 1.0's: best faces before pitch was looked at. absdiff comes in both directions."""
