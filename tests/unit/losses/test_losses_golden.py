"""DSSIM, blur and style loss give the original's values and gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ml_common.losses import dssim, gaussian_blur, style_loss

GOLDEN = Path(__file__).parents[2] / "golden" / "losses" / "loss.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN) as file:
        arrays = {name: file[name] for name in file.files}
    tensors = {}
    for name, array in arrays.items():
        if array.dtype == np.uint8:
            array = array.astype(np.float32) / np.float32(255)
        tensor = torch.from_numpy(array)
        tensors[name] = tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor
    return tensors


@pytest.mark.parametrize("window", [1, 2, 5, 8, 11, 19, 22])
def test_dssim_values(window, golden) -> None:
    values = dssim(golden["a"], golden["b"], window=window)
    torch.testing.assert_close(values, golden[f"dssim_fs{window}"], rtol=0, atol=3e-6)


def test_dssim_gradient(golden) -> None:
    b = golden["b"][:1].clone().requires_grad_()
    dssim(golden["a"][:1], b, window=5).sum().backward()
    torch.testing.assert_close(b.grad, golden["dssim_fs5_grad_b"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1, 2, 4, 8])
def test_gaussian_blur(sigma, golden) -> None:
    rows = slice(None, None, 4)
    for name, x in ((f"gblur_r{sigma}", golden["a"]), (f"gblur_mask_r{sigma}", golden["m"])):
        torch.testing.assert_close(gaussian_blur(x[:1], sigma)[:, :, rows], golden[name], rtol=0, atol=2e-6)


def test_style_loss_values_and_gradient(golden) -> None:
    a, b = golden["a"], golden["b"]
    blurred = style_loss(a, b, sigma=8, weight=1000.0)
    # Differences of means near 0.01 are squared: rounding of 1e-6 in a mean becomes 1e-4 of the result.
    torch.testing.assert_close(blurred, golden["style_loss_blur8_w10000x0.1"], rtol=2e-4, atol=0)
    plain = style_loss(a, b, sigma=0, weight=1.0)
    torch.testing.assert_close(plain, golden["style_loss_noblur"], rtol=2e-4, atol=0)
    a = a[:1].clone().requires_grad_()
    style_loss(a, b[:1], sigma=8, weight=1000.0).sum().backward()
    torch.testing.assert_close(a.grad, golden["style_loss_grad_a"], rtol=1e-5, atol=1e-6)
