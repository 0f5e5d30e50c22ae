"""Anchors, suppression and tiles: the geometry between a frame and a detector, without a network."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_common.detect.blazeface import FULL_RANGE, SHORT_RANGE, TileFaces, anchor_centres, iou, suppress_weighted
from ml_common.detect.pyramid import cut_tiles, gather_faces, padded_level, plan_levels, resized

SIDE, SHARE = 192, 0.08


def test_anchors_run_row_by_row_through_each_grid() -> None:
    full, short = anchor_centres(FULL_RANGE), anchor_centres(SHORT_RANGE)
    assert full.shape == (2304, 2)
    assert short.shape == (896, 2)
    np.testing.assert_allclose(full[[0, 1, 48]], [[2, 2], [6, 2], [2, 6]])
    np.testing.assert_allclose(short[[0, 1, 2, 512, 517, 518]], [[4, 4], [4, 4], [12, 4], [8, 8], [8, 8], [24, 8]])


def test_iou_of_known_boxes() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 9]], dtype=np.float64)
    np.testing.assert_allclose(iou(boxes[:1], boxes)[0], [1, 1 / 3, 0, 0])


def test_suppression_weighs_by_score_and_keeps_the_far() -> None:
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]], dtype=np.float64)
    keypoints = np.zeros((3, 6, 2)) + np.array([0.0, 2.0, 9.0])[:, None, None]
    faces = suppress_weighted(boxes, keypoints, np.array([0.6, 0.9, 0.7]))
    np.testing.assert_allclose(faces.boxes_px_k4, [[1.2, 0, 11.2, 10], [50, 50, 60, 60]])
    np.testing.assert_allclose(faces.keypoints_px_k62[:, 0, 0], [1.2, 9.0])
    np.testing.assert_allclose(faces.scores_k, [0.9, 0.7])


def test_suppression_of_nothing_and_of_boxes_without_area() -> None:
    assert suppress_weighted(np.zeros((0, 4)), np.zeros((0, 6, 2)), np.zeros(0)).boxes_px_k4.shape == (0, 4)
    assert len(suppress_weighted(np.zeros((2, 4)), np.zeros((2, 6, 2)), np.array([0.5, 0.6])).scores_k) == 2


@settings(max_examples=200, deadline=None)
@given(
    width=st.integers(1, 16384),
    height=st.integers(1, 16384),
    smallest=st.floats(24, 400),
    size=st.floats(1.0, 200.0),
    at=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_every_face_is_whole_and_large_enough_in_some_tile(
    width: int, height: int, smallest: float, size: float, at: tuple[float, float]
) -> None:
    """The promise of a plan: a face from the smallest size on fits a tile that shows it at 8 % (a level may be spared)
    to 50 %.
    """
    smallest = max(smallest, max(width, height) / 100)
    face = smallest * size
    if face * 1.2 > min(width, height):
        return
    box = np.array([at[0] * (width - face), at[1] * (height - face)])
    levels = plan_levels((width, height), SIDE, smallest_face_px=smallest, smallest_share=SHARE)
    assert sum(len(level.corners_xy_px) for level in levels) < 4000
    seen = []
    for level in levels:
        scale = np.array(level.size_xy_px) / (width, height)
        low, high = box * scale, (box + face) * scale
        corners = np.array(level.corners_xy_px)
        # One pixel of slack: sizes and corners of a level are whole pixels.
        whole = ((low >= corners - 1) & (high <= corners + SIDE + 1)).all(axis=1)
        if whole.any():
            seen += [(high - low).min() / SIDE]
    assert max(seen) >= SHARE / 1.3
    assert any(share <= 0.5 for share in seen) or face > 0.45 * max(width, height)


def test_a_small_frame_gets_one_tile_and_a_large_one_several_levels() -> None:
    assert [len(x.corners_xy_px) for x in plan_levels((400, 300), SIDE, smallest_face_px=40, smallest_share=SHARE)] == [
        1
    ]
    counts = [len(x.corners_xy_px) for x in plan_levels((3840, 2160), SIDE, smallest_face_px=80, smallest_share=SHARE)]
    assert counts[-1] == 1
    assert counts == sorted(counts, reverse=True)


def test_larger_faces_alone_take_fewer_tiles() -> None:
    def tiles(smallest_px: float) -> int:
        levels = plan_levels((1920, 1080), SIDE, smallest_face_px=smallest_px, smallest_share=SHARE)
        return sum(len(level.corners_xy_px) for level in levels)

    # 11 at 48 px: 8, then 2 (the level is a pixel lower than planned, which spares a second row), then the frame.
    assert [tiles(px) for px in (24, 48, 80, 160)] == [tiles(24), 11, 7, 1]
    assert tiles(24) > 30


@settings(max_examples=60, deadline=None)
@given(st.integers(40, 900), st.integers(40, 900), st.floats(1.0, 9.0))
def test_a_resized_picture_shows_the_same_places(width: int, height: int, shrink: float) -> None:
    size = max(1, round(width / shrink)), max(1, round(height / shrink))
    ramps = np.zeros((height, width, 3), np.uint8)
    ramps[..., 0] = np.linspace(0, 255, width)[None].round()
    ramps[..., 1] = np.linspace(0, 255, height)[:, None].round()
    copy = resized(ramps, size)
    assert copy.shape == (size[1], size[0], 3)
    for channel, (length, own) in enumerate(((width, size[0]), (height, size[1]))):
        centres = ((np.arange(own) + 0.5) * length / own - 0.5).clip(0, length - 1) / (length - 1) * 255
        line = copy[size[1] // 2, :, 0] if channel == 0 else copy[:, size[0] // 2, 1]
        # Half a step of eight bits for each of the few roundings, and half a source pixel at the ends.
        np.testing.assert_allclose(line, centres, atol=2.0 + 255 / length)


def test_tiles_show_the_frame_where_gathering_says() -> None:
    """A bright square goes to tiles and comes back as a box at its own place, from every level and tile that shows it
    whole.
    """
    frame = np.zeros((700, 1500, 3), np.uint8)
    left, top, size = 610, 290, 100
    frame[top : top + size, left : left + size] = 255
    for levels in (
        plan_levels((1500, 700), SIDE, smallest_face_px=40, smallest_share=SHARE),
        [padded_level((1500, 700), SIDE, 1.6)],
    ):
        faces = []
        for tile in cut_tiles(frame, levels, SIDE):
            ys, xs = np.nonzero(tile[..., 0] > 127)
            whole = len(xs) > 0
            box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if whole else [0, 0, 0, 0]
            # A square at the very edge goes on in the next tile: reach out, as a detector does for a face that is cut.
            box = [v - 2 if v == 0 else v + 2 if v == SIDE else v for v in box]
            boxes = np.array([box], dtype=np.float64)[: int(whole)]
            faces.append(TileFaces(boxes, np.repeat(boxes[:, None, :2], 6, axis=1), np.ones(int(whole))))
        boxes, keypoints, scores = gather_faces((1500, 700), levels, SIDE, faces)
        assert len(boxes) >= len(levels)
        expected = np.array([left, top, left + size, top + size]) - 0.5
        assert np.abs(boxes - expected).max() < 1500 / SIDE
        np.testing.assert_allclose(keypoints[:, 0], boxes[:, :2])
        assert len(scores) == len(boxes)
