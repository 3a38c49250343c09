"""The layers and blocks of StyleGAN2 against equations 1 and 3, done slowly for one sample at a time."""

import math

import pytest
import torch
import torch.nn.functional as F

from stylegan.stylegan2 import (
    DiscriminatorBlock,
    DiscriminatorEpilogue,
    ModulatedConv2d,
    SynthesisBlock,
    SynthesisLayer,
    ToRGB,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def modulated(conv: ModulatedConv2d, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The finished modulated convolution: the layer multiplies by the demodulation later, here it is done at once."""
    y, demodulation = conv(x, w)
    return y * demodulation


def scaled_weights(conv: ModulatedConv2d, w: torch.Tensor) -> torch.Tensor:
    """Weights of one sample [out, in, k, k]: w' = s_i w (equation 1), w'' = w' / sqrt(sum w'^2 + eps) (equation 3)."""
    style = F.linear(w, conv.affine.weight / math.sqrt(len(w)), conv.affine.bias)
    fan_in = conv.weight[0].numel()
    scaled = []
    for out in conv.weight:
        weight = torch.stack([s * tap for s, tap in zip(style, out / math.sqrt(fan_in), strict=True)])
        scaled.append(weight / weight.square().sum().add(1e-8).sqrt())
    return torch.stack(scaled)


def slow_modulated(conv: ModulatedConv2d, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """One sample after the other, with weights of its own; ``up`` inserts zeros, convolves, then filters by [1, 3, 3, 1]."""
    results = []
    for sample, latent in zip(x, w, strict=True):
        weight = scaled_weights(conv, latent)
        if conv.up:
            C, H, W = sample.shape
            wide = torch.zeros(C, 2 * H - 1, 2 * W - 1)
            wide[:, ::2, ::2] = sample
            # Sub-pixel convolution spreads each pixel by the kernel: a full correlation with the flipped weights.
            y = F.conv2d(wide[None], weight.flip(2, 3), padding=2)
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
            y = F.pad(y, [1, 1, 1, 1])
            y = sum(t * y[:, :, i : i + 2 * H] for i, t in enumerate(taps))
            y = sum(t * y[:, :, :, i : i + 2 * W] for i, t in enumerate(taps))
        else:
            y = F.conv2d(sample[None], weight, padding=conv.kernel // 2)
        results.append(y)
    return torch.cat(results)


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "up"), [(1, False), (3, False), (3, True)])
def test_modulated_convolution_against_a_loop(kernel, up):
    conv = ModulatedConv2d(3, 5, kernel, 4, up=up)
    conv.affine.bias.normal_()
    x, w = torch.randn(4, 3, 6, 8), torch.randn(4, 4)
    torch.testing.assert_close(modulated(conv, x, w), slow_modulated(conv, x, w), rtol=1e-4, atol=1e-5)


def test_modulated_convolution_has_the_loop_s_gradients():
    conv = ModulatedConv2d(3, 5, 3, 4, up=True)
    x, w = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    y = torch.randn(2, 5, 8, 8)
    ours = torch.autograd.grad((modulated(conv, x, w) * y).sum(), [x, w, conv.weight, conv.affine.weight])
    slow = torch.autograd.grad((slow_modulated(conv, x, w) * y).sum(), [x, w, conv.weight, conv.affine.weight])
    for a, b in zip(ours, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


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
@pytest.mark.parametrize("up", [False, True])
def test_layer_is_convolution_noise_bias_leaky_relu(up):
    layer = SynthesisLayer(3, 5, 4, 8, up=up)
    layer.noise.strength.fill_(0.4)
    layer.bias.normal_()
    x, w, noise = torch.randn(2, 3, *[4 if up else 8] * 2), torch.randn(2, 4), torch.randn(2, 1, 8, 8)
    for given, added in ((noise, 0.4 * noise), (None, 0.4 * layer.noise.fixed), ("none", 0.0)):
        y = modulated(layer.conv, x, w) + added + layer.bias[:, None, None]
        expected = torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)
        torch.testing.assert_close(layer(x, w, given), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_fresh_layer_ignores_noise():
    layer = SynthesisLayer(3, 5, 4, 8)
    x, w = torch.randn(2, 3, 8, 8), torch.randn(2, 4)
    assert torch.equal(layer(x, w, torch.randn(2, 1, 8, 8)), layer(x, w, "none"))


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_to_rgb_is_linear_and_not_demodulated(channels):
    layer = ToRGB(6, channels, 4)
    layer.bias.normal_()
    x, w = torch.randn(2, 6, 8, 8), torch.randn(2, 4)
    style = layer.conv.affine(w)
    expected = torch.einsum("nihw,ni,oi->nohw", x, style, layer.conv.weight[:, :, 0, 0]) / math.sqrt(6)
    torch.testing.assert_close(layer(x, w), expected + layer.bias[:, None, None], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(2 * x, w) - layer(x, w), layer(x, w) - layer(0 * x, w), rtol=1e-3, atol=1e-4)


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
def test_block_adds_its_picture_to_the_upsampled_one():
    block = SynthesisBlock(6, 5, 4, 8, 1)
    x, ws, noise = torch.randn(2, 6, 4, 4), torch.randn(2, 3, 4), [None, None]
    ones = torch.ones(2, 1, 4, 4)
    difference = block(x, 0.5 * ones, ws, noise)[1] - block(x, 0 * ones, ws, noise)[1]
    torch.testing.assert_close(difference[:, :, 1:-1, 1:-1], torch.full((2, 1, 6, 6), 0.5), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_discriminator_block_halves_and_keeps_the_variance():
    block = DiscriminatorBlock(16, 32)
    x = torch.randn(8, 16, 16, 16)
    assert block(x).shape == (8, 32, 8, 8)
    both, skip = block(x), block.skip(x)
    torch.testing.assert_close(both - skip, block.conv1(block.conv0(x)), rtol=1e-3, atol=1e-4)
    plain = F.conv2d(x, block.skip.weight / 4)  # 1 / sqrt(fan-in of 16), then [1, 3, 3, 1] and every other pixel
    filtered = F.conv2d(
        plain, torch.outer(*[torch.tensor([1.0, 3, 3, 1]) / 8] * 2).expand(32, 1, 4, 4), stride=2, padding=1, groups=32
    )
    torch.testing.assert_close(skip, filtered * math.sqrt(0.5), rtol=1e-3, atol=1e-4)


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
