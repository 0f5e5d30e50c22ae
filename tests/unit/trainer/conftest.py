"""A store with two facesets, and runs in it as CreateRun records them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.kit.claims import Leaseholder
from services.kit.operations.stage import WorkerEnv
from services.kit.records import Records
from services.kit.storage import open_store
from services.trainer.options import complete
from services.trainer.run import STARTING
from tests.support.facesets import store_faceset

RUN = "projects/p/runs/r"


@pytest.fixture
def env(tmp_path: Path) -> WorkerEnv:
    store = open_store("folder", root=tmp_path / "objects")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return WorkerEnv(store=store, records=Records(store), weights_dir=tmp_path, device="cpu", scratch_dir=scratch)


@pytest.fixture
def with_facesets(env: WorkerEnv) -> None:
    store_faceset(env.store, "projects/p/facesets/src", count=3, skin_bgr=(120, 150, 220), seed=1)
    store_faceset(env.store, "projects/p/facesets/dst", count=3, skin_bgr=(60, 90, 150), seed=2)


@pytest.fixture
def make_run(env: WorkerEnv) -> Callable[..., dict[str, Any]]:
    """make_run(options={}, **body): a recorded run that this process has the lease of."""

    def make(options: dict[str, Any] | None = None, **body: Any) -> dict[str, Any]:
        given = {
            "model": {"arch": "df", "resolution": 32, "ae_dims": 8, "e_dims": 4, "d_dims": 4, "d_mask_dims": 4},
            "batch_size": 2,
            "report_every_iterations": 2,
            "preview_every_iterations": 0,
            "save_every_s": 0,
            "target_iteration": 6,
            **(options or {}),
        }
        record = {
            "name": RUN,
            "srcFaceset": "projects/p/facesets/src",
            "dstFaceset": "projects/p/facesets/dst",
            "srcRevision": "1",
            "dstRevision": "1",
            "options": complete("demo", given),
            "workers": 1,
            "state": STARTING,
            "iteration": "0",
            "targetIteration": str(given["target_iteration"]),
            "attempt": 0,
            "savesAsked": 0,
            "sequence": 0,
            "lease": Leaseholder().lease(),
            **body,
        }
        env.records.create(RUN, {name: value for name, value in record.items() if value is not None})
        return record

    return make
