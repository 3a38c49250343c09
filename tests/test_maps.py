"""Maps and what they claim: seeded, blind to labels, tested among neighbours in feature space; and the coordinates that are saved."""

import csv
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import save_untrained
from test_evaluate import dataset_of

from stylegan.__main__ import main
from stylegan.config import make_config
from stylegan.scores.evidence import open_evidence
from stylegan.scores.intervals import Chance
from stylegan.truth import embedding, maps
from stylegan.truth.embedding import (
    choose_rows,
    deal_names,
    deal_people,
    deal_within,
    embed,
    knn_overlap,
    neighbour_agreement,
    neighbour_mixing,
    trustworthiness,
)


def two_sets(shift: float, n: int = 60, d: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (n, d)).astype(np.float32), rng.normal(shift, 1, (n, d)).astype(np.float32)


def heads(people: int, levels: int, seed: int, d: int = 8) -> np.ndarray:
    """Features [people * levels, d] as slices have them: the level is the main axis, and a person's slices stand together."""
    rng = np.random.default_rng(seed)
    level = np.linspace(-3, 3, levels)[:, None] * np.eye(d)[0]
    return (rng.normal(0, 1, (people, 1, d)) + level + rng.normal(0, 0.1, (people, levels, d))).reshape(-1, d)


# ------------------------------------------------------------------------------------------------------------------ maps


@pytest.mark.parametrize("method", ["umap", "pca"])
def test_a_map_is_seeded_keeps_clusters_apart_and_fakes_cannot_shape_one_fitted_to_reals(method):
    real, fake = two_sets(4.0, 40)
    joint, again = (embed(real, fake, method, n_neighbors=8, seed=1) for _ in range(2))
    assert joint.shape == (80, 2) and joint.dtype == np.float32 and np.isfinite(joint).all() and np.array_equal(joint, again)
    alone = embed(real, method=method, n_neighbors=8, seed=1)
    assert np.array_equal(embed(real, fake, method, n_neighbors=8, seed=1, mode="fit-real")[:40], alone)
    assert not np.array_equal(joint[:40], alone)
    gap = np.linalg.norm(joint[:40].mean(axis=0) - joint[40:].mean(axis=0))
    assert gap > 2 * max(joint[:40].std(), joint[40:].std())
    both = np.concatenate([real, fake])
    assert trustworthiness(both, joint, 10) > trustworthiness(both, np.random.default_rng(0).normal(size=(80, 2)), 10) + 0.1
    assert (
        trustworthiness(both, both, 10) == pytest.approx(1)
        and knn_overlap(both, both, 5) == 1 > knn_overlap(both, joint, 5) > 0.1
    )


WRONG = [
    ({"method": "tsne"}, "umap, pca"),
    ({"mode": "label"}, "joint, fit-real"),
    ({"n_neighbors": 60}, "61 slices"),
    ({}, "equally"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG)
def test_wrong_maps_are_refused_in_a_sentence(changes, words):
    real, fake = two_sets(0)
    with pytest.raises(ValueError, match=words):
        embed(real, fake if changes else fake[:-1], **changes)


# ---------------------------------------------------------------------------------------------------------------- mixing


def test_separated_sets_do_not_mix_and_equal_ones_do():
    apart = neighbour_mixing(*two_sets(3.0), permutations=199)
    assert apart.value < 0.05 and apart.p_value == 1 / 200
    same = [neighbour_mixing(*two_sets(0, seed=seed), permutations=199, seed=seed) for seed in range(30)]
    assert 0.2 < np.median([result.p_value for result in same]) < 0.8
    assert np.mean([result.p_value < 0.05 for result in same]) < 0.2
    assert all(abs(result.expected - 60 / 119) < 0.02 for result in same)


def test_mixing_counts_neighbours_of_the_other_set():
    """Pairs on a line: each real has its fake beside it, and the next pair far away."""
    real = np.arange(6.0)[:, None] * 10
    assert neighbour_mixing(real, real + 0.1, k=1, permutations=9).value == 1.0
    assert neighbour_mixing(np.arange(6.0)[:, None], np.arange(6.0)[:, None] + 100, k=3, permutations=9).value == 0.0


def test_slices_of_one_person_are_not_taken_for_a_difference():
    """Unrelated people of the very same population: by slice they always look apart, by person they do not."""
    people, found = np.repeat(np.arange(12), 16), []
    for seed in range(20):
        real, other = heads(12, 16, seed), heads(12, 16, 50 + seed)
        fake = np.random.default_rng(seed).permutation(heads(400, 16, 1000 + seed))[: len(real)]
        test = partial(neighbour_mixing, real, permutations=99, seed=seed)
        by_person = test(fake, real_groups=people), test(other, real_groups=people, fake_groups=people)
        found.append([one.p_value for one in (test(fake), *by_person)])
    naive, *grouped = np.transpose(found)
    assert np.mean(naive < 0.05) > 0.9
    assert all(np.mean(p < 0.05) <= 0.25 and np.median(p) > 0.15 for p in grouped)


def test_mixing_counts_as_many_neighbours_as_there_are():
    (real, fake), people = two_sets(0.4), np.zeros(60)
    more, all_others = (neighbour_mixing(real, fake, k=k, real_groups=people, permutations=9) for k in (99, 60))
    assert more == all_others  # all that are not of this person
    with pytest.raises(ValueError, match="no neighbours of other people"):
        neighbour_mixing(real, fake[:0], real_groups=people, permutations=9)


@pytest.mark.parametrize(("n", "mode"), [(3, "joint"), (3, "fit-real"), (7, "joint")])
def test_a_handful_of_slices_has_a_map(n, mode):
    real, fake = two_sets(1.0, n)
    assert np.isfinite(embed(real, fake, n_neighbors=2, mode=mode)).all()


# -------------------------------------------------------------------------------------------------- what neighbours share


def climb(people: int = 20, levels: int = 6, seed: int = 0, step: float = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [n, 6] of people whose slices move along one axis with the level; who and level [n]."""
    rng = np.random.default_rng(seed)
    who, level = np.repeat(np.arange(people), levels), np.tile(np.arange(levels), people)
    x = rng.normal(0, 1, (people, 6))[who] + rng.normal(0, 0.1, (people * levels, 6))
    x[:, 0] += step * level
    return x, who, level


def test_what_decides_on_features_is_found_and_what_does_not_is_not():
    x, who, level = climb()
    found = neighbour_agreement(x, level.astype(float), deal_within(who), 5, groups=who, permutations=99)
    assert found.value < 0.5 * found.expected and found.p_value == 1 / 100
    noise = [np.random.default_rng(s).normal(size=20)[who] for s in range(30)]
    p = [neighbour_agreement(x, one, deal_people(who), 5, groups=who, permutations=99).p_value for one in noise]
    assert np.mean(np.array(p) <= 0.05) < 0.2  # a number of each person, though slices are not independent


def test_names_and_numbers_differ_in_their_way():
    x, values = np.array([[0.0], [1.0], [10.0], [11.0]]), np.array([1.0, 3.0, 10.0, 20.0])
    whole = deal_within(np.zeros(4))
    assert neighbour_agreement(x, values, whole, 1, permutations=9).value == (2 + 2 + 10 + 10) / 4
    assert neighbour_agreement(x, np.array(["a", "b", "c", "c"]), whole, 1, permutations=9).value == 0.5


def test_people_are_dealt_whole_and_in_order():
    who, values = np.repeat(np.arange(5), 3), np.arange(15.0)
    dealt = deal_people(who)(values, np.random.default_rng(3))
    assert sorted(dealt) == values.tolist() and not np.array_equal(dealt, values)
    assert all((np.diff(dealt[who == one]) == 1).all() for one in range(5))
    within = deal_within(who)(values, np.random.default_rng(0))
    assert all(sorted(within[who == one]) == values[who == one].tolist() for one in range(5))
    names = deal_names(who)(np.repeat(["a", "a", "b", "b", "b"], 3), np.random.default_rng(0))
    assert sorted(names[::3]) == ["a", "a", "b", "b", "b"] and all(len(set(names[who == one])) == 1 for one in range(5))
    uneven = deal_people(np.array([0, 0, 1]))(np.array([1.0, 1, 2]), np.random.default_rng(1))
    assert set(uneven) <= {1.0, 2.0} and len(set(uneven[:2])) == 1


def test_everybody_gives_the_same_levels():
    data = dataset_of(3, 10)
    rows = choose_rows(data, 12)
    assert [data.levels[rows][data.subjects[rows] == one].tolist() for one in np.unique(data.subjects)] == [[0, 3, 6, 9]] * 3
    assert choose_rows(data, 3).size == 3 and len(choose_rows(replace(data, levels=np.full(30, -1)), 12)) == 12
    scans = np.array(["OAS1_0000_MR1", "OAS1_0000_MR2", "OAS1_0001_MR1", "OAS1_0002_MR1"])  # two of one person
    assert choose_rows(replace(data.select([0, 1, 2, 3]), subjects=scans, levels=np.zeros(4, int)), 9).tolist() == [0, 2, 3]


# --------------------------------------------------------------------------------------------------- of a generator


@pytest.fixture(scope="module")
def path(tmp_path_factory, slices):
    """An untrained generator that names the people of the training split."""
    return save_untrained(tmp_path_factory.mktemp("model") / "G.safetensors", make_config("smoke"), slices)


@pytest.fixture(scope="module")
def sample(path, slices):
    return maps.take_sample(open_evidence(path, slices, device="cpu"), 40)


def test_a_sample_holds_equally_many_held_out_and_generated_slices(sample, slices):
    assert len(sample.real) == len(sample.made) == 16 and set(sample.real.splits) <= {"val", "test"} and not sample.note
    assert sample.kinds.tolist() == ["real"] * 16 + ["generated"] * 16 and len(sample.both) == 32
    truths = {truth.name: truth for truth in sample.truths}
    assert set(truths) >= {"class", "person", "ventricles", "brain"} and len(truths["ventricles"].fakes) == 16
    rows = maps.reading_rows(sample)
    assert [row["read"].split(" (")[0] for row in rows] == ["ventricles", "brain"]
    assert all("r = " in row["error on held-out people"] for row in rows)
    assert truths["class"].fakes is None  # nobody asked an unconditional generator for a class


def test_every_panel_has_a_tested_claim(sample):
    told = maps.claims(sample, permutations=19)
    assert list(told) == ["real and generated", *(truth.name for truth in sample.truths)]
    assert all("p = 0." in test["claim"] or "p = 1." in test["claim"] for test in told.values())
    figure = maps.truth_maps(sample, told, np.random.default_rng(0).normal(size=(32, 2)))
    assert all(test["claim"] in figure.alt_text for test in told.values())
    assert told == maps.claims(sample, permutations=19)
    unknown = replace(sample, real=replace(sample.real, levels=np.full(len(sample.real), -1)))
    for some, words in ((told, "levels held equal."), (maps.claims(unknown, permutations=19), "levels not held equal.")):
        assert some["ventricles"]["claim"].endswith(words)
    truths = {truth.name: truth for truth in sample.truths}
    names = np.array([f"site {i % 12}" for i in range(len(sample.real))])  # more than there are colours
    many = replace(sample, truths=(replace(truths["class"], values=names, order=tuple(sorted(set(names)))),))
    figure = maps.truth_maps(many, maps.claims(many, permutations=19), np.random.default_rng(0).normal(size=(32, 2)))
    assert "not named here" in figure.get_suptitle()  # four of the twelve have no colour


def test_controls_know_what_must_be_found(sample):
    found = {control.name: control for control in embedding.controls(sample, permutations=99)}
    assert len(found) == 4
    apart = found["real and an untrained generator"]
    assert apart.differ and apart.passed and apart.claim.endswith("must be told apart, and is.")
    assert not any(control.differ for control in found.values() if control is not apart)
    failing = embedding.Control("x", Chance(0.1, 0.5, 0.01), differ=False)
    assert not failing.passed and failing.claim.endswith("must not be told apart, and is.")
    assert embedding.Control("x", Chance(0.0, 0.5, 0.3), True, people=2).claim.endswith("and no test of 2 people can tell.")


# What is left of the slices -> what a map of them still tests, and whether there is a note.
ALL = {"class", "person", "level", "ventricles", "brain", "enlargement"}
FEW = {
    "nobody held out": (lambda s: s.splits == "train", ALL, True),
    "one person held out": (lambda s: (s.splits == "train") | (s.subjects == s.subjects[s.splits == "test"][0]), set(), True),
    "one slice a person": (lambda s: s.levels == s.levels[0], {"class", "ventricles", "brain"}, False),
    "a handful": (lambda s: (s.splits != "train") & (s.levels == s.levels[0]), {"class", "ventricles", "brain"}, False),
}


@pytest.mark.parametrize("left", [pytest.param(left, marks=[pytest.mark.long] * (left != "a handful")) for left in FEW])
def test_few_people_give_the_map_that_they_can(left, path, slices, tmp_path):
    where, truths, noted = FEW[left]
    found = maps.study(path, slices.select(where(slices)), num=40, seeds=(0,), neighbours=(5,), device="cpu", permutations=9)
    assert {truth.name for truth in found.sample.truths} == truths and bool(found.sample.note) == noted
    assert len(maps.write_study(found, tmp_path)) == 7
    assert bool(maps.reading_rows(found.sample)) == (left == "one slice a person")


def test_two_slices_are_no_map(path, slices):
    with pytest.raises(ValueError, match="takes 3 slices or more"):
        maps.take_sample(open_evidence(path, slices.select([0, 1]), device="cpu"))


def test_a_study_is_written_and_its_coordinates_read_back(path, slices, tmp_path):
    found = maps.study(path, slices, num=40, seeds=(0, 1), neighbours=(8, 15), device="cpu", permutations=19)
    assert [(m["method"], m["mode"], m["seed"]) for m in found.result["maps"]] == [
        ("umap", "joint", 0), ("umap", "joint", 1), ("umap", "fit-real", 0), ("umap", "fit-real", 1), ("pca", "joint", 0), ("pca", "fit-real", 0),
    ]  # fmt: skip
    written = maps.write_study(found, tmp_path / "out")
    assert all(path.stat().st_size for path in written) and len(written) == 7
    with open(tmp_path / "out" / "embedding.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["method"], row["mode"]) == ("umap", "joint")]
    coords = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    assert coords == pytest.approx(found.maps[0][1], abs=1e-4)
    assert [row["kind"] for row in rows] == ["real"] * 16 + ["generated"] * 16 and rows[16]["subject"] == "seed 0"
    assert [row["subject"] for row in rows[:16]] == found.sample.people.tolist() and "age" not in rows[0]
    assert [row["seeds"] for row in maps.stability(found.result["maps"])] == [2, 2, 1, 1]
    assert main(["embed", str(tmp_path / "none.safetensors"), "--out", str(tmp_path)]) == 2


def test_the_summary_says_what_passed_and_what_did_not():
    def test(value, shown):
        return {"value": value, "expected": 1.0, "p_value": 0.005 if shown else 0.5, "shown": shown}

    apart, same = {"real and generated": test(0.1, True)}, {"real and generated": test(1.0, False)}
    in_part, level, age = {"real and generated": test(0.5, True)}, {"level": test(0.2, True)}, {"age": test(0.9, False)}
    few = {"real and generated": test(1.0, False) | {"people": 3}}
    assert "**level**" in maps.summary(apart | level | age) and "3 people" in maps.summary(few | level)
    assert len({maps.summary(told) for told in (apart | level, in_part | level, same | level, same | age)}) == 4
