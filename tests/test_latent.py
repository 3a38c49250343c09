"""Directions of W and their names; the way back from a slice to its w: it finds what was drawn, and measures what cannot be."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import save_untrained
from PIL import Image
from sklearn.decomposition import PCA

from stylegan import latent, predict
from stylegan.__main__ import main
from stylegan.config import make_config
from stylegan.networks import Generator


def discs(radii, size=32, grey=200, stretch=1.0):
    """Grey ellipses of these half widths on black: uint8 [n, size, size]."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.stack([np.where((x**2 + (y / stretch) ** 2) <= r**2, grey, 0) for r in radii]).astype(np.uint8)


def test_principal_components_are_those_of_scikit_learn(G):
    pca = PCA(3).fit(predict.styles(G, range(1000))[:, 0].double().numpy())
    for i, direction in enumerate(latent.find_directions(G, {}, 3, "PCA")):
        step, length = direction.step.double().numpy(), float(direction.step.norm())
        assert abs(step @ pca.components_[i]) / length == pytest.approx(1, abs=1e-4)
        assert length == pytest.approx(np.sqrt(pca.explained_variance_[i]), rel=1e-2)
        assert direction.share == pytest.approx(pca.explained_variance_ratio_[i], rel=1e-2)


def test_the_closed_form_gives_what_changes_the_styles_most(G):
    found = latent.find_directions(G, {}, G.w_dim, "SeFa")
    units = torch.stack([d.step / d.step.norm() for d in found]).double()
    assert torch.allclose(units @ units.T, torch.eye(G.w_dim).double(), atol=1e-5)
    A = latent.style_weights(G)
    gains = (units @ A.T).norm(dim=1)
    assert torch.allclose(A.norm(dim=1), torch.ones(len(A)).double()) and (gains[:-1] >= gains[1:] - 1e-6).all()
    random = torch.nn.functional.normalize(torch.randn(100, G.w_dim).double())
    assert (random @ A.T).norm(dim=1).max() <= gains[0]


def test_a_direction_is_named_after_what_it_moves_and_turned_so_that_it_rises(G):
    bright = {"brightness": lambda pixels: pixels.mean(axis=(1, 2)), "nothing": lambda pixels: np.zeros(len(pixels))}
    (found,) = latent.find_directions(G, bright, 1, "PCA")
    walk = latent.move(G, [found], (-2, 0, 2))[0]
    assert torch.allclose(walk[1], predict.generate(G, [0], truncation_psi=0)[0], atol=1e-6)
    low, _, high = predict.to_uint8(walk).mean(axis=(1, 2))
    assert found.effects["brightness"] > 0 and found.effects["nothing"] == 0
    assert (high > low) == (found.agreed["brightness"] > 0.5)
    (turned,) = latent.find_directions(G, {"darkness": lambda pixels: -pixels.mean(axis=(1, 2))}, 1, "PCA")
    assert torch.allclose(turned.step, -found.step) and turned.effects["darkness"] == pytest.approx(found.effects["brightness"])


@pytest.mark.parametrize(("preset", "methods"), [("stylegan1", 2), ("dcgan", 1)])
def test_sefa_asks_every_style_layer_and_a_dcgan_has_none(preset, methods):
    G = Generator(make_config(preset, img_resolution=16, channel_base=64, channel_max=8, z_dim=8, w_dim=8))
    found = [latent.find_directions(G, {}, 2, method) for method in ("PCA", "SeFa")]
    assert [len(some) for some in found] == [2, 2][:methods] + [0] * (2 - methods)


def test_each_gauge_reads_what_it_is_named_after():
    small, large, tall = discs([8]), discs([12]), discs([8], stretch=1.5)
    gauges, ringed = latent.GAUGES, large.copy()
    ringed[:, 13:19, 13:19] = 30
    assert gauges["size of the head"](large) > gauges["size of the head"](small)
    assert gauges["length to width"](small) == pytest.approx(1)
    assert gauges["length to width"](tall) == pytest.approx(1.5, rel=0.1)
    assert gauges["brightness"](small) == gauges["brightness"](large) == 200
    assert gauges["contrast"](small) == 0 < gauges["contrast"](ringed)
    assert gauges["dark centre"](large) == 0 and gauges["dark centre"](ringed) == pytest.approx(36 / 64)
    assert all(np.isfinite(gauge(np.zeros((1, 32, 32), np.uint8))).all() for gauge in gauges.values())


def test_levels_are_read_where_the_data_knows_them_and_they_can_be_read(simulated):
    gauges, test = latent.make_gauges(simulated), simulated.split("test")
    assert np.corrcoef(gauges["level"](test.images), test.levels)[0, 1] > 0.8
    assert np.abs(gauges["level"](test.images // 2) - gauges["level"](test.images)).max() < 0.5
    for levels in (np.random.default_rng(0).permutation(simulated.levels), np.full(len(simulated), -1)):
        assert "level" not in latent.make_gauges(dataclasses.replace(simulated, levels=levels))


def test_a_projection_finds_the_way_back_by_the_schedule_of_the_paper_and_leaves_the_generator_alone(G):
    drawn, before = predict.generate(G, [3, 4, 5]), {key: value.clone() for key, value in G.state_dict().items()}
    state = torch.get_rng_state()
    found = latent.project(G, drawn)
    assert torch.equal(torch.get_rng_state(), state) and all(p.requires_grad and p.grad is None for p in G.parameters())
    assert all(torch.equal(value, before[key]) for key, value in G.state_dict().items())
    start = latent.residual(drawn, predict.generate(G, [0, 0, 0], truncation_psi=0))
    assert (found.residual < 0.6 * start).all() and (found.away > 0.1).all() and (found.away < 1).all()
    assert found.ws.shape == (3, G.num_ws, G.w_dim) and torch.equal(found.ws[:, 0], found.ws[:, -1])
    assert torch.equal(found.images, predict.synthesize(G, found.ws)) and not found.ws.requires_grad
    strange = predict.style_mixing(G, [1], [2, 3])[0]
    one, each = (latent.project(G, strange, space=space).residual for space in latent.SPACES)
    assert (each < one).all()  # what no seed gives fits better with a style for each layer
    assert [round(latent.schedule(t)[0], 3) for t in (0, 0.025, 0.05, 0.75, 0.875, 1)] == [0, 0.05, 0.1, 0.1, 0.05, 0]
    assert [latent.schedule(t)[1] for t in (0, 0.375, 0.75, 1)] == [0.05, 0.0125, 0, 0]


def test_a_name_needs_a_large_effect_on_most_seeds_and_what_does_not_fit_is_refused(G):
    drawn = torch.zeros(3, 1, 16, 16)
    for wrong in ({"target": drawn[..., :8]}, {"target": drawn[0]}, {"space": "z"}):
        with pytest.raises(ValueError, match=r"takes slices \[n, C, 16, 16\]"):
            latent.project(G, **{"target": drawn, **wrong})
    for wrong in ({"method": "ica"}, {"count": 99}):
        with pytest.raises(ValueError, match="Take 1 to 16 directions by PCA or SeFa"):
            latent.find_directions(G, {}, **wrong)

    def name(effects, agreed):
        return latent.Direction("PCA", 1, torch.ones(2), 0.25, effects, agreed).name

    effects = {"size": -3.0, "level": 1.5, "contrast": 5.0, "brightness": 0.9, "more": 1.1}
    agreed = {"size": 0.9, "level": 1.0, "contrast": 0.7, "brightness": 1.0, "more": 0.9}
    assert name(effects, agreed) == "size down, level up"
    assert name({"size": 0.9}, {"size": 1.0}) == name({}, {}) == "nothing clearly"


def test_a_projection_is_measured_by_simpler_answers(G, slices):
    train, chosen = slices.split("train").images, slices.split("val").select([0, 1, 2])
    found, residuals = latent.reach(G, chosen, train, num=4)
    assert list(residuals)[1::4] == ["generated slice, found again", "nearest of 4 generated"]
    assert found.images.shape == (3, 1, 16, 16) and all(values.shape == (3,) for values in residuals.values())
    away = np.sqrt(np.square(chosen.images[:, None].astype(float) - train).mean(axis=(2, 3)))  # [3, train]
    tens = np.stack([train[row[:10]].mean(axis=0) for row in away.argsort(axis=1)])
    average = np.broadcast_to(train.mean(axis=0).round(), tens.shape)
    assert residuals["nearest training slice"] == pytest.approx(away.min(axis=1), abs=1e-3)
    simpler = {"mean of the ten nearest": tens, "mean training slice": average, "projection": predict.to_uint8(found.images)}
    for name, images in simpler.items():
        expected = np.sqrt(np.square(chosen.images - images.astype(float)).mean(axis=(1, 2)))
        assert residuals[name] == pytest.approx(expected, abs=1e-3)


def test_held_out_slices_are_of_many_people_and_of_none_trained_on(slices):
    people, val = set(slices.split("val").subjects.tolist()), slices.split("val").subjects.tolist()
    chosen = latent.held_out(slices, {"train_subjects": slices.split("train").subjects.tolist()}, len(people))
    assert set(chosen.subjects.tolist()) == people and set(chosen.splits.tolist()) == {"val"}
    assert set(latent.held_out(slices, {}, len(people) + 1).subjects.tolist()) == people
    assert set(latent.held_out(slices, {"train_subjects": val}, 2).splits.tolist()) == {"test"}
    for known, count, says in ((slices.subjects.tolist(), 2, "no slice that the generator was not"), ([], 0, "one or more")):
        with pytest.raises(ValueError, match=says):
            latent.held_out(slices, {"train_subjects": known}, count)


def test_the_command_writes_a_picture_and_the_numbers(class_folders, tmp_path, capsys):
    path, out = save_untrained(tmp_path / "G.safetensors", make_config("smoke")), tmp_path / "out"
    assert main(["project", str(path), "--data", str(class_folders), "--slices", "2", "--out", str(out)]) == 0
    told = json.loads((out / "projection.json").read_text())
    assert told["split"] == "val" and len(told["slices"]) == 2
    assert set(told["slices"][0]) == {"subject", "level", "away", *told["mean"]}
    assert told["mean"]["projection"] == pytest.approx(np.mean([row["projection"] for row in told["slices"]]), abs=0.02)
    assert "real slices" in Image.open(out / "projection.png").text["Description"]
    assert "projection " in capsys.readouterr().out
