"""Sampling depends on seeds alone; the latent tools hit their end points exactly; the files of `sample` say what made them."""

import json

import numpy as np
import pytest
import torch
from conftest import save_untrained
from PIL import Image

from stylegan import latent, predict
from stylegan.checkpoint import load_generator
from stylegan.config import make_config
from stylegan.networks import Generator


def build(strength=0.3, **overrides) -> Generator:
    """An untrained generator whose noise, biases and w_avg all act."""
    torch.manual_seed(0)
    G = Generator(make_config("smoke", **overrides)).to(memory_format=torch.channels_last)
    for name, parameter in G.named_parameters():
        if name.endswith("strength"):
            parameter.data.fill_(strength)
    G.mapping.w_avg.normal_()
    return G


@pytest.fixture(name="G")
def generator():
    return build()


@pytest.mark.parametrize("resolution", [16, 64])
@pytest.mark.parametrize("noise_mode", ["const", "random", "none"])
def test_a_seed_gives_its_picture_bit_for_bit_in_any_company(noise_mode, resolution):
    G = build(img_resolution=resolution)
    together = predict.generate(G, range(10), noise_mode=noise_mode, truncation_psi=0.7)
    mixed = predict.generate(G, [9, 3, 123, 0], noise_mode=noise_mode, truncation_psi=0.7)
    assert together.shape == (10, 1, resolution, resolution) and together.dtype == torch.float32
    assert torch.equal(mixed[[0, 1, 3]], together[[9, 3, 0]]) and len(together.unique(dim=0)) == 10


def test_sampling_agrees_with_the_network_called_by_hand_and_leaves_it_as_it_was_found(G):
    by_hand = G(predict.latents([4, 5], G.z_dim), truncation_psi=0.6, noise_mode="const")
    assert torch.allclose(predict.generate(G, [4, 5], truncation_psi=0.6), by_hand, atol=1e-5)
    G.train().mapping.eval()
    weights, state = {name: value.clone() for name, value in G.state_dict().items()}, torch.get_rng_state()
    img = predict.generate(G, [0], noise_mode="random")
    with pytest.raises(ValueError, match="noise_mode"):
        predict.generate(G, [0], noise_mode="loud")
    assert G.training and not G.mapping.training and G.synthesis.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in G.state_dict().items())
    assert all(parameter.requires_grad for parameter in G.parameters()) and not img.requires_grad and not img.is_inference()


def test_psi_goes_from_the_average_w_to_w_and_the_cutoff_spares_the_later_layers(G):
    sweep = predict.truncation_sweep(G, range(3), (0.0, 0.5, 1.0))
    average = predict.synthesize(G, G.mapping.w_avg.expand(1, G.num_ws, -1))[0]
    assert sweep.shape == (3, 3, 1, 16, 16) and all(torch.equal(img, average) for img in sweep[:, 0])
    assert torch.equal(sweep[:, 2], predict.generate(G, range(3))) and not torch.equal(sweep[:, 1], sweep[:, 2])
    whole, cut = (predict.styles(G, [0], truncation_psi=p) for p in (1.0, 0.5))
    mixed = predict.styles(G, [0], truncation_psi=0.5, truncation_cutoff=2)
    assert torch.equal(mixed[:, :2], cut[:, :2]) and torch.equal(mixed[:, 2:], whole[:, 2:])


def test_mixing_takes_coarse_styles_from_the_row_and_at_its_ends_all(G):
    rows, cols = predict.generate(G, [0, 1]), predict.generate(G, [5, 6, 7])
    only_cols, only_rows = (predict.style_mixing(G, [0, 1], [5, 6, 7], crossover) for crossover in (0, G.num_ws))
    assert torch.equal(only_cols, cols.expand(2, -1, -1, -1, -1))
    assert torch.equal(only_rows, rows[:, None].expand(-1, 3, -1, -1, -1))
    ws = torch.cat([predict.styles(G, [0])[:, :3], predict.styles(G, [1])[:, 3:]], dim=1)
    assert torch.equal(predict.style_mixing(G, [0], [1], crossover=3)[0, 0], predict.synthesize(G, ws)[0])
    with pytest.raises(ValueError, match="crossover is 99"):
        predict.style_mixing(G, [0], [1], crossover=99)


def test_a_walk_passes_through_its_seeds(G):
    walk = predict.interpolate(G, [3, 8, 2], frames=4, truncation_psi=0.8, truncation_cutoff=3)
    own = predict.generate(G, [3, 8, 2], truncation_psi=0.8, truncation_cutoff=3)
    assert len(walk) == 9 and torch.equal(walk[::4], own)
    steps = (walk[1:] - walk[:-1]).flatten(1).norm(dim=1)
    assert (steps > 0).all() and steps.max() < (own[0] - own[1]).norm()
    with pytest.raises(ValueError, match="two seeds"):
        predict.interpolate(G, [1])


def test_noise_deviates_only_where_it_acts(G):
    off, mean, std = predict.noise_deviation(G, 3, draws=5, truncation_psi=0.7)
    assert torch.equal(off, predict.generate(G, [3], truncation_psi=0.7, noise_mode="none")[0]) and not torch.equal(mean, off)
    ws = predict.styles(G, [3], truncation_psi=0.7)
    draws = torch.stack([predict.synthesize(G, ws, noise=predict.seed_noise(G, [3], draw))[0] for draw in range(5)])
    assert torch.allclose(std, draws.clamp(-1, 1).std(dim=0, correction=0), atol=1e-5) and draws.abs().max() > 1
    off, mean, std = predict.noise_deviation(build(0.0), 3, draws=5)
    assert std.max() == 0 and torch.equal(mean, off.clamp(-1, 1))


def test_classes_of_a_conditional_generator(G):
    conditional = build(conditional="class", c_dim=3)
    sweep = predict.class_sweep(conditional, range(4), truncation_psi=0.9)
    assert sweep.shape == (4, 3, 1, 16, 16) and not torch.equal(sweep[:, 0], sweep[:, 1])
    assert torch.equal(predict.class_sweep(conditional, range(4), (2, 0), truncation_psi=0.9), sweep[:, [2, 0]])
    for asked, classes in ((None, [0, 1, 2, 0]), ([2, 2, 0, 1], [2, 2, 0, 1])):  # seed s has class s mod 3
        drawn = predict.generate(conditional, range(4), truncation_psi=0.9, class_index=asked)
        assert torch.equal(drawn, sweep[range(4), classes])
    for wrong in (3, -1, [0, 1]):
        with pytest.raises(ValueError, match="from 0 to 2"):
            predict.generate(conditional, [0, 1, 2], class_index=wrong)
    for refused in (lambda: predict.class_sweep(G, [0]), lambda: predict.generate(G, [0], class_index=0)):
        with pytest.raises(ValueError, match="without classes"):
            refused()


def test_floats_become_grey_levels_and_texts_become_seeds():
    values = torch.tensor([-1.7, -1.0, 0.0, 0.5 / 127.5 - 1 + 1e-3, 1.0, 3.0]).reshape(1, 1, 3, 2)
    assert predict.to_uint8(values).tolist() == [[[0, 0], [128, 1], [255, 255]]]
    assert predict.to_uint8(torch.zeros(2, 3, 4, 4)).shape == (2, 4, 4, 3)
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    for same in (torch.from_numpy(every).float()[:, None] / 127.5 - 1, every, every[:, None]):
        assert np.array_equal(predict.to_uint8(same), every)
    for wrong in (np.zeros((4, 4)), np.zeros((1, 2, 4, 4))):
        with pytest.raises(ValueError, match="Slices have shape"):
            predict.to_uint8(wrong)
    for text, seeds in (("0-3", [0, 1, 2, 3]), ("1,5,7-9", [1, 5, 7, 8, 9]), (" 4 , 2 ", [4, 2]), ("4294967295", [2**32 - 1])):
        assert predict.parse_seeds(text) == seeds
    for text in ("", "a", "5-2", "1,,2", "-3", "0-", "0-99999999", "4294967296", "²"):
        with pytest.raises(ValueError, match=r"write for example|Seeds are"):
            predict.parse_seeds(text)


@pytest.fixture
def plain(tmp_path):
    return save_untrained(tmp_path / "plain.safetensors", make_config("smoke"), strength=0.3)


@pytest.fixture
def told(tmp_path):
    config, classes = make_config("smoke", conditional="class", c_dim=2), ["control", "atrophy"]
    return save_untrained(tmp_path / "told.safetensors", config, strength=0.3, classes=classes)


def test_every_file_says_what_made_it_and_more_seeds_do_not_change_it(plain, tmp_path):
    settings = {"truncation_psi": 0.5, "truncation_cutoff": 4, "noise_mode": "random"}
    written = predict.sample(plain, tmp_path / "new/out", seeds=range(70), device="cpu", **settings)
    assert [path.name for path in written] == [*(f"seed{seed:04d}.png" for seed in range(70)), "grid.png", "manifest.json"]
    G, info = load_generator(plain)
    assert np.array_equal(np.asarray(Image.open(written[66])), predict.to_uint8(predict.generate(G, [66], **settings))[0])
    made = {"synthetic": "true", "model_hash": info["model_hash"], "class": "", **{k: str(v) for k, v in settings.items()}}
    for path, seeds in ((written[66], {"seed": "66"}), (written[70], {"seeds": ",".join(map(str, range(64)))})):
        text = Image.open(path).text
        assert "synthetic" in text.pop("Description") and text.pop("Software").startswith("stylegan ") and text == made | seeds
    manifest = json.loads(written[-1].read_text())
    assert manifest["synthetic"] is True and manifest["model_hash"] == info["model_hash"] and len(manifest["pictures"]) == 71
    assert manifest["pictures"]["grid.png"]["seeds"] == text["seeds"] and manifest["pictures"]["seed0066.png"]["seed"] == "66"
    alone, *_ = predict.sample(plain, tmp_path / "alone", seeds=[66], device="cpu", **settings)
    assert alone.read_bytes() == written[66].read_bytes()


def test_every_extra_picture_and_a_class_by_its_name(told, tmp_path):
    written = predict.sample(told, tmp_path, seeds=[4, 5], extras=latent.EXTRAS, device="cpu")
    names = [path.name for path in written[3:-1]]
    assert names == ["truncation.png", "mixing.png", "interpolation.gif", "interpolation.png", "noise.png", "classes.png"]
    assert all(Image.open(path).text["synthetic"] == "true" for path in written if path.suffix == ".png")
    assert Image.open(tmp_path / "truncation.png").text["truncation_psi"].startswith("(0.0, 0.25")
    assert Image.open(tmp_path / "classes.png").text["class"] == "control, atrophy"
    gif = Image.open(tmp_path / "interpolation.gif")  # a closed walk in whole pixels, from the first seed
    assert gif.n_frames == 64 and gif.size == (256, 256) and b"synthetic" in gif.info["comment"]
    assert np.array_equal(np.asarray(gif.convert("L"))[8::16, 8::16], np.asarray(Image.open(written[0])))
    settings = dict(truncation_psi=0.7, truncation_cutoff=None, noise_mode="const", class_index=1)  # both are shown
    assert "atrophy" not in latent.sheets("classes", *load_generator(told), [0], settings)["classes.png"][0].alt_text
    named, *_ = predict.sample(told, tmp_path / "named", seeds=[0], class_name="atrophy", device="cpu")
    first, second, *_ = predict.sample(told, tmp_path / "turns", seeds=[0, 1], device="cpu")
    assert [Image.open(path).text["class"] for path in (named, first, second)] == ["atrophy", "control", "atrophy"]
    assert not np.array_equal(np.asarray(Image.open(named)), np.asarray(Image.open(first)))


def test_what_is_not_there_is_refused_before_anything_is_written(plain, told, tmp_path):
    out = tmp_path / "out"
    dcgan = make_config("smoke", architecture="dcgan", mapping_layers=0, style_mixing_prob=0.0)
    dcgan = save_untrained(tmp_path / "dcgan.safetensors", dcgan)
    for path, wrong, message in (
        (dcgan, {"extras": ["truncation", "mixing"]}, "without a style for each layer, .* leave 'mixing' out"),
        (dcgan, {"extras": ["noise"]}, "without noise"),
        (told, {"class_name": "healthy"}, "knows control, atrophy"),
        (plain, {"class_name": "control"}, "without classes"),
        (plain, {"extras": ["video"]}, "choose of truncation, mixing"),
        (plain, {"noise_mode": "loud"}, "choose one of random, const, none"),
        (plain, {"seeds": [-1]}, "Seeds are"),
        (plain, {"truncation_psi": float("nan")}, "finite psi"),
    ):
        with pytest.raises(ValueError, match=message):
            predict.sample(path, **{"out": out, "seeds": [0], "device": "cpu", **wrong})
    assert not out.exists()
    with pytest.raises(FileNotFoundError):
        predict.sample(tmp_path / "nowhere", out, seeds=[0], device="cpu")
