"""AlignFace: one face set by hand, in and out within a call.

What one would get wrong: the worker makes the picture, this makes the revision, and someone else may make one in between. Then all is done
again on what they left, so that no two faces of a frame share an index and nobody's work is lost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml_common.facesets import FaceKeys, FaceRecord, from_records, parse_face_id
from ml_common.geometry import FaceType, alignment_matrix
from services.faces.app import STAGE
from services.faces.edits import Footage
from services.faces.options import ExtractionOptions
from services.faces.rows import merged, rows_in_frames, tracks_around
from services.kit import names
from services.kit.context import ServiceContext
from services.kit.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from services.kit.faceset_store import FacesetStore
from services.kit.operations.ledger import request_key
from services.kit.operations.plan import canonical_json
from services.kit.trash import refuse_trashed

METHOD = "FaceService/AlignFace"
_ATTEMPTS = 10
_SMALLEST_SIDE_PX = 4
_OUTSIDE = 1.0  # how far outside of the frame a point may lie, in frames


@dataclass(frozen=True, slots=True)
class Wish:
    """Where a person says a face is. Either ``landmarks`` (x0, y0, ...) or ``placement``, the arguments of place_mean_face."""

    number: int
    landmarks: Sequence[float]
    placement: dict[str, float] | None
    snap: bool
    replaces: str
    options: ExtractionOptions


class HandAlignment:
    """Aligns faces by hand."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context
        self._facesets = FacesetStore(context.store, context.records)

    def align(
        self, faceset: str, footage: Footage, wish: Wish, *, request_id: str, request: str, actor: str
    ) -> FaceRecord:
        """The face, stored and in force. ``request`` is a digest of what was asked, to know a request id's second use."""
        checked = _checked(footage, wish)
        refuse_trashed(self._context.records, names.project_of(faceset))
        known = self._answered(faceset, request_id, request)
        if known:
            return known
        for _ in range(_ATTEMPTS):
            with suppress(Conflict):  # someone was faster: on what they made
                record, key = self._tried(faceset, footage, wish, checked, actor)
                self._note(faceset, request_id, request, key)
                return record
        raise Conflict(f"{faceset} is being changed by others all the time: try again")

    def _tried(
        self, faceset: str, footage: Footage, wish: Wish, checked: dict[str, Any], actor: str
    ) -> tuple[FaceRecord, str]:
        """Makes the face and a revision with it; Conflict when the faceset changed meanwhile."""
        number, table = self._facesets.table(faceset)
        rows = rows_in_frames(table, [wish.number])
        old = next((row for row in rows if row.face_id == wish.replaces), None)
        question = {
            **footage.to_json(),
            **checked,
            "faceset": faceset,
            "number": wish.number,
            "index": old.face_index if old else 1 + max((row.face_index for row in rows), default=-1),
            "snap": wish.snap,
            "options": wish.options.to_json(),
            "replaces": old.record_key if old else "",
            "track": old.track_id if old else "",
            "person": old.person if old else "",
            "beside": [row.record_key for row in rows if not row.trashed],
            "only_find": bool(wish.replaces) and old is None,
        }
        answer = self._context.executor.ask(STAGE, {"align": question})
        if not answer:
            raise NotFound(f"{faceset} has no face {wish.replaces}")
        if "exists" in answer:
            return self._facesets.faces(faceset, [answer["exists"]])[0], answer["exists"]
        record = FaceRecord.from_json_dict(answer["record"])
        row = from_records([record], [FaceKeys(image_key=answer["image_key"], record_key=answer["record_key"])])
        result = merged(
            table,
            row,
            [old.face_id if old else ""],
            untrash=True,
            linked=lambda at: tracks_around(self._facesets, faceset, table, row, at),
        )
        if result.table is not None:
            summary = f"face {record.source.face_index} of frame {wish.number} {'set' if old else 'added'} by hand"
            self._facesets.add_revision(
                faceset, result.table, parent=number, method=METHOD, summary=summary, actor=actor
            )
        return record, answer["record_key"]

    def _answered(self, faceset: str, request_id: str, request: str) -> FaceRecord | None:
        """What the same request made before; AlreadyExists when its id was used for another."""
        if not request_id:
            return None
        try:
            noted = self._context.store.get(request_key(names.project_of(faceset), request_id))
        except NotFound:
            return None
        try:
            used = json.loads(noted)
            if used["request"] == request:
                return self._facesets.faces(faceset, [used["record_key"]])[0]
        except (ValueError, KeyError, TypeError):
            pass  # not one of ours: another method used it
        raise AlreadyExists(
            f"request_id {request_id} was used for other work: use a new one", reason="REQUEST_ID_REUSED"
        )

    def _note(self, faceset: str, request_id: str, request: str, record_key: str) -> None:
        if request_id:
            key = request_key(names.project_of(faceset), request_id)
            noted = canonical_json({"request": request, "record_key": record_key})
            with suppress(AlreadyExists):  # the same request, sent twice at once
                self._context.store.put(key, noted, media_type="application/json", if_absent=True)


def _checked(footage: Footage, wish: Wish) -> dict[str, Any]:
    """The points or the placement for the worker; InvalidInput that says what is wrong with them."""
    if wish.number not in footage.frames:
        raise InvalidInput(
            f"{footage.name} has no frame {wish.number}", reason="NO_FRAMES", fields={"frame_number": "not in the clip"}
        )
    if wish.replaces and _frame_of(wish.replaces) != wish.number:
        raise InvalidInput(
            f"{wish.replaces!r} is no face of frame {wish.number}", fields={"replaces": "must be a face of the frame"}
        )
    if bool(wish.landmarks) == bool(wish.placement):
        raise InvalidInput(
            "give either landmarks_px or placement", fields={"landmarks_px": "either these or placement"}
        )
    if wish.placement:
        return {"landmarks": None, "placement": _checked_placement(footage, wish.placement)}
    values = np.array(wish.landmarks, np.float64)
    if values.size != 136 or not np.isfinite(values).all():
        raise _wrong_points(f"68 points are 136 finite numbers, got {values.size}")
    points = values.reshape(68, 2)
    _require_near(footage, points, "landmarks_px")
    try:
        matrix = alignment_matrix(points, FaceType.HALF, 1)
    except ValueError as error:
        raise _wrong_points(f"the points are no face: {error}") from error
    if 1 / float(np.hypot(*matrix[0, :2])) < _SMALLEST_SIDE_PX:
        raise _wrong_points(f"the face is under {_SMALLEST_SIDE_PX} pixels from brows to mouth")
    return {"landmarks": points.tolist(), "placement": None}


def _checked_placement(footage: Footage, placement: dict[str, float]) -> dict[str, float]:
    largest = 2 * max(footage.width, footage.height)
    if not np.isfinite(list(placement.values())).all():
        raise InvalidInput("the placement must be finite numbers", fields={"placement": "finite numbers"})
    if not _SMALLEST_SIDE_PX <= placement["side_px"] <= largest:
        raise InvalidInput(
            f"side_px must be {_SMALLEST_SIDE_PX} to {largest}, twice the frame",
            fields={"placement.side_px": f"{_SMALLEST_SIDE_PX} to {largest}"},
        )
    center = np.array([[placement["center_x_px"], placement["center_y_px"]]])
    _require_near(footage, center, "placement.center")
    return placement


def _require_near(footage: Footage, points_N2: np.ndarray, field: str) -> None:
    """InvalidInput for points that are further outside of the frame than the frame is large."""
    size = np.array([footage.width, footage.height])
    if (points_N2 < -_OUTSIDE * size).any() or (points_N2 > (1 + _OUTSIDE) * size).any():
        raise InvalidInput(
            f"the face lies far outside of the frame of {footage.width} x {footage.height} pixels",
            fields={field: "too far outside of the frame"},
        )


def _frame_of(face: str) -> int:
    """The frame of a face by its id; -1 for what is no face id."""
    try:
        return parse_face_id(face).frame_number
    except ValueError:
        return -1


def _wrong_points(text: str) -> InvalidInput:
    return InvalidInput(text, fields={"landmarks_px": text})
