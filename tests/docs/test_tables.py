"""The tables of the pages say what the code says: options, ranges, defaults, reasons, settings, columns, metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from typing import Any

import pytest
from pydantic import BaseModel

from ml_common.facesets import FACE_TYPE_NAMES, SCHEMA
from ml_common.geometry import FaceType
from ml_common.media import EncodeSettings
from ml_common.merging import MergeSettings
from ml_common.nets import ModelConfig
from ml_common.training.config import MUTABLE_FIELDS, TrainConfig
from ml_common.training.presets import preset_config, preset_names
from services.faces.options import FACE_TYPES, ExtractionOptions
from services.kit import errors
from services.kit.config import Settings
from services.kit.metrics import Metrics
from tests.docs.pages import DOCS, names, table
from understudy.v1 import errors_pb2

_SWITCH = {"yes": True, "no": False}


def _value(cell: str) -> Any:
    """A default as it is written: `word`, number, yes or no, not set."""
    if cell == "not set":
        return None
    if names(cell):
        return names(cell)[0]
    return _SWITCH[cell] if cell in _SWITCH else float(cell)


def _check_range(make: Callable[[Any], object], cell: str, example: object) -> None:
    """Both ends (or all choices) are taken and what lies beyond is refused."""
    if names(cell):
        for choice in names(cell):
            make(choice)
        beyond: list[Any] = ["no-such-choice"]
    elif cell == "yes or no":
        beyond = [2]
        make(True), make(False)
    elif whole := re.fullmatch(r"whole, from (\d+)", cell):
        low = int(whole[1])
        make(low), make(10**6)
        beyond = [low - 1, low + 0.5]
    else:
        low_text, high_text = cell.split(" to ")
        kind = int if isinstance(example, int) else float
        low_value, high_value = kind(float(low_text)), float(high_text)
        make(low_value)
        beyond = [low_value - 1]
        if not math.isinf(high_value):
            make(kind(high_value))
            beyond.append(kind(high_value) + 1)
    for value in beyond:
        with pytest.raises((ValueError, errors.InvalidInput)):
            make(value)


def _defaults(dataclass: Any) -> dict[str, Any]:
    return {item.name: item.default for item in fields(dataclass) if item.default is not MISSING}


def test_training_options() -> None:
    rows = table("concepts.md", "Option")
    rows = [row for row in rows if len(row) == 5]
    assert [names(row[0])[0] for row in rows] == [item.name for item in fields(TrainConfig)]
    config, defaults = preset_config("saehd"), _defaults(TrainConfig)
    for cell, _, allowed, default, change in rows:
        name = names(cell)[0]
        assert _SWITCH[change] is (name in MUTABLE_FIELDS), name
        if name == "model":
            continue
        assert _value(default) == defaults[name], name
        _check_range(lambda value, name=name: replace(config, **{name: value}), allowed, defaults[name])


def test_model_fields() -> None:
    rows = [row for row in table("concepts.md", "Field") if len(row) == 3]
    assert [names(row[0])[0] for row in rows] == [item.name for item in fields(ModelConfig)]
    narrow = preset_config("saehd").model
    for cell, _, allowed in rows:
        name = names(cell)[0]
        if name in ("arch", "face_type"):
            continue
        low, high = (int(number) for number in allowed.split(" to "))
        for good in (low, high):
            replace(narrow, **{name: good})
        step = 32 if name == "resolution" else 2
        for bad in (low - step, high + step):
            with pytest.raises(ValueError, match=name):
                replace(narrow, **{name: bad})


@pytest.mark.parametrize(
    ("heading", "dataclass", "width"),
    [("Option", ExtractionOptions, 4), ("Setting", MergeSettings, 4)],
    ids=["extraction", "merge"],
)
def test_options_with_ranges(heading: str, dataclass: Any, width: int) -> None:
    defaults = _defaults(dataclass)
    rows = [row for row in table("concepts.md", heading) if len(row) == width and names(row[0])[0] in defaults]
    assert {names(row[0])[0] for row in rows} == set(defaults)
    for cell, _, allowed, default in rows:
        name = names(cell)[0]
        assert _value(default) == defaults[name], name
        if allowed != "the table above":
            _check_range(lambda value, name=name: dataclass(**{name: value}), allowed, defaults[name])


def test_encode_settings() -> None:
    known = {item.name for item in fields(EncodeSettings)}
    rows = {names(row[0])[0]: row for row in table("concepts.md", "Setting") if names(row[0])[0] in known}
    assert set(rows) == known
    for name, row in rows.items():
        assert row[3] == "not set" or _value(row[3]) == _defaults(EncodeSettings)[name]
    low, high = (int(number) for number in rows["crf"][2].split(" to "))
    EncodeSettings(crf=low), EncodeSettings(crf=high), EncodeSettings(crf=None, bitrate_mbit=2000)
    for wrong in (
        {"crf": high + 1},
        {"crf": low - 1},
        {"crf": None, "bitrate_mbit": 2001},
        {"crf": None, "bitrate_mbit": 0},
    ):
        with pytest.raises(ValueError, match=r"crf|bitrate"):
            EncodeSettings(**wrong)  # type: ignore[arg-type]
    for preset in ("ultrafast", "veryslow"):
        EncodeSettings(preset=preset)


def test_face_types() -> None:
    rows = table("concepts.md", "API name")
    written = {names(row[0])[0]: row for row in rows}
    expected = {api_name: face_type for face_type, api_name in FACE_TYPE_NAMES.items() if face_type is not None}
    assert set(written) <= set(expected)
    assert set(written) == set(FACE_TYPES)
    for api_name, (_, training_name, _, width) in written.items():
        face_type = expected[api_name]
        assert FaceType.from_string(names(training_name)[0]) is face_type
        assert float(width) == pytest.approx(1 + 2 * math.sqrt(2) * face_type.padding, abs=0.005)


def test_presets() -> None:
    assert sorted(names(row[0])[0] for row in table("concepts.md", "Preset")) == list(preset_names())


def test_error_reasons() -> None:
    page = (DOCS / "api.md").read_text()
    rows = {names(row[0])[0]: row[1] for row in table("api.md", "Reason")}
    elsewhere = set(re.findall(r"`([A-Z_]+)`", page[page.index("In the API, but not raised") :].split("\n\n")[0]))
    known = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert set(rows) | elsewhere == known
    assert not set(rows) & elsewhere
    codes = {
        kind.default_reason: kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.UnderstudyError)
    }
    for reason, code in codes.items():
        assert rows[reason] == code


def test_settings() -> None:
    documented = {names(row[0])[0]: row[1] for row in table("operate.md", "Setting")}
    assert set(documented) == set(_settings(Settings))
    for name, default in _settings(Settings).items():
        written = documented[name]
        if name == "weights_dir":
            continue  # depends on the home folder
        text = names(written)[0] if names(written) else written
        expected = (
            {True: "true", None: ""}.get(default, str(default)) if not isinstance(default, float) else f"{default:g}"
        )
        assert text == expected, name


def _settings(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Dotted names with defaults; secrets count as what they hold."""
    found: dict[str, Any] = {}
    for name, item in model.model_fields.items():
        if isinstance(item.annotation, type) and issubclass(item.annotation, BaseModel):
            found |= _settings(item.annotation, f"{prefix}{name}.")
        else:
            default = item.get_default(call_default_factory=True)
            found[prefix + name] = default.get_secret_value() if hasattr(default, "get_secret_value") else default
    return found


def test_revision_columns() -> None:
    rows = table("formats.md", "Column")
    assert [(names(row[0])[0], row[1]) for row in rows] == [(field.name, str(field.type)) for field in SCHEMA]


def test_metrics() -> None:
    documented = {names(row[0])[0]: row[1] for row in table("operate.md", "Metric")}
    collectors = {}
    for collector in Metrics().registry.collect():
        name = f"{collector.name}_total" if collector.type == "counter" else collector.name
        collectors[name] = collector
    assert set(documented) == set(collectors)
