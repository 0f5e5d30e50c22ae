"""Use cases of projects and clips, on plain values and records. No gRPC here. What clips are cut into and made of is planned in ``plans``,
how a project is removed for good stands in ``purge``."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from ml_common.imaging import as_bgr_u8
from ml_common.imaging.picture import encode_picture, lossless_suffix, media_type_of
from ml_common.media import ClipInfo
from services.frames import plans
from services.frames.clip_body import made_clip
from services.frames.options import ClipFacts, first_of_each_period
from services.kit.clips import MediaFile, open_clip, probe_clip
from services.kit.context import ServiceContext
from services.kit.errors import AlreadyExists, InvalidInput, MissingObject, NotFound, WrongState
from services.kit.operations.ledger import Submission
from services.kit.operations.plan import Plan
from services.kit.records import Record
from services.kit.storage import ObjectInfo
from services.kit.trash import refuse_trashed

PREVIEW_LIMIT_BYTES = 256 * 1024
STAGE_VERSIONS = plans.STAGE_VERSIONS


class Projects:
    """Projects as records `projects/p`."""

    def __init__(self, context: ServiceContext) -> None:
        self._records = context.records

    def create(self, name: str, body: dict[str, Any]) -> Record:
        """Makes a project; asking again with the same fields returns it."""
        try:
            return self._records.create(name, body)
        except AlreadyExists:
            record = self._records.get(name)
            if {**record.body, "createTime": ""} != {**body, "createTime": ""}:
                raise
            return record

    def get(self, name: str) -> Record:
        """NotFound when there is none."""
        return self._records.get(name)

    def page(self, *, after: str, limit: int, show_deleted: bool) -> tuple[list[Record], str]:
        """Projects by name; a page may be shorter than asked when some are in the trash."""
        records, next_after = self._records.list("projects", after=after, limit=limit, nested=False)
        return [record for record in records if show_deleted or "deleteTime" not in record.body], next_after

    def set_deleted(self, name: str, delete_time: str | None, etag: str | None) -> Record:
        """Into the trash, or out of it. Nothing is removed."""

        def change(body: dict[str, Any]) -> dict[str, Any] | None:
            if "purgeTime" in body:
                raise WrongState(f"{name} is being removed for good: call PurgeProject until it is gone")
            if (delete_time is None) != ("deleteTime" in body):
                raise WrongState(f"{name} is {'not ' if delete_time is None else 'already '}in the trash")
            if delete_time is None:
                del body["deleteTime"]
            else:
                body["deleteTime"] = delete_time
            return body

        return self._records.update(name, change, etag=etag or None)


class Clips:
    """Clips as records `projects/p/clips/c`; their bytes are uploads."""

    def __init__(self, context: ServiceContext) -> None:
        self._records = context.records
        self._store = context.store

    def check_project(self, name: str) -> None:
        """NotFound when there is no such project, WrongState when it is in the trash."""
        try:
            self._records.get(name)
        except NotFound:
            raise NotFound(f"there is no {name}: make it with CreateProject (`understudy project create`)") from None
        refuse_trashed(self._records, name)

    def probe(self, media: MediaFile, label: str) -> ClipInfo:
        """What a file holds; InvalidInput with the reason when it is no footage."""
        try:
            return probe_clip(self._store, media, label)
        except NotFound as error:
            uri = self._store.uri(media.key)
            raise MissingObject(
                f"{uri} is not in the store: send it first (CreateUploadUrls, CompleteUploads)", metadata={"uri": uri}
            ) from error

    def existing(self, name: str, media_uri: str) -> Record | None:
        """A clip that is registered already, if it is of the same bytes; AlreadyExists when it is of others."""
        try:
            record = self._records.get(name)
        except NotFound:
            return None
        if record.body["media"]["uri"] != media_uri:
            raise AlreadyExists(f"{name} exists with other footage: choose another clip id, or delete it")
        return record

    def create(self, name: str, body: dict[str, Any]) -> Record:
        """Registers a probed clip."""
        try:
            return self._records.create(name, body)
        except AlreadyExists:
            record = self.existing(name, body["media"]["uri"])
            assert record is not None
            return record

    def get(self, name: str) -> Record:
        """NotFound when there is none."""
        return self._records.get(name)

    def page(self, project: str, *, after: str, limit: int) -> tuple[list[Record], str]:
        """Clips of a project by name."""
        return self._records.list(f"{project}/clips", after=after, limit=limit, nested=False)

    def delete(self, name: str) -> None:
        """Forgets a clip; its bytes stay."""
        self._records.delete(name)

    def frame(self, media: MediaFile, name: str, number: int) -> tuple[np.ndarray, float]:
        """One frame, image_bgr_HWC, and when it is shown in seconds."""
        with open_clip(self._store, media, name) as clip:
            _, image_bgr_HWC = next(clip.read([number]))
            return image_bgr_HWC, clip.time_s(number)

    def store_frame(self, name: str, media_sha256: str, number: int, image_bgr_HWC: np.ndarray) -> ObjectInfo:
        """A full-size frame as an object, PNG or (float) OpenEXR; the same frame is stored once.

        Its key holds the footage's digest: another clip may come to have the name of one that was deleted.
        """
        suffix = lossless_suffix(image_bgr_HWC.dtype)
        key = f"{name}/frames/{media_sha256[:16]}/{number:08d}{suffix}"
        try:
            encoded = encode_picture(image_bgr_HWC, suffix)
            return self._store.put(key, encoded, media_type=media_type_of(suffix), if_absent=True)
        except AlreadyExists:
            return self._store.stat(key)

    def evenly(self, clip: ClipFacts, frames: Sequence[int], rate: Fraction) -> list[int]:
        """Of ``frames`` of a clip of variable rate, ``rate`` a second by the times at which they are shown."""
        with open_clip(self._store, clip.media, clip.name) as opened:
            times_s = [opened.time_s(number) for number in frames]
            return first_of_each_period(frames, times_s, opened.time_s(clip.frames[0]), rate)


class ClipWork:
    """Submits the work of the clip tools."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def submit(self, kind: str, method: str, plan: Plan, *, request_id: str, actor: str) -> tuple[Record, bool]:
        """Records the work and has it driven. AlreadyExists when the clip that it would make is another already."""
        target: str = plan.params.get("new_clip", plan.params["clip"])
        if "new_clip" in plan.params:
            made_clip(self._context.records, target, plan.action_key)
        submission = Submission(
            project="/".join(target.split("/")[:2]),
            kind=kind,
            method=method,
            target=target,
            plan=plan,
            request_id=request_id,
            actor=actor,
            labels={},
        )
        found = self._context.ledger.submit(submission, is_intact=lambda: self._is_intact(plan))
        self._context.reconciler.poke()
        return found

    def _is_intact(self, plan: Plan) -> bool:
        """Whether what finished work made is still there: a clip may have been deleted since."""
        if "new_clip" in plan.params:
            return made_clip(self._context.records, plan.params["new_clip"], plan.action_key) is not None
        return True


def preview_jpeg(image_bgr_HWC: np.ndarray, max_side_px: int) -> bytes:
    """A JPEG under 256 KiB, the longer side at most ``max_side_px``; 16-bit and float pictures are shown in 8 bits."""
    image_bgr_HWC = as_bgr_u8(image_bgr_HWC)
    height, width = image_bgr_HWC.shape[:2]
    if max(height, width) > max_side_px:
        scale = max_side_px / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image_bgr_HWC = cv2.resize(image_bgr_HWC, size, interpolation=cv2.INTER_AREA)
    for quality in (90, 75, 50, 25):
        encoded = cv2.imencode(".jpg", image_bgr_HWC, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(encoded) <= PREVIEW_LIMIT_BYTES:
            return encoded
    raise InvalidInput(
        "the preview is over 256 KiB even at low quality: ask for a smaller max_side_px",
        fields={"max_side_px": "too large"},
    )
