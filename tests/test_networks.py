"""Generator and discriminator as wholes: shapes and sizes of every preset, styles, noise, truncation, classes, gradients."""

from dataclasses import replace

import pytest
import torch

from stylegan.config import PRESETS, Config, make_config
from stylegan.losses import path_lengths, r1_penalty
from stylegan.networks import Discriminator, Generator, build_networks, count_parameters, pick_precision
from stylegan.rng import BatchRNG

# preset -> (trainable numbers in G, in D, pixels), with two classes where it wants classes; a new preset needs a row
SIZES = {
    "smoke": (11_456, 13_385, 16),
    "quick": (458_006, 569_281, 64),
    "oasis64": (1_438_622, 2_273_281, 64),
    "oasis128": (5_873_489, 5_973_249, 128),
    "oasis256": (5_934_132, 6_002_945, 256),
    "colab": (4_556_337, 4_757_249, 128),
    "stylegan1": (25_838_982, 22_935_425, 128),
    "seed000-stylegan2": (4_819_505, 4_757_217, 128),
    "seed001-stylegan1-classes": (5_150_241, 5_175_776, 128),
    "seed002-stylegan2-umap": (4_819_505, 4_757_217, 128),
    "seed003-progressive": (5_233_575, 5_260_065, 128),
    "seed004-course": (913_297, 984_176, 64),
    "dcgan": (3_804_033, 2_763_584, 64),
    "modern": (796_958, 878_977, 64),
}


def tiny(**changes: object) -> Config:
    fields = {
        "img_resolution": 16,
        "channel_base": 64,
        "channel_max": 16,
        "z_dim": 8,
        "w_dim": 8,
        "mapping_layers": 2,
        "batch_size": 4,
    }
    return Config.from_dict({**fields, **changes})


def noisy(G: Generator) -> Generator:
    """With noise strengths away from their start at 0, so that noise shows."""
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if name.endswith("noise.strength"):
                parameter.fill_(0.3)
    return G


def one_hot(classes: list[int], c_dim: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), c_dim).float()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# --- Shapes and sizes ---------------------------------------------------------------------------------------------------------


def test_the_table_of_sizes_is_complete():
    assert set(SIZES) == set(PRESETS)


@torch.no_grad()
def with_two_classes(config):
    return replace(config, c_dim=2) if config.conditional == "class" else config


@pytest.mark.parametrize("preset", SIZES)
def test_presets_have_the_sizes_of_the_table(preset):
    G, D = (net.eval() for net in build_networks(with_two_classes(make_config(preset))))
    c = torch.eye(G.c_dim)[:1] if G.c_dim else None
    img = G(torch.randn(1, G.z_dim), c)
    assert img.shape == (1, 1, SIZES[preset][2], SIZES[preset][2])
    assert D(img, c).shape == (1, 1)
    assert (count_parameters(G), count_parameters(D)) == SIZES[preset][:2]


@torch.no_grad()
@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256, 512])
def test_resolutions(resolution):
    config = tiny(img_resolution=resolution, channel_base=1024, channel_max=8)
    G, D = build_networks(config)
    img = G(torch.randn(2, 8))
    assert img.shape == (2, 1, resolution, resolution)
    assert D(img).shape == (2, 1)
    assert G.num_ws == G.synthesis.num_ws == 2 * (resolution.bit_length() - 1) - 2


# --- Styles, truncation, noise ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_every_style_reaches_the_picture():
    G = Generator(tiny())
    ws = G.mapping(torch.randn(1, 8))
    img = G.synthesis(ws, noise_mode="const")
    for k in range(G.num_ws):
        other = ws.clone()
        other[:, k] += 1
        assert (G.synthesis(other, noise_mode="const") - img).abs().max() > 1e-4, f"style {k}"


@torch.no_grad()
def test_truncation_to_zero_is_the_average_picture():
    G = noisy(Generator(tiny()))
    G.mapping.w_avg.normal_()
    z = torch.randn(3, 8)
    average = G.synthesis(G.mapping.w_avg.expand(1, G.num_ws, 8), noise_mode="const")
    torch.testing.assert_close(G(z, truncation_psi=0.0), average.expand(3, 1, 16, 16))
    assert torch.equal(G(z, truncation_psi=1.0), G.synthesis(G.mapping(z), noise_mode="const"))
    assert (G(z, truncation_psi=0.5) - G(z)).abs().max() > 1e-3


@torch.no_grad()
def test_noise_modes():
    G = noisy(Generator(tiny()))
    ws = G.mapping(torch.randn(2, 8))
    for mode in ("const", "none"):
        assert torch.equal(G.synthesis(ws, noise_mode=mode), G.synthesis(ws, noise_mode=mode))
    a, b = G.synthesis(ws, noise_mode="random"), G.synthesis(ws, noise_mode="random")
    assert (a - b).abs().max() > 1e-3
    assert (G.synthesis(ws, noise_mode="const") - G.synthesis(ws, noise_mode="none")).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"'fixed'.*random, const, none"):
        G.synthesis(ws, noise_mode="fixed")


@torch.no_grad()
def test_given_noise_reproduces_a_picture():
    G = noisy(Generator(tiny()))
    ws = G.mapping(torch.randn(2, 8))
    draw = [G.synthesis.draw_noise(2, BatchRNG(torch.device("cpu"), torch.Generator().manual_seed(s))) for s in (1, 1, 2)]
    assert [tuple(noise.shape) for noise in draw[0]] == [(2, 1, s, s) for s in (4, 8, 8, 16, 16)]
    first, same, other = (G.synthesis(ws, noise=noise) for noise in draw)
    assert torch.equal(first, same)
    assert (first - other).abs().max() > 1e-3
    alone = G.synthesis(ws[1:], noise=[noise[1:] for noise in draw[0]])
    torch.testing.assert_close(alone, first[1:], rtol=1e-4, atol=1e-5)  # a picture does not depend on its neighbours


# --- Classes ------------------------------------------------------------------------------------------------------------------


def conditional(**changes: object) -> tuple[Generator, Discriminator]:
    return build_networks(tiny(conditional="class", c_dim=3, **changes))


@torch.no_grad()
def test_discriminator_projects_on_the_class_embedding():
    """logit = <features(img), embedding(c)> / sqrt(dim): features do not see c, and the embedding enters linearly."""
    _, D = conditional()
    img, c = torch.randn(4, 1, 16, 16), one_hot([0, 1, 2, 0])
    features = D.epilogue(D.blocks(D.from_rgb(img)))
    embedding = D.mapping(None, c)[:, 0]
    expected = (features * embedding).sum(dim=1, keepdim=True) / features.shape[1] ** 0.5
    torch.testing.assert_close(D(img, c), expected, rtol=1e-4, atol=1e-5)
    D.mapping.forward = lambda z, c: 2 * embedding[:, None]
    torch.testing.assert_close(D(img, c), 2 * expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_truncation_pulls_each_class_to_its_own_average():
    G, _ = conditional()
    G.mapping.w_avg.normal_()
    imgs = G(torch.randn(3, 8), one_hot([0, 1, 0]), truncation_psi=0.0)
    torch.testing.assert_close(imgs[0], imgs[2], rtol=1e-4, atol=1e-5)
    assert (imgs[0] - imgs[1]).abs().max() > 1e-3


# --- Gradients ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c_dim", [0, 3])
def test_gradients_reach_every_parameter(c_dim):
    G, D = conditional() if c_dim else build_networks(tiny())
    c = one_hot([0, 1, 2, 0]) if c_dim else None
    logits = D(G(torch.randn(4, 8), c), c)
    torch.nn.functional.softplus(-logits).mean().backward()
    for tag, net in (("G", G), ("D", D)):
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, f"{tag}.{name}"


def test_regularisers_reach_the_weights():
    """Second derivatives pass through all layers: R1 into every weight of D, path length into every weight of G."""
    G, D = build_networks(tiny())
    real = torch.randn(4, 1, 16, 16, requires_grad=True)
    r1_penalty(D(real), real).backward()
    ws = G.mapping(torch.randn(4, 8))
    img = G.synthesis(ws, noise_mode="const")
    path_lengths(img, ws, torch.randn_like(img)).square().mean().backward()
    for tag, net in (("G", G), ("D", D)):
        for name, parameter in net.named_parameters():
            if name.endswith("weight"):
                assert parameter.grad is not None and parameter.grad.abs().max() > 0, f"{tag}.{name}"


@torch.no_grad()
def test_half_precision_stays_close():
    """bf16 autocast keeps three digits: pictures and logits stay near those of full precision, in float32."""
    G, D = build_networks(tiny(img_resolution=32))
    z = torch.randn(4, 8)
    img = G(z)
    logits = D(img)
    with torch.autocast("cpu", torch.bfloat16):
        half_img, half_logits = G(z), D(img)
    assert half_img.dtype == torch.float32
    assert (half_img - img).abs().max() < 0.03 * img.abs().max()
    assert (half_logits.float() - logits).abs().max() < 0.03 * logits.abs().max()


@pytest.mark.parametrize(
    ("name", "avx", "amx", "found"),
    [("fp32", True, True, "fp32"), ("bf16", False, False, "bf16"), ("auto", True, False, "bf16"), ("auto", False, True, "bf16"),
     ("auto", False, False, "fp32")],
)  # fmt: skip
def test_automatic_precision_asks_the_processor(monkeypatch, name, avx, amx, found):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert pick_precision(name, torch.device("cpu")) == found


def test_automatic_precision_does_not_take_emulation_for_hardware(monkeypatch):
    """A T4 says that it supports bf16, and emulates it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert pick_precision("auto", torch.device("cuda")) == "fp16"
    assert pick_precision("auto", torch.device("mps")) == "fp32"
