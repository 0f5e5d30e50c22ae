"""Emptying the trash: a project's objects and records are removed for good.

What a reader would get wrong: names do not say who uses an object. A clip of another project may be made of this one's footage, so every
record of every other project is looked through before anything is removed, and one such use stops it all. Killed at any line, the next
call goes on: objects go first, then records, the project's own last of all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from services.frames.clip_body import now_json
from services.kit.claims import ActiveNames
from services.kit.clips import SEQUENCE_MEDIA_TYPE
from services.kit.context import ServiceContext
from services.kit.errors import InvalidInput, NotFound, WrongState
from services.kit.operations.keys import plan_key
from services.kit.operations.ledger import TERMINAL
from services.kit.records import Record

ACTIVE_PREFIXES = ("active/operations/", "active/runs/")
RUN_ENDED = frozenset({"STATE_STOPPED", "STATE_COMPLETED", "STATE_FAILED"})
THREADS = 16
_USERS_NAMED = 5


class Purge:
    """Removes projects that are in the trash."""

    def __init__(self, context: ServiceContext) -> None:
        self._store = context.store
        self._records = context.records
        self._uri_base = context.store.uri("x")[:-1]

    def purge(self, name: str, confirm_project_id: str) -> None:
        """Removes ``name`` with all that is in it. InvalidInput without the right confirmation; WrongState unless it is in the trash,
        nothing runs in it and no other project uses what it holds; NotFound when it is gone."""
        if name != f"projects/{confirm_project_id}":
            raise InvalidInput(
                f"confirm_project_id must be the id of {name}: what is removed cannot be brought back",
                fields={"confirm_project_id": f"must be {name.partition('/')[2]}"},
            )
        if "deleteTime" not in self._records.get(name).body:
            raise WrongState(f"{name} is not in the trash: put it there first (DeleteProject)")
        self._refuse_active(name)
        work = self._work(name)
        self._refuse_used(name, work)
        self._records.update(name, lambda body: _marked(name, body))
        for prefix in [*(f"work/{key}/" for key in sorted(work)), f"{name}/"]:
            self._delete_below(prefix)
        for prefix in ACTIVE_PREFIXES:
            self._delete_below(f"{prefix}{name.replace('/', '=')}=")
        self._records.purge(name)

    def _refuse_active(self, project: str) -> None:
        for prefix in ACTIVE_PREFIXES:
            for name in ActiveNames(self._store, prefix):
                if name.startswith(f"{project}/") and not self._has_ended(name):
                    raise WrongState(
                        f"{name} has not ended: cancel or stop it first",
                        reason="OPERATION_IN_PROGRESS",
                        metadata={"name": name},
                    )

    def _has_ended(self, name: str) -> bool:
        try:
            state = self._records.get(name).body["state"]
        except NotFound:
            return False  # it is being made at this moment, or its marker was left over, which a scan will remove
        return state in TERMINAL or state in RUN_ENDED

    def _work(self, project: str) -> set[str]:
        """Action keys of the work that was done for this project and no other. Operations that people deleted leave their work behind, so
        the plans are asked too."""

        def belongs(key: str) -> bool:
            with suppress(NotFound):  # no plan: not work
                plan = json.loads(self._store.get(plan_key(key)))
                owners = {
                    "/".join(found.split("/")[:2]) for found in self._keys_in(plan) if found.startswith("projects/")
                }
                return owners == {project}
            return False

        keys = [prefix.split("/")[1] for prefix in self._folders("work/")]
        with ThreadPoolExecutor(THREADS) as pool:
            found = {key for key, own in zip(keys, pool.map(belongs, keys), strict=True) if own}
        return found | {record.body["action_key"] for record in self._pages(f"{project}/operations")}

    def _refuse_used(self, project: str, work: set[str]) -> None:
        def is_own(key: str) -> bool:
            return (
                key == project
                or key.startswith(f"{project}/")
                or (key.startswith("work/") and key.split("/")[1] in work)
            )

        users = [
            record.name
            for record in self._pages("projects")
            if not is_own(record.name) and any(is_own(key) for key in self._keys_used_by(record))
        ]
        if users:
            more = f" and {len(users) - _USERS_NAMED} more" if len(users) > _USERS_NAMED else ""
            raise WrongState(
                f"{', '.join(users[:_USERS_NAMED])}{more} of another project use what {project} holds: delete them first",
                metadata={"used_by": ",".join(users[:_USERS_NAMED])},
            )

    def _pages(self, prefix: str) -> Iterator[Record]:
        after = ""
        while True:
            records, after = self._records.list(prefix, after=after, limit=1000)
            yield from records
            if not after:
                return

    def _keys_used_by(self, record: Record) -> Iterator[str]:
        yield from self._keys_in(record.body)
        if "action_key" in record.body and record.body.get("state") not in TERMINAL:
            with suppress(NotFound):
                yield from self._keys_in(json.loads(self._store.get(plan_key(record.body["action_key"]))))
        media = record.body.get("media")
        if isinstance(media, dict) and media.get("mediaType") == SEQUENCE_MEDIA_TYPE:
            with suppress(NotFound):  # its list is gone, so it uses nothing
                yield from self._keys_in(json.loads(self._store.get(self._store.key_of(media["uri"]))))

    def _keys_in(self, value: Any) -> Iterator[str]:
        """Everything in a JSON value that may be a name or a key, URIs of this store as the keys that they mean."""
        if isinstance(value, str):
            yield self._store.key_of(value) if value.startswith(self._uri_base) else value
        elif isinstance(value, dict):
            for item in value.values():
                yield from self._keys_in(item)
        elif isinstance(value, list):
            for item in value:
                yield from self._keys_in(item)

    def _folders(self, prefix: str) -> Iterator[str]:
        after = ""
        while True:
            page = self._store.list(prefix, after=after, delimiter="/")
            yield from page.prefixes
            if not page.next_after:
                return
            after = page.next_after

    def _delete_below(self, prefix: str) -> None:
        after = ""
        with ThreadPoolExecutor(THREADS) as pool:
            while True:
                page = self._store.list(prefix, after=after)
                list(pool.map(self._store.delete, [info.key for info in page.objects]))
                if not page.next_after:
                    return
                after = page.next_after


def _marked(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """From here on the project cannot be taken out of the trash: part of it may be gone. What people wrote of it goes at once."""
    if "deleteTime" not in body:
        raise WrongState(f"{name} was taken out of the trash meanwhile: nothing was removed")
    return {"name": name, "deleteTime": body["deleteTime"], "purgeTime": body.get("purgeTime") or now_json()}
