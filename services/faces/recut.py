"""Cutting stored faces out of their frames again: with other landmarks, at another type or size. No network is asked.

What one would get wrong: a face belongs to the very frame it was found in. Where the clip has been replaced by footage of another size, or
the face comes from another clip, its landmarks mean nothing, so that is an error and not a crop of something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml_common.facesets import FACE_TYPE_NAMES, FaceRecord
from services.faces.crops import CutFace, FaceCutter, Placed, same_face
from services.faces.look_through import look_through, nothing
from services.faces.overlap import Frame
from services.faces.rows import NewFace
from services.kit.clips import CorruptFrames
from services.kit.errors import WrongState
from services.kit.operations.plan import Chunk, ItemFailure, Plan, chunk_frames
from services.kit.operations.stage import WorkerEnv


@dataclass(frozen=True, slots=True)
class Again:
    """A stored face, ``record``, and how it is to be placed now."""

    record: FaceRecord
    placed: Placed
    options: dict[str, Any]


def cutter_of(env: WorkerEnv, plan: Plan, options: dict[str, Any]) -> FaceCutter:
    """A cutter for the faceset and the clip that a plan names."""
    params = plan.params
    return FaceCutter(
        env.store, faceset=params["faceset"], clip=params["clip"], clip_file=params["clip_file"], options=options
    )


def own_options(record: FaceRecord, options: dict[str, Any]) -> dict[str, Any]:
    """``options`` with the type, size and format that a face has."""
    jpeg = record.image is None or record.image.media_type == "image/jpeg"
    return {
        **options,
        "face_type": FACE_TYPE_NAMES[record.face_type],
        "size_px": record.size_px,
        "native_size": False,
        "image_format": "IMAGE_FORMAT_JPEG" if jpeg else "IMAGE_FORMAT_LOSSLESS",
    }


def require_same_footage(plan: Plan, records: Sequence[FaceRecord]) -> None:
    """WrongState when a face is of another clip than the plan's."""
    strangers = sorted({record.source.clip for record in records} - {plan.params["clip"], ""})
    if strangers:
        raise WrongState(
            f"{plan.params['faceset']} also holds faces of {', '.join(strangers[:3])}: only faces of its own clip "
            f"{plan.params['clip']} can be cut again"
        )


def cut_again(
    env: WorkerEnv,
    plan: Plan,
    chunk: Chunk,
    wanted: Mapping[int, Sequence[Again]],
    report: Callable[[int], None],
) -> tuple[list[NewFace], list[ItemFailure]]:
    """Cuts and stores the faces ``wanted`` by frame number, where that changes them; each replaces the one it was.

    Progress counts the frames of the whole chunk. Frames that cannot be decoded, and faces that frame nothing, are failures.
    """
    require_same_footage(plan, [face.record for faces in wanted.values() for face in faces])
    cutters: dict[str, FaceCutter] = {}
    corrupt, failures, made = CorruptFrames(), list[ItemFailure](), list[NewFace]()
    for faces in wanted.values():
        for face in faces:
            cutters.setdefault(str(face.options), cutter_of(env, plan, face.options))

    def store(batch: list[Frame], _: None) -> tuple[list[NewFace], list[ItemFailure]]:
        new, failed = list[NewFace](), list[ItemFailure]()
        for number, image in batch:
            for face in wanted[number]:
                _require_size(face.record, image)
                try:
                    cut = cutters[str(face.options)].cut(number, face.record.source.face_index, image, face.placed)
                except ValueError as error:
                    failed.append(ItemFailure(face.record.face_id, "DEGENERATE_FACE", str(error)))
                    continue
                if not same_face(face.record, cut.record):
                    new.append(NewFace(cut, replaces=face.record.face_id))
        env.store.put_many(_objects([face.cut for face in new]))
        return new, failed

    numbers = [number for number in chunk_frames(chunk) if wanted.get(number)]
    if not numbers:
        return [], []
    done = chunk.units - len(numbers)
    for count, (new, failed) in look_through(env, plan, numbers, corrupt, nothing, store):
        made += new
        failures += failed
        done += count
        report(done)
    return made, [*corrupt.failures, *failures]


def _objects(cuts: Sequence[CutFace]) -> list[tuple[str, bytes, str]]:
    return [item for cut in cuts for item in cut.objects()]


def _require_size(record: FaceRecord, image_bgr_HWC: np.ndarray) -> None:
    source, (height, width) = record.source, image_bgr_HWC.shape[:2]
    if source.frame_width and (source.frame_width, source.frame_height) != (width, height):
        raise WrongState(
            f"frame {source.frame_number} of {source.clip} is {width} x {height}, the face was found in one of "
            f"{source.frame_width} x {source.frame_height}: the clip is not the one that the faceset was made of"
        )
