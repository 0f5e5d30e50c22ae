"""Long work that changes a faceset or draws it: plans, as pure functions of the request and of the revision in force, and their submission.

What one would get wrong: a plan names the revision it was made from, so the same request is other work once it has changed the faceset. A
caller who asks again with the same ``request_id`` is therefore led to the operation of the first time, by a digest of the request that the
plan carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml_common.facesets import RevisionTable
from ml_common.tracking.smooth import MAX_RADIUS_FRAMES
from services.faces.app import STAGE_VERSIONS
from services.faces.options import ExtractionOptions
from services.kit import names
from services.kit.clips import MediaFile
from services.kit.context import ServiceContext
from services.kit.errors import AlreadyExists, InvalidInput, WrongState
from services.kit.faceset_store import FacesetStore
from services.kit.operations.chunk import load_plan
from services.kit.operations.ledger import Submission
from services.kit.operations.plan import Chunk, Plan, action_key, frame_chunks
from services.kit.records import Record
from services.kit.storage import ObjectStore

REEXTRACT = "FaceService/ReextractFaces"
SMOOTH = "FaceService/SmoothFaces"
SELECT = "FaceService/SelectPerson"
DEBUG = "FaceService/RenderDebug"
REEXTRACT_STAGE = "services.faces.reextract:ReextractStage"
RECUT_STAGE = "services.faces.reextract:RecutStage"
SMOOTH_STAGE = "services.faces.smooth:SmoothStage"
SELECT_STAGE = "services.faces.person:SelectStage"
DEBUG_STAGE = "services.faces.debug:DebugStage"
TRACKS_PER_CHUNK = 8
_KINDS = {REEXTRACT: "reextract", SMOOTH: "smooth", SELECT: "select", DEBUG: "debug"}


@dataclass(frozen=True, slots=True)
class Footage:
    """A clip as workers open it; ``frames`` are the numbers that a request selects, rising."""

    name: str
    file: str
    media: MediaFile
    media_sha256: str
    width: int
    height: int
    frames: Sequence[int]

    def to_json(self) -> dict[str, Any]:
        """For a plan."""
        return {"clip": self.name, "clip_file": self.file, "media": self.media.to_json()}


@dataclass(frozen=True, slots=True)
class State:
    """A faceset as it is now; ``table_sha256`` tells two revisions of one number apart, should the faceset be made anew."""

    faceset: str
    body: dict[str, Any]
    revision: int
    table: RevisionTable
    table_sha256: str


@dataclass(frozen=True, slots=True)
class Reextraction:
    """What a ReextractFacesRequest asks for; see there. ``whole``: no frames were chosen."""

    options: ExtractionOptions
    only_missing: bool
    only_trashed: bool
    keep_landmarks: bool
    replace: bool
    whole: bool


def reextract_plan(state: State, footage: Footage, wish: Reextraction, *, request: str, chunk_frames: int) -> Plan:
    """The plan of a ReextractFaces; it has no chunks when no frame is as the request wants it."""
    contradictions = (wish.only_missing and wish.only_trashed) or (
        wish.keep_landmarks and (wish.only_missing or wish.only_trashed)
    )
    if contradictions:
        raise InvalidInput(
            "only_missing, only_trashed and keep_landmarks exclude each other: ask for one at a time",
            fields={"only_missing": "at most one of the three"},
        )
    with_face, with_trash = (set(_frames_of(state.table, trashed=trashed)) for trashed in (False, True))
    if wish.keep_landmarks:
        frames = [number for number in footage.frames if number in with_face | with_trash]
    elif wish.only_missing:
        frames = [number for number in footage.frames if number not in with_face]
    elif wish.only_trashed:
        frames = [number for number in footage.frames if number in with_trash]
    else:
        frames = list(footage.frames)
    params = {
        "options": wish.options.to_json(),
        "only_trashed": wish.only_trashed,
        "replace": wish.replace,
        "whole": wish.whole,
    }
    stage = RECUT_STAGE if wish.keep_landmarks else REEXTRACT_STAGE
    return _plan(state, footage, REEXTRACT, stage, params, frame_chunks(frames, chunk_frames), request=request)


def smooth_plan(
    state: State,
    footage: Footage,
    *,
    radius_frames: int,
    options: ExtractionOptions,
    unsmoothed: Sequence[int],
    request: str,
    chunk_frames: int,
) -> Plan:
    """The plan of a SmoothFaces. ``unsmoothed`` are the revisions that earlier smoothing was made from, newest first."""
    if not 1 <= radius_frames <= MAX_RADIUS_FRAMES:
        raise InvalidInput(
            f"radius_frames must be 1 to {MAX_RADIUS_FRAMES}, or 0 for the default, not {radius_frames}",
            fields={"radius_frames": f"0 to {MAX_RADIUS_FRAMES}"},
        )
    _require_tracks(state)
    params = {"options": options.to_json(), "radius_frames": radius_frames, "unsmoothed": list(unsmoothed)}
    chunks = frame_chunks(_frames_of(state.table, trashed=False), chunk_frames)
    return _plan(state, footage, SMOOTH, SMOOTH_STAGE, params, chunks, request=request)


def select_plan(
    state: State,
    *,
    track_ids: Sequence[str],
    reference: dict[str, Any] | None,
    min_similarity: float | None,
    request: str,
) -> Plan:
    """The plan of a SelectPerson. ``reference`` is ``{"key", "sha256", "landmarks"}`` of a picture and of the face in it."""
    _require_tracks(state)
    tracks = sorted(set(state.table.active().column("track_id")))
    if bool(track_ids) == bool(reference):
        raise InvalidInput(
            "give either track_ids or a reference picture", fields={"track_ids": "either these or reference"}
        )
    if unknown := sorted(set(track_ids) - set(tracks)):
        raise InvalidInput(
            f"{state.faceset} has no track {', '.join(unknown[:5])}: `faceset faces` lists them",
            fields={"track_ids": f"unknown: {', '.join(unknown[:5])}"},
        )
    if min_similarity is not None and not 0 <= min_similarity <= 1:
        raise InvalidInput("min_similarity must be 0 to 1", fields={"min_similarity": "0 to 1"})
    params = {"tracks": sorted(set(track_ids)), "reference": reference, "min_similarity": min_similarity}
    compared = tracks if reference else []
    parts = [compared[at : at + TRACKS_PER_CHUNK] for at in range(0, len(compared), TRACKS_PER_CHUNK)]
    chunks = tuple(Chunk(index, len(part), {"tracks": part}) for index, part in enumerate(parts))
    return _plan(state, None, SELECT, SELECT_STAGE, params, chunks, request=request, unit="tracks")


def reference_of(store: ObjectStore, key: str, faces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The largest of the faces found in a reference picture, for ``select_plan``; InvalidInput NO_FACE when there is none."""
    if not faces:
        raise InvalidInput(
            "no face is seen in the reference picture: take one where the face is larger and turned to the camera",
            reason="NO_FACE",
            fields={"reference": "no face"},
        )
    return {"key": key, "sha256": store.stat(key).sha256 or "", "landmarks": faces[0]["landmarksPx"]}


def debug_plan(state: State, footage: Footage, *, request: str, chunk_frames: int) -> Plan:
    """The plan of a RenderDebug."""
    chunks = frame_chunks(footage.frames, chunk_frames)
    return _plan(state, footage, DEBUG, DEBUG_STAGE, {}, chunks, request=request)


class Edits:
    """Reads what plans are made from, and submits them."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._facesets = FacesetStore(context.store, context.records)

    def state(self, faceset: str) -> State:
        """The faceset and its revision in force; NotFound when there is none."""
        body = self._facesets.get(faceset).body
        revision, table = self._facesets.table(faceset, int(body["revision"]))
        digest = self._facesets.revision_facts(faceset, revision)["manifest"]["digest"]["sha256"]
        return State(faceset, body, revision, table, digest)

    def unsmoothed(self, state: State) -> list[int]:
        """Revisions from which smoothed ones were made, newest first: there lie the landmarks as they were found."""
        facts = (self._facesets.revision_facts(state.faceset, number) for number in range(state.revision, 1, -1))
        return [int(fact["parent"]) for fact in facts if fact.get("method") == SMOOTH]

    def asked_before(self, faceset: str, request_id: str, request: str) -> tuple[Record, bool] | None:
        """The operation of the same request, taken up again if it failed; None when the id is new. AlreadyExists REQUEST_ID_REUSED
        when it was used for another request."""
        record = self._context.ledger.asked_before(names.project_of(faceset), request_id)
        if record is None:
            return None
        plan = load_plan(self._context.store, record.body["action_key"])
        if plan.params.get("request") != request:
            raise AlreadyExists(
                f"request_id {request_id} was used for other work ({record.name}): use a new one",
                reason="REQUEST_ID_REUSED",
                metadata={"operation": record.name},
            )
        return self.submit(plan, request_id=request_id, actor=record.body["actor"])

    def submit(self, plan: Plan, *, request_id: str, actor: str) -> tuple[Record, bool]:
        """Records the work and has it driven."""
        faceset, method = plan.params["faceset"], plan.params["method"]
        submission = Submission(
            project=names.project_of(faceset),
            kind=_KINDS[method],
            method=f"understudy.v1.{method}",
            target=faceset,
            plan=plan,
            request_id=request_id,
            actor=actor,
            labels={},
        )
        found = self._context.ledger.submit(submission, is_intact=lambda: self._facesets.exists(faceset))
        self._context.reconciler.poke()
        return found


def _plan(
    state: State,
    footage: Footage | None,
    method: str,
    stage: str,
    params: dict[str, Any],
    chunks: tuple[Chunk, ...],
    *,
    request: str,
    unit: str = "frames",
) -> Plan:
    params = {
        **params,
        **(footage.to_json() if footage else {}),
        "faceset": state.faceset,
        "revision": state.revision,
        "method": method,
        "request": request,
    }
    inputs = {
        **params,
        "table_sha256": state.table_sha256,
        "media_sha256": footage.media_sha256 if footage else "",
        "chunks": [chunk.data for chunk in chunks],
    }
    key = action_key(f"understudy.v1.{method}", stage, STAGE_VERSIONS[stage], inputs)
    return Plan(action_key=key, stage=stage, params=params, chunks=chunks, unit=unit)


def _frames_of(table: RevisionTable, *, trashed: bool) -> list[int]:
    """Frames that hold a face that is (not) in the trash, rising."""
    numbers = table.column("frame_number")[table.column("trashed").astype(bool) == trashed]
    return [int(number) for number in np.unique(numbers)]


def _require_tracks(state: State) -> None:
    without = int((state.table.active().column("track_id") == "").sum())
    if without:
        raise WrongState(
            f"{without} faces of {state.faceset} are in no track: it was imported, or made before faces were linked. Extract it again"
        )
