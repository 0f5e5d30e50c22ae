"""Published weight files in both layouts, written here from random networks of the right shape."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from ml_common.detect import fan_landmarker, s3fd_detector
from ml_common.detect.fan import FAN
from ml_common.detect.s3fd import S3FD
from ml_common.detect.weight_keys import CONVERTERS, filled, recognise

Arrays = dict[str, np.ndarray[Any, Any]]
CPU = torch.device("cpu")


def _random(network: nn.Module, seed: int) -> Arrays:
    """State of a network as a file of a torch project holds it; statistics of normalisation away from their start."""
    generator = torch.Generator().manual_seed(seed)
    state = network.state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0.0, 0.2, generator=generator)
    return {name: tensor.numpy() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def s3fd_torch() -> Arrays:
    torch.manual_seed(3)
    state = _random(S3FD(), 3)
    del state["mean_BGR"]  # the project's program knows it, not its file
    return state


@pytest.fixture(scope="module")
def fan() -> FAN:
    torch.manual_seed(4)
    network = FAN().eval()
    _random(network, 4)
    return network


@pytest.fixture(scope="module")
def fan_torch(fan: FAN) -> Arrays:
    """The reference release's names. They were not nested: `b1_4` is the outermost level, `b1_1` the innermost."""
    arrays = {}
    for name, tensor in fan.state_dict().items():
        theirs = re.sub(r"^(m|conv_last|bn_end|l|bl|al)\.(\d)", r"\1\2", name)
        theirs = re.sub(r"^top_m\.(\d)", r"top_m_\1", theirs)
        if re.match(r"m\d\.", theirs):
            stack, *path = theirs.split(".")
            innermost = path[:4] == ["b2_plus"] * 4
            depth = 3 if innermost else path.index(next(part for part in path if part != "b2_plus"))
            theirs = ".".join([stack, f"{path[depth]}_{4 - depth}", *path[depth + 1 :]])
        theirs = theirs.replace("down_bn1", "downsample.0").replace("down_conv1", "downsample.2")
        arrays[theirs] = tensor.numpy()
    return arrays


def _dfl(name: str, array: np.ndarray[Any, Any], *, singletons: bool) -> tuple[str, np.ndarray[Any, Any]]:
    """One array as in DeepFaceLab's files, spec/faceset section 6, from our name."""
    path = re.sub(r"^(m|top_m|conv_last|bn_end|l|bl|al)\.(\d)", r"\1_\2", name).replace(".", "/")
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    elif singletons:
        array = array.reshape(1, 1, 1, -1)
    return f"{path}:0", array


@pytest.fixture(scope="module")
def s3fd_dfl(s3fd_torch: Arrays) -> Arrays:
    return dict(_dfl(name, array, singletons=True) for name, array in s3fd_torch.items())


@pytest.fixture(scope="module")
def fan_dfl(fan: FAN) -> Arrays:
    state = fan.state_dict().items()
    return dict(_dfl(n, t.numpy(), singletons="bn" in n) for n, t in state if not n.endswith("num_batches_tracked"))


def _tensors(state: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in state.items()}


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def test_the_files_written_here_are_like_the_published_ones(
    s3fd_torch: Arrays, s3fd_dfl: Arrays, fan_torch: Arrays, fan_dfl: Arrays
) -> None:
    assert len(s3fd_torch) == len(s3fd_dfl) == 65
    assert len(fan_dfl) == len([name for name in fan_torch if not name.endswith("num_batches_tracked")]) == 945
    assert s3fd_dfl["conv3_3_norm/weight:0"].shape == (1, 1, 1, 256)
    assert s3fd_dfl["conv3_3_norm_mbox_conf/weight:0"].shape == (3, 3, 256, 4)
    assert "m_0/b2_plus/b2_plus/b2_plus/b2_plus/conv1/weight:0" in fan_dfl
    for name in ("m0.b1_4.bn1.weight", "m3.b2_plus_1.conv3.weight", "m1.b3_1.bn2.bias", "top_m_0.conv1.weight"):
        assert name in fan_torch
    for name in (
        "conv2.downsample.2.weight",
        "conv_last3.bias",
        "bn_end0.running_var",
        "l3.weight",
        "bl2.bias",
        "al0.bias",
    ):
        assert name in fan_torch


def test_networks_are_recognised(s3fd_torch: Arrays, s3fd_dfl: Arrays, fan_torch: Arrays, fan_dfl: Arrays) -> None:
    assert [recognise(_shapes(file)) for file in (s3fd_torch, s3fd_dfl)] == ["s3fd"] * 2
    assert [recognise(_shapes(file)) for file in (fan_torch, fan_dfl)] == ["fan"] * 2
    assert recognise({"conv1.weight": (10, 3, 3, 3), "encoder/down1/weight:0": (5, 5, 3, 64)}) is None
    assert recognise({}) is None


@torch.inference_mode()
def test_s3fd_of_the_torch_project_sees_bgr_less_its_mean(s3fd_torch: Arrays) -> None:
    plain = S3FD().eval()
    plain.load_state_dict(_tensors(s3fd_torch), strict=False)
    plain.mean_BGR.zero_()
    converted = filled(S3FD, _tensors(CONVERTERS["s3fd"](s3fd_torch)))
    batch_bgr = torch.rand(1, 3, 64, 64) * 255
    _assert_same(converted(batch_bgr), plain(batch_bgr - torch.tensor([104.0, 117, 123])[:, None, None]))


@torch.inference_mode()
def test_s3fd_of_deepfacelab_sees_rgb_less_the_same_numbers(s3fd_torch: Arrays, s3fd_dfl: Arrays) -> None:
    plain = S3FD().eval()
    plain.load_state_dict(_tensors(s3fd_torch), strict=False)
    plain.mean_BGR.zero_()
    converted = filled(S3FD, _tensors(CONVERTERS["s3fd"](s3fd_dfl)))
    batch_rgb = torch.rand(1, 3, 64, 64) * 255
    _assert_same(converted(batch_rgb.flip(1)), plain(batch_rgb - torch.tensor([104.0, 117, 123])[:, None, None]))


def _assert_same(ours: list[tuple[torch.Tensor, ...]], theirs: list[tuple[torch.Tensor, ...]]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_fan_of_both_projects_is_the_network_it_was(fan: FAN, fan_torch: Arrays, fan_dfl: Arrays) -> None:
    states = [CONVERTERS["fan2d"](fan_torch), CONVERTERS["fan3d"](fan_dfl)]
    original = fan.state_dict()
    for state in states:
        assert len(state) == 945
        assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in state.values())
        assert all(np.array_equal(array, original[name].numpy()) for name, array in state.items())
    batch = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(filled(FAN, _tensors(states[1]))(batch), fan(batch), atol=1e-5, rtol=1e-5)


def test_half_precision_files_become_float32(s3fd_torch: Arrays) -> None:
    halves = {name: array.astype(np.float16) for name, array in s3fd_torch.items()}
    assert {array.dtype for array in CONVERTERS["s3fd"](halves).values()} == {np.dtype(np.float32)}


def test_wrong_files_are_refused_with_their_faults(s3fd_torch: Arrays, s3fd_dfl: Arrays, fan_dfl: Arrays) -> None:
    convert = CONVERTERS["s3fd"]
    without = {name: array for name, array in s3fd_torch.items() if name != "fc6.bias"}
    with pytest.raises(ValueError, match=r"looks like an S3FD \(64 arrays, named in torch's way\).*lacks fc6.bias$"):
        convert(without)
    with pytest.raises(ValueError, match=r"has extra\.weight, which does not belong there"):
        convert({**s3fd_torch, "extra.weight": np.zeros(3, np.float32)})
    misshapen = {**s3fd_dfl, "fc6/weight:0": np.zeros((3, 3, 512, 1000), np.float32)}
    with pytest.raises(ValueError, match=r"has fc6/weight:0 of shape \(3, 3, 512, 1000\).*\(1024, 512, 3, 3\)"):
        convert(misshapen)
    with pytest.raises(ValueError, match=r"NaN or infinity in fc6\.bias"):
        convert({**s3fd_torch, "fc6.bias": np.full(1024, np.nan, np.float32)})
    with pytest.raises(ValueError, match=r"fc6\.bias, which holds no numbers"):
        convert({**s3fd_torch, "fc6.bias": np.array(["a"] * 1024)})
    with pytest.raises(ValueError, match=r"looks like a FAN \(945 arrays.*does not fit s3fd.*more"):
        convert(fan_dfl)
    with pytest.raises(ValueError, match=r"no network we know.*does not fit fan2d"):
        CONVERTERS["fan2d"]({})


def test_weights_folder_to_working_networks(tmp_path: Path, s3fd_dfl: Arrays, fan_torch: Arrays) -> None:
    paths = [tmp_path / "s3fd.safetensors", tmp_path / "fan3d.safetensors"]
    save_file(CONVERTERS["s3fd"](s3fd_dfl), paths[0])
    save_file(CONVERTERS["fan3d"](fan_torch), paths[1])
    detector = s3fd_detector.load(paths[:1], CPU, "abc", 0.5, None)
    landmarker = fan_landmarker.load("fan3d", paths[1:], CPU, "abc")
    assert (detector.name, detector.version) == ("s3fd", "1+abc")
    assert (landmarker.name, landmarker.version) == ("fan3d", "1+abc")
    picture = np.random.default_rng(1).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    (faces,) = detector.detect([picture])
    assert len(landmarker.locate([picture], [0] * len(faces[:1]), faces[:1])) == len(faces[:1])
    with pytest.raises(ValueError, match=r"not the weights of S3FD.*understudy weights add"):
        s3fd_detector.load(paths[1:], CPU, "abc", 0.5, None)
