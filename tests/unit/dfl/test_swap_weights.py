"""Layout of published swap weights: there and back, and complaints instead of silent new beginnings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ml_common.dfl.swap_weights import (
    array_from_tensor,
    dfl_from_state_dict,
    parameter_name,
    state_dict_from_dfl,
    tensor_from_array,
    variable_name,
)
from ml_common.nets import ModelConfig, SwapModel, build_model


def model(arch: str = "liae-udt", seed: int = 0) -> SwapModel:
    config = ModelConfig(arch=arch, resolution=32, ae_dims=8, e_dims=4, d_dims=4, d_mask_dims=4, face_type="f")
    return build_model(config, seed=seed)


@pytest.mark.parametrize("arch", ["df", "df-ud", "liae-udt"])
def test_there_and_back(arch) -> None:
    one, other = model(arch), model(arch, seed=1)
    files = dfl_from_state_dict(one.state_dict())
    assert list(files) == list(one.parts())
    other.load_state_dict(state_dict_from_dfl(files, other))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_names_and_shapes_are_the_published_ones() -> None:
    files = dfl_from_state_dict(model("df").state_dict())
    assert files["encoder"]["down1/downs_3/conv1/weight:0"].shape == (5, 5, 16, 32)
    assert files["inter"]["dense2/weight:0"].shape == (8, 2 * 2 * 8)
    assert files["decoder_dst"]["upscalem0/conv1/bias:0"].shape == (4 * 32,)
    deep = dfl_from_state_dict(model("liae-udt").state_dict())
    assert {"down5/conv1/weight:0", "res5/conv2/bias:0"} <= deep["encoder"].keys()
    assert {"upscalem4/conv1/weight:0", "out_conv3/weight:0"} <= deep["decoder"].keys()
    assert parameter_name("inter", "dense1/bias:0") == "inter.dense1.bias"
    assert variable_name("inter.dense1.bias") == ("inter", "dense1/bias:0")


def test_upscales_write_cell_k_of_channel_c_where_the_original_does() -> None:
    cells, channels = 4, 3
    array = np.arange(cells * channels, dtype=np.float32)  # value = k * channels + c
    tensor = tensor_from_array("decoder.upscale0.conv1.bias", array)
    shuffled = torch.nn.functional.pixel_shuffle(tensor.view(1, -1, 1, 1), 2)
    for c in range(channels):
        for k in range(cells):
            assert shuffled[0, c, k // 2, k % 2] == k * channels + c
    np.testing.assert_array_equal(array_from_tensor("decoder.upscale0.conv1.bias", tensor), array)
    np.testing.assert_array_equal(tensor_from_array("decoder.out_conv.bias", array).numpy(), array)


def test_files_that_do_not_fit_are_refused() -> None:
    target = model("df")
    files = dfl_from_state_dict(target.state_dict())
    del files["inter"]["dense1/bias:0"]
    files["inter"]["dense3/bias:0"] = np.zeros(3, np.float32)
    files["encoder"]["down1/downs_0/conv1/bias:0"] = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match=r"lacks inter.dense1.bias") as caught:
        state_dict_from_dfl(files, target)
    assert "inter.dense3.bias" in str(caught.value)
    assert "(2,), not (4,)" in str(caught.value)
    with pytest.raises(ValueError, match="more"):
        state_dict_from_dfl(dfl_from_state_dict(model("df-ud").state_dict()), model("liae"))
