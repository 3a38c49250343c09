"""The tricks deceive and their controls expose them."""

import numpy as np
import pytest
import torch
from phantoms import phantoms
from stylegan.truth.artefacts import View

from stylegan.config import make_config
from stylegan.networks import Generator
from stylegan.predict import generate, styles
from stylegan.truth import artefacts


def people_and_features(people: int = 12, levels: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    who = np.repeat([f"P{i:02d}" for i in range(people)], levels)
    level = np.tile(np.linspace(-3, 3, levels), people)[:, None] * np.eye(8)[0]
    return who, np.repeat(rng.normal(0, 1, (people, 8)), levels, axis=0) + level + rng.normal(0, 0.1, (len(who), 8))


@pytest.mark.parametrize("conditional", [False, True])
def test_the_twin_draws_the_same_pictures_in_another_w(conditional):
    torch.manual_seed(1)
    fields = {"conditional": "class", "c_dim": 2} if conditional else {}
    G = Generator(make_config("smoke", **fields)).eval()
    G.mapping.w_avg.normal_()
    twin = artefacts.turned_twin(G)
    for psi in (1.0, 0.5):
        kwargs = {"truncation_psi": psi}
        assert torch.allclose(generate(G, range(5), **kwargs), generate(twin, range(5), **kwargs), atol=1e-4)
        assert not torch.allclose(styles(G, range(5), **kwargs), styles(twin, range(5), **kwargs), atol=0.1)
    assert artefacts.turned_twin(G, seed=1).mapping.turn.sub(twin.mapping.turn).abs().max() > 0.1


def test_w_of_a_model_and_its_twin_fall_apart(G):
    a, b, away = artefacts.two_models(G, 80)
    assert away < 0.05
    assert View("", (a, b), ("a", "b")).test()["value"] < 0.1
    assert View("", (a[:40], a[40:]), ("a", "b")).test()["p_value"] > 0.05


def test_fed_labels_separate_though_a_coin_drew_them():
    w, labels = artefacts.fed_labels(make_config("smoke"), 80)
    assert 20 < labels.sum() < 60
    assert View("", artefacts.split_by(w, labels), ("a", "b")).test()["p_value"] == 1 / 200
    other = np.random.default_rng(9).integers(0, 2, 80)
    assert View("", artefacts.split_by(w, other), ("a", "b")).test()["p_value"] > 0.05


def test_a_map_told_a_coin_shows_islands_where_the_test_finds_nothing():
    x = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    sides = artefacts.split_by(x, np.random.default_rng(1).integers(0, 2, 100))
    told = View("", sides, ("a", "b"), labels=np.repeat([0, 1], list(map(len, sides))))
    drawn = told.coordinates()
    first, second = drawn[: len(sides[0])], drawn[len(sides[0]) :]
    assert np.linalg.norm(first.mean(axis=0) - second.mean(axis=0)) > 2 * max(first.std(axis=0).max(), second.std(axis=0).max())
    assert told.test()["p_value"] > 0.05


def test_clusters_are_levels_and_people_stand_in_both():
    who, x = people_and_features()
    levels = np.tile(np.arange(16), 12)
    found = artefacts.named_clusters(artefacts.clusters(4 * x), np.where(who < "P06", "AD", "NC"), who, levels)
    assert found["both"] > 0.8 and found["level_gap"] > 5 and found["p_value"] > 0.05
    whole = artefacts.named_clusters((who < "P06").astype(int), np.where(who < "P06", "AD", "NC"), who, levels)
    assert whole["both"] == 0 and whole["agreement"] == 1 and whole["p_value"] < 0.05


def test_scales_separate_what_does_not_differ():
    images, who = phantoms(12, 8, 0, 16), np.repeat(np.arange(12), 8)
    apart, alike, groups = artefacts.scaled_apart(images, who)
    assert apart[0].min() >= -1 and apart[0].max() <= 1 < apart[1].max()
    assert np.array_equal(apart[0], alike[0]) and np.allclose(apart[1] / 127.5 - 1, alike[1])
    assert not set(groups[0]) & set(groups[1])
    assert View("", apart, ("a", "b"), groups).test()["value"] < 0.05
    assert View("", alike, ("a", "b"), groups).test()["p_value"] > 0.05


def test_counting_slices_finds_what_is_not_there():
    who, x = people_and_features(20)
    share = artefacts.counted(x, who)
    assert share["slices"] > 0.8 and share["people"] <= 0.25
    assert share == artefacts.counted(x, who)


def test_views_stand_side_by_side_with_their_claims():
    rng = np.random.default_rng(0)
    views = [View(name, tuple(rng.normal(shift, 1, (2, 30, 4))), ("a", "b")) for name, shift in (("one", 0), ("two", 3))]
    figure = artefacts.show(views)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["one", "two"]
    assert all("of neighbours" in ax.get_xlabel().replace("\n", " ") for ax in figure.axes)
