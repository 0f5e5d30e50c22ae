"""What holds for every test: no settings from the environment, repeatable examples, and GPU tests skipped with their reason."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

for _name in [
    name for name in os.environ if name.startswith("UNDERSTUDY_") and not name.startswith("UNDERSTUDY_TEST_")
]:
    if _name != "UNDERSTUDY_WEIGHTS_DIR":  # where a machine keeps its weights; fetching them again would take minutes
        del os.environ[_name]
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# The machine's speed is nobody's mistake, and a test that fails must fail again.
settings.register_profile("understudy", deadline=None, derandomize=True)
settings.load_profile("understudy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked ``gpu`` where there is no accelerator."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="torch finds no accelerator on this machine"))
