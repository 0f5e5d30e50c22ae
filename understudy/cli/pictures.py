"""Bringing listed pictures and files into a folder, with progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from understudy.cli.connection import Connection
from understudy.cli.options import Options
from understudy.cli.progress import shown
from understudy.pictures import fetch_pictures
from understudy.swap import SwapEvent
from understudy.v1 import common_pb2


def fetched_pictures(
    options: Options,
    connection: Connection,
    project: str,
    manifest: common_pb2.ObjectRef,
    output: Path,
    unit: str = "pictures",
) -> dict[str, Any]:
    """Fetches what ``output`` does not have yet; what to say of it beside the result of the work."""
    with shown(options) as shower:
        shower(SwapEvent("fetch", "begin"))
        fetched = fetch_pictures(
            connection.client,
            project,
            manifest,
            output,
            lambda done, total: shower(SwapEvent("fetch", "progress", done=done, total=total, unit=unit)),
        )
        shower(SwapEvent("fetch", "end", text=f"{fetched} {unit} were fetched"))
    return {"output": str(output), "fetched": fetched}
