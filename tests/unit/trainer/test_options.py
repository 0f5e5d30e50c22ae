"""Options between messages, the training code and its refusals."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2

from services.kit.errors import InvalidInput, WrongState
from services.kit.operations.stage import WorkerEnv, stage_path
from services.trainer.convert import options_from_struct
from services.trainer.stages import OPTIONS_STAGE, OptionsStage


def complete(env: WorkerEnv, options: dict[str, Any], preset: str = "demo") -> dict[str, Any]:
    answer = OptionsStage().answer(env, {"ask": "complete", "preset": preset, "options": options})
    return dict(answer["options"])


def test_the_path_of_the_stage_is_the_stage() -> None:
    assert stage_path(OptionsStage) == OPTIONS_STAGE


def test_whole_numbers_survive_a_struct(env: WorkerEnv) -> None:
    options = complete(env, {})
    struct = json_format.ParseDict(options, struct_pb2.Struct())
    back = options_from_struct(struct)
    assert back == options and isinstance(back["batch_size"], int) and isinstance(back["model"]["resolution"], int)
    assert complete(env, back) == options


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
def test_a_refusal_names_the_option(env: WorkerEnv, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        complete(env, options)
    assert list(refused.value.fields) == [field], refused.value.message


def test_locked_options_may_change_until_the_run_begins(env: WorkerEnv) -> None:
    options = complete(env, {})
    question = {"ask": "change", "options": options, "changes": {"seed": 7, "learning_rate": 1e-4}, "begun": False}
    changed = OptionsStage().answer(env, question)["options"]
    assert (changed["seed"], changed["learning_rate"]) == (7, 1e-4)
    with pytest.raises(WrongState) as locked:
        OptionsStage().answer(env, {**question, "begun": True})
    assert locked.value.reason == "OPTION_LOCKED" and locked.value.metadata == {"options": "seed"}
    same = {**question, "changes": {"seed": options["seed"], "batch_size": 3}, "begun": True}
    assert OptionsStage().answer(env, same)["options"]["batch_size"] == 3
