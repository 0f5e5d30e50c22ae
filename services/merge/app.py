"""Merge sessions, and planning merges and encodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ml_common.media.info import FLOAT_FORMATS
from services.kit.checkpoint_store import CheckpointInfo, CheckpointStore
from services.kit.clips import MediaFile
from services.kit.context import ServiceContext
from services.kit.errors import AlreadyExists, InvalidInput, MissingObject, NotFound, WrongState
from services.kit.faceset_store import FacesetStore
from services.kit.operations.ledger import Submission
from services.kit.operations.plan import Chunk, Plan, action_key, frame_chunks
from services.kit.records import Record
from services.kit.storage import ObjectStore

MERGE_METHOD = "understudy.v1.MergeService/MergeFrames"
ENCODE_METHOD = "understudy.v1.MergeService/EncodeVideo"
MERGE_STAGE = "services.merge.stages:MergeStage"
ENCODE_STAGE = "services.merge.stages:EncodeStage"
STAGE_VERSIONS = {
    MERGE_STAGE: "1",
    ENCODE_STAGE: "1",
}  # of the stages, whose module a server does not import; a test compares


class Sessions:
    """Merge sessions as records `projects/p/sessions/s`."""

    def __init__(self, context: ServiceContext) -> None:
        self._records = context.records

    def create(self, name: str, body: dict[str, Any]) -> Record:
        """Makes a session; the same fields again return it."""
        for field in ("clip", "faceset"):
            self._records.get(body[field])
        try:
            return self._records.create(name, body)
        except AlreadyExists:
            record = self._records.get(name)
            if _wishes(record.body) != _wishes(body):
                raise AlreadyExists(
                    f"{name} exists with other footage, faces, model or settings: choose another session id"
                ) from None
            return record

    def get(self, name: str) -> Record:
        """NotFound when there is none."""
        return self._records.get(name)

    def page(self, project: str, *, after: str, limit: int) -> tuple[list[Record], str]:
        """Sessions of a project by name."""
        return self._records.list(f"{project}/sessions", after=after, limit=limit, nested=False)

    def delete(self, name: str) -> None:
        """Forgets a session; what it merged stays."""
        self._records.delete(name)

    def put_settings(self, name: str, settings: list[dict[str, Any]], etag: str | None) -> Record:
        """Replaces the settings; Conflict when the session changed since ``etag``."""

        def change(body: dict[str, Any]) -> dict[str, Any]:
            return {**body, "settings": settings, "revision": str(int(body.get("revision", "1")) + 1)}

        return self._records.update(name, change, etag=etag)


class Merges:
    """Plans and submits merges and encodes."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._checkpoints = CheckpointStore(context.store)
        self._facesets = FacesetStore(context.store, context.records)

    def checkpoint_of(self, model: str) -> CheckpointInfo:
        """The checkpoint that `projects/p/models/m`, `projects/p/runs/r` or `.../checkpoints/c` names.

        WrongState when a run has saved none yet.
        """
        if "/checkpoints/" in model:
            return self._checkpoints.get(model)
        record = self._context.records.get(model)
        if "/models/" in model:
            return self._checkpoints.get(record.body["checkpoint"]["name"])
        newest = self._checkpoints.newest(model)
        if newest is None:
            raise WrongState(f"{model} has no checkpoint yet: let it train until it saves one (`understudy run save`)")
        return newest

    def merge_plan(
        self,
        *,
        session: str,
        clip: str,
        media: MediaFile,
        media_sha256: str,
        faceset: str,
        faceset_revision: int,
        model: str,
        rules: Sequence[dict[str, Any]],
        frames: Sequence[int],
        nonce: str,
    ) -> Plan:
        """The plan of a merge: what it depends on is fixed here (revision in force, newest checkpoint)."""
        checkpoint = self.checkpoint_of(model)
        self._checkpoints.keep(checkpoint.name)  # a run that trains on removes old ones, and a merge may last
        revision, _ = self._facesets.table(faceset, faceset_revision)
        params: dict[str, Any] = {
            "session": session,
            "clip": clip,
            "media": media.to_json(),
            "faceset": faceset,
            "faceset_revision": revision,
            "checkpoint": checkpoint.name,
            "settings": list(rules),
        }
        chunks = frame_chunks(frames, self._context.settings.execution.chunk_frames)
        inputs = {
            **params,
            "media_sha256": media_sha256,
            "checkpoint_files": checkpoint.files,
            "chunks": [chunk.data for chunk in chunks],
            "nonce": nonce,
        }
        key = action_key(MERGE_METHOD, MERGE_STAGE, STAGE_VERSIONS[MERGE_STAGE], inputs)
        return Plan(action_key=key, stage=MERGE_STAGE, params=params, chunks=chunks, unit="frames")

    def encode_plan(self, *, session: str, merged_key: str, settings: dict[str, Any], mask: bool) -> Plan:
        """The plan of an encode: one chunk, since a film is written from its first frame to its last."""
        try:
            data = self._context.store.get(merged_key)
            merged = json.loads(data)
            segments, count = merged["segments"], merged["frame_count"]
        except NotFound:
            uri = self._context.store.uri(merged_key)
            raise MissingObject(f"{uri} is not in the store: merge the frames first", metadata={"uri": uri}) from None
        except (ValueError, KeyError, TypeError):
            raise InvalidInput(
                "merged is not the manifest of a MergeFrames result", fields={"merged": "another object"}
            ) from None
        params = {
            "session": session,
            "clip": merged["clip"],
            "media": merged["media"],
            "segments": [
                {name: segment[name] for name in ("units", "frames", "picture", "mask")} for segment in segments
            ],
            "settings": settings,
            "mask": mask,
        }
        key = action_key(ENCODE_METHOD, ENCODE_STAGE, STAGE_VERSIONS[ENCODE_STAGE], params)
        return Plan(action_key=key, stage=ENCODE_STAGE, params=params, chunks=(Chunk(0, count, {}),), unit="frames")

    def submit(self, kind: str, method: str, plan: Plan, *, request_id: str, actor: str) -> tuple[Record, bool]:
        """Records the work and has it driven."""
        session: str = plan.params["session"]
        submission = Submission(
            project="/".join(session.split("/")[:2]),
            kind=kind,
            method=method,
            target=session,
            plan=plan,
            request_id=request_id,
            actor=actor,
            labels={},
        )
        found = self._context.ledger.submit(submission)
        self._context.reconciler.poke()
        return found

    def newest_merge(self, session: str) -> str:
        """Key of the segments of the session's newest finished merge; WrongState when there is none."""
        project, after = "/".join(session.split("/")[:2]), ""
        newest: tuple[float, str] | None = None
        while True:
            records, after = self._context.ledger.page(project, after=after, limit=1000)
            for record in records:
                body = record.body
                if body["method"] == MERGE_METHOD and body["target"] == session and "response" in body:
                    candidate = (body["end_time_s"], body["response"]["body"]["manifest"]["uri"])
                    newest = max(newest, candidate) if newest else candidate
            if not after:
                break
        if newest is None:
            raise WrongState(f"{session} has no finished merge: call MergeFrames first")
        return self._context.store.key_of(newest[1])


def check_depth(pixel_format: str, clip: str) -> None:
    """InvalidInput for float footage, which this release cannot keep through a merge."""
    if pixel_format in FLOAT_FORMATS:
        raise InvalidInput(f"{clip} is float footage: this release merges 8 to 16 bit only", reason="UNSUPPORTED_MEDIA")


def segments_key(store: ObjectStore, uri: str) -> str:
    """Key of the merge manifest that a request names; only manifests that merges wrote pass."""
    key = store.key_of(uri)
    if not (key.startswith("work/") and key.endswith("/out/segments.json")):
        raise InvalidInput("merged is not the manifest of a MergeFrames result", fields={"merged": "another object"})
    return key


def _wishes(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in ("createTime", "revision", "etag")}
