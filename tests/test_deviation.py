"""What keeps fakes various: dither, pixel deviation and the participation penalty, against plain loops."""

import pytest
import torch

from stylegan.augment import dither
from stylegan.checkpoint import flatten
from stylegan.config import make_config
from stylegan.losses import participation_penalty, sharing
from stylegan.modules import with_deviation
from stylegan.networks import build_networks
from stylegan.rng import BatchRNG
from stylegan.train import g_step, logits_of_both, new_state, set_rates


def test_deviation_is_that_of_each_pixel_over_its_group():
    img = torch.rand(8, 1, 4, 4) * 2 - 1
    seen = with_deviation(img, 4)
    assert seen.shape == (8, 2, 4, 4) and torch.equal(seen[:, :1], img)
    for i in range(8):
        group = img[[j for j in range(8) if j % 2 == i % 2]]  # two groups of four, every other slice
        expected = 2 * (group.var(dim=0, unbiased=False) + 1e-4).sqrt() - 1
        torch.testing.assert_close(seen[i, 1:], expected)


def test_slices_that_are_alike_have_a_black_deviation_and_their_gradient_is_finite():
    img = torch.zeros(4, 1, 4, 4, requires_grad=True)
    seen = with_deviation(img, 4)
    assert seen[:, 1].max() < -0.97
    seen.sum().backward()
    assert img.grad.isfinite().all()


@pytest.mark.parametrize("architecture", ["stylegan2", "stylegan1", "dcgan"])
def test_groups_of_real_and_fake_slices_do_not_mix_in_one_pass(architecture):
    plain = {"mapping_layers": 0, "w_dim": 16, "style_mixing_prob": 0.0} if architecture == "dcgan" else {}
    state = new_state(make_config("smoke", pixel_deviation=True, architecture=architecture, **plain))
    state.D.eval()
    fake, real = torch.randn(8, 1, 16, 16), torch.rand(8, 1, 16, 16)
    found = logits_of_both(state, fake, real, None)
    for got, alone in zip(found, (state.D(fake), state.D(real)), strict=True):
        torch.testing.assert_close(got, alone, rtol=1e-4, atol=1e-5)


def test_a_growing_discriminator_takes_the_deviation_at_every_stage():
    config = make_config("smoke", architecture="stylegan1", grow_from=4, pixel_deviation=True)
    D = build_networks(config)[1]
    assert D(torch.randn(4, 1, 16, 16)).shape == (4, 1)


def test_dither_clamps_and_adds_up_to_one_grey_level():
    img = torch.linspace(-2, 2, 4000).reshape(1, 1, 40, 100)
    moved = dither(img, BatchRNG(img.device, torch.Generator().manual_seed(0))) - img.clamp(-1, 1)
    assert moved.abs().max() <= 2 / 255 + 1e-6 and moved.abs().max() > 1.9 / 255 and abs(moved.mean()) < 0.1 / 255


def test_the_gradient_passes_the_clamp_only_on_its_way_back_in():
    x = torch.tensor([-1.5, -1.5, 0.0, 1.5, 1.5]).reshape(1, 1, 1, 5).requires_grad_(True)
    push = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]).reshape(1, 1, 1, 5)  # descent moves against it
    (dither(x, BatchRNG(x.device)) * push).sum().backward()
    assert x.grad.flatten().tolist() == [0.0, -1.0, 1.0, 1.0, 0.0]


def test_the_rate_falls_with_the_root_of_the_slices_shown():
    state = new_state(make_config("smoke", lr_decay_kimg=10.0))
    full = state.opt_G.param_groups[0]["base_lr"]
    for kimg, share in ((0, 1), (10, 1), (40, 0.5), (1000, 0.1)):
        state.cur_nimg = kimg * 1000
        set_rates(state)
        assert state.opt_G.param_groups[0]["lr"] == pytest.approx(full * share)


def test_sharing_is_the_mean_squared_product_of_pairs_and_finds_the_number_of_directions():
    img = torch.randn(6, 1, 8, 8)
    detail = img - torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(img, 4), scale_factor=4, mode="bilinear")
    h = [(x - detail.mean(dim=0)).flatten() for x in detail]
    pairs = [(h[i] @ h[j]).item() ** 2 for i in range(6) for j in range(6) if i != j]
    power = sum((x @ x).item() for x in h) / 6
    assert sharing(img).item() == pytest.approx(sum(pairs) / 30 / power**2, rel=1e-4)
    few, many = (torch.randn(256, k) @ torch.randn(k, 1024) for k in (2, 16))
    assert sharing(few.reshape(256, 1, 32, 32)) > 3 * sharing(many.reshape(256, 1, 32, 32))


def test_the_penalty_is_nothing_for_various_fakes_and_drives_alike_ones_apart():
    real, alike = torch.randn(8, 1, 16, 16), torch.randn(8, 1) @ torch.randn(1, 256)
    alike = alike.reshape(8, 1, 16, 16).requires_grad_(True)
    penalty, mean = participation_penalty(alike, real, torch.zeros(()))
    assert mean == sharing(real) and penalty > 1 and participation_penalty(real, real, mean)[0] == 0
    (gradient,) = torch.autograd.grad(penalty, alike)
    assert participation_penalty(alike - gradient, real, mean)[0] < penalty
    black = torch.zeros(8, 1, 16, 16, requires_grad=True)
    participation_penalty(black, real, mean)[0].backward()
    assert black.grad.isfinite().all()


@pytest.mark.parametrize("architecture", ["stylegan2", "stylegan1", "dcgan"])
def test_every_generator_learns_from_the_penalty_and_a_checkpoint_keeps_its_mean(architecture):
    plain = {"mapping_layers": 0, "w_dim": 16, "style_mixing_prob": 0.0} if architecture == "dcgan" else {}
    states = [new_state(make_config("smoke", participation_weight=w, architecture=architecture, **plain)) for w in (0.0, 100.0)]
    for state in states:
        g_step(state, torch.rand(8, 1, 16, 16), None)
    assert "sharing" not in flatten(states[0]) and flatten(states[1])["sharing"] > 0
    assert not all(torch.equal(a, b) for a, b in zip(states[0].G.parameters(), states[1].G.parameters(), strict=True))


def test_a_single_slice_has_no_pair():
    with pytest.raises(ValueError, match="participation_weight"):
        make_config("smoke", batch_size=1, participation_weight=1.0)
