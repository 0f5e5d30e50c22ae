"""Embedding faces without weights, on rendered heads whose landmarks are known."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_common.geometry import FaceType, align, alignment_matrix, transform_points
from ml_common.identity import (
    DEFAULT_EMBEDDER,
    EMBEDDERS,
    cluster_faces,
    embedder_entry,
    learn_within_person,
    load_embedder,
)
from ml_common.identity.appearance_embedder import describe_faces, rendered_persons
from ml_common.synthetic import IDENTITIES, Expression, FrameState, Light, render

Array = np.ndarray[Any, Any]
NO_WEIGHTS = Path("no weights")

POSES = (
    FrameState(),
    FrameState(yaw_deg=28, expression=Expression(smile=0.6)),
    FrameState(yaw_deg=-30, pitch_deg=8, expression=Expression(mouth_open=0.5)),
    FrameState(pitch_deg=-10, roll_deg=12, expression=Expression(blink_left=0.8, blink_right=0.8)),
)


@cache
def footage() -> tuple[list[Array], list[Array], Array, Array]:
    """Crops, landmarks, persons and tracks: two shots that show all five, in four poses, each track lit in its way."""
    crops, landmarks, person, track = [], [], [], []
    chance = np.random.default_rng(3)
    for who, identity in enumerate(IDENTITIES.values()):
        for shot in range(2):
            light = Light(
                direction_xyz=(chance.uniform(-0.9, 0.9), chance.uniform(-0.7, -0.2), -0.6),
                intensity=chance.uniform(0.55, 0.9),
                color_bgr=(chance.uniform(0.8, 1.0), chance.uniform(0.9, 1.0), chance.uniform(0.9, 1.0)),
            )
            for pose in POSES:
                state = FrameState(pose.yaw_deg, pose.pitch_deg, pose.roll_deg, expression=pose.expression, light=light)
                frame = render(identity, state, 320, 240)
                frame_to_face = alignment_matrix(frame.landmarks_px_68x2, FaceType.WHOLE_FACE, 160)
                crops.append(align(frame.image_bgr_HWC, frame_to_face, 160))
                landmarks.append(transform_points(frame.landmarks_px_68x2, frame_to_face))
                person.append(who)
                track.append(2 * who + shot)
    return crops, landmarks, np.array(person), np.array(track)


@cache
def embedded() -> Array:
    crops, landmarks, _, _ = footage()
    return load_embedder("appearance", NO_WEIGHTS).embed(crops, landmarks)


def separation(embeddings: Array, person: Array, track: Array) -> float:
    """How often two faces of one person on different tracks are more alike than two persons' faces."""
    alike = embeddings @ embeddings.T
    same = alike[(person[:, None] == person) & (track[:, None] != track)]
    others = alike[person[:, None] != person]
    return float((same[:, None] > others[None, :]).mean())


def test_embeddings_are_unit_vectors_and_do_not_depend_on_each_other() -> None:
    crops, landmarks, _, _ = footage()
    together = embedded()
    assert together.dtype == np.float32 and np.allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    alone = load_embedder("appearance", NO_WEIGHTS).embed(crops[5:6], landmarks[5:6])
    assert np.allclose(alone[0], together[5], atol=1e-5)
    assert load_embedder("appearance", NO_WEIGHTS).embed([], []).shape == (0, together.shape[1])


def test_rendered_persons_tell_apart_what_plain_descriptors_do_not() -> None:
    """Also that the shipped file was learned from the descriptor as it is now."""
    crops, landmarks, person, track = footage()
    plain = separation(describe_faces(crops, landmarks), person, track)
    shipped = separation(embedded(), person, track)
    assert shipped > 0.95 and 1.0 - shipped < 0.6 * (1.0 - plain)


def test_learning_from_tracks_tells_them_apart_better_still() -> None:
    _, _, person, track = footage()
    learned = learn_within_person(embedded(), track).quietened(embedded())
    assert separation(learned, person, track) >= separation(embedded(), person, track) - 0.002
    own = learned[person == 0] @ learned[person == 0].T
    assert np.median(own) > np.median(embedded()[person == 0] @ embedded()[person == 0].T)


@pytest.mark.parametrize("name", [name for name, entry in EMBEDDERS.items() if not entry.weights])
def test_every_embedder_finds_the_five(name: str) -> None:
    crops, landmarks, person, track = footage()
    entry = embedder_entry(name)
    embedder = load_embedder(name, NO_WEIGHTS)
    assert embedder.name and embedder.version and 0.0 < embedder.same_person < 1.0
    embeddings = embedder.embed(crops, landmarks)
    if entry.learns:
        embeddings = learn_within_person(embeddings, track).quietened(embeddings)
    frames = track % 2 * len(POSES) + np.arange(len(track)) % len(POSES)
    found = cluster_faces(embeddings, tracks=track, frames=frames, min_group_size=2, same_person=embedder.same_person)
    inside = found.labels >= 0
    groups = set(zip(found.labels[inside].tolist(), person[inside].tolist(), strict=True))
    assert inside.all() and len(groups) == int(found.labels.max()) + 1 == 5, "every group is one person, whole"


def test_what_is_shipped_is_a_projection_that_only_turns_down() -> None:
    shipped = rendered_persons()
    directions = shipped.directions_RD
    assert np.allclose(directions @ directions.T, np.eye(len(directions)), atol=0.01)
    assert ((shipped.gains_R > 0.0) & (shipped.gains_R <= 1.0)).all()


def test_a_bad_face_is_named() -> None:
    crops, landmarks, _, _ = footage()
    with pytest.raises(ValueError, match="face 1: a crop must be"):
        load_embedder("appearance", NO_WEIGHTS).embed([crops[0], crops[1][:20]], landmarks[:2])


def test_names_are_checked_without_loading_anything() -> None:
    assert DEFAULT_EMBEDDER in EMBEDDERS
    with pytest.raises(ValueError, match="unknown embedder 'vgg'; known are appearance, learned"):
        embedder_entry("vgg")
    script = (
        "import sys; from ml_common.identity import embedder_entry; embedder_entry('learned');"
        "print([name for name in ('sklearn', 'cv2', 'torch', 'scipy') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
