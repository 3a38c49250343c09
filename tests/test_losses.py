"""What golden numbers (test_golden) do not fix of losses, penalties and augmentations, in closed forms and plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from stylegan.augment import augment, cutout, dither, move
from stylegan.losses import LOSSES, gradient_penalty, participation_penalty, sharing
from stylegan.modules import with_deviation
from stylegan.rng import BatchRNG


def draws(seed):
    return BatchRNG(torch.device("cpu"), torch.Generator().manual_seed(seed))


def test_losses_of_both_players_beside_the_logistic_one():
    real, fake = torch.randn(6, 1), torch.randn(6, 1)
    torch.testing.assert_close(LOSSES["wgan"].d(real, fake), fake.mean() - real.mean())
    torch.testing.assert_close(LOSSES["wgan"].g(real, fake), -fake.mean())
    relativistic = LOSSES["relativistic"]
    torch.testing.assert_close(relativistic.d(real, fake), -torch.sigmoid(real - fake).log().mean())
    torch.testing.assert_close(relativistic.g(real + 5, fake + 5), relativistic.d(fake, real))  # no matter where both lie
    assert [name for name, loss in LOSSES.items() if loss.paired] == ["relativistic"]


def test_the_gradient_penalty_of_a_linear_critic_is_that_of_its_weight_and_a_flat_one_has_a_gradient():
    weight = (3 * torch.randn(2 * 4 * 4)).requires_grad_(True)
    x, norm = torch.randn(8, 2, 4, 4, requires_grad=True), weight.detach().norm()
    penalty = gradient_penalty(x.flatten(1) @ weight[:, None], x)
    torch.testing.assert_close(penalty, (norm - 1) ** 2)
    penalty.backward()
    torch.testing.assert_close(weight.grad, 2 * (norm - 1) * weight.detach() / norm)  # the penalty teaches D's weights
    flat = torch.zeros(32, requires_grad=True)
    penalty = gradient_penalty(x.flatten(1) @ flat[:, None], x)
    penalty.backward()
    assert penalty.item() == pytest.approx(1, abs=1e-5) and torch.isfinite(flat.grad).all()


def test_deviation_is_that_of_each_pixel_over_its_group():
    img = torch.rand(8, 1, 4, 4) * 2 - 1
    seen = with_deviation(img, 4)
    assert seen.shape == (8, 2, 4, 4) and torch.equal(seen[:, :1], img)
    for i in range(8):
        group = img[[j for j in range(8) if j % 2 == i % 2]]  # two groups of four, every other slice
        torch.testing.assert_close(seen[i, 1:], 2 * (group.var(dim=0, unbiased=False) + 1e-4).sqrt() - 1)
    alike = torch.zeros(4, 1, 4, 4, requires_grad=True)
    with_deviation(alike, 4).sum().backward()
    assert with_deviation(alike, 4)[:, 1].max() < -0.97 and alike.grad.isfinite().all()


def test_sharing_is_the_mean_squared_product_of_pairs_and_finds_the_number_of_directions():
    img = torch.randn(6, 1, 8, 8)
    detail = img - F.interpolate(F.avg_pool2d(img, 4), scale_factor=4, mode="bilinear")
    h = [(x - detail.mean(dim=0)).flatten() for x in detail]
    pairs = [(h[i] @ h[j]).item() ** 2 for i in range(6) for j in range(6) if i != j]
    assert sharing(img).item() == pytest.approx(sum(pairs) / 30 / (sum((x @ x).item() for x in h) / 6) ** 2, rel=1e-4)
    assert sharing(img[:2]).item() == pytest.approx(1)  # two centred slices are opposite
    few, many = (torch.randn(256, k) @ torch.randn(k, 1024) for k in (2, 16))
    assert sharing(few.reshape(256, 1, 32, 32)) > 3 * sharing(many.reshape(256, 1, 32, 32))


def test_the_penalty_is_nothing_for_various_fakes_and_drives_alike_ones_apart():
    real, alike = torch.randn(8, 1, 16, 16), torch.randn(8, 1) @ torch.randn(1, 256)
    alike = alike.reshape(8, 1, 16, 16).requires_grad_(True)
    penalty, mean = participation_penalty(alike, real, torch.zeros(()))
    assert mean == sharing(real) and penalty > 1 and participation_penalty(real, real, mean)[0] == 0
    (gradient,) = torch.autograd.grad(penalty, alike)
    assert participation_penalty(alike - gradient, real, mean)[0] < penalty
    black = torch.zeros_like(real).requires_grad_(True)
    assert torch.autograd.grad(participation_penalty(black, real, mean)[0], black)[0].isfinite().all()


def slices(n=4):
    return torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_movements():
    img, still = slices(), (torch.zeros(4, 2), torch.ones(4), torch.zeros(4))
    torch.testing.assert_close(move(img, *still), img)
    moved = move(img, torch.tensor([[2 / 16, 1 / 16]] * 4), *still[1:])
    torch.testing.assert_close(moved[:, :, 1:, 2:], img[:, :, :-1, :-2])
    assert (moved[:, :, 0] == -1).all() and (moved[..., :2] == -1).all()  # black comes in
    turned = move(img, *still[:2], torch.full([4], math.pi / 2))
    assert min((turned - torch.rot90(img, k, dims=[2, 3])).abs().max().item() for k in (1, 3)) < 1e-4
    square = torch.full([1, 1, 16, 16], -1.0)
    square[:, :, 6:10, 6:10] = 1
    assert (move(square, torch.zeros(1, 2), torch.full([1], 2.0), torch.zeros(1)) > 0).sum() == pytest.approx(4 * 16, abs=4)


def test_cutout():
    img = slices()
    struck = torch.tensor([True, False, True, False])
    cut = cutout(img, struck, torch.full([4, 2], 0.5))
    torch.testing.assert_close(cut[~struck], img[~struck])
    assert (cut[struck] != img[struck]).sum(dim=[1, 2, 3]).tolist() == [9] * 2  # pixels / 16 within 1/8 of the middle
    assert (cut[struck][:, :, 7:10, 7:10] == -1).all()


def test_the_share_of_changed_slices_follows_p_and_gradients_of_gradients_pass():
    torch.testing.assert_close(augment(slices(), 0.0), slices())
    changed = (augment(slices(400), 0.1, draws(1)) != slices(400)).flatten(1).any(dim=1).float().mean()
    assert changed == pytest.approx(1 - 0.9**6, abs=0.08)  # six operations
    img = slices().requires_grad_(True)
    (gradient,) = torch.autograd.grad((augment(img, 0.8, draws(0)) ** 3).sum(), img, create_graph=True)
    gradient.square().sum().backward()
    assert torch.isfinite(img.grad).all() and img.grad.abs().sum() > 0


def test_dither_clamps_adds_up_to_one_grey_level_and_lets_gradients_only_back_in():
    img = torch.linspace(-2, 2, 4000).reshape(1, 1, 40, 100)
    moved = dither(img, draws(0)) - img.clamp(-1, 1)
    assert moved.abs().max() <= 2 / 255 + 1e-6 and moved.abs().max() > 1.9 / 255 and abs(moved.mean()) < 0.1 / 255
    x = torch.tensor([-1.5, -1.5, -1.05, 0.0, 1.05, 1.5, 1.5]).reshape(1, 1, 1, 7).requires_grad_(True)
    push = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0]).reshape(1, 1, 1, 7)  # descent moves against it
    (dither(x, draws(0)) * push).sum().backward()
    assert x.grad.flatten().tolist() == [0.0, -1.0, 1.0, 1.0, -1.0, 1.0, 0.0]  # within the margin black may become blacker
