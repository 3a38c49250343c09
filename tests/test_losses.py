"""Each loss against its closed form."""

import math

import pytest
import torch

from stylegan.losses import (
    LOSSES,
    adam_for_lazy,
    drift,
    gradient_penalty,
    logistic_d,
    logistic_g,
    path_length_penalty,
    path_lengths,
    r1_penalty,
)


def test_logistic_losses_are_the_cross_entropy_of_the_right_answer():
    real, fake = torch.randn(5, 1), torch.randn(5, 1)
    expected = -torch.sigmoid(real).log().mean() - (1 - torch.sigmoid(fake)).log().mean()
    torch.testing.assert_close(logistic_d(real, fake), expected)
    torch.testing.assert_close(logistic_g(fake), -torch.sigmoid(fake).log().mean())


def test_an_undecided_discriminator_costs_two_log_two():
    zeros = torch.zeros(4, 1)
    assert logistic_d(zeros, zeros).item() == pytest.approx(2 * math.log(2))
    assert logistic_g(zeros).item() == pytest.approx(math.log(2))


def test_r1_of_a_linear_discriminator_is_the_squared_norm_of_its_weight():
    weight = torch.randn(2 * 4 * 4, requires_grad=True)
    x = torch.randn(8, 2, 4, 4, requires_grad=True)
    penalty = r1_penalty(x.flatten(1) @ weight[:, None], x)
    torch.testing.assert_close(penalty, weight.square().sum())
    penalty.backward()
    torch.testing.assert_close(weight.grad, 2 * weight.detach())  # the penalty teaches D's weights


def test_path_length_of_a_linear_generator_is_the_norm_of_its_jacobian_row():
    ws = torch.randn(3, 4, 5, requires_grad=True)
    matrix = torch.randn(5, 6 * 6)
    img = (ws.mean(dim=1) @ matrix).reshape(3, 1, 6, 6)  # each copy of w carries a quarter
    y = torch.randn(3, 1, 6, 6)
    expected = (y.flatten(1) / 6 @ matrix.T / 4).norm(dim=1)
    torch.testing.assert_close(path_lengths(img, ws, y), expected)


def test_path_length_average_moves_by_the_decay_and_the_penalty_is_around_it():
    lengths = torch.tensor([1.0, 3.0])
    penalty, mean = path_length_penalty(lengths, torch.tensor(0.0), decay=0.5)
    assert mean.item() == pytest.approx(1.0)
    assert penalty.item() == pytest.approx((0 + 4) / 2)


def test_lazy_adam_keeps_the_memory_of_the_same_number_of_main_steps():
    settings = adam_for_lazy(1e-3, 0.0, 0.99, 16)
    assert settings["lr"] == pytest.approx(1e-3 * 16 / 17)
    assert settings["betas"] == (0.0, pytest.approx(0.99 ** (16 / 17)))
    assert settings["betas"][1] ** 17 == pytest.approx(0.99**16)


# --- Wasserstein, relativistic, penalties -------------------------------------------------------------------------------------


def test_a_critic_s_loss_is_the_gap_between_the_means():
    real, fake = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [-1.0]])
    assert LOSSES["wgan"].d(real, fake).item() == pytest.approx(-0.5 - 2.0)
    assert LOSSES["wgan"].g(real, fake).item() == pytest.approx(0.5)
    assert drift(real).item() == pytest.approx((1 + 9) / 2)


def test_relativistic_losses_see_only_the_gap_of_each_pair():
    real, fake = torch.randn(6, 1), torch.randn(6, 1)
    d, g, paired = LOSSES["relativistic"]
    torch.testing.assert_close(d(real, fake), -torch.sigmoid(real - fake).log().mean())
    torch.testing.assert_close(g(real, fake), -torch.sigmoid(fake - real).log().mean())
    torch.testing.assert_close(d(real + 5, fake + 5), d(real, fake))  # no matter where both lie
    assert paired and d(torch.zeros(4, 1), torch.zeros(4, 1)).item() == pytest.approx(math.log(2))
    assert [name for name, loss in LOSSES.items() if loss.paired] == ["relativistic"]


def test_gradient_penalty_of_a_linear_critic_is_the_squared_distance_of_its_norm_to_1():
    weight = (3 * torch.randn(2 * 4 * 4)).requires_grad_(True)
    x = torch.randn(8, 2, 4, 4, requires_grad=True)
    penalty = gradient_penalty(x.flatten(1) @ weight[:, None], x)
    norm = weight.detach().norm()
    torch.testing.assert_close(penalty, (norm - 1) ** 2)
    penalty.backward()
    torch.testing.assert_close(weight.grad, 2 * (norm - 1) * weight.detach() / norm)
    unit = weight.detach() / norm
    assert gradient_penalty(x.flatten(1) @ unit[:, None], x).item() == pytest.approx(0, abs=1e-10)


def test_gradient_penalty_of_a_flat_critic_is_1_and_has_a_gradient():
    weight = torch.zeros(16, requires_grad=True)
    x = torch.randn(3, 1, 4, 4, requires_grad=True)
    penalty = gradient_penalty(x.flatten(1) @ weight[:, None], x)
    penalty.backward()
    assert penalty.item() == pytest.approx(1, abs=1e-5) and torch.isfinite(weight.grad).all()
