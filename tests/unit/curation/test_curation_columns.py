"""Columns: aligned with a revision, complete, and refused when they are not."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ml_common.curation import ORDERS, Columns, columns_from, measures_table
from ml_common.facesets import (
    FaceKeys,
    FaceRecord,
    FaceSource,
    LandmarkOrigin,
    Pose,
    RevisionTable,
    face_id,
    from_records,
)
from ml_common.geometry import FaceType


@pytest.fixture(scope="module")
def revision(golden) -> RevisionTable:
    records = [
        FaceRecord(
            face_id=face_id(number, 0, f"{number:064x}"),
            source=FaceSource(frame_number=number, face_index=0),
            face_type=FaceType.WHOLE_FACE,
            size_px=128,
            frame_landmarks_px=points,
            crop_landmarks_px=points,
            frame_to_face_2x3=np.eye(2, 3),
            landmark_origin=LandmarkOrigin.IMPORTED,
            pose=Pose(pitch_deg=0.0, yaw_deg=float(number), roll_deg=0.0),
        )
        for number, points in enumerate(golden.landmarks)
    ]
    return from_records(records, [FaceKeys(image_key="i", record_key="r")] * len(records))


@pytest.fixture(scope="module")
def measures(golden, revision) -> pa.Table:
    return measures_table(revision.column("face_id").tolist(), golden.measures)


def test_measures_are_found_whatever_their_order(golden, revision, measures) -> None:
    shuffled = measures.take(np.random.default_rng(0).permutation(24))
    page = RevisionTable(revision.table.take([5, 3, 20]))
    names = ("yaw_deg", "cpbd", "histogram_bgr", "perceptual_hash", "pixel_digest")
    columns = columns_from(page, shuffled, names)
    assert columns["yaw_deg"].tolist() == [5, 3, 20]
    for place, number in enumerate((5, 3, 20)):
        face = golden.measures[number]
        assert columns["cpbd"][place] == face.cpbd
        np.testing.assert_array_equal(columns["histogram_bgr"][place], face.histogram_bgr)
        assert int(columns["perceptual_hash"][place]) == face.perceptual_hash
        assert columns["pixel_digest"][place] == face.pixel_digest
    assert columns["face_id"].tolist() == page.column("face_id").tolist()


def test_measured_again_the_last_counts(golden, revision, measures) -> None:
    first = revision.column("face_id").tolist()[0]
    again = pa.concat_tables([measures, measures_table([first], [golden.measures[9]])])
    columns = columns_from(revision, again, ("cpbd",))
    assert columns["cpbd"][0] == golden.measures[9].cpbd
    assert columns["cpbd"][1] == golden.measures[1].cpbd


@pytest.mark.parametrize("name", sorted(ORDERS))
def test_every_order_runs_on_a_revision(revision, measures, name) -> None:
    order = ORDERS[name]
    chunked = pa.concat_tables([measures.slice(0, 10), measures.slice(10)])
    columns = columns_from(revision, chunked, order.needs, [f"{number:03}.png" for number in range(24)])
    ordering = order.order(columns)
    assert sorted([*ordering.kept, *ordering.trashed]) == list(range(24))


def test_pose_alone_needs_no_measures(revision) -> None:
    kept = ORDERS["yaw"].order(columns_from(revision, None, ORDERS["yaw"].needs)).kept
    assert kept.tolist() == list(range(23, -1, -1))


def test_unmeasured_faces_are_named(revision, measures) -> None:
    with pytest.raises(ValueError, match=r"2 faces are not measured, such as f000000_0.*f000001_0"):
        columns_from(revision, measures.slice(2), ("cpbd",))
    with pytest.raises(ValueError, match="measured first"):
        columns_from(revision, None, ("cpbd",))


def test_other_tables_and_unknown_columns_are_refused(revision, measures) -> None:
    with pytest.raises(ValueError, match="measures must have the columns"):
        columns_from(revision, measures.drop_columns(["cpbd"]), ("cpbd",))
    for name in ("source_name", "cbpd"):
        with pytest.raises(ValueError, match=name):
            columns_from(revision, measures, (name,))
    with pytest.raises(ValueError, match="one entry a face"):
        columns_from(revision, measures, ("source_name",), ["too few"])


def test_columns_are_checked() -> None:
    with pytest.raises(ValueError, match="one entry a face"):
        Columns({"a": np.zeros(3), "b": np.zeros(4)})
    with pytest.raises(ValueError, match="at least one"):
        Columns({})
    with pytest.raises(ValueError, match="cpbd holds NaN"):
        Columns({"cpbd": np.array([0.5, np.nan])})
    with pytest.raises(ValueError, match="'hue_deg' is needed"):
        Columns({"a": np.zeros(3)})["hue_deg"]
