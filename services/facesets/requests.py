"""Requests that carry an id, done once however often they come.

What one would get wrong: noting what was done after it was done leaves a gap to die in. So a request first claims its id, together with the
revision that it found; the revision it makes is marked with it. Whoever comes again looks for the mark among the revisions since. A
request that had nothing to change makes no revision; that answer is noted by itself.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass

from services.kit import names
from services.kit.errors import AlreadyExists, NotFound
from services.kit.faceset_store import FacesetStore
from services.kit.operations.ledger import request_key
from services.kit.operations.plan import canonical_json
from services.kit.storage import ObjectStore


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: ``request_id`` (may be empty), and a digest of everything else."""

    request_id: str
    digest: str

    @property
    def maker(self) -> str:
        """The mark of the revision that it makes; empty without an id."""
        return f"request:{self.request_id}" if self.request_id else ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed request id: the revision in force at the first time, and the revision that answers it, once there is one."""

    since: int
    answer: int | None


class Requests:
    """Claims request ids for changes of facesets."""

    def __init__(self, store: ObjectStore, facesets: FacesetStore) -> None:
        self._store = store
        self._facesets = facesets

    def claim(self, faceset: str, request: Request, revision: int) -> Claim:
        """The claim of a request; AlreadyExists REQUEST_ID_REUSED when its id was used for anything else."""
        if not request.request_id:
            return Claim(revision, None)
        key = request_key(names.project_of(faceset), request.request_id)
        claim = canonical_json({"request": request.digest, "since": revision})
        try:
            self._store.put(key, claim, media_type="application/json", if_absent=True)
            return Claim(revision, None)
        except AlreadyExists:
            since = self._claimed_since(key, request)
        with suppress(NotFound):
            return Claim(since, int(self._store.get(_answer_key(key))))
        return Claim(since, self._facesets.made_by(faceset, request.maker, since=since))

    def answer(self, faceset: str, request: Request, revision: int) -> int:
        """Notes that ``revision`` was as the request wants it before it came; returns what is noted."""
        if not request.request_id:
            return revision
        key = _answer_key(request_key(names.project_of(faceset), request.request_id))
        try:
            self._store.put(key, str(revision).encode(), media_type="text/plain", if_absent=True)
        except AlreadyExists:
            return int(self._store.get(key))
        return revision

    def _claimed_since(self, key: str, request: Request) -> int:
        with suppress(ValueError, KeyError, TypeError):  # what another method noted there has another form
            claim = json.loads(self._store.get(key))
            if claim["request"] == request.digest:
                return int(claim["since"])
        raise AlreadyExists(
            f"request_id {request.request_id} was used for other work: use a new one", reason="REQUEST_ID_REUSED"
        )


def _answer_key(key: str) -> str:
    return f"{key}.answer"
