"""Shared components: what golden parity (test_golden) does not fix, in closed forms."""

import numpy as np
import pytest
import torch

from stylegan.modules import (
    EqualConv2d,
    EqualLinear,
    MappingNetwork,
    MinibatchStdDev,
    NoiseInjection,
    pixel_norm,
)
from stylegan.resampling import blur, blur_by_products, upsample


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# --- Equalised learning rate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fan_in", [16, 64, 256])
def test_one_adam_step_moves_the_stored_weights_alike_at_any_fan_in(fan_in):
    """The point of the equalised rate: each stored weight, of deviation 1, moves by lr, however wide the layer."""
    layer = EqualLinear(fan_in, 32)
    before = layer.weight.detach().clone()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01, betas=(0.0, 0.99))
    layer(torch.randn(8, fan_in)).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close((layer.weight - before).abs(), torch.full_like(before, 0.01), rtol=1e-3, atol=1e-6)


def test_lr_multiplier_slows_a_layer_down_and_leaves_its_result():
    layer = EqualLinear(64, 2048, bias=1.0, lr_multiplier=0.01)
    assert layer.weight.std().item() == pytest.approx(100, rel=0.02)
    x = torch.randn(4, 64)
    expected = x @ (layer.weight / 100).t() / 8 + 1
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full([2048], 4 * 0.01))


def test_activation_keeps_the_variance_of_a_unit_gaussian():
    """He's constant: the mean square after the leaky ReLU is (1 + slope^2) / 2 * gain^2 = 1.04."""
    layer = EqualLinear(512, 4096, act=True)
    y = layer(torch.randn(16, 512))
    assert y.square().mean().item() == pytest.approx(1.04, rel=0.05)


def test_a_downsampling_layer_takes_even_sizes_to_their_half():
    for size in (4, 16, 32):
        assert EqualConv2d(2, 3, 3, down=True)(torch.zeros(1, 2, size, size)).shape == (1, 3, size // 2, size // 2)
        assert EqualConv2d(2, 3, 1, down=True)(torch.zeros(1, 2, size, size)).shape == (1, 3, size // 2, size // 2)


# --- Resampling; golden parity fixes its values ------------------------------------------------------


def downsample(x: torch.Tensor) -> torch.Tensor:
    """As a 1x1 convolution with ``down`` does it."""
    conv = EqualConv2d(x.shape[1], x.shape[1], 1, down=True, bias=False, act=False)
    conv.weight.data = torch.eye(x.shape[1])[:, :, None, None] / conv.scale
    return conv(x)


BLURS = pytest.mark.parametrize(("padding", "stride", "size"), [(1, 1, (10, 7)), (2, 1, (10, 7)), (1, 2, (10, 6))])


@BLURS
def test_blur_by_products_is_the_blur(padding, stride, size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    products = blur_by_products(x, padding, gain=4, stride=stride)
    torch.testing.assert_close(products, blur(x, padding, gain=4, stride=stride))
    assert products.is_contiguous(memory_format=torch.channels_last)
    assert torch.autograd.gradgradcheck(lambda x: blur_by_products(x, padding, 4.0, stride=stride).square(), x)


@BLURS
def test_gradients_of_the_blur_are_those_of_its_sums(padding, stride, size):
    """Its backward is written by hand; R1 needs the second derivative too."""
    x = torch.randn(1, 2, *size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: blur(x, padding, 4.0, stride), x)
    assert torch.autograd.gradgradcheck(lambda x: blur(x, padding, 4.0, stride).square(), x)


@pytest.mark.parametrize("stride", [1, 2])
def test_blur_keeps_half_precision_in_both_directions(stride):
    x = torch.randn(1, 2, 8, 8)
    half, full = (x.to(dtype).requires_grad_() for dtype in (torch.bfloat16, torch.float32))
    for y in (half, full):
        blur(y, 1, stride=stride).square().sum().backward()
    assert half.grad.dtype == blur(half, 1, stride=stride).dtype == torch.bfloat16
    torch.testing.assert_close(half.grad.float(), full.grad, rtol=0.05, atol=0.02)


def test_a_constant_stays_constant_inside():
    x = torch.full((1, 2, 8, 8), 0.7)
    assert torch.allclose(upsample(x)[:, :, 1:-1, 1:-1], torch.tensor(0.7))
    assert torch.allclose(downsample(x)[:, :, 1:-1, 1:-1], torch.tensor(0.7))
    assert (upsample(x)[:, :, 0, 0] < 0.7).all()  # zeros come in from outside


def test_resampling_stays_in_float32_under_autocast():
    x = torch.randn(1, 2, 8, 8)
    up, blurred = upsample(x), blur(x, padding=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(upsample(x), up) and torch.equal(blur(x, padding=2), blurred)


# --- Small parts --------------------------------------------------------------------------------------------------------------


def test_pixel_norm():
    x = torch.randn(5, 16) * torch.tensor([1e-2, 1, 10, 1e3, 5])[:, None]
    torch.testing.assert_close(pixel_norm(x).square().mean(dim=1), torch.ones(5), rtol=2e-4, atol=0)
    torch.testing.assert_close(pixel_norm(x)[3], pixel_norm(7 * x)[3])
    assert pixel_norm(torch.zeros(1, 4)).abs().max() == 0


@pytest.mark.parametrize(("batch", "group"), [(8, 4), (8, 2), (4, 4), (3, 4), (12, 4)])
def test_minibatch_stddev_against_a_loop(batch, group):
    x = torch.randn(batch, 3, 4, 4)
    y = MinibatchStdDev(group)(x)
    assert y.shape == (batch, 4, 4, 4)
    assert torch.equal(y[:, :3], x)
    size = min(group, batch)
    groups = batch // size
    for i in range(batch):
        mates = x[i % groups :: groups].numpy()
        assert len(mates) == size
        expected = np.sqrt(mates.var(axis=0) + 1e-8).mean()
        np.testing.assert_allclose(y[i, 3].numpy(), np.full((4, 4), expected), rtol=1e-5)


def test_minibatch_stddev_asks_for_whole_groups():
    with pytest.raises(AssertionError, match="groups of 4"):
        MinibatchStdDev(4)(torch.zeros(6, 1, 4, 4))


def test_noise_is_strength_times_noise():
    layer = NoiseInjection(4)
    noise = torch.randn(3, 1, 4, 4)
    assert layer(noise).abs().max() == 0 and layer(None).abs().max() == 0  # strengths start at 0
    with torch.no_grad():
        layer.strength.fill_(0.3)
    assert torch.equal(layer(noise), 0.3 * noise)
    assert torch.equal(layer(None), (0.3 * layer.fixed).expand(1, 4, 4))
    assert NoiseInjection(4, channels=5)(noise).shape == (3, 5, 4, 4)
    assert "fixed" in dict(layer.named_buffers())


# --- Mapping network ----------------------------------------------------------------------------------------------------------


def mapping(c_dim: int = 0) -> MappingNetwork:
    net = MappingNetwork(z_dim=6, c_dim=c_dim, w_dim=4, num_ws=8, num_layers=2, lr_multiplier=0.01)
    net.w_avg.normal_()
    return net


def one_hot(classes: list[int], c_dim: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), c_dim).float()


@pytest.mark.parametrize("c_dim", [0, 3])
def test_truncation(c_dim):
    net, z = mapping(c_dim), torch.randn(3, 6)
    c = one_hot([2, 0, 2]) if c_dim else None
    centre = net.w_avg[[2, 0, 2]] if c_dim else net.w_avg.expand(3, 4)
    ws = net(z, c)
    assert torch.equal(net(z, c, truncation_psi=1.0), ws)
    torch.testing.assert_close(net(z, c, truncation_psi=0.0), centre[:, None].expand(3, 8, 4))
    torch.testing.assert_close(net(z, c, truncation_psi=0.7), centre[:, None] + 0.7 * (ws - centre[:, None]))


def test_moving_average_of_w_has_its_closed_form():
    """After n updates with constant mean m: beta^n a + (1 - beta^n) m."""
    net = mapping()
    start, w = net.w_avg.clone(), torch.randn(7, 4)
    for _ in range(10):
        net.update_w_avg(w, None, beta=0.9)
    torch.testing.assert_close(net.w_avg, 0.9**10 * start + (1 - 0.9**10) * w.mean(dim=0))


def test_moving_average_per_class_touches_only_the_classes_present():
    net = mapping(c_dim=3)
    start, w = net.w_avg.clone(), torch.randn(4, 4, requires_grad=True)
    for _ in range(5):
        net.update_w_avg(w, one_hot([0, 2, 0, 0]), beta=0.9)
    assert torch.equal(net.w_avg[1], start[1])
    b = 0.9**5
    torch.testing.assert_close(net.w_avg[0], b * start[0] + (1 - b) * w[[0, 2, 3]].mean(dim=0).detach())
    torch.testing.assert_close(net.w_avg[2], b * start[2] + (1 - b) * w[1].detach())
    assert not net.w_avg.requires_grad


def test_forward_never_moves_the_average():
    net = mapping().train()
    start = net.w_avg.clone()
    net(torch.randn(4, 6))
    assert torch.equal(net.w_avg, start)


def test_mapping_depends_on_the_class_and_asks_for_it():
    net, z = mapping(c_dim=3), torch.randn(1, 6)
    a, b = net(z, one_hot([0])), net(z, one_hot([1]))
    assert (a - b).abs().max() > 1e-3
    for missing in (None, torch.zeros(1, 2)):
        with pytest.raises(AssertionError, match=r"\[N, 3\]"):
            net(z, missing)


def test_noise_learns_slower_by_its_multiplier_and_never_at_zero():
    noise = torch.randn(2, 1, 4, 4)
    for multiplier in (1.0, 0.1, 0.0):
        layer = NoiseInjection(4, lr_multiplier=multiplier)
        layer(noise).sum().backward()
        torch.testing.assert_close(layer.strength.grad.squeeze(), multiplier * noise.sum())
        layer.strength.data.fill_(2.0)
        torch.testing.assert_close(layer(noise), 2.0 * multiplier * noise)
