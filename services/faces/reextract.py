"""The worker's part of ReextractFaces: look again at chosen frames, or cut the faces out again by the landmarks they have.

What one would get wrong: a face that a person placed is not the machine's to move. Looking again replaces what the machine found, and
takes out of the trash what it finds there again where that is asked for; hand-placed faces in force stay as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ml_common.facesets import FaceRecord, LandmarkOrigin, RevisionRow
from services.faces.crops import FaceCutter, Placed, frame_label, placed_from_record, same_face
from services.faces.finders import Finders, kept, placed
from services.faces.look_through import look_through
from services.faces.neighbours import same_places
from services.faces.overlap import Frame
from services.faces.recut import Again, cut_again, cutter_of, require_same_footage
from services.faces.rows import Merged, NewFace, joined_rows, publish, records_of, rows_in_frames, store_rows
from services.kit.clips import CorruptFrames
from services.kit.faceset_store import FacesetStore
from services.kit.operations.plan import Chunk, ChunkManifest, ItemFailure, Plan, chunk_frames
from services.kit.operations.stage import ChunkOutcome, Resources, Response, Stage, WorkerEnv

if TYPE_CHECKING:
    from ml_common.detect import FaceFinder, FoundFace

_LAST_INDEX = 999  # of a face in its frame


@dataclass(frozen=True, slots=True)
class Known:
    """A face that the faceset has."""

    row: RevisionRow
    record: FaceRecord


@dataclass(slots=True)
class _Looked:
    new: list[NewFace] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    failures: list[ItemFailure] = field(default_factory=list)
    masks_dropped: int = 0


class ReextractStage(Stage):
    """Looks again."""

    version = "1"
    resources = Resources(cpus=1, gpus=0.5)

    def __init__(self) -> None:
        self._finders = Finders()

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage."""
        params = plan.params
        finder = self._finders.get(env, params["options"])
        cutter = cutter_of(env, plan, params["options"])
        known = known_faces(env, plan, chunk_frames(chunk))
        looked, corrupt, done = _Looked(), CorruptFrames(), 0

        def store(batch: list[Frame], found: list[list[FoundFace]]) -> _Looked:
            result = _Looked()
            for (number, image), faces in zip(batch, found, strict=True):
                _look(
                    params, cutter, finder, number, image, kept(faces, params["options"]), known.get(number, []), result
                )
            env.store.put_many([item for face in result.new for item in face.cut.objects()])
            return result

        def find(batch: list[Frame]) -> list[list[FoundFace]]:
            return finder.find([image for _, image in batch])

        for count, result in look_through(env, plan, chunk_frames(chunk), corrupt, find, store):
            looked.new += result.new
            looked.empty += result.empty
            looked.failures += result.failures
            looked.masks_dropped += result.masks_dropped
            done += count
            report(done)
        summary = {"frames": done, "empty": looked.empty, "masks_dropped": looked.masks_dropped}
        return store_rows(env, plan, chunk, looked.new, [*corrupt.failures, *looked.failures], **summary)

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Publishes what was found, if anything."""
        return _published(env, plan, manifests, actor, untrash=True)


class RecutStage(Stage):
    """Cuts out again by the landmarks that the faces have."""

    version = "1"
    resources = Resources(cpus=1)

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """See Stage. Faces that come out as they are stay."""
        known = known_faces(env, plan, chunk_frames(chunk))
        options = plan.params["options"]
        wanted = {
            number: [Again(face.record, _decided(placed_from_record(face.record), face.row), options) for face in faces]
            for number, faces in known.items()
        }
        new, failures = cut_again(env, plan, chunk, wanted, report)
        masked = {face.row.face_id for faces in known.values() for face in faces if face.record.mask}
        dropped = sum(face.replaces in masked for face in new)
        return store_rows(env, plan, chunk, new, failures, frames=chunk.units, empty=[], masks_dropped=dropped)

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Publishes the faces; a faceset that was cut again as a whole has their type and size from now on."""
        response = _published(env, plan, manifests, actor, untrash=False)
        options = plan.params["options"]
        if plan.params["whole"]:
            fields = {"faceType": options["face_type"], "sizePx": options["size_px"], "extraction": options}
            FacesetStore(env.store, env.records).set_fields(plan.params["faceset"], fields)
        return response


def known_faces(env: WorkerEnv, plan: Plan, numbers: Sequence[int]) -> dict[int, list[Known]]:
    """The faces that the plan's revision has in some frames, those in the trash too; an empty list where it has none."""
    facesets, faceset = FacesetStore(env.store, env.records), plan.params["faceset"]
    _, table = facesets.table(faceset, plan.params["revision"])
    rows = rows_in_frames(table, numbers)
    records = records_of(facesets, faceset, rows)
    require_same_footage(plan, records)
    known: dict[int, list[Known]] = defaultdict(list)
    for row, record in zip(rows, records, strict=True):
        known[row.frame_number].append(Known(row, record))
    return known


def _look(
    params: dict[str, Any],
    cutter: FaceCutter,
    finder: FaceFinder,
    number: int,
    image: Any,
    found: list[FoundFace],
    known: list[Known],
    result: _Looked,
) -> None:
    """Decides what each face found in a frame is to the faces that are known there, and cuts those that are wanted."""
    if not found:
        result.empty.append(number)
    pairs, free = same_places(
        [face.landmarks_px_68x2 for face in found], [face.record.frame_landmarks_px for face in known]
    )
    olds: dict[int, Known | None] = {at: known[there] for at, there in pairs if _is_meant(params, known[there])}
    if not params["only_trashed"]:
        olds |= dict.fromkeys(free)
    next_index = 1 + max((face.row.face_index for face in known), default=-1)
    for at in sorted(olds):
        old, face = olds[at], placed(finder, found[at])
        if old:
            index = old.row.face_index
            face = _decided(
                replace(face, eyebrows_expand=old.record.eyebrows_expand, label=frame_label(old.record)), old.row
            )
        else:
            index, next_index = next_index, next_index + 1
        try:
            if index > _LAST_INDEX:
                raise ValueError(f"a frame holds at most {_LAST_INDEX + 1} faces")
            cut = cutter.cut(number, index, image, face)
        except ValueError as error:
            result.failures.append(ItemFailure(f"{number}/{index}", "DEGENERATE_FACE", str(error)))
            continue
        if old is None or old.row.trashed or not same_face(old.record, cut.record):
            result.new.append(NewFace(cut, replaces=old.row.face_id if old else ""))
            result.masks_dropped += bool(old and old.record.mask)


def _is_meant(params: dict[str, Any], old: Known) -> bool:
    """Whether a face found at the place of ``old`` shall take that place."""
    if old.row.trashed:
        return bool(params["only_trashed"])
    return bool(params["replace"]) and old.record.landmark_origin is not LandmarkOrigin.MANUAL


def _decided(face: Placed, row: RevisionRow) -> Placed:
    """``face`` with the track and the person that the revision gives it."""
    return replace(face, track_id=row.track_id, person=row.person)


def _published(
    env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str, *, untrash: bool
) -> Response:
    params = plan.params
    frames = sum(manifest.summary["frames"] for manifest in manifests)
    dropped = sum(manifest.summary["masks_dropped"] for manifest in manifests)
    empty = [number for manifest in manifests for number in manifest.summary["empty"]]

    def summary(merged: Merged) -> str:
        verb = "replaced" if untrash else "cut again"
        text = f"{merged.added} faces added, {merged.replaced} {verb} in {frames} frames"
        text += f"; {dropped} masks are to be made anew" if dropped else ""
        return text + (f"; {merged.left_out} left out, changed by others meanwhile" if merged.left_out else "")

    published = publish(
        FacesetStore(env.store, env.records),
        params["faceset"],
        *joined_rows(env, manifests),
        untrash=untrash,
        method=params["method"],
        summary=summary,
        actor=actor,
    )
    return Response(
        "understudy.v1.ReextractFacesResponse",
        {
            "faceset": params["faceset"],
            "revision": str(published.revision),
            "frameCount": str(frames),
            "addedCount": str(published.merged.added),
            "replacedCount": str(published.merged.replaced),
            "framesWithoutFace": [str(number) for number in empty[:1000]],
        },
    )
