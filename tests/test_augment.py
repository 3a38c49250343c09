"""Augmentations: what they do to a picture, what they leave alone, and that R1 can pass through them."""

import math

import pytest
import torch

from stylegan.augment import adapt, augment, cutout, grey, move
from stylegan.config import Config
from stylegan.rng import BatchRNG


def identity(n):
    return torch.zeros(n, 2), torch.ones(n), torch.zeros(n)


def draws(seed):
    return BatchRNG(torch.device("cpu"), torch.Generator().manual_seed(seed))


def slices(n=4, size=16):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_p_zero_changes_nothing():
    torch.testing.assert_close(augment(slices(), 0.0), slices())


def test_no_movement_is_the_identity():
    torch.testing.assert_close(move(slices(), *identity(4)), slices())


def test_whole_pixel_shift_moves_and_brings_in_black():
    img = slices()
    moved = move(img, torch.tensor([[2 / 16, 1 / 16]] * 4), torch.ones(4), torch.zeros(4))
    torch.testing.assert_close(moved[:, :, 1:, 2:], img[:, :, :-1, :-2])
    assert (moved[:, :, 0] == -1).all() and (moved[..., :2] == -1).all()


def test_quarter_turn_equals_rot90():
    img = slices()
    turned = move(img, torch.zeros(4, 2), torch.ones(4), torch.full([4], math.pi / 2))
    choices = [(turned - torch.rot90(img, k, dims=[2, 3])).abs().max().item() for k in (1, 3)]
    assert min(choices) < 1e-4


def test_enlarging_twice_spreads_the_centre():
    img = torch.full([1, 1, 16, 16], -1.0)
    img[:, :, 6:10, 6:10] = 1
    large = move(img, torch.zeros(1, 2), torch.full([1], 2.0), torch.zeros(1))
    assert (large > 0).sum() == pytest.approx(4 * 16, abs=4)


def test_grey_and_cutout():
    img = slices()
    torch.testing.assert_close(grey(img, torch.full([4], 0.1), torch.full([4], 2.0)), img * 2 + 0.1)
    struck = torch.tensor([True, False, True, False])
    cut = cutout(img, struck, torch.full([4, 2], 0.5))
    torch.testing.assert_close(cut[~struck], img[~struck])
    changed = (cut[struck] != img[struck]).sum(dim=[1, 2, 3])
    assert changed.tolist() == [9, 9]  # pixels whose position / 16 lies within 1/8 of the middle: 7, 8 and 9
    assert (cut[struck][:, :, 7:10, 7:10] == -1).all()


def test_share_of_changed_slices_follows_p():
    img = slices(400)
    changed = (augment(img, 0.1, draws(1)) != img).flatten(1).any(dim=1).float().mean()
    assert changed == pytest.approx(1 - 0.9**6, abs=0.08)  # six operations


def test_gradients_of_gradients_pass():
    img = slices().requires_grad_(True)
    out = augment(img, 0.8, draws(0))
    (gradient,) = torch.autograd.grad((out**3).sum(), img, create_graph=True)
    gradient.square().sum().backward()
    assert torch.isfinite(img.grad).all() and img.grad.abs().sum() > 0


def test_adaptive_step_is_the_share_of_the_schedule():
    config = Config(ada_target=0.6, ada_kimg=100.0, augment_p_max=0.8)
    for p, sign_mean, after in (
        (0.2, 0.9, 0.2 + 64 / 100_000),
        (0.2, 0.1, 0.2 - 64 / 100_000),
        (0.0, 0.1, 0.0),
        (0.8, 0.9, 0.8),
    ):
        assert adapt(p, sign_mean, 64, config) == pytest.approx(after)
