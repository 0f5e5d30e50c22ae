"""Finding faces in a revision and taking them out of it by their places."""

from __future__ import annotations

import numpy as np
import pytest

from ml_common.facesets import RevisionTable, write_revision
from tests.support.revisions import revision_of

TABLE = revision_of(6)
IDS: list[str] = TABLE.column("face_id").tolist()


def test_rows_are_taken_in_the_order_asked_for() -> None:
    taken = TABLE.take([4, 0, 5])
    assert taken.column("face_id").tolist() == [IDS[4], IDS[0], IDS[5]]
    assert TABLE.take(np.arange(6)) == TABLE
    assert write_revision(TABLE.take(range(6))) == write_revision(TABLE)
    assert len(TABLE.take([])) == 0


def test_a_row_is_taken_once_and_must_be_there() -> None:
    with pytest.raises(ValueError, match="twice"):
        TABLE.take([1, 1])
    with pytest.raises(IndexError):
        TABLE.take([6])


def test_faces_are_found_by_id() -> None:
    assert TABLE.positions([IDS[3], "f000000_0-00000000", IDS[0]]).tolist() == [3, -1, 0]
    assert TABLE.positions([]).tolist() == []
    assert RevisionTable(TABLE.table.slice(0, 0)).positions(IDS).tolist() == [-1] * 6
