"""Planning extractions: a pure function from clip and options to chunks, and its submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.faces.options import ExtractionOptions
from services.kit.clips import MediaFile
from services.kit.context import ServiceContext
from services.kit.faceset_store import FacesetStore
from services.kit.operations.ledger import Submission
from services.kit.operations.plan import Plan, action_key, frame_chunks
from services.kit.records import Record

METHOD = "understudy.v1.FaceService/ExtractFaceset"
STAGE = "services.faces.stages:ExtractStage"
STAGE_VERSION = "2"  # of ExtractStage, whose module a server does not import; a test compares the two
STAGE_VERSIONS = {  # likewise, of the stages that change a faceset
    "services.faces.reextract:ReextractStage": "1",
    "services.faces.reextract:RecutStage": "1",
    "services.faces.smooth:SmoothStage": "1",
    "services.faces.person:SelectStage": "1",
    "services.faces.debug:DebugStage": "1",
}


def extraction_plan(
    *,
    clip: str,
    clip_file: str,
    media: MediaFile,
    media_sha256: str,
    faceset: str,
    frames: Sequence[int],
    options: ExtractionOptions,
    chunk_frames: int,
    debug_overlays: bool = False,
    weights: Mapping[str, str] | None = None,
    nonce: str = "",
) -> Plan:
    """The plan of an extraction. Everything that the result depends on is in its action key; of the networks, their registry names, the
    stage's version, and the digests of the ``weights`` that the server knows."""
    params: dict[str, Any] = {
        "clip": clip,
        "clip_file": clip_file,
        "media": media.to_json(),
        "faceset": faceset,
        "options": options.to_json(),
        "debug_overlays": debug_overlays,
    }
    chunks = frame_chunks(frames, chunk_frames)
    inputs = {
        **params,
        "media_sha256": media_sha256,
        "chunks": [chunk.data for chunk in chunks],
        "weights": dict(weights or {}),
        "nonce": nonce,
    }
    return Plan(
        action_key=action_key(METHOD, STAGE, STAGE_VERSION, inputs),
        stage=STAGE,
        params=params,
        chunks=chunks,
        unit="frames",
    )


class Extractions:
    """Submits extractions."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._facesets = FacesetStore(context.store, context.records)

    def submit(self, plan: Plan, *, request_id: str, actor: str) -> tuple[Record, bool]:
        """Records the work and has it driven. AlreadyExists when the faceset was made by other work."""
        faceset = plan.params["faceset"]
        project = "/".join(faceset.split("/")[:2])
        if self._facesets.exists(faceset):
            self._facesets.made_so(faceset, plan.action_key)
        submission = Submission(
            project=project,
            kind="extract",
            method=METHOD,
            target=faceset,
            plan=plan,
            request_id=request_id,
            actor=actor,
            labels={},
        )
        found = self._context.ledger.submit(submission, is_intact=lambda: self._facesets.exists(faceset))
        self._context.reconciler.poke()
        return found
