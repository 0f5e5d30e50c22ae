"""Settings: validation, dictionaries."""

import json

import pytest

from ml_common.merging import MergeSettings


def test_settings_survive_json():
    settings = MergeSettings(mode="hist-match", erode=-7, blur=12, color_transfer="mkl-m", face_scale=-50)
    assert MergeSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert MergeSettings.from_dict({}) == MergeSettings()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "magic"}, "mode must be one of original"),
        ({"mask_mode": "dest"}, "mask_mode must be one of full"),
        ({"color_transfer": "sot"}, "color_transfer must be one of none"),
        ({"flavour": "vanilla"}, "flavour must be one of default"),
        ({"erode": 401}, "erode must be a whole number from -400 to 400"),
        ({"blur": -1}, "blur must be a whole number from 0 to 400"),
        ({"blur": 1.5}, "blur must be a whole number"),
        ({"blur": True}, "blur must be a whole number"),
        ({"face_scale": -51}, "face_scale must be a whole number from -50 to 50"),
        ({"hist_match_threshold": 256}, "hist_match_threshold must be"),
        ({"masked_hist_match": 1}, "masked_hist_match must be true or false"),
        ({"sharpen": 3}, "unknown merge settings sharpen"),
    ],
)
def test_wrong_settings_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        MergeSettings.from_dict(change)
