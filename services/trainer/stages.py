"""Questions about options that only the training code can answer; asked on a warm worker, so that servers stay free of torch.

    {"ask": "presets"}                                             {"presets": [{name, description, options, mutable_options}]}
    {"ask": "complete", "preset": p, "options": given}             {"options": all}
    {"ask": "change", "options": all, "changes": c, "begun": b}    {"options": all, changed}

The training code refuses with sentences that begin with the option's name; ``_refused`` finds it there for the field of the error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.kit.errors import InvalidInput, WrongState
from services.kit.operations.plan import Chunk, ChunkManifest, Plan
from services.kit.operations.stage import ChunkOutcome, Response, Stage, WorkerEnv

OPTIONS_STAGE = "services.trainer.stages:OptionsStage"


class OptionsStage(Stage):
    """Answers questions; has no chunks."""

    version = "1"

    def answer(self, env: WorkerEnv, question: dict[str, Any]) -> dict[str, Any]:
        """See the module."""
        match question["ask"]:
            case "presets":
                return {"presets": _presets()}
            case "complete":
                return {"options": _complete(question["preset"], question["options"])}
            case "change":
                return {"options": _changed(question["options"], question["changes"], begun=question["begun"])}
            case other:
                raise InvalidInput(f"there is no question {other!r}")

    def process_chunk(self, env: WorkerEnv, plan: Plan, chunk: Chunk, report: Callable[[int], None]) -> ChunkOutcome:
        """Never planned."""
        raise WrongState("options are asked about; no plan consists of them")

    def finish(self, env: WorkerEnv, plan: Plan, manifests: Sequence[ChunkManifest], actor: str) -> Response:
        """Never planned."""
        raise WrongState("options are asked about; no plan consists of them")


def _presets() -> list[dict[str, Any]]:
    from ml_common.training.config import MUTABLE_FIELDS
    from ml_common.training.presets import preset_config, preset_description, preset_names

    return [
        {
            "name": name,
            "description": preset_description(name),
            "options": preset_config(name).to_dict(),
            "mutable_options": sorted(MUTABLE_FIELDS),
        }
        for name in preset_names()
    ]


def _complete(preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    from ml_common.training.presets import preset_names, train_config_from_dict

    if preset not in preset_names():
        known = ", ".join(preset_names())
        raise InvalidInput(
            f"there is no preset {preset!r}: use one of {known}",
            reason="UNKNOWN_NAME",
            fields={"run.preset": f"one of {known}"},
        )
    _refuse_unknown(given)
    try:
        return train_config_from_dict(preset, given).to_dict()
    except (ValueError, TypeError) as error:
        raise _refused(error) from error


def _changed(options: Mapping[str, Any], changes: Mapping[str, Any], *, begun: bool) -> dict[str, Any]:
    from ml_common.training.config import MUTABLE_FIELDS, TrainConfig

    _refuse_unknown(changes)
    merged = {**options, **changes}
    if isinstance(changes.get("model"), Mapping):
        merged["model"] = {**options["model"], **changes["model"]}
    locked = sorted(name for name in changes if name not in MUTABLE_FIELDS and merged[name] != options[name])
    if begun and locked:
        raise WrongState(
            f"{', '.join(locked)} cannot change once a run has begun: make a new run. "
            f"What can change: {', '.join(sorted(MUTABLE_FIELDS))}",
            reason="OPTION_LOCKED",
            metadata={"options": ",".join(locked)},
        )
    try:
        return TrainConfig.from_dict(merged).to_dict()
    except (ValueError, TypeError) as error:
        raise _refused(error) from error


def _refuse_unknown(given: Mapping[str, Any]) -> None:
    unknown = sorted(set(given) - _option_names())
    if unknown:
        known = ", ".join(sorted(_option_names()))
        raise InvalidInput(
            f"there is no option {', '.join(unknown)}: the options are {known}",
            reason="UNKNOWN_NAME",
            fields={f"run.options.{name}": "no such option" for name in unknown},
        )


def _refused(error: Exception) -> InvalidInput:
    """The training code's refusal, with the option that its sentence names."""
    words = re.findall(r"\w+", str(error))
    option = next((word for word in words if word in _option_names()), "")
    of_model = next((word for word in words if word in _model_names()), "")
    if of_model and (not option or option == "model" or words.index(of_model) < words.index(option)):
        option = f"model.{of_model}"
    field = f"run.options.{option}" if option else "run.options"
    return InvalidInput(str(error), fields={field: str(error)})


def _option_names() -> set[str]:
    from dataclasses import fields

    from ml_common.training.config import TrainConfig

    return {item.name for item in fields(TrainConfig)}


def _model_names() -> set[str]:
    from dataclasses import fields

    from ml_common.nets import ModelConfig

    return {item.name for item in fields(ModelConfig)}
