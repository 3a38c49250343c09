"""Copies, attacks and duplicates: each measure lights up where something was remembered, and stays dark where nothing was."""

import dataclasses

import numpy as np
import pytest
from test_evaluate import dataset_of
from test_metrics import gaussian

from stylegan.config import make_config
from stylegan.networks import Discriminator, set_stage
from stylegan.scores import memorisation
from stylegan.stylegan1 import stage


def near(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    return memorisation.nearest(x, train)[0]


def test_new_people_have_the_ratio_one_and_copies_none():
    train, held, people = gaussian(400, 6, 0), gaussian(200, 6, 1), np.repeat(np.arange(20), 10)
    fresh = memorisation.memory(near(gaussian(500, 6, 2), train), near(held, train), people)
    assert fresh["low"] < 1 < fresh["high"] and fresh["p_value"] > 0.05
    copies = memorisation.memory(near(train + gaussian(400, 6, 3, scale=0.05), train), near(held, train), people)
    assert copies["high"] < 0.5 and copies["p_value"] < 1e-3
    bad = memorisation.memory(near(gaussian(500, 6, 4, scale=3), train), near(held, train), people)
    assert bad["low"] > 1 and bad["p_value"] > 0.5  # far from everybody is no copying
    few = memorisation.memory(np.full(100, 1.0), np.full(240, 2.0), np.repeat(np.arange(4), 60))
    assert few["p_value"] == pytest.approx(1 / 2**4)  # sixty slices of one near person are no more evidence than one
    assert memorisation.memory(np.ones(50), np.ones(8), np.arange(8))["p_value"] == 1


def test_p_values_are_uniform_where_nothing_is_remembered():
    train, people = gaussian(200, 4, 0), np.repeat(np.arange(12), 6)
    sides = [(near(gaussian(300, 4, 100 + s), train), near(gaussian(72, 4, 500 + s), train)) for s in range(60)]
    found = np.array([memorisation.memory(*both, people)["p_value"] for both in sides])
    assert np.mean(found < 0.1) < 0.22 and 0.35 < np.mean(found) < 0.65


def test_a_generator_that_copies_one_in_ten_is_seen_at_the_near_end():
    train, held, fresh = gaussian(400, 6, 0), gaussian(200, 6, 1), gaussian(500, 6, 2)
    usual, some = near(held, train), near(np.concatenate([fresh[50:], train[:50] + 0.01]), train)
    assert memorisation.copied(near(fresh, train), usual) < 0.04 and memorisation.copied(some, usual) >= 0.1
    assert memorisation.memory(some, usual, np.repeat(np.arange(20), 10))["ratio"] > 0.85  # which the median does not see


def test_closest_pairs_are_the_nearest_and_each_training_slice_comes_once():
    pairs = memorisation.closest_pairs(np.array([3.0, 1.0, 2.0, 0.5]), np.array([7, 7, 8, 9]))
    assert pairs == [(3, 9, 0.5), (1, 7, 1.0), (2, 8, 2.0)]
    assert len(memorisation.closest_pairs(np.arange(20.0), np.arange(20))) == 16


def test_membership_of_people_who_were_seen_and_of_nobody():
    people, member = np.repeat(np.arange(30), 5), np.repeat([True, False], 75)
    luck = memorisation.membership(gaussian(150, 1, 0)[:, 0], member, people)
    assert luck["low"] < 0.5 < luck["high"]
    seen = memorisation.membership(gaussian(150, 1, 0)[:, 0] + 4 * member, member, people)
    assert 0.9 < seen["low"] < seen["high"] <= 1
    assert memorisation.membership(-member.astype(float), member, people)["value"] == 0
    lopsided = memorisation.membership(np.arange(60.0), np.arange(60) < 56, np.arange(60) // 2)  # groups of one side alone
    assert np.isfinite(list(lopsided.values())).all()
    assert memorisation.membership(np.arange(6.0), np.arange(6) < 3, np.array([0, 0, 0, 1, 2, 3])) is None  # too few people
    assert memorisation.memory(np.ones(5), np.ones(3), np.zeros(3)) == memorisation.UNKNOWN


@pytest.mark.parametrize("preset", ["smoke", "stylegan1", "seed003-progressive", "dcgan"])
def test_logits_are_those_of_a_grown_discriminator_in_its_own_groups(preset, monkeypatch):
    """Every slice once, in whole groups, dithered where the run does so; D works at the stage of its checkpoint, attention included."""
    fields = {"img_resolution": 16, "channel_base": 128, "channel_max": 16, "w_dim": 16, "z_dim": 16, "mbstd_group_size": 8}
    fields |= {"attention": "8", "grow_from": 4} if preset == "seed003-progressive" else {}
    config = make_config(preset, dither=True, conditional="none", grow_kimg=0.1, fade_kimg=0.1, **fields)
    D, slices = Discriminator(config).eval(), dataset_of(people=11, levels=3)
    set_stage(stage(config, 10_000_000), D)
    seen, forward = [], D.forward
    monkeypatch.setattr(D, "forward", lambda img, c: seen.append(img) or forward(img, c))
    found = memorisation.logits(D, config, slices)
    assert found.shape == (33,) and np.isfinite(found).all() and len(set(found.tolist())) > 25
    assert np.array_equal(found, memorisation.logits(D, config, slices))
    assert all(len(img) % 8 == 0 for img in seen) and max(img.max() for img in seen) <= 1 + 2 / 255
    levels = (seen[0] + 1) * 127.5
    assert (levels - levels.round()).abs().max() > 0.2 and D.now.resolution == 16


def test_projection_compares_as_many_people_at_the_same_places(G, monkeypatch):
    slices = dataset_of()
    monkeypatch.setattr("stylegan.latent.SEARCH", 2)
    chosen = memorisation.one_each(slices.split("train"), 4)
    assert len(set(chosen.subjects.tolist())) == 4 and chosen.levels.tolist() == [0, 1, 2, 3]
    found = memorisation.projection_gap(G, slices.split("train"), slices.split("val"), 3)
    assert found["n"] == 3 and found["gap"] == pytest.approx(found["heldout"] - found["train"]) and 0 < found["p_value"] <= 1


def test_duplicates_are_found_under_another_name():
    rng = np.random.default_rng(0)
    heads, steps = rng.integers(0, 200, (10, 1, 32, 32)), rng.integers(0, 40, (10, 6, 32, 32))
    images = (heads + steps).reshape(60, 32, 32).astype(np.uint8)
    slices = dataset_of(people=10, levels=6, size=32, images=images.copy())
    clean = memorisation.duplicates(slices)
    assert clean["exact"] == clean["near"] == 0 and clean["yardstick"] > 0
    images[6:12] = images[:6]  # the second person is the first again
    images[18] = (images[12].astype(int) + 1).clip(0, 255)  # and one slice of the fourth is nearly one of the third
    found = memorisation.duplicates(dataclasses.replace(slices, images=images))
    assert found["exact"] == 6 and found["near"] >= 14
    names = {(pair[0], pair[2]) for pair in found["pairs"]}
    assert names == {("OAS1_0000_MR1", "OAS1_0001_MR1"), ("OAS1_0002_MR1", "OAS1_0003_MR1")}
    unknown = dataclasses.replace(slices, levels=np.full(60, -1))
    wide = dataset_of(people=10, levels=6, size=32)  # phantoms whose levels differ more than their people do
    assert memorisation.duplicates(unknown)["near"] is None is memorisation.duplicates(wide)["near"]
