"""What a faceset covers, and what of dst src lacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_common.curation.fingerprint import thumbnail
from ml_common.curation.stats import (
    ENOUGH_FACES,
    PITCH_EDGES_DEG,
    SIDES,
    SIZE_EDGES_PX,
    YAW_EDGES_DEG,
    FacesetStats,
    compare,
    coverage,
    distribution,
    faceset_stats,
    light_side,
)
from ml_common.curation.stats_picture import draw_coverage, draw_distribution
from ml_common.geometry import FaceType, align, alignment_matrix
from ml_common.synthetic import IDENTITIES, FrameState, Light, render

Array = np.ndarray[Any, Any]
MIDDLE = (len(PITCH_EDGES_DEG) // 2 - 1, len(YAW_EDGES_DEG) // 2 - 1)
RED = (40, 40, 214)


def thumbnails(count: int, left: int = 120, right: int = 120) -> Array:
    pictures = np.full((count, 32, 32, 3), left, dtype=np.uint8)
    pictures[:, :, 16:] = right
    return pictures.reshape(count, 3072)


def stats(
    yaw_deg: list[float],
    pitch_deg: list[float] | None = None,
    *,
    size_px: float = 300.0,
    brightness: float = 0.4,
    pictures: Array | None = None,
) -> FacesetStats:
    count = len(yaw_deg)
    return faceset_stats(
        yaw_deg=yaw_deg,
        pitch_deg=[0.0] * count if pitch_deg is None else pitch_deg,
        sharpness=[100.0] * count,
        source_area_px=[size_px**2] * count,
        brightness=[brightness] * count,
        thumbnail_bgr=thumbnails(count) if pictures is None else pictures,
    )


def test_each_face_is_in_the_bin_of_its_angles() -> None:
    pose = coverage([0.0, 4.9, -4.9, 12.0, 0.0, 80.0, -90.0], [0.0, 0.0, 0.0, 0.0, 21.0, 60.0, -60.0])
    assert pose[MIDDLE] == 3
    assert pose[MIDDLE[0], MIDDLE[1] + 1] == 1, "yaw 12 lies one bin above the middle"
    assert pose[MIDDLE[0] + 2, MIDDLE[1]] == 1, "pitch 21 lies two bins above the middle"
    assert pose[-1, -1] == 1 and pose[0, 0] == 1, "what lies beyond counts in the outermost bins"
    assert pose.sum() == 7


def test_light_comes_from_the_brighter_side_of_the_picture() -> None:
    left, even, right = light_side(np.concatenate([thumbnails(1, 160, 90), thumbnails(1), thumbnails(1, 90, 160)]))
    assert left > 0.5 and even == 0.0 and right == pytest.approx(-left)
    found = stats([0.0] * 3, pictures=np.concatenate([thumbnails(2, 160, 90), thumbnails(1, 90, 160)]))
    assert dict(zip(SIDES, found.light_BS.sum(axis=0).tolist(), strict=True)) == {"right": 1, "even": 0, "left": 2}


@pytest.mark.parametrize("name", ["ada", "chidi", "olaf"])
def test_the_lamp_of_a_rendered_head_is_told(name: str) -> None:
    sides = []
    for lamp_x in (-0.8, 0.8):  # left and right of the picture
        frame = render(IDENTITIES[name], FrameState(light=Light(direction_xyz=(lamp_x, -0.4, -0.6))), 400, 300)
        frame_to_face = alignment_matrix(frame.landmarks_px_68x2, FaceType.WHOLE_FACE, 128)
        sides.append(thumbnail(align(frame.image_bgr_HWC, frame_to_face, 128)).ravel())
    from_left, from_right = light_side(np.array(sides))
    assert from_left > 0.35 and from_right < -0.35


def test_distributions_count_everything() -> None:
    found = distribution([10.0, 70.0, 70.0, 5000.0], SIZE_EDGES_PX)
    assert found.counts_K.tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    assert found.median == 70.0 and found.low < 20.0 and found.high > 1000.0
    assert distribution([], SIZE_EDGES_PX).counts_K.sum() == 0
    assert stats([0.0, 0.0], size_px=300.0).size_px.median == pytest.approx(300.0)


angles = st.lists(st.tuples(st.floats(-90, 90), st.floats(-60, 60)), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(angles, angles, angles)
def test_more_src_faces_never_cover_less_and_gaps_make_up_the_rest(
    dst: list[tuple[float, float]], src: list[tuple[float, float]], more: list[tuple[float, float]]
) -> None:
    wanted = stats([yaw for yaw, _ in dst], [pitch for _, pitch in dst])
    few = compare(stats([yaw for yaw, _ in src], [pitch for _, pitch in src]), wanted)
    many = compare(stats([yaw for yaw, _ in src + more], [pitch for _, pitch in src + more]), wanted)
    assert 0.0 <= few.pose_covered <= many.pose_covered <= 1.0
    for found in (few, many):
        lacking = sum(gap.dst_share for gap in found.gaps if gap.kind == "pose")
        assert found.pose_covered + lacking == pytest.approx(1.0)


@settings(max_examples=25, deadline=None)
@given(angles)
def test_enough_of_the_same_faces_cover_all(faces: list[tuple[float, float]]) -> None:
    src, dst = (
        stats([yaw for yaw, _ in faces] * times, [pitch for _, pitch in faces] * times) for times in (ENOUGH_FACES, 1)
    )
    found = compare(src, dst)
    assert found.pose_covered == found.light_covered == 1.0
    assert found.gaps == ()


def test_src_without_faces_covers_nothing() -> None:
    found = compare(stats([]), stats([0.0, 30.0]))
    assert found.pose_covered == found.light_covered == 0.0
    assert "0 %" in found.sentences[0]


def test_dst_counts_by_how_often_it_shows_a_pose() -> None:
    found = compare(stats([0.0] * 20), stats([0.0] * 90 + [60.0] * 10))
    assert found.pose_covered == pytest.approx(0.9)
    (gap,) = (gap for gap in found.gaps if gap.kind == "pose")
    assert (gap.where, gap.dst_count, gap.src_count, gap.src_mirrored_count) == ("far to the left", 10, 0, 0)
    assert gap.dst_share == pytest.approx(0.1)
    assert any("10 dst faces look far to the left where src has none (10 % of dst)." in s for s in found.sentences)


def test_a_neighbouring_pose_helps_half() -> None:
    faces = [0.0] * ENOUGH_FACES
    assert compare(stats(faces), stats([10.0])).pose_covered == pytest.approx(0.5)
    assert compare(stats(faces), stats([20.0])).pose_covered == 0.0


def test_flipping_is_advised_where_the_mirror_has_what_lacks() -> None:
    dst = stats([40.0] * 10)
    (gap,) = (gap for gap in compare(stats([-40.0] * 30), dst).gaps if gap.kind == "pose")
    assert (gap.where, gap.src_count, gap.src_mirrored_count) == ("to the left", 0, 30)
    assert any("flipping src" in sentence for sentence in compare(stats([-40.0] * 30), dst).sentences)
    assert not any("flipping src" in sentence for sentence in compare(stats([0.0] * 30), dst).sentences)


@pytest.mark.parametrize(
    ("yaw", "pitch", "where"),
    [
        (0.0, 30.0, "up"),
        (0.0, -40.0, "down"),
        (-30.0, 30.0, "to the right and up"),
        (70.0, -30.0, "far to the left and down"),
        (0.0, 0.0, "straight ahead"),
    ],
)
def test_poses_in_words(yaw: float, pitch: float, where: str) -> None:
    found = compare(stats([]), stats([yaw], [pitch]))
    assert [gap.where for gap in found.gaps if gap.kind == "pose"] == [where]


def test_light_that_src_lacks_is_named() -> None:
    src = stats([0.0] * 20, brightness=0.4)
    dst = stats([0.0] * 4, brightness=0.1, pictures=thumbnails(4, 90, 40))
    (gap,) = (gap for gap in compare(src, dst).gaps if gap.kind == "light")
    assert (gap.where, gap.dst_share, gap.src_count) == ("very dark and lit from the left", 1.0, 0)


def test_small_src_faces_are_warned_of() -> None:
    dst = stats([0.0] * 10, size_px=400.0)
    assert any("smaller" in s for s in compare(stats([0.0] * 10, size_px=200.0), dst).sentences)
    assert not any("smaller" in s for s in compare(stats([0.0] * 10, size_px=390.0), dst).sentences)


def test_the_drawing_shows_the_left_at_the_left_and_frames_what_lacks() -> None:
    src, dst = stats([0.0] * 50), stats([0.0] * 50 + [50.0] * 5)
    plain = draw_coverage(dst.pose_PY, "dst")
    framed = draw_coverage(dst.pose_PY, "dst", compare(src, dst))
    assert plain.dtype == np.uint8 and plain.shape[1:] == (800, 3) and plain.shape == framed.shape
    assert not (plain == RED).all(axis=2).any()
    in_map = (framed == RED).all(axis=2)[: framed.shape[0] - 84]
    columns = np.flatnonzero(in_map.any(axis=0))
    assert columns.min() > 100 and columns.max() < 300, "yaw 50 is in the picture's left"
    assert columns.max() - columns.min() < 46, "one bin"


def test_more_faces_are_darker() -> None:
    picture = draw_coverage(coverage([0.0] * 100 + [20.0], [0.0] * 101), "src").astype(int)
    row = 92 + 4 * 40 + 4
    frontal, aside, none = (picture[row, 100 + column * 46 + 4].sum() for column in (7, 5, 2))
    assert frontal < aside < none


def test_bars_are_as_high_as_the_counts() -> None:
    picture = draw_distribution(distribution([70.0] * 40 + [100.0] * 20, SIZE_EDGES_PX), "Size")
    bars = (picture == (176, 128, 96)).all(axis=2)
    heights = sorted({int(height) for height in bars.sum(axis=0)} - {0})
    assert len(heights) == 2 and heights[1] == pytest.approx(2 * heights[0], abs=1)


def test_bad_input_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="one entry a face"):
        coverage([0.0, 1.0], [0.0])
    with pytest.raises(ValueError, match="yaw_deg"):
        coverage([np.nan], [0.0])
    with pytest.raises(ValueError, match="thumbnails must be"):
        light_side(np.zeros((2, 100), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"one entry a face, got lengths \[1, 2\]"):
        stats([0.0, 0.0], pictures=thumbnails(1))
    with pytest.raises(ValueError, match="dst has no faces"):
        compare(stats([0.0]), stats([]))
    with pytest.raises(ValueError, match="counts must have shape"):
        draw_coverage(np.zeros((2, 2), dtype=np.int64), "x")
