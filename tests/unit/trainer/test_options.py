"""Options between messages, the training code and its refusals."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2

from services.kit.errors import InvalidInput, WrongState
from services.trainer.convert import options_from_struct
from services.trainer.options import changed, complete


def test_whole_numbers_survive_a_struct() -> None:
    options = complete("demo", {})
    struct = json_format.ParseDict(options, struct_pb2.Struct())
    back = options_from_struct(struct)
    assert back == options and isinstance(back["batch_size"], int) and isinstance(back["model"]["resolution"], int)
    assert complete("demo", back) == options


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"batch_size": 0}, "run.options.batch_size"),
        ({"random_warp": "yes"}, "run.options.random_warp"),
        ({"model": 5}, "run.options.model"),
        ({"model": {"arch": "df-x"}}, "run.options.model.arch"),
        ({"model": {"arch": "none"}}, "run.options.model"),
        ({"model": {"depth": 3}}, "run.options.model"),
        ({"model": {"ae_dims": 8.5}}, "run.options.model.ae_dims"),
    ],
)
def test_a_refusal_names_the_option(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        complete("demo", options)
    assert list(refused.value.fields) == [field], refused.value.message


def test_locked_options_may_change_until_the_run_begins() -> None:
    options = complete("demo", {})
    changes = {"seed": 7, "learning_rate": 1e-4}
    merged = changed(options, changes, begun=False)
    assert (merged["seed"], merged["learning_rate"]) == (7, 1e-4)
    with pytest.raises(WrongState) as locked:
        changed(options, changes, begun=True)
    assert locked.value.reason == "OPTION_LOCKED" and locked.value.metadata == {"options": "seed"}
    assert changed(options, {"seed": options["seed"], "batch_size": 3}, begun=True)["batch_size"] == 3
