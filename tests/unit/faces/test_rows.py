"""New faces in the revision that is in force by then: by face id, in their place, twice without harm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

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
from ml_common.geometry import FaceType, HEAD_MODEL_68x3
from services.faces.rows import Merged, merged

FACE = np.asarray(HEAD_MODEL_68x3)[:, :2] + 100


def _table(*faces: tuple[int, int, str], track: str = "t000000") -> RevisionTable:
    """Rows of (frame, index, maker); the maker is a hex digit."""
    records = [
        FaceRecord(
            face_id=face_id(frame, index, maker * 8),
            source=FaceSource(frame_number=frame, face_index=index),
            face_type=FaceType.WHOLE_FACE,
            size_px=96,
            frame_landmarks_px=FACE,
            crop_landmarks_px=FACE,
            frame_to_face_2x3=np.eye(2, 3),
            landmark_origin=LandmarkOrigin.MODEL,
            pose=Pose(pitch_deg=0.0, yaw_deg=0.0, roll_deg=0.0),
            track_id=track,
        )
        for frame, index, maker in faces
    ]
    return from_records(records, [FaceKeys(image_key=f"{r.face_id}.jpg", record_key=r.face_id) for r in records])


def _merged(
    table: RevisionTable, rows: RevisionTable, replaces: Sequence[str], *, untrash: bool = False
) -> tuple[Merged, RevisionTable]:
    result = merged(table, rows, replaces, untrash=untrash, linked=lambda at: [f"new{place}" for place in at])
    return result, result.table or table


def test_a_replaced_face_keeps_place_track_person_and_trash() -> None:
    table = _table((2, 0, "a"), (1, 0, "b"), (3, 0, "c"), track="t000007")
    table = table.replace_column("trashed", [False, True, False]).replace_column("person", ["", "ann", ""])
    result, after = _merged(table, _table((1, 0, "d"), track=""), ["f000001_0-bbbbbbbb"])
    assert list(after.column("face_id")) == ["f000002_0-aaaaaaaa", "f000001_0-dddddddd", "f000003_0-cccccccc"]
    assert list(after.column("track_id")) == ["t000007"] * 3
    assert list(after.column("person")) == ["", "ann", ""]
    assert list(after.column("trashed")) == [False, True, False]
    assert (result.added, result.replaced, result.left_out) == (0, 1, 0)


def test_what_is_found_again_comes_out_of_the_trash() -> None:
    table = _table((1, 0, "a"), (2, 0, "b")).replace_column("trashed", [True, True])
    for maker in ("c", "a"):  # made anew, or the very same face
        _, after = _merged(table, _table((1, 0, maker)), ["f000001_0-aaaaaaaa"], untrash=True)
        assert list(after.column("trashed")) == [False, True]


def test_additions_come_after_their_frame_with_the_track_they_are_linked_to() -> None:
    table = _table((1, 0, "a"), (1, 1, "b"), (3, 0, "c"))
    result, after = _merged(table, _table((1, 2, "d"), (2, 0, "e"), (9, 0, "f")), ["", "", ""])
    assert list(after.column("frame_number")) == [1, 1, 1, 2, 3, 9]
    assert list(after.column("track_id"))[2:4] == ["new0", "new1"]
    assert result.added == 3


def test_in_a_sorted_faceset_additions_come_last() -> None:
    table = _table((5, 0, "a"), (1, 0, "b"))
    _, after = _merged(table, _table((2, 0, "c")), [""])
    assert list(after.column("frame_number")) == [5, 1, 2]


def test_merging_twice_changes_nothing_and_counts_the_same() -> None:
    table = _table((1, 0, "a"), (3, 0, "b"))
    rows, replaces = _table((1, 0, "c"), (2, 0, "d")), ["f000001_0-aaaaaaaa", ""]
    first, after = _merged(table, rows, replaces)
    second, _ = _merged(after, rows, replaces)
    assert second.table is None
    assert (second.added, second.replaced) == (first.added, first.replaced) == (1, 1)


def test_what_others_did_meanwhile_stays() -> None:
    """The face that was to be replaced has been replaced by another, the free index has been taken: both are left alone."""
    table = _table((1, 0, "e"), (2, 0, "b"), (2, 1, "f"))
    result, after = _merged(table, _table((1, 0, "c"), (2, 1, "d")), ["f000001_0-aaaaaaaa", ""])
    assert after == table
    assert (result.table, result.added, result.replaced, result.left_out) == (None, 0, 0, 2)


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_new_is_no_revision(count: int) -> None:
    table = _table((1, 0, "a"))
    result, _ = _merged(table, _table(*[(1, 0, "a")] * count), ["f000001_0-aaaaaaaa"] * count)
    assert result.table is None
