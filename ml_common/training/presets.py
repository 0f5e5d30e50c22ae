"""Named starting points for a run, and how a caller's choices are laid over one.

The one thing a reader would get wrong: a preset is complete. Overrides replace single options of it, the model's
included; they never merge presets.
"""

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from ml_common.nets import QUICK96, ModelConfig
from ml_common.training.config import TrainConfig

_PRESETS: dict[str, Callable[[], TrainConfig]] = {}


def _preset(make: Callable[[], TrainConfig]) -> Callable[[], TrainConfig]:
    _PRESETS[make.__name__] = make
    return make


@_preset
def quick96() -> TrainConfig:
    """DeepFaceLab's Quick96, option for option (models specification, section 4)."""
    return TrainConfig(
        model=QUICK96,
        batch_size=4,
        optimizer="rmsprop",
        learning_rate=2e-4,
        lr_dropout=0.3,
        unwarped_every=3,
        random_dst_flip=False,
        scale_range=0.05,
        loss_family="quick96",
        loss_reduction="sum",
    )


@_preset
def saehd() -> TrainConfig:
    """SAEHD as it comes up when every question is answered with Enter (models specification, section 10.2)."""
    return TrainConfig(
        model=ModelConfig(
            arch="liae-ud", resolution=128, ae_dims=256, e_dims=64, d_dims=64, d_mask_dims=22, face_type="f"
        ),
    )


@_preset
def demo() -> TrainConfig:
    """Small enough for two CPU cores and two minutes: a recognisable swap of one short clip onto another."""
    iterations = 1400
    # Measured on 100 synthetic faces a side: RMSprop learns three times as fast here as AdaBelief, whose long memory of
    # the first gradients holds the encoder back; batches of 4 and 16 dims beat fewer iterations of anything larger.
    return TrainConfig(
        model=ModelConfig(arch="df-ud", resolution=64, ae_dims=96, e_dims=16, d_dims=16, d_mask_dims=8, face_type="f"),
        batch_size=4,
        optimizer="rmsprop",
        learning_rate=5e-4,
        lr_warmup_iterations=60,
        lr_cosine_period=2 * iterations,
        unwarped_every=3,
        random_dst_flip=False,
        scale_range=0.05,
        target_iteration=iterations,
        save_every_s=60.0,
        preview_every_iterations=250,
    )


def preset_names() -> tuple[str, ...]:
    """Every preset, sorted."""
    return tuple(sorted(_PRESETS))


def preset_config(name: str) -> TrainConfig:
    """The preset as it is. ValueError listing what exists for any other name."""
    if name not in _PRESETS:
        raise ValueError(f"unknown preset {name!r}; presets are {', '.join(preset_names())}")
    return _PRESETS[name]()


def preset_description(name: str) -> str:
    """What the preset is for, in a sentence. ValueError listing what exists for any other name."""
    preset_config(name)
    return (_PRESETS[name].__doc__ or "").strip()


def train_config_from_dict(preset: str, overrides: Mapping[str, Any]) -> TrainConfig:
    """A preset with single options replaced; `overrides["model"]` may hold some of the model's fields.

    ValueError for an unknown preset or option, listing what exists, and for a value that is out of range.
    """
    values = preset_config(preset).to_dict()
    model = overrides.get("model", {})
    if not isinstance(model, Mapping):
        raise ValueError(f"model is {model!r}; it must be a mapping of the model's fields")
    return TrainConfig.from_dict({**values, **overrides, "model": {**values["model"], **model}})


def train_config_from_yaml(text: str) -> TrainConfig:
    """A run from YAML: the key `preset` and any options beside it. ValueError when it is not such a mapping."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the run's options are not valid YAML: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("preset"), str):
        raise ValueError(f"the run's options must be a mapping with a preset; presets are {', '.join(preset_names())}")
    return train_config_from_dict(values.pop("preset"), values)
