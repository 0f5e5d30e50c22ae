"""How pure and how whole the persons are that clustering finds, and how long it takes.

Rendered footage of several persons: the five and random ones, each in several shots of different light, colour of light,
distance and sharpness, talking and turning, two persons a frame; camera noise and JPEG added, faces and landmarks found by
the default finder. Purity is the share of grouped faces whose group's most frequent person they are. V-measure (Rosenberg,
Hirschberg 2007) counts divided persons as well. No rendered person here is one that the embedding was learned from.

    python -m tests.bench.bench_identity --write-rendered-persons

learns ``ml_common/identity/rendered_persons.npz`` again, after a change of the descriptor or of the rendered heads.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import v_measure_score

from ml_common.detect import FaceFinder, load_finder
from ml_common.geometry import FaceType, align, alignment_matrix, transform_points
from ml_common.identity import appearance_embedder, cluster_faces, learn_within_person
from ml_common.identity.within_person import WithinPerson, unit
from ml_common.synthetic import IDENTITIES, FrameState, Identity, Light, performance, render_clip
from services.kit.weights import default_weights_dir, fetch
from tests.bench import bench_tracking

_SIZE, _CROP_PX = (480, 360), 192
_EVERY = 5  # frames of 25 a second
_FIRST_UNSEEN, _FIRST_LEARNED_FROM = 900, 20_000
_PERSONS_LEARNED_FROM = 48

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Footage:
    """Faces with what is true of them; ``descriptors_ND`` are plain ones."""

    descriptors_ND: Array
    person_N: Array
    track_N: Array
    frame_N: Array
    embed_s: float


def footage(finder: FaceFinder, persons: list[Identity], tracks_each: int, faces_each: int, seed: int) -> Footage:
    """``tracks_each`` shots of each person, ``faces_each`` faces a shot; two shots of different persons share frames."""
    chance = np.random.default_rng([seed, 99])
    count = len(persons) * tracks_each
    crops, landmarks, person, track, frame = [], [], [], [], []
    for number in range(count):
        who = number % len(persons)
        states = [_in_shot(state, shot) for shot in [_shot(chance)] for state in _performed(chance, faces_each)]
        for moment, rendered in enumerate(render_clip(persons[who], states, *_SIZE)):
            picture = bench_tracking._filmed(rendered.image_bgr_HWC, chance)
            for face in finder.find([picture])[0][:1]:
                frame_to_face = alignment_matrix(face.landmarks_px_68x2, FaceType.WHOLE_FACE, _CROP_PX)
                crops.append(align(picture, frame_to_face, _CROP_PX))
                landmarks.append(transform_points(face.landmarks_px_68x2, frame_to_face))
                person.append(who)
                track.append(number)
                frame.append(number // 2 * 1000 + moment)
    start = time.perf_counter()
    descriptors = appearance_embedder.describe_faces(crops, landmarks)
    return Footage(
        descriptors, np.array(person), np.array(track), np.array(frame), (time.perf_counter() - start) / len(crops)
    )


def _shot(chance: np.random.Generator) -> FrameState:
    lamp = 1.1 * chance.uniform(-1.0, 1.0)
    return FrameState(
        face_height=chance.uniform(0.35, 0.65),
        background_seed=int(chance.integers(1000)),
        light=Light(
            direction_xyz=(math.sin(lamp), chance.uniform(-0.9, -0.2), -math.cos(lamp)),
            intensity=chance.uniform(0.5, 0.95),
            ambient=chance.uniform(0.12, 0.4),
            color_bgr=(chance.uniform(0.75, 1.0), chance.uniform(0.88, 1.0), chance.uniform(0.9, 1.0)),
        ),
    )


def _performed(chance: np.random.Generator, faces: int) -> list[FrameState]:
    return performance(
        int(chance.integers(1 << 30)),
        faces * _EVERY,
        max_yaw_deg=chance.uniform(15, 55),
        max_pitch_deg=chance.uniform(5, 20),
    )[::_EVERY]


def _in_shot(state: FrameState, shot: FrameState) -> FrameState:
    return replace(
        state,
        light=shot.light,
        face_height=2.0 * state.face_height * shot.face_height,
        background_seed=shot.background_seed,
    )


def run() -> list[dict[str, Any]]:
    finder = _finder()
    persons = [*IDENTITIES.values(), *(bench_tracking._person(_FIRST_UNSEEN + number) for number in range(7))]
    shown = footage(finder, persons, 4, 12, seed=1)
    plain = unit(shown.descriptors_ND)
    appearance = appearance_embedder.rendered_persons().quietened(plain)
    learned = learn_within_person(appearance, shown.track_N).quietened(appearance)
    rows = [_row("identity.embed_per_s", 1.0 / shown.embed_s, "faces/s")]
    without_any = _quality(plain, shown, tracked=True)
    for name, embeddings, tracked in (
        ("learned", learned, True),
        ("appearance", appearance, True),
        ("appearance_without_tracks", appearance, False),
    ):
        found = _quality(embeddings, shown, tracked=tracked)
        first = name == "learned"
        rows += [
            _row("facesets.cluster_purity" if first else f"identity.purity_{name}", found[0], "0..1", without_any[0]),
            _row("facesets.cluster_v_measure" if first else f"identity.v_{name}", found[1], "0..1", without_any[1]),
            _row(f"identity.grouped_{name}", found[2] * 100, "%"),
            _row(f"identity.groups_{name}", found[3], "groups", len(persons)),
        ]
    return rows + _speed_rows(appearance, shown)


def _quality(embeddings: Array, shown: Footage, *, tracked: bool) -> tuple[float, float, float, int]:
    """Purity and V-measure of the faces in groups, their share, and groups."""
    same_person = appearance_embedder.AppearanceEmbedder.same_person
    tracks = shown.track_N if tracked else None
    labels = cluster_faces(embeddings, tracks=tracks, frames=shown.frame_N, same_person=same_person).labels
    inside = labels >= 0
    persons, groups = shown.person_N[inside], labels[inside]
    most = sum(np.bincount(persons[groups == group]).max() for group in np.unique(groups))
    purity, v_measure = float(most / inside.sum()), float(v_measure_score(persons, groups))
    return purity, v_measure, float(inside.mean()), int(labels.max()) + 1


def _speed_rows(embeddings: Array, shown: Footage) -> list[dict[str, Any]]:
    rows = []
    for count in (10_000, 20_000):
        chance = np.random.default_rng(0)
        picked = chance.integers(len(embeddings), size=count)
        noise = chance.normal(0.0, 0.3 / math.sqrt(embeddings.shape[1]), (count, embeddings.shape[1]))
        many = unit(embeddings[picked] + noise.astype(np.float32))
        tracks = shown.track_N[picked] * 100 + chance.integers(10, size=count)
        start = time.perf_counter()
        learned = learn_within_person(many, tracks).quietened(many)
        learn_s = time.perf_counter() - start
        start = time.perf_counter()
        cluster_faces(learned, tracks=tracks)
        tracked_s = time.perf_counter() - start
        start = time.perf_counter()
        cluster_faces(many)
        name = "facesets.cluster_10k_s" if count == 10_000 else "identity.cluster_20k_s"
        rows.append(_row(name, learn_s + tracked_s, "s"))
        rows.append(_row(f"identity.cluster_{count // 1000}k_without_tracks_s", time.perf_counter() - start, "s"))
    return rows


def _finder() -> FaceFinder:
    folder = default_weights_dir()
    fetch(folder, on_event=print)
    torch.set_num_threads(1)
    return load_finder(folder, torch.device("cpu"))


def _row(name: str, value: float, unit_name: str, baseline: float | None = None) -> dict[str, Any]:
    ratio = value / baseline if baseline else None
    return {"name": name, "value": float(value), "unit": unit_name, "baseline": baseline, "ratio": ratio}


def learned_from_rendered_persons() -> WithinPerson:
    """What ``rendered_persons.npz`` holds."""
    persons = [bench_tracking._person(_FIRST_LEARNED_FROM + number) for number in range(_PERSONS_LEARNED_FROM)]
    shown = footage(_finder(), persons, 3, 12, seed=2)
    # Persons for tracks: light, distance and sharpness are to be turned down as well.
    return learn_within_person(unit(shown.descriptors_ND), shown.person_N)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--write-rendered-persons", action="store_true")
    if parser.parse_args().write_rendered_persons:
        learned = learned_from_rendered_persons()
        path = Path(appearance_embedder.__file__).with_name(appearance_embedder.RENDERED_PERSONS_FILE)
        np.savez_compressed(
            path, directions_RD=learned.directions_RD.astype(np.float16), gains_R=learned.gains_R.astype(np.float32)
        )
        print(f"{path}: {path.stat().st_size} bytes")
    else:
        for row in run():
            print(row)
