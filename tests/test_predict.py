"""Sampling depends on seeds alone; the latent tools hit their end points exactly."""

from __future__ import annotations

import pytest
import torch

from stylegan import predict
from stylegan.config import make_config
from stylegan.networks import Generator, pick_device


def build(**overrides) -> Generator:
    """An untrained generator whose noise, biases and w_avg all act."""
    torch.manual_seed(0)
    G = Generator(make_config("smoke", **overrides)).to(memory_format=torch.channels_last)
    for name, parameter in G.named_parameters():
        if name.endswith("strength"):
            parameter.data.fill_(0.3)
    G.mapping.w_avg.normal_()
    return G


@pytest.fixture(name="G")
def generator():
    return build()


@pytest.fixture
def conditional():
    return build(conditional="class", c_dim=3)


def test_a_seed_gives_its_latent_in_any_company():
    z = predict.latents(range(10), 16)
    assert torch.equal(predict.latents([7], 16)[0], z[7])
    assert torch.equal(predict.latents([9, 7], 16), z[[9, 7]])
    assert len(z.unique(dim=0)) == 10
    assert abs(predict.latents(range(500), 64).std() - 1) < 0.02


@pytest.mark.parametrize("resolution", [16, 64])
@pytest.mark.parametrize("noise_mode", ["const", "random", "none"])
def test_a_seed_gives_its_picture_bit_for_bit_in_any_company(noise_mode, resolution):
    G = build(img_resolution=resolution)
    together = predict.generate(G, range(10), noise_mode=noise_mode, truncation_psi=0.7)
    assert together.shape == (10, 1, resolution, resolution) and together.dtype == torch.float32
    assert torch.equal(predict.generate(G, [7], noise_mode=noise_mode, truncation_psi=0.7)[0], together[7])
    mixed = predict.generate(G, [9, 3, 123, 0], noise_mode=noise_mode, truncation_psi=0.7)
    assert torch.equal(mixed[[0, 1, 3]], together[[9, 3, 0]])


def test_the_whole_random_state_is_left_alone(G):
    before = torch.get_rng_state()
    predict.generate(G, [0, 1], noise_mode="random")
    predict.noise_deviation(G, 0, draws=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_sampling_agrees_with_the_network_called_by_hand(G):
    z = predict.latents([4, 5], G.z_dim)
    with torch.no_grad():
        expected = G(z, truncation_psi=0.6, noise_mode="const")
    assert torch.allclose(predict.generate(G, [4, 5], truncation_psi=0.6), expected, atol=1e-5)


def test_noise_is_new_for_each_seed_and_draw(G):
    first, again, other = (predict.seed_noise(G, [1, 2], draw) for draw in (0, 0, 1))
    assert [x.shape[1:] for x in first] == [x.shape[1:] for x in G.synthesis.draw_noise(1)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[0][0], first[0][1])


def test_generate_leaves_the_network_as_it_found_it(G):
    G.train()
    G.mapping.eval()
    weights = {name: value.clone() for name, value in G.state_dict().items()}
    img = predict.generate(G, [0], device="cpu")
    assert G.training and not G.mapping.training and G.synthesis.training
    assert all(torch.equal(value, weights[name]) for name, value in G.state_dict().items())
    assert all(parameter.requires_grad for parameter in G.parameters())
    assert not img.requires_grad and not img.is_inference()
    with pytest.raises(ValueError, match="noise_mode"):
        predict.generate(G, [0], noise_mode="loud")
    assert G.training and not G.mapping.training


def test_psi_0_shows_the_average_w_and_psi_1_nothing_else_than_w(G):
    sweep = predict.truncation_sweep(G, range(3), (0.0, 0.5, 1.0))
    assert sweep.shape == (3, 3, 1, 16, 16)
    average = predict.synthesize(G, G.mapping.w_avg.expand(1, G.num_ws, -1))[0]
    assert all(torch.equal(img, average) for img in sweep[:, 0])
    assert torch.equal(sweep[:, 2], predict.generate(G, range(3)))
    assert not torch.equal(sweep[:, 1], sweep[:, 2])


def test_the_cutoff_spares_the_later_layers(G):
    whole, cut = (predict.styles(G, [0], truncation_psi=p) for p in (1.0, 0.5))
    mixed = predict.styles(G, [0], truncation_psi=0.5, truncation_cutoff=2)
    assert torch.equal(mixed[:, :2], cut[:, :2]) and torch.equal(mixed[:, 2:], whole[:, 2:])


def test_mixing_at_the_ends_repeats_the_sources(G):
    rows, cols = predict.generate(G, [0, 1]), predict.generate(G, [5, 6, 7])
    only_cols, only_rows = (predict.style_mixing(G, [0, 1], [5, 6, 7], crossover) for crossover in (0, G.num_ws))
    assert torch.equal(only_cols, cols.expand(2, -1, -1, -1, -1))
    assert torch.equal(only_rows, rows[:, None].expand(-1, 3, -1, -1, -1))


def test_mixing_takes_coarse_styles_from_the_row(G):
    middle = predict.style_mixing(G, [0, 1], [1], crossover=3)
    assert torch.equal(middle[1, 0], predict.generate(G, [1])[0])  # a seed mixed with itself
    ws = torch.cat([predict.styles(G, [0])[:, :3], predict.styles(G, [1])[:, 3:]], dim=1)
    assert torch.equal(middle[0, 0], predict.synthesize(G, ws)[0])
    with pytest.raises(ValueError, match="crossover is 99"):
        predict.style_mixing(G, [0], [1], crossover=99)


@pytest.mark.parametrize("space", ["w", "z"])
def test_a_walk_passes_through_its_seeds(G, space):
    walk = predict.interpolate(G, [3, 8, 2], frames=4, space=space, truncation_psi=0.8, truncation_cutoff=3)
    own = predict.generate(G, [3, 8, 2], truncation_psi=0.8, truncation_cutoff=3)
    assert len(walk) == 9 and torch.equal(walk[::4], own)
    steps = (walk[1:] - walk[:-1]).flatten(1).norm(dim=1)
    assert (steps > 0).all() and steps.max() < (own[0] - own[1]).norm()


def test_walks_refuse_what_they_cannot_do(G, conditional):
    with pytest.raises(ValueError, match="two seeds"):
        predict.interpolate(G, [1])
    with pytest.raises(ValueError, match="choose w or z"):
        predict.interpolate(G, [1, 2], space="pixels")
    with pytest.raises(ValueError, match="one class"):
        predict.interpolate(conditional, [0, 1], space="z")
    assert len(predict.interpolate(conditional, [0, 1], 2, space="z", class_index=1)) == 3


def test_slerp_keeps_the_angle_even_and_the_length():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    assert torch.allclose(predict.slerp(a, b, 1 / 3), 2 * torch.tensor([3**0.5 / 2, 0.5]), atol=1e-6)
    assert torch.equal(predict.slerp(a, b, 0.0), a) and torch.allclose(predict.slerp(a, b, 1.0), b, atol=1e-6)
    assert torch.equal(predict.slerp(a, a, 0.5), a)


def test_noise_deviates_only_where_it_acts(G):
    loud = predict.noise_deviation(G, 3, draws=5, truncation_psi=0.7)
    assert (loud.std > 0).all() and not torch.equal(loud.mean, loud.off)
    assert torch.equal(loud.off, predict.generate(G, [3], truncation_psi=0.7, noise_mode="none")[0])
    for name, parameter in G.named_parameters():
        if name.endswith("strength"):
            parameter.data.zero_()
    quiet = predict.noise_deviation(G, 3, draws=5)
    assert quiet.std.max() == 0 and torch.equal(quiet.mean, quiet.off)


def test_noise_deviation_is_that_of_the_draws(G):
    ws, noise = predict.styles(G, [3]), [predict.seed_noise(G, [3], draw) for draw in range(4)]
    draws = torch.stack([predict.synthesize(G, ws, noise=maps)[0] for maps in noise])
    assert torch.allclose(predict.noise_deviation(G, 3, draws=4).std, draws.std(dim=0, correction=0), atol=1e-5)


def test_classes_of_a_conditional_generator(conditional):
    sweep = predict.class_sweep(conditional, range(4), truncation_psi=0.9)
    assert sweep.shape == (4, 3, 1, 16, 16)
    assert not torch.equal(sweep[:, 0], sweep[:, 1])
    turns = predict.generate(conditional, range(4), truncation_psi=0.9)
    assert torch.equal(turns, sweep[range(4), [0, 1, 2, 0]])  # seed s has class s mod 3
    assert torch.equal(
        predict.generate(conditional, range(4), truncation_psi=0.9, class_index=[2, 2, 0, 1]), sweep[range(4), [2, 2, 0, 1]]
    )


def test_psi_0_shows_the_average_of_each_class(conditional):
    img = predict.generate(conditional, [0, 1, 5], truncation_psi=0.0, class_index=[1, 1, 2])
    assert torch.equal(img[0], img[1]) and not torch.equal(img[0], img[2])


def test_classes_that_do_not_fit_are_refused(G, conditional):
    with pytest.raises(ValueError, match="without classes"):
        predict.class_sweep(G, [0])
    with pytest.raises(ValueError, match="without classes"):
        predict.generate(G, [0], class_index=0)
    for wrong in (3, -1, [0, 1]):
        with pytest.raises(ValueError, match="from 0 to 2"):
            predict.generate(conditional, [0, 1, 2], class_index=wrong)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-3", [0, 1, 2, 3]), ("1,5,7-9", [1, 5, 7, 8, 9]), (" 4 , 2 ", [4, 2]), ("4294967295", [2**32 - 1])]
)
def test_seeds_are_read(text, seeds):
    assert predict.parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "5-2", "1,,2", "-3", "0-", "0-99999999", "4294967296", "²"])
def test_seeds_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=r"write for example|Seeds are"):
        predict.parse_seeds(text)


def test_seeds_that_the_generator_would_wrap_around_are_refused():
    with pytest.raises(ValueError, match="Seeds are"):
        predict.latents([2**32], 4)
    with pytest.raises(ValueError, match="Seeds are"):
        predict.latents([-1], 4)


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="There is no device 'tpu'"):
        pick_device("tpu")
