"""The layers and blocks of StyleGAN2: what golden parity (test_golden) does not fix."""

import pytest
import torch

from stylegan.stylegan2 import (
    DiscriminatorEpilogue,
    ModulatedConv2d,
    SynthesisBlock,
    SynthesisLayer,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def modulated(conv: ModulatedConv2d, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The finished modulated convolution: the layer multiplies by the demodulation later, here it is done at once."""
    y, demodulation = conv(x, w)
    return y * demodulation


@torch.no_grad()
@pytest.mark.parametrize("up", [False, True])
def test_demodulation_gives_unit_variance_whatever_the_style(up):
    conv = ModulatedConv2d(32, 64, 3, 8, up=up)
    x = torch.randn(8, 32, 32, 32)
    w = 10 * torch.randn(8, 8)
    y = modulated(conv, x, w)[:, :, 4:-4, 4:-4]
    deviation = y.std(dim=[1, 2, 3])
    if up:  # each output pixel sums a filtered share of the taps: the same factor for all styles
        torch.testing.assert_close(deviation, deviation.mean().expand(8), rtol=0.05, atol=0)
    else:
        torch.testing.assert_close(deviation, torch.ones(8), rtol=0.03, atol=0)
    assert conv(x, w)[0].std() > 3  # without it the style's size shows


@torch.no_grad()
def test_demodulation_cancels_the_size_of_a_style():
    conv = ModulatedConv2d(6, 5, 3, 4)
    conv.affine.bias.zero_()
    x, w = torch.randn(2, 6, 8, 8), torch.randn(2, 4)
    torch.testing.assert_close(modulated(conv, x, w), modulated(conv, x, 30 * w), rtol=1e-3, atol=1e-4)


def test_styles_start_around_one():
    conv = ModulatedConv2d(64, 8, 3, 32)
    style = conv.affine(torch.randn(256, 32))
    assert style.mean().item() == pytest.approx(1, abs=0.05)


@torch.no_grad()
def test_fresh_layer_ignores_noise():
    layer = SynthesisLayer(3, 5, 4, 8)
    x, w = torch.randn(2, 3, 8, 8), torch.randn(2, 4)
    assert torch.equal(layer(x, w, torch.randn(2, 1, 8, 8)), layer(x, w, "none"))


@torch.no_grad()
def test_blocks_use_their_styles_in_order():
    first, block = SynthesisBlock(0, 6, 4, 4, 1), SynthesisBlock(6, 5, 4, 8, 1)
    assert (first.num_conv, block.num_conv, block.num_torgb) == (1, 2, 1)
    x, img = first(None, None, torch.randn(2, 2, 4), [None])
    assert x.shape == (2, 6, 4, 4) and img.shape == (2, 1, 4, 4)
    ws, noise = torch.randn(2, 3, 4), [None, None]
    x2, img2 = block(x, img, ws, noise)
    assert x2.shape == (2, 5, 8, 8) and img2.shape == (2, 1, 8, 8)
    last = ws.clone()
    last[:, 2] += 1  # the third style reaches the picture, not the maps
    x3, img3 = block(x, img, last, noise)
    assert torch.equal(x3, x2) and not torch.allclose(img3, img2)
    for k in (0, 1):
        other = ws.clone()
        other[:, k] += 1
        assert not torch.allclose(block(x, img, other, noise)[0], x2)


@torch.no_grad()
def test_epilogue_sees_its_group():
    epilogue = DiscriminatorEpilogue(8, 4, 1)
    x = torch.randn(8, 8, 4, 4)
    logits = epilogue(x)
    assert logits.shape == (8, 1)
    other = x.clone()
    other[2] *= 3  # slice 2 sits with 0, 4 and 6
    changed = (epilogue(other) - logits).abs().flatten() > 1e-6
    assert changed.tolist() == [True, False, True, False, True, False, True, False]
