"""The worker's part of AlignFace: one frame, one face where a person says it is.

What one would get wrong: points that a network corrected are still a person's decision, so the face is MANUAL either way; the landmarker is
named where it had a say. The same wish gives the same face: where it is there already, it is found and not made twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ml_common.facesets import FACE_TYPE_NAMES, FaceRecord, LandmarkOrigin, Producer
from ml_common.geometry.mean_face import place_mean_face
from services.faces.crops import FaceCutter, Placed, frame_label
from services.faces.finders import Finders
from services.kit.clips import MediaFile, open_clip
from services.kit.errors import InvalidInput
from services.kit.operations.stage import WorkerEnv


def cut_by_hand(env: WorkerEnv, finders: Finders, question: dict[str, Any]) -> dict[str, Any]:
    """Aligns, cuts and stores a face.

    ``question``: ``faceset``, ``clip``, ``clip_file``, ``media``, ``options``; ``number`` of the frame and ``index`` of the face in it;
    ``landmarks`` (68 x 2, frame pixels) or ``placement`` (arguments of place_mean_face); ``snap``; ``replaces`` (record key of a face, or
    empty), its ``track`` and ``person``; ``beside`` (record keys of the faces of the frame). Answers with ``record`` (JSON), ``image_key``
    and ``record_key``, or with ``exists``: the record key of a face of the frame that is the same. ``only_find``: makes none, and answers
    with nothing where there is none.
    """
    with open_clip(env.store, MediaFile(**question["media"]), question["clip"]) as clip:
        [(number, image)] = clip.read([question["number"]])
    if question["landmarks"]:
        landmarks = np.array(question["landmarks"], np.float64)
    else:
        landmarks = place_mean_face(**question["placement"])
    face = Placed(landmarks, LandmarkOrigin.MANUAL)
    if question["snap"]:
        face = _snapped(env, finders, question["options"], image, landmarks)
    for key in question["beside"]:
        if _is_same(_record(env, key), face, question["options"]):
            return {"exists": key}
    if question["only_find"]:
        return {}
    if question["replaces"]:
        old = _record(env, question["replaces"])
        face = replace(
            face,
            track_id=question["track"],
            person=question["person"],
            eyebrows_expand=old.eyebrows_expand,
            label=frame_label(old),
        )
    cutter = FaceCutter(
        env.store,
        faceset=question["faceset"],
        clip=question["clip"],
        clip_file=question["clip_file"],
        options=question["options"],
    )
    try:
        cut = cutter.cut(number, question["index"], image, face)
    except ValueError as error:
        raise InvalidInput(f"the points frame no face: {error}", fields={"landmarks_px": "frame no face"}) from error
    env.store.put_many(cut.objects())
    return {
        "record": cut.record.to_json_dict(),
        "image_key": cut.keys.image_key,
        "record_key": cut.keys.record_key,
    }


def _snapped(
    env: WorkerEnv, finders: Finders, options: dict[str, Any], image: np.ndarray, landmarks: np.ndarray
) -> Placed:
    finder = finders.get(env, options)
    found = finder.refine(image, [landmarks])[0]
    if found is None:
        raise InvalidInput(
            "the landmark network sees no face there: switch snap off to keep the points as they are set, or set them nearer",
            reason="NO_FACE",
            fields={"snap": "no face is seen there"},
        )
    return Placed(
        landmarks_px_68x2=found.landmarks_px_68x2,
        origin=LandmarkOrigin.MANUAL,
        landmark_score=found.landmark_score,
        landmarker=Producer(name=finder.landmarker.name, version=finder.landmarker.version),
    )


def _is_same(record: FaceRecord, face: Placed, options: dict[str, Any]) -> bool:
    return (
        record.landmark_origin is LandmarkOrigin.MANUAL
        and FACE_TYPE_NAMES[record.face_type] == options["face_type"]
        and (record.size_px == options["size_px"] or options["native_size"])
        and np.array_equal(record.frame_landmarks_px, face.landmarks_px_68x2)
    )


def _record(env: WorkerEnv, key: str) -> FaceRecord:
    return FaceRecord.from_json_bytes(env.store.get(key))
