"""The files of `sample`: names, sizes, and what they say of themselves."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan import predict, samples
from stylegan.checkpoint import save_generator
from stylegan.config import make_config
from stylegan.networks import Generator


def saved(path, classes=()):
    torch.manual_seed(0)
    config = make_config("smoke", conditional="class" if classes else "none", c_dim=len(classes))
    G = Generator(config)
    for name, parameter in G.named_parameters():
        if name.endswith("strength"):
            parameter.data.fill_(0.2)
    info = {"config": config.to_dict(), "classes": list(classes), "train_subjects": [], "data": {}, "cur_nimg": 0}
    save_generator(path, G, info)
    return path


@pytest.fixture
def plain(tmp_path):
    return saved(tmp_path / "plain.safetensors")


@pytest.fixture
def conditional(tmp_path):
    return saved(tmp_path / "conditional.safetensors", ("control", "atrophy"))


def test_one_picture_per_seed_and_a_grid(plain, tmp_path):
    written = samples.sample(plain, tmp_path / "new" / "out", seeds=[3, 12345], device="cpu")
    assert [path.name for path in written] == ["seed0003.png", "seed12345.png", "grid.png", "manifest.json"]
    G, info = samples.load_generator(plain)
    for path, img in zip(written[:2], predict.to_uint8(predict.generate(G, [3, 12345], truncation_psi=0.7)), strict=True):
        picture = Image.open(path)
        assert picture.mode == "L" and np.array_equal(np.asarray(picture), img)
    text = Image.open(written[1]).text
    assert text["synthetic"] == "true" and "synthetic" in text["Description"] and text["Software"].startswith("stylegan ")
    assert text["seed"] == "12345" and text["truncation_psi"] == "0.7" and text["model_hash"] == info["model_hash"]
    assert text["noise_mode"] == "const" and text["class"] == ""


def test_the_grid_says_what_made_it(plain, tmp_path):
    *_, path, manifest = samples.sample(
        plain, tmp_path / "out", seeds=range(70), truncation_psi=0.5, truncation_cutoff=4, device="cpu"
    )
    text = Image.open(path).text
    assert len(list(path.parent.glob("seed*.png"))) == 70
    assert text["synthetic"] == "true" and text["truncation_psi"] == "0.5" and text["truncation_cutoff"] == "4"
    assert text["seeds"] == ",".join(map(str, range(64)))  # a sheet of at most 64
    told = json.loads(manifest.read_text())
    assert told["synthetic"] is True and told["model_hash"] == text["model_hash"] and len(told["pictures"]) == 71
    assert told["pictures"]["grid.png"]["seeds"] == text["seeds"] and told["pictures"]["seed0066.png"]["seed"] == "66"


def test_more_seeds_do_not_change_a_file(plain, tmp_path):
    for name, seeds in (("alone", [66]), ("together", range(70))):
        samples.sample(plain, tmp_path / name, seeds=seeds, noise_mode="random", device="cpu")
    assert (tmp_path / "alone/seed0066.png").read_bytes() == (tmp_path / "together/seed0066.png").read_bytes()


def test_every_extra_picture(conditional, tmp_path):
    written = samples.sample(conditional, tmp_path / "out", seeds=[0, 1], extras=samples.EXTRAS, device="cpu")
    names = [path.name for path in written[3:-1]]
    assert names == ["truncation.png", "mixing.png", "interpolation.gif", "interpolation.png", "noise.png", "classes.png"]
    for path in written[:-1]:
        if path.suffix == ".png":
            assert Image.open(path).text["synthetic"] == "true", path.name
    assert Image.open(tmp_path / "out/truncation.png").text["truncation_psi"].startswith("(0.0, 0.25")
    assert Image.open(tmp_path / "out/classes.png").text["class"] == "control, atrophy"


def test_the_gif_is_a_closed_walk_in_whole_pixels(plain, tmp_path):
    samples.sample(plain, tmp_path, seeds=[5], extras=["interpolation"], device="cpu")
    gif = Image.open(tmp_path / "interpolation.gif")
    assert gif.n_frames == 64 and gif.size == (256, 256) and b"synthetic" in gif.info["comment"]
    G, _ = samples.load_generator(plain)
    first = predict.to_uint8(predict.generate(G, [5], truncation_psi=0.7))[0]
    assert np.array_equal(np.asarray(gif.convert("L"))[8::16, 8::16], first)


def test_a_class_by_its_name(conditional, tmp_path):
    samples.sample(conditional, tmp_path / "named", seeds=[0], class_name="atrophy", device="cpu")
    samples.sample(conditional, tmp_path / "turns", seeds=[0, 1], device="cpu")
    assert Image.open(tmp_path / "named/seed0000.png").text["class"] == "atrophy"
    assert [Image.open(tmp_path / f"turns/seed000{i}.png").text["class"] for i in (0, 1)] == ["control", "atrophy"]
    named, other = (np.asarray(Image.open(tmp_path / folder / "seed0000.png")) for folder in ("named", "turns"))
    assert not np.array_equal(named, other)


def test_what_is_not_there_is_refused_before_anything_is_written(plain, conditional, tmp_path):
    out = tmp_path / "out"
    for path, wrong, message in (
        (conditional, {"class_name": "healthy"}, "knows control, atrophy"),
        (plain, {"class_name": "control"}, "without classes"),
        (plain, {"extras": ["classes"]}, "without classes"),
        (plain, {"extras": ["video"]}, "choose of truncation, mixing"),
        (plain, {"noise_mode": "loud"}, "choose one of random, const, none"),
        (plain, {"seeds": [-1]}, "Seeds are"),
    ):
        with pytest.raises(ValueError, match=message):
            samples.sample(path, out, **{"seeds": [0], "device": "cpu", **wrong})
    assert not out.exists()
    with pytest.raises(ValueError, match="is a file"):
        samples.sample(plain, plain, seeds=[0], device="cpu")
    with pytest.raises(FileNotFoundError):
        samples.sample(tmp_path / "nowhere", out, seeds=[0], device="cpu")
