"""Every order against the original's, and by what any order has to keep to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_common.curation import ORDERS, PICTURE, Columns, OrderOptions, sharpest_first

REFERENCE = OrderOptions(reference=True)
# The names of the golden file, and ours.
GOLDEN_ORDERS = {
    "blur": "blur",
    "motion-blur": "motion-blur",
    "face-yaw": "yaw",
    "face-pitch": "pitch",
    "face-source-rect-size": "source-size",
    "hist": "hist",
    "hist-dissim": "hist-dissim",
    "brightness": "brightness",
    "hue": "hue",
    "black": "black",
    "origname": "original-name",
}
GOLDEN_SELECTIONS = [(name, target) for name in ("best", "best-faster") for target in (8, 16, 128, 256)]


def test_there_are_the_sixteen_sorts_and_absdiff_both_ways() -> None:
    single = {
        "blur",
        "motion-blur",
        "yaw",
        "pitch",
        "source-size",
        "brightness",
        "hue",
        "black",
        "original-name",
        "one-face",
    }
    assert set(ORDERS) == single | {"hist", "hist-dissim", "absdiff", "absdiff-dissim", "best", "best-faster", "final"}
    assert all(name == order.name for name, order in ORDERS.items())


@pytest.mark.parametrize("method", GOLDEN_ORDERS)
def test_order_is_the_originals(golden, method) -> None:
    ordering = ORDERS[GOLDEN_ORDERS[method]].order(golden.table, REFERENCE)
    assert [golden.names[i] for i in ordering.kept] == golden.expected[method]["order"]
    assert [golden.names[i] for i in ordering.trashed] == golden.expected[method]["trash"]


@pytest.mark.parametrize(("method", "target"), GOLDEN_SELECTIONS)
def test_selection_is_the_originals(golden, method, target) -> None:
    ordering = ORDERS[method].order(golden.table, OrderOptions(reference=True, target_count=target))
    expected = golden.expected[f"{method}_target{target}"]
    assert [golden.names[i] for i in ordering.kept] == expected["order"]
    assert [golden.names[i] for i in ordering.trashed] == expected["trash"]


@pytest.mark.parametrize("method", sorted(set(GOLDEN_ORDERS.values()) - {"blur", "motion-blur", "hue", "black"}))
def test_sound_definitions_are_not_mended(golden, method) -> None:
    ours, theirs = ORDERS[method].order(golden.table), ORDERS[method].order(golden.table, REFERENCE)
    np.testing.assert_array_equal(ours.kept, theirs.kept)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("name", sorted(ORDERS))
def test_every_face_is_kept_or_trashed_once_from_the_named_columns_alone(golden, name, reference) -> None:
    order, options = ORDERS[name], OrderOptions(reference=reference, target_count=10)
    needed = Columns({column: golden.table[column] for column in order.columns_for(options)})
    ordering = order.order(needed, options)
    assert sorted([*ordering.kept, *ordering.trashed]) == list(range(24))
    assert ordering.kept.dtype == ordering.trashed.dtype == np.int64
    again = order.order(needed, options)
    np.testing.assert_array_equal(ordering.kept, again.kept)
    reversed_ = order.order(needed, OrderOptions(reference=reference, target_count=10, reverse=True))
    np.testing.assert_array_equal(reversed_.kept, ordering.kept[::-1])
    np.testing.assert_array_equal(np.sort(reversed_.trashed), np.sort(ordering.trashed))


@pytest.mark.parametrize("name", sorted(ORDERS))
def test_no_faces_and_one_face(golden, name) -> None:
    order = ORDERS[name]
    for count in (0, 1):
        table = Columns({column: golden.table[column][:count] for column in order.needs})
        ordering = order.order(table)
        assert (len(ordering.kept), len(ordering.trashed)) == (count, 0)


@pytest.mark.parametrize("name", sorted(ORDERS))
def test_a_missing_column_is_named(golden, name) -> None:
    order = ORDERS[name]
    missing = order.needs[-1]
    kept = {column: golden.table[column] for column in ("reference_cpbd", *order.needs[:-1]) if column != missing}
    with pytest.raises(ValueError, match=missing):
        order.order(Columns(kept))


@pytest.mark.parametrize(
    "name",
    [
        "blur",
        "motion-blur",
        "yaw",
        "pitch",
        "source-size",
        "hist-dissim",
        "brightness",
        "hue",
        "black",
        "hist",
        "absdiff",
    ],
)
def test_equal_faces_keep_their_order(golden, name) -> None:
    order = ORDERS[name]
    # Every face three times: the copies have to come in the order they stood in.
    table = Columns({column: np.concatenate([golden.table[column]] * 3) for column in order.needs})
    kept = order.order(table).kept
    for face in range(24):
        copies = [int(i) for i in kept if i % 24 == face]
        assert copies == sorted(copies)


def test_featureless_faces_go_to_the_trash() -> None:
    table = Columns(
        {
            "cpbd": np.array([0.0, 0.4, 0.0, 0.4]),
            "edge_width_px": np.array([0.0, 5.0, 9.0, 4.0]),
            "laplacian_variance": np.array([0.0, 2.0, 1.0, 3.0]),
        }
    )
    for name in ("blur", "motion-blur"):
        ordering = ORDERS[name].order(table)
        assert (ordering.kept.tolist(), ordering.trashed.tolist()) == ([3, 1, 2], [0])
    assert sharpest_first(table).tolist() == [3, 1, 2, 0]


def test_hue_is_cut_opposite_the_faces() -> None:
    hues = np.array([350.0, 10.0, 2.0, 356.0, 120.0])
    assert ORDERS["hue"].order(Columns({"hue_deg": hues})).kept.tolist() == [4, 1, 2, 3, 0]
    turned = ORDERS["hue"].order(Columns({"hue_deg": (hues + 77.0) % 360.0}))
    assert turned.kept.tolist() == [4, 1, 2, 3, 0]


def test_one_face_drops_whole_frames() -> None:
    columns = {"frame_number": np.array([1, 2, 2, 3, 4]), "face_index": np.array([0, 0, 1, 0, 1])}
    ordering = ORDERS["one-face"].order(Columns(columns))
    assert (ordering.kept.tolist(), ordering.trashed.tolist()) == ([0, 3], [1, 2, 4])
    # Frame 2 of another clip stays.
    names = np.array(["a", "a", "b", "b", "b"], dtype=object)
    ordering = ORDERS["one-face"].order(Columns({**columns, "source_name": names}))
    assert (ordering.kept.tolist(), ordering.trashed.tolist()) == ([0, 1, 3], [2, 4])


def test_original_name_puts_the_faces_of_a_frame_in_their_order() -> None:
    names = np.array(["b.png", "a.png", "a.png"], dtype=object)
    table = Columns({"source_name": names, "face_index": np.array([0, 1, 0])})
    assert ORDERS["original-name"].order(table).kept.tolist() == [2, 1, 0]


def test_absdiff_prefers_whole_pictures(golden) -> None:
    thumbnails = golden.table["thumbnail_bgr"]
    pictures = np.stack(golden.pictures)
    ordering = ORDERS["absdiff"].order(Columns({"thumbnail_bgr": thumbnails, PICTURE: pictures}))
    assert "128x128" in ordering.method
    flat = pictures.reshape(24, -1).astype(np.int64)
    here, left = 0, set(range(1, 24))
    for face in ordering.kept[1:]:
        nearest = min(left, key=lambda other: np.abs(flat[other] - flat[here]).sum())
        assert face == nearest
        here = nearest
        left.remove(nearest)


@pytest.mark.parametrize("name", ["best", "best-faster", "final"])
@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 120), target=st.integers(1, 200), spread=st.floats(0.0, 60.0), seed=st.integers(0, 99))
def test_best_keeps_the_count_that_was_asked_for(name, count, target, spread, seed) -> None:
    ordering = ORDERS[name].order(_faces(count, spread, seed), OrderOptions(target_count=target))
    assert len(ordering.kept) == min(target, count)
    assert sorted([*ordering.kept, *ordering.trashed]) == list(range(count))


def test_best_spreads_over_yaw_and_goes_from_left_to_right() -> None:
    table = _faces(4000, 30.0, 1)
    kept = ORDERS["best"].order(table, OrderOptions(target_count=256)).kept
    yaw_bin = np.floor((-np.radians(table["yaw_deg"]) + 1.2) / (2.4 / 127)).clip(0, 127).astype(int)
    assert (np.diff(yaw_bin[kept]) >= 0).all()
    there, chosen = (np.bincount(bins, minlength=128) for bins in (yaw_bin, yaw_bin[kept]))
    assert there.max() > 20 * chosen.max()  # frontal faces are far more than they need to be
    assert (chosen >= np.minimum(there, chosen.max() - 1)).all()


def test_a_small_target_takes_bins_from_everywhere() -> None:
    table = _faces(3000, 25.0, 2)
    yaw = table["yaw_deg"][ORDERS["best"].order(table, OrderOptions(target_count=5)).kept]
    assert (np.diff(yaw) < 0).all()
    assert yaw[0] > 25
    assert yaw[-1] < -25


def test_best_prefers_sharp_and_best_faster_large() -> None:
    table = _faces(5000, 8.0, 3)
    kept = ORDERS["best"].order(table, OrderOptions(target_count=100)).kept
    assert table["cpbd"][kept].mean() > table["cpbd"].mean() + 0.2
    kept = ORDERS["best-faster"].order(table, OrderOptions(target_count=100)).kept
    assert table["source_area_px"][kept].mean() > 1.4 * table["source_area_px"].mean()


def test_best_spreads_over_pitch_and_final_does_not() -> None:
    table = _faces(6000, 1.0, 4)
    options = OrderOptions(target_count=40)
    best, final = (table["pitch_deg"][ORDERS[name].order(table, options).kept] for name in ("best", "final"))
    assert best.std() > 1.15 * final.std()


@pytest.mark.parametrize("target", [0, -3])
def test_a_target_below_one_is_refused(target) -> None:
    with pytest.raises(ValueError, match="target_count"):
        ORDERS["best"].order(_faces(5, 1.0, 0), OrderOptions(target_count=target))


def _faces(count: int, yaw_spread_deg: float, seed: int) -> Columns:
    rng = np.random.default_rng(seed)
    return Columns(
        {
            "cpbd": rng.random(count),
            "edge_width_px": rng.uniform(2.0, 9.0, count),
            "source_area_px": rng.uniform(1e3, 1e5, count),
            "yaw_deg": rng.normal(0.0, yaw_spread_deg, count).clip(-89, 89),
            "pitch_deg": rng.normal(0.0, 15.0, count),
            "histogram_grey": rng.integers(0, 50, (count, 256)).astype(np.uint32),
        }
    )
