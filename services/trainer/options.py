"""A run's options: completed from a preset, changed, described. The training code refuses with sentences that begin with the option's name;
``_refused`` finds it there for the field of the error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ml_common.nets import ModelConfig
from ml_common.training.config import MUTABLE_FIELDS, TrainConfig
from ml_common.training.presets import preset_config, preset_description, preset_names, train_config_from_dict
from services.kit.errors import InvalidInput, WrongState

_OPTION_NAMES = {item.name for item in fields(TrainConfig)}
_MODEL_NAMES = {item.name for item in fields(ModelConfig)}


def presets() -> list[dict[str, Any]]:
    """Name, description, options and mutable_options of every preset."""
    return [
        {
            "name": name,
            "description": preset_description(name),
            "options": preset_config(name).to_dict(),
            "mutable_options": sorted(MUTABLE_FIELDS),
        }
        for name in preset_names()
    ]


def complete(preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a run that begins with ``preset`` and differs in ``given``; InvalidInput names what is wrong."""
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


def changed(options: Mapping[str, Any], changes: Mapping[str, Any], *, begun: bool) -> dict[str, Any]:
    """``options`` with ``changes``; WrongState OPTION_LOCKED for what a run that has begun cannot change."""
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
    unknown = sorted(set(given) - _OPTION_NAMES)
    if unknown:
        known = ", ".join(sorted(_OPTION_NAMES))
        raise InvalidInput(
            f"there is no option {', '.join(unknown)}: the options are {known}",
            reason="UNKNOWN_NAME",
            fields={f"run.options.{name}": "no such option" for name in unknown},
        )


def _refused(error: Exception) -> InvalidInput:
    """The training code's refusal, with the option that its sentence names."""
    words = re.findall(r"\w+", str(error))
    option = next((word for word in words if word in _OPTION_NAMES), "")
    of_model = next((word for word in words if word in _MODEL_NAMES), "")
    if of_model and (not option or option == "model" or words.index(of_model) < words.index(option)):
        option = f"model.{of_model}"
    field = f"run.options.{option}" if option else "run.options"
    return InvalidInput(str(error), fields={field: str(error)})
