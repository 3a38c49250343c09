"""Directions of W: the right vectors, and names that follow from what is measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from stylegan import directions, predict
from stylegan.config import make_config
from stylegan.networks import Generator


@pytest.fixture(name="G", scope="module")
def generator():
    torch.manual_seed(0)
    return Generator(make_config("smoke")).to(memory_format=torch.channels_last).eval()


def discs(radii, size=32, grey=200, stretch=1.0):
    """Grey ellipses of these half widths on black: uint8 [n, size, size]."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.stack([np.where((x**2 + (y / stretch) ** 2) <= r**2, grey, 0) for r in radii]).astype(np.uint8)


def test_principal_components_are_those_of_scikit_learn(G):
    found = directions.find_directions(G, {}, 3, "pca")
    pca = PCA(3).fit(predict.styles(G, range(1000))[:, 0].double().numpy())
    for direction, axis, variance, share in zip(
        found, pca.components_, pca.explained_variance_, pca.explained_variance_ratio_, strict=True
    ):
        step = direction.step.double().numpy()
        assert abs(step @ axis) / np.linalg.norm(step) == pytest.approx(1, abs=1e-4)
        assert np.linalg.norm(step) == pytest.approx(np.sqrt(variance), rel=1e-2)
        assert direction.share == pytest.approx(share, rel=1e-2)


def test_the_closed_form_gives_what_changes_the_styles_most(G):
    found = directions.find_directions(G, {}, G.w_dim, "sefa")
    units = torch.stack([d.step / d.step.norm() for d in found]).double()
    assert torch.allclose(units @ units.T, torch.eye(G.w_dim).double(), atol=1e-5)
    layers = [block.conv1 for block in G.synthesis.blocks] + [block.conv0 for block in G.synthesis.blocks[1:]]
    A = torch.cat([layer.conv.affine.weight.detach().double() for layer in layers])
    gains = (units @ (A / A.norm(dim=1, keepdim=True)).T).norm(dim=1)
    assert (gains[:-1] >= gains[1:] - 1e-6).all()
    random = torch.nn.functional.normalize(torch.randn(100, G.w_dim, generator=torch.Generator().manual_seed(0)).double())
    assert (random @ (A / A.norm(dim=1, keepdim=True)).T).norm(dim=1).max() <= gains[0]


def test_a_direction_is_named_after_what_it_moves_and_turned_so_that_it_rises(G):
    bright = {"brightness": lambda pixels: pixels.mean(axis=(1, 2)), "nothing": lambda pixels: np.zeros(len(pixels))}
    (found,) = directions.find_directions(G, bright, 1, "pca")
    low, high = predict.to_uint8(directions.walk(G, [found], (-2, 2))[0]).mean(axis=(1, 2))
    assert found.effects["brightness"] > 0 and found.effects["nothing"] == 0
    assert (high > low) == (found.agreed["brightness"] > 0.5)
    (turned,) = directions.find_directions(G, {"darkness": lambda pixels: -pixels.mean(axis=(1, 2))}, 1, "pca")
    assert torch.allclose(turned.step, -found.step) and turned.effects["darkness"] == pytest.approx(found.effects["brightness"])


def direction(effects, agreed):
    return directions.Direction("PCA", 1, torch.ones(2), 0.25, effects, agreed)


def test_a_name_needs_a_large_effect_on_most_seeds():
    effects = {"size": -3.0, "level": 1.5, "contrast": 5.0, "brightness": 0.9, "more": 1.1}
    agreed = {"size": 0.9, "level": 1.0, "contrast": 0.7, "brightness": 1.0, "more": 0.9}
    assert direction(effects, agreed).name == "size down, level up"
    assert direction({"size": 0.9}, {"size": 1.0}).name == direction({}, {}).name == "nothing measured"
    (row,) = directions.rows([direction(effects, agreed)])
    assert row["size"] == "**-3.0**" and row["contrast"] == "+5.0" and row["variance"] == "25.0%"


def test_a_walk_passes_its_start(G):
    found = directions.find_directions(G, {}, 2, "sefa")
    walk = directions.walk(G, found, (-1, 0, 1))
    assert walk.shape == (2, 3, 1, 16, 16)
    average = predict.generate(G, [0], truncation_psi=0)[0]
    assert torch.allclose(walk[:, 1], average, atol=1e-6) and not torch.allclose(walk[0, 0], walk[0, 2])
    own = directions.walk(G, found, (0,), predict.styles(G, [4]))
    assert torch.allclose(own[1, 0], predict.generate(G, [4])[0], atol=1e-6)


def test_other_methods_and_more_directions_than_there_are_are_refused(G):
    for wrong in ({"method": "ica"}, {"count": 99}, {"count": 0}):
        with pytest.raises(ValueError, match="Take 1 to 16 directions by pca or sefa"):
            directions.find_directions(G, {}, **wrong)


def test_each_gauge_reads_what_it_is_named_after():
    small, large, tall = discs([8]), discs([12]), discs([8], stretch=1.5)
    gauges, ringed = directions.GAUGES, large.copy()
    ringed[:, 13:19, 13:19] = 30
    assert gauges["size of the head"](large) > gauges["size of the head"](small)
    assert gauges["length to width"](small) == pytest.approx(1) and gauges["length to width"](tall) == pytest.approx(
        1.5, rel=0.1
    )
    assert gauges["brightness"](small) == gauges["brightness"](large) == 200
    assert gauges["contrast"](small) == 0 < gauges["contrast"](ringed)
    assert gauges["dark centre"](large) == 0 and gauges["dark centre"](ringed) == pytest.approx(36 / 64)
    black = np.zeros((1, 32, 32), np.uint8)
    assert all(np.isfinite(gauge(black)).all() for gauge in gauges.values())


def test_levels_are_read_where_the_data_knows_them(simulated):
    gauges = directions.make_gauges(simulated)
    test = simulated.split("test")
    assert np.corrcoef(gauges["level"](test.images), test.levels)[0, 1] > 0.8
    dimmed = (test.images // 2).astype(np.uint8)
    assert np.abs(gauges["level"](dimmed) - gauges["level"](test.images)).max() < 0.5


def test_levels_that_cannot_be_read_are_not(simulated):
    from dataclasses import replace

    shuffled = replace(simulated, levels=np.random.default_rng(0).permutation(simulated.levels))
    unknown = replace(simulated, levels=np.full(len(simulated), -1))
    assert "level" not in directions.make_gauges(shuffled) and "level" not in directions.make_gauges(unknown)
