"""The layers and blocks of StyleGAN1: equation 1, and what golden parity (test_golden) does not fix."""

import functools

import pytest
import torch
import torch.nn.functional as F

from stylegan.resampling import blur, blur_by_products
from stylegan.stylegan1 import AdaIN, Styled, SynthesisBlock, instance_norm


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@torch.no_grad()
def test_adain_gives_each_map_the_mean_and_deviation_of_its_style():
    layer = AdaIN(5, 4)
    layer.affine.bias.normal_()
    x, w = 3 * torch.randn(2, 5, 16, 16) + 7, torch.randn(2, 4)
    y = layer(x, w)
    style = F.linear(w, layer.affine.weight / 2, layer.affine.bias)
    torch.testing.assert_close(y.mean(dim=[2, 3]), style[:, 5:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y.std(dim=[2, 3], correction=0), (style[:, :5] + 1).abs(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_adain_normalises_away_is_the_size_of_a_map():
    """The droplet of StyleGAN2's section 2.1: a spike lets a map carry its size past the normalisation."""
    x = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(instance_norm(x), instance_norm(100 * x), rtol=1e-3, atol=1e-4)
    spiked = x.clone()
    spiked[..., 5, 5] = 1000.0
    quiet = instance_norm(spiked)
    quiet[..., 5, 5] = 0
    assert quiet.std() < 0.05 * instance_norm(x).std()


def slow_blur(x):
    padded = F.pad(x, [1, 1, 1, 1])
    rows = (padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]) / 4
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4


@pytest.mark.parametrize(
    "form", [functools.partial(form, padding=1, taps=(1.0, 2.0, 1.0)) for form in (blur, blur_by_products)]
)
def test_the_filter_and_its_two_derivatives(form):
    """As a convolution, and as the products that stand for it on a GPU."""
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(form(x), slow_blur(x))
    assert torch.autograd.gradcheck(form, x) and torch.autograd.gradgradcheck(form, x)


@torch.no_grad()
def test_noise_has_a_scale_for_each_map_that_starts_at_0():
    """x + scale * noise, and neither x + scale + noise nor one scale for all maps."""
    layer = Styled(3, 4, 8)
    assert layer.noise.strength.shape == (3, 1, 1) and (layer.noise.strength == 0).all()
    x, w, noise = torch.randn(2, 3, 8, 8), torch.randn(2, 4), torch.randn(2, 1, 8, 8)
    assert torch.equal(layer(x, w, noise), layer(x, w, "none"))
    layer.noise.strength.copy_(torch.tensor([0.0, 0.5, -2.0]).reshape(3, 1, 1))
    layer.bias.normal_()
    before = x + torch.tensor([0.0, 0.5, -2.0]).reshape(3, 1, 1) * noise + layer.bias[:, None, None]
    expected = layer.adain(torch.where(before > 0, before, 0.2 * before), w)
    torch.testing.assert_close(layer(x, w, noise), expected)


@torch.no_grad()
def test_blocks_take_two_styles_in_order_and_the_first_starts_from_ones():
    first, block = SynthesisBlock(0, 6, 4, 4, 1), SynthesisBlock(6, 5, 4, 8, 1, rgb=False)
    assert (first.const == 1).all() and (first.num_conv, first.num_torgb, block.num_conv) == (2, 0, 2)
    first.const.normal_()
    x, img = first(None, None, torch.randn(2, 2, 4), [None, None])
    assert x.shape == (2, 6, 4, 4) and img.shape == (2, 1, 4, 4)
    ws = torch.randn(2, 2, 4)
    y, none = block(x, img, ws, [None, None])
    assert y.shape == (2, 5, 8, 8) and none is None and block.torgb is None
    for k in (0, 1):
        other = ws.clone()
        other[:, k] += 1
        assert not torch.allclose(block(x, img, other, [None, None])[0], y)
