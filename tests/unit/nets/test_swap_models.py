"""Properties of all registered families: configuration, initialisation, gradients, freezing, precision, compilation."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from ml_common.nets import FAMILIES, ModelConfig, build_model, family_names

ALL = [f"{family}{flags}" for family in FAMILIES for flags in ("", "-ud", "-dtc")]


def tiny(arch: str, **changes: object) -> ModelConfig:
    values = {
        "arch": arch,
        "resolution": 32,
        "ae_dims": 8,
        "e_dims": 4,
        "d_dims": 4,
        "d_mask_dims": 4,
        "face_type": "wf",
    }
    return ModelConfig.from_dict({**values, **changes})


def faces(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("arch", ALL)
def test_every_family_trains_swaps_and_names_its_parts(arch) -> None:
    model = build_model(tiny(arch), seed=1)
    src, dst = faces(), faces().flip(0, 2)
    outputs = model(src, dst, with_swap=True)
    for image in (outputs.src_src, outputs.dst_dst, outputs.src_dst):
        assert image.shape == (2, 3, 32, 32) and image.dtype == torch.float32
        assert image.min() >= 0 and image.max() <= 1
    for mask in (outputs.src_src_mask, outputs.dst_dst_mask, outputs.src_dst_mask):
        assert mask.shape == (2, 1, 32, 32)
    sum(x.sum() for x in outputs[:4]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert sum(len(list(part.parameters())) for part in model.parts().values()) == len(list(model.parameters()))
    assert {name.partition(".")[0] for name in model.state_dict()} == set(model.parts())

    swapped = model.swap(dst)
    torch.testing.assert_close(swapped.image, outputs.src_dst, atol=1e-5, rtol=0)
    torch.testing.assert_close(swapped.mask, outputs.src_dst_mask, atol=1e-5, rtol=0)
    torch.testing.assert_close(swapped.dst_mask, outputs.dst_dst_mask, atol=1e-5, rtol=0)


@pytest.mark.parametrize("arch", ALL)
def test_a_sample_does_not_depend_on_its_batch(arch) -> None:
    model = build_model(tiny(arch), seed=1)
    batch = faces(3)
    with torch.no_grad():
        together = model.swap(batch).image
        alone = torch.cat([model.swap(batch[i : i + 1]).image for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("arch", ["df-ud", "liae-ud"])
def test_the_stopped_swap_moves_the_decoder_only(arch) -> None:
    model = build_model(tiny(arch), seed=1)
    outputs = model(faces(), faces(), with_stopped_swap=True)
    assert outputs.src_dst is None
    outputs.src_dst_from_stopped_code.sum().backward()
    moved = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert moved == {"decoder_src" if arch.startswith("df") else "decoder"}


def test_the_swap_of_liae_ignores_inter_b_and_its_reconstruction_does_not() -> None:
    model = build_model(tiny("liae"), seed=1)
    before = model.swap(faces())
    with torch.no_grad():
        for p in model.inter_B.parameters():
            p.add_(1.0)
    after = model.swap(faces())
    assert torch.equal(before.image, after.image)
    assert not torch.equal(before.dst_mask, after.dst_mask)


def test_only_the_reference_freezes_inter_ab_without_warp() -> None:
    model = build_model(tiny("liae-ud"), seed=1)
    everything = dict(model.named_parameters())
    assert model.trainable_parameters(random_warp=False, reference=False).keys() == everything.keys()
    assert model.trainable_parameters(random_warp=True, reference=True).keys() == everything.keys()
    moving = model.trainable_parameters(random_warp=False, reference=True)
    assert everything.keys() - moving.keys() == {n for n in everything if n.startswith("inter_AB.")}
    df = build_model(tiny("df"), seed=1)
    assert len(df.trainable_parameters(random_warp=False, reference=True)) == len(list(df.parameters()))


def test_initial_weights_are_glorot_uniform_and_follow_the_seed() -> None:
    torch.manual_seed(0)
    state_before = torch.get_rng_state()
    model = build_model(tiny("df-ud", ae_dims=64, d_dims=32), seed=3)
    again = build_model(tiny("df-ud", ae_dims=64, d_dims=32), seed=3)
    other = build_model(tiny("df-ud", ae_dims=64, d_dims=32), seed=4)
    assert torch.equal(torch.get_rng_state(), state_before)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not torch.equal(model.inter.dense1.weight, other.inter.dense1.weight)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert not module.bias.any()
            area = math.prod(module.weight.shape[2:])
            limit = math.sqrt(6 / (area * (module.weight.shape[0] + module.weight.shape[1])))
            assert module.weight.abs().max() <= limit
            if module.weight.numel() > 5000:
                assert module.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)


def test_autocast_keeps_outputs_in_float32() -> None:
    model = build_model(tiny("df-ud"), seed=1)
    exact = model(faces(), faces()).src_src
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(faces(), faces())
    assert outputs.src_src.dtype == outputs.src_src_mask.dtype == torch.float32
    assert outputs.src_src.unique().numel() > 256
    torch.testing.assert_close(outputs.src_src, exact, atol=0.02, rtol=0)


@pytest.mark.parametrize("arch", ["df-udt", "liae-udc"])
def test_forward_is_one_graph_for_the_compiler(arch) -> None:
    model = build_model(tiny(arch), seed=1)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(faces(), faces()).dst_dst, model(faces(), faces()).dst_dst, atol=1e-6, rtol=0)


def test_configuration_survives_json() -> None:
    config = tiny("liae-udt")
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"arch": "df-"}, "family"),
        ({"arch": "df-x"}, "unknown flags x"),
        ({"arch": "df-uu"}, "repeats"),
        ({"arch": "liae-t", "resolution": 80}, "multiple of 32"),
        ({"arch": "df-d", "resolution": 144}, "multiple of 32"),
        ({"arch": "df", "resolution": 72}, "multiple of 16"),
        ({"resolution": 1024}, "between 32 and 640"),
        ({"e_dims": 5}, "even"),
        ({"ae_dims": 64.0}, "whole number"),
        ({"d_dims": True}, "whole number"),
        ({"face_type": ""}, "face_type"),
        ({"arch": 3}, "arch must be text"),
        ({"depth": 3}, "unknown fields depth"),
    ],
)
def test_bad_configurations_are_refused(changes, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        tiny(**{"arch": "df", **changes})


def test_missing_fields_and_unknown_families_are_refused() -> None:
    with pytest.raises(ValueError, match="lacks ae_dims"):
        ModelConfig.from_dict({k: v for k, v in tiny("df").to_dict().items() if k != "ae_dims"})
    with pytest.raises(ValueError, match=r"unknown model family 'vae'.*df, liae"):
        build_model(tiny("vae"), seed=0)


def test_the_names_that_options_are_checked_against_are_the_registry_s() -> None:
    assert family_names() == FAMILIES
