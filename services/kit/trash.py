"""Projects in the trash take no new work. Asked by whatever begins work, so that a project can be emptied once nothing runs in it."""

from __future__ import annotations

from services.kit.errors import NotFound, WrongState
from services.kit.records import Records


def refuse_trashed(records: Records, project: str) -> None:
    """WrongState when ``project`` is in the trash. A project that has no record is not: tools and tests work without."""
    try:
        record = records.get(project)
    except NotFound:
        return
    if "deleteTime" in record.body:
        raise WrongState(f"{project} is in the trash: UndeleteProject brings it back", metadata={"name": project})
