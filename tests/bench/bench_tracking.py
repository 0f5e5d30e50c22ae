"""How steady smoothed landmarks are, what becomes of fast motion, and how well persons are told apart.

Rendered heads with known landmarks, camera noise and JPEG added, looked at by the default finder. Distances are in % of
the distance between the outer eye corners. Jitter is the root mean square of the second difference in time of a still
head's landmarks (its own is known to be next to nothing); `spread` is the root mean square deviation from the truth,
the constant part left out, which smoothing can lower by the root of the frames looked at, at most.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import torch

from ml_common.detect import FaceFinder, load_finder
from ml_common.geometry import FaceType, align, alignment_matrix, transform_points
from ml_common.synthetic import IDENTITIES, Expression, FrameState, HairStyle, Identity, Light, performance, render_clip
from ml_common.synthetic.identity import SHAPE_PARAMETERS
from ml_common.tracking import (
    DEFAULT_MIN_SIMILARITY,
    FrameFaces,
    TrackLinker,
    choose_faces,
    describe_face,
    mean_descriptor,
    smooth_track,
)
from services.kit.weights import default_weights_dir, fetch

_SIZE = (640, 360)
_PERSONS, _PICTURES = 16, 7


def run() -> list[dict[str, Any]]:
    folder = default_weights_dir()
    fetch(folder, on_event=print)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        finder = load_finder(folder, torch.device("cpu"))
        return [
            *_still_rows(finder),
            *_turn_rows(finder),
            *_talk_rows(finder),
            *_appearance_rows(finder),
            *_speed_rows(),
        ]
    finally:
        torch.set_num_threads(threads)


def _row(name: str, value: float, unit: str, baseline: float | None = None) -> dict[str, Any]:
    ratio = value / baseline if baseline else None
    return {"name": name, "value": float(value), "unit": unit, "baseline": baseline, "ratio": ratio}


def _filmed(image_bgr: np.ndarray[Any, Any], chance: np.random.Generator) -> np.ndarray[Any, Any]:
    """The picture as a camera would give it: noise that grows with light, then JPEG."""
    values = image_bgr.astype(np.float32)
    values += chance.normal(0.0, 1.0, values.shape).astype(np.float32) * (1.5 + 0.02 * values)
    encoded = cv2.imencode(".jpg", values.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded


def _seen(
    finder: FaceFinder, person: Identity, states: list[FrameState]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Numbers of the frames where a face was found, its true landmarks and those found, in eye distances."""
    chance = np.random.default_rng(1)
    numbers, truth, found = [], [], []
    for number, frame in enumerate(render_clip(person, states, *_SIZE)):
        faces = finder.find([_filmed(frame.image_bgr_HWC, chance)])[0]
        if faces:
            numbers.append(number)
            truth.append(frame.landmarks_px_68x2)
            found.append(faces[0].landmarks_px_68x2)
    assert len(numbers) > 0.9 * len(states), "the finder lost the face"
    linker = TrackLinker()
    tracks = {linker.add(FrameFaces(n, f[None], n == numbers[0]))[0] for n, f in zip(numbers, found, strict=True)}
    assert tracks == {0}, "the track broke"
    size = float(np.median(np.linalg.norm(np.array(truth)[:, 36] - np.array(truth)[:, 45], axis=1)))
    return np.array(numbers), np.array(truth) / size, np.array(found) / size


def _rms(distances_2: np.ndarray[Any, Any]) -> float:
    return float(np.sqrt(np.square(distances_2).sum(axis=-1).mean())) * 100.0


def _jitter(points_N68x2: np.ndarray[Any, Any]) -> float:
    return _rms(np.diff(points_N68x2, 2, axis=0))


def _still_rows(finder: FaceFinder) -> list[dict[str, Any]]:
    lamps = performance(3, 100)
    states = [
        FrameState(
            yaw_deg=8 + 0.15 * math.sin(i / 17),
            pitch_deg=-3 + 0.1 * math.sin(i / 23 + 1),
            roll_deg=2,
            center_x=0.5 + 0.0006 * math.sin(i / 29),
            center_y=0.45 + 0.0005 * math.sin(i / 19),
            light=lamp.light,
            background_seed=3,
        )
        for i, lamp in enumerate(lamps)
    ]
    numbers, truth, found = _seen(finder, IDENTITIES["ada"], states)
    smooth = smooth_track(numbers, found)
    before, after = found - truth, smooth - truth
    return [
        _row("faces.jitter_gain", _jitter(before) / _jitter(after), "x", 3.0),
        _row("tracking.still_jitter_before", _jitter(before), "% of inter-ocular"),
        _row("tracking.still_jitter_after", _jitter(after), "% of inter-ocular"),
        _row("tracking.still_spread_gain", _rms(before - before.mean(axis=0)) / _rms(after - after.mean(axis=0)), "x"),
    ]


def _turn_rows(finder: FaceFinder) -> list[dict[str, Any]]:
    """80 degrees in ten frames, there and back: how late the nose crosses the face."""
    states = []
    for i in range(120):
        done = min(max((i % 30 - 10) / 10, 0.0), 1.0)
        turn = 80.0 * done * done * (3.0 - 2.0 * done) - 40.0
        yaw = -turn if i // 30 % 2 else turn
        states.append(FrameState(yaw_deg=yaw, center_x=0.5 - 0.0004 * yaw, background_seed=4))
    numbers, truth, found = _seen(finder, IDENTITIES["mei"], states)
    smooth = smooth_track(numbers, found)
    nose_truth, nose_found, nose_smooth = (
        (points[:, 30] - points[:, [36, 39, 42, 45]].mean(axis=1))[:, 0] for points in (truth, found, smooth)
    )
    by_filter = abs(_lag(numbers, nose_found, nose_smooth))
    return [
        _row("faces.turn_lag_frames", abs(_lag(numbers, nose_truth, nose_smooth)), "frames", 0.5),
        _row("tracking.turn_lag_of_filter", by_filter, "frames"),
        _row("tracking.turn_error", _rms(smooth - truth), "% of inter-ocular", _rms(found - truth)),
    ]


def _lag(numbers: np.ndarray[Any, Any], reference: np.ndarray[Any, Any], signal: np.ndarray[Any, Any]) -> float:
    """Frames by which the signal comes after the reference: the shift of highest correlation."""
    shifts = np.arange(-3.0, 3.001, 0.02)
    inner = slice(4, -4)
    scores = [
        np.corrcoef(np.interp(numbers[inner] - shift, numbers, reference), signal[inner])[0, 1] for shift in shifts
    ]
    return round(float(shifts[int(np.argmax(scores))]), 6)


def _talk_rows(finder: FaceFinder) -> list[dict[str, Any]]:
    numbers, truth, found = _seen(finder, IDENTITIES["bruno"], performance(9, 120, max_yaw_deg=25))
    smooth = smooth_track(numbers, found)
    parts = {"face": slice(0, 68), "mouth": slice(48, 68), "eyes": slice(36, 48)}
    return [
        _row(
            f"tracking.talk_error_{name}",
            _rms((smooth - truth)[:, part]),
            "% of inter-ocular",
            _rms((found - truth)[:, part]),
        )
        for name, part in parts.items()
    ]


def _person(number: int) -> Identity:
    """A head that is none of the five, its colours a mixture of two of them."""
    chance = np.random.default_rng(5000 + number)
    first, second = (IDENTITIES[str(name)] for name in chance.choice(list(IDENTITIES), 2, replace=False))
    share = chance.random()

    def color(part: str) -> tuple[float, float, float]:
        mixed = share * np.array(getattr(first, part)) + (1 - share) * np.array(getattr(second, part))
        b, g, r = (mixed + chance.normal(0.0, 0.02, 3)).clip(0.01, 0.98).tolist()
        return b, g, r

    hair_styles: tuple[HairStyle, ...] = ("short", "tied", "bob", "cropped")
    return Identity(
        name=f"person_{number}",
        skin_bgr=color("skin_bgr"),
        iris_bgr=color("iris_bgr"),
        brow_bgr=color("brow_bgr"),
        lips_bgr=color("lips_bgr"),
        hair_bgr=color("hair_bgr"),
        redness=chance.uniform(0.2, 0.7),
        freckles=float(chance.choice([0.0, 0.3, 0.6])),
        stubble=float(chance.choice([0.0, 0.0, 0.3, 0.7])),
        creases=chance.uniform(0.0, 0.8),
        lashes=chance.uniform(0.2, 0.9),
        brow_thickness_mm=chance.uniform(4.0, 9.0),
        brow_density=chance.uniform(0.5, 0.9),
        hair_style=hair_styles[chance.integers(len(hair_styles))],
        hair_volume_mm=chance.uniform(4.0, 16.0),
        **{name: min(max(chance.normal(0.0, 0.5), -1.0), 1.0) for name in SHAPE_PARAMETERS},
    )


def _moment(chance: np.random.Generator) -> FrameState:
    """Any pose up to 30 degrees, light, expression and size."""
    lamp = 1.1 * chance.uniform(-1.0, 1.0)
    blink = float(chance.choice([0.0, 0.0, 0.0, 0.8]))
    return FrameState(
        yaw_deg=min(max(chance.normal(0.0, 16.0), -30.0), 30.0),
        pitch_deg=min(max(chance.normal(0.0, 8.0), -16.0), 16.0),
        roll_deg=chance.normal(0.0, 6.0),
        face_height=chance.uniform(0.45, 0.65),
        background_seed=int(chance.integers(100)),
        light=Light(
            direction_xyz=(math.sin(lamp), chance.uniform(-0.9, -0.2), -math.cos(lamp)),
            intensity=chance.uniform(0.55, 0.95),
            ambient=chance.uniform(0.12, 0.35),
            color_bgr=(chance.uniform(0.8, 1.0), chance.uniform(0.9, 1.0), chance.uniform(0.92, 1.0)),
        ),
        expression=Expression(
            mouth_open=float(chance.choice([0.0, chance.uniform(0.0, 0.6)])),
            smile=chance.uniform(0.0, 0.7),
            brow_raise=chance.uniform(0.0, 0.5),
            blink_left=blink,
            blink_right=blink,
            gaze_x=chance.uniform(-0.6, 0.6),
            gaze_y=chance.uniform(-0.3, 0.3),
        ),
    )


def _appearance_rows(finder: FaceFinder) -> list[dict[str, Any]]:
    """One frontal reference picture against the mean of the others, as a person is chosen in a clip."""
    references, tracks = [], []
    for number in range(_PERSONS):
        chance = np.random.default_rng([number, 7])
        states = [_moment(chance) for _ in range(_PICTURES)]
        states[0] = FrameState(background_seed=number)
        pictures = (_filmed(frame.image_bgr_HWC, chance) for frame in render_clip(_person(number), states, 480, 360))
        descriptors, landmarks = _described(finder, pictures)
        references.append(descriptors[0])
        best = choose_faces(landmarks[1:], 6)
        tracks.append(mean_descriptor(descriptors[1:][best]))
    likeness = np.clip(np.array(references) @ np.array(tracks).T, 0.0, 1.0)
    own = np.eye(_PERSONS, dtype=bool)
    chance = np.random.default_rng(0)
    casts = [chance.choice(_PERSONS, 5, replace=False) for _ in range(400)]
    of_five = np.mean([(likeness[np.ix_(cast, cast)].argmax(axis=1) == np.arange(5)).mean() for cast in casts])
    return [
        _row(
            f"tracking.person_found_among_{_PERSONS}",
            (likeness.argmax(axis=1) == np.arange(_PERSONS)).mean() * 100,
            "%",
        ),
        _row("tracking.person_found_among_5", float(of_five) * 100, "%"),
        _row("tracking.similarity_same_median", float(np.median(likeness[own])), "0..1"),
        _row("tracking.similarity_others_median", float(np.median(likeness[~own])), "0..1"),
        _row("tracking.same_below_threshold", (likeness[own] < DEFAULT_MIN_SIMILARITY).mean() * 100, "%"),
        _row("tracking.others_above_threshold", (likeness[~own] >= DEFAULT_MIN_SIMILARITY).mean() * 100, "%"),
    ]


def _described(
    finder: FaceFinder, pictures: Iterable[np.ndarray[Any, Any]]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    descriptors, landmarks = [], []
    for picture in pictures:
        for face in finder.find([picture])[0][:1]:
            frame_to_face = alignment_matrix(face.landmarks_px_68x2, FaceType.WHOLE_FACE, 256)
            crop = align(picture, frame_to_face, 256)
            descriptors.append(describe_face(crop, transform_points(face.landmarks_px_68x2, frame_to_face)))
            landmarks.append(face.landmarks_px_68x2)
    return np.array(descriptors), np.array(landmarks)


def _speed_rows() -> list[dict[str, Any]]:
    chance = np.random.default_rng(0)
    face = np.array(
        next(iter(render_clip(IDENTITIES["ada"], [FrameState()], *_SIZE))).landmarks_px_68x2, dtype=np.float64
    )
    track = face + chance.normal(0.0, 0.3, (2000, 68, 2))
    start = time.perf_counter()
    smooth_track(np.arange(2000), track)
    smooth_s = time.perf_counter() - start
    linker, crowd = TrackLinker(), face + np.array([(160.0 * k, 0.0) for k in range(10)])[:, None]
    start = time.perf_counter()
    for number in range(500):
        linker.add(FrameFaces(number, crowd, False))
    link_s = time.perf_counter() - start
    return [
        _row("tracking.smooth_frames_per_s", 2000 / smooth_s, "1/s"),
        _row("tracking.link_10_faces_frames_per_s", 500 / link_s, "1/s"),
    ]


if __name__ == "__main__":
    for row in run():
        print(row)
