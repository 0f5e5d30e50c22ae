"""What must hold for the losses whatever the picture: zeros, symmetry, locality, precision, refusals."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from ml_common.losses import LossConfig, blur_out, dssim, gaussian_blur, soft_mask, style_loss, swap_losses
from ml_common.nets import TrainOutputs


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def box_mask(count: int = 2, edge: int = 64) -> Tensor:
    mask = torch.zeros(count, 1, edge, edge)
    mask[:, :, 20:44, 20:44] = 1
    return mask


def perfect(target: Tensor, mask: Tensor, **more: Tensor) -> TrainOutputs:
    return TrainOutputs(target, mask, target.flip(0), mask, **more)


def losses(outputs: TrainOutputs, target: Tensor, mask: Tensor, config: LossConfig, **more: Tensor):
    return swap_losses(
        outputs,
        src_target=target,
        dst_target=target.flip(0),
        src_mask=mask,
        dst_mask=mask,
        config=config,
        resolution=target.shape[-1],
        **more,
    )


def test_blur_agrees_with_scipy() -> None:
    x = noise(1, 1, 40, 40)
    # scipy cuts its kernel at truncate*sigma: 8 taps each side for 17 taps at sigma 4.
    expected = ndimage.gaussian_filter(x[0, 0].numpy(), 4, mode="constant", truncate=2.0)
    torch.testing.assert_close(gaussian_blur(x, 4)[0, 0], torch.from_numpy(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("window", [1, 4, 11])
def test_dssim_is_zero_for_equals_symmetric_and_local(window) -> None:
    a, b = noise(2, 3, 32, 32), noise(2, 3, 32, 32, seed=1)
    assert dssim(a, a, window=window).abs().max() < 1e-6
    torch.testing.assert_close(dssim(a, b, window=window), dssim(b, a, window=window))
    changed = b.clone()
    changed[1, 2] = 0
    difference = dssim(a, changed, window=window) - dssim(a, b, window=window)
    assert difference[1, 2] != 0
    difference[1, 2] = 0
    assert difference.abs().max() < 1e-7


def test_filters_ignore_autocast() -> None:
    a, b = noise(1, 3, 32, 32), noise(1, 3, 32, 32, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        values = dssim(a, b, window=5)
    torch.testing.assert_close(values, dssim(a, b, window=5), rtol=0, atol=0)


def test_a_window_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        dssim(noise(1, 3, 8, 8), noise(1, 3, 8, 8), window=9)
    with pytest.raises(ValueError, match="sigma"):
        gaussian_blur(noise(1, 1, 8, 8), 0)


def test_style_loss_sees_mean_and_spread_only() -> None:
    x = noise(2, 3, 16, 16)
    shuffled = x.flatten(2)[:, :, torch.randperm(256, generator=torch.Generator().manual_seed(0))].view_as(x)
    assert style_loss(x, shuffled, sigma=0, weight=100.0).abs().max() < 1e-9
    expected = 100 * 0.2**2
    torch.testing.assert_close(style_loss(x, x + 0.2, sigma=0, weight=100.0), torch.full((2,), expected))


def test_the_soft_mask_is_one_inside_and_zero_far_outside() -> None:
    mask = box_mask()
    soft = soft_mask(mask, resolution=64)
    assert soft[mask == 1].min() > 0.7  # the corners: barely a third of the kernel lies on the mask there
    assert soft[:, :, 24:40, 24:40].min() == 1
    assert soft[:, :, :10].max() == 0


def test_blur_out_keeps_the_face_and_uses_no_skin_for_the_background() -> None:
    mask = box_mask()
    image = torch.where(mask.bool(), 1.0, 0.25).expand(2, 3, 64, 64)  # white face, flat grey background
    result = blur_out(image, mask, resolution=64)
    torch.testing.assert_close(result[:, :, 20:44, 20:44], image[:, :, 20:44, 20:44])
    # Away from the picture's border a flat background stays flat right up to the face.
    inner = result[:, :, 4:60, 4:60][mask[:, :, 4:60, 4:60].expand(2, 3, 56, 56) == 0]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.25), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["saehd", "quick96"])
def test_a_perfect_reconstruction_costs_nothing(family) -> None:
    target, mask = noise(2, 3, 64, 64), box_mask()
    terms = losses(perfect(target, mask), target, mask, LossConfig(family=family))
    assert terms.src.shape == terms.dst.shape == (2,)
    assert max(terms.src.abs().max(), terms.dst.abs().max()) < 1e-5


def test_masked_training_ignores_the_far_background() -> None:
    target, mask = noise(2, 3, 64, 64), box_mask()
    drawn = target.clone()
    drawn[:, :, :6] = 0
    outputs = perfect(target, mask)._replace(src_src=drawn)
    assert losses(outputs, target, mask, LossConfig()).src.abs().max() < 1e-5
    assert losses(outputs, target, mask, LossConfig(masked_training=False)).src.min() > 0.1


def test_parts_add_up_and_belong_to_their_side() -> None:
    target, mask = noise(2, 3, 64, 64), box_mask()
    outputs = perfect(noise(2, 3, 64, 64, seed=1), mask * 0.9, src_dst=noise(2, 3, 64, 64, seed=2))
    outputs = outputs._replace(src_dst_mask=mask * 0.8, src_dst_from_stopped_code=outputs.src_dst)
    config = LossConfig(eyes_mouth_prio=True, face_style_power=10.0, bg_style_power=10.0)
    eyes = {"src_eyes_mouth": mask, "dst_eyes_mouth": mask * 0}
    terms = losses(outputs, target, mask, config, **eyes)
    src = sum(v for name, v in terms.parts.items() if not name.startswith("dst_"))
    dst = sum(v for name, v in terms.parts.items() if name.startswith("dst_"))
    torch.testing.assert_close(src, terms.src)
    torch.testing.assert_close(dst, terms.dst)
    assert terms.parts["src_eyes_mouth"].min() > 0
    assert terms.parts["dst_eyes_mouth"].max() == 0
    assert terms.parts["face_style"].min() > 0
    mended = terms.parts["bg_style"]
    as_the_original = losses(outputs, target, mask, LossConfig(bg_style_power=10.0, reference=True), **eyes).parts[
        "bg_style"
    ]
    assert not torch.allclose(mended, as_the_original)


def test_large_faces_use_two_windows() -> None:
    target, mask = noise(1, 3, 256, 256), torch.ones(1, 1, 256, 256)
    drawn = noise(1, 3, 256, 256, seed=1)
    terms = losses(TrainOutputs(drawn, mask, target, mask), target, mask, LossConfig(masked_training=False))
    expected = 5 * dssim(target, drawn, window=22).mean(1) + 5 * dssim(target, drawn, window=11).mean(1)
    torch.testing.assert_close(terms.parts["src_dssim"], expected)


def test_impossible_requests_are_refused() -> None:
    target, mask = noise(2, 3, 64, 64), box_mask()
    outputs = perfect(target, mask)
    with pytest.raises(ValueError, match="eyes_mouth_prio needs"):
        losses(outputs, target, mask, LossConfig(eyes_mouth_prio=True))
    with pytest.raises(ValueError, match="with_swap=True"):
        losses(outputs, target, mask, LossConfig(bg_style_power=1.0))
    with pytest.raises(ValueError, match="128 wide"):
        swap_losses(
            outputs,
            src_target=target,
            dst_target=target,
            src_mask=mask,
            dst_mask=mask,
            config=LossConfig(),
            resolution=128,
        )
    with pytest.raises(ValueError, match="quick96"):
        LossConfig(family="quick96", eyes_mouth_prio=True)
    with pytest.raises(ValueError, match="between 0 and 100"):
        LossConfig(face_style_power=200.0)
    with pytest.raises(ValueError, match="family"):
        LossConfig(family="amp")
