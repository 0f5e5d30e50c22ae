"""Options: validated by name, fixed or mutable, round trips, presets."""

import json

import pytest

from ml_common.nets import QUICK96
from ml_common.training.config import MUTABLE_FIELDS, TrainConfig
from ml_common.training.presets import (
    preset_config,
    preset_names,
    train_config_from_dict,
    train_config_from_yaml,
)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_survives_json(name: str) -> None:
    config = preset_config(name)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_quick96_is_the_originals() -> None:
    config = preset_config("quick96")
    assert config.model == QUICK96
    assert (config.batch_size, config.optimizer, config.learning_rate, config.lr_dropout) == (4, "rmsprop", 2e-4, 0.3)
    assert (config.lr_cosine_period, config.clipgrad, config.scale_range, config.unwarped_every) == (0, False, 0.05, 3)
    assert not config.random_src_flip and not config.random_dst_flip and config.masked_training


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("batch_size", True),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", "fast"),
        ("lr_dropout", 0.0),
        ("random_hsv_power", 0.4),
        ("scale_range", -0.1),
        ("optimizer", "adam"),
        ("augmentation", "heavy"),
        ("loss_family", "gan"),
        ("precision", "float16"),
        ("random_warp", "yes"),
        ("target_iteration", -1),
        ("report_every_iterations", 0),
        ("save_every_s", -1.0),
        ("seed", -1),
    ],
)
def test_a_bad_value_is_refused_by_the_options_name(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=option):
        train_config_from_dict("demo", {option: value})


def test_losses_that_do_not_go_together_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="quick96"):
        train_config_from_dict("quick96", {"eyes_mouth_prio": True})


def test_unknown_names_are_answered_with_what_exists() -> None:
    with pytest.raises(ValueError, match=r"unknown preset 'h64'; presets are demo, quick96, saehd"):
        train_config_from_dict("h64", {})
    with pytest.raises(ValueError, match=r"unknown option batchsize; known options are .*batch_size"):
        train_config_from_dict("demo", {"batchsize": 4})
    with pytest.raises(ValueError, match="unknown fields depth"):
        train_config_from_dict("demo", {"model": {"depth": 4}})
    with pytest.raises(ValueError, match="model is 'big'"):
        train_config_from_dict("demo", {"model": "big"})
    with pytest.raises(ValueError, match="face type"):
        train_config_from_dict("demo", {"model": {"face_type": "ear"}})
    with pytest.raises(ValueError, match="family"):
        train_config_from_dict("demo", {"model": {"arch": "sae"}})


def test_overrides_replace_single_options_even_of_the_model() -> None:
    config = train_config_from_dict("saehd", {"model": {"resolution": 192}, "clipgrad": True})
    assert config.model.resolution == 192 and config.model.arch == "liae-ud" and config.clipgrad


def test_fixed_options_stay_and_mutable_ones_change() -> None:
    config = preset_config("demo")
    assert config.with_options({"learning_rate": 1e-5, "random_warp": False}).learning_rate == 1e-5
    with pytest.raises(ValueError, match="seed cannot change"):
        config.with_options({"seed": 3})
    with pytest.raises(ValueError, match="model differs"):
        config.require_same_run(train_config_from_dict("demo", {"model": {"ae_dims": 64}}))
    assert not {"model", "seed", "optimizer"} & MUTABLE_FIELDS


def test_yaml_is_a_preset_and_options() -> None:
    config = train_config_from_yaml("preset: demo\nbatch_size: 6\nmodel: {ae_dims: 64}\n")
    assert config.batch_size == 6 and config.model.ae_dims == 64
    for text in ("batch_size: 6", "[1, 2]", "preset: [", ""):
        with pytest.raises(ValueError, match=r"preset|YAML"):
            train_config_from_yaml(text)
