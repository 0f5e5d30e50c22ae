"""Everything in one process: `python -m services`. Also `python -m services chunk ...` (for farm managers) and `drive ...` (Ray jobs)."""

from __future__ import annotations

import sys
from types import ModuleType

from services.kit.main import drive_one, host, run_one_chunk


def main() -> int:
    """Chooses the command; serving is the default."""
    if sys.argv[1:2] == ["chunk"]:
        return run_one_chunk(sys.argv[2:])
    if sys.argv[1:2] == ["drive"]:
        return drive_one(sys.argv[2:])
    return host(all_services(), sys.argv[1:], prog="python -m services")


def all_services() -> list[ModuleType]:
    """What one process hosts when it hosts everything."""
    from services import faces, facesets, frames, merge, trainer, xseg

    return [frames, faces, facesets, xseg, trainer, merge]


if __name__ == "__main__":
    sys.exit(main())
