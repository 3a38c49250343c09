"""Maps and what they claim: seeded, blind to labels, tested among neighbours in feature space; and the coordinates that are saved."""

import csv
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import save_untrained
from PIL import Image
from test_evaluate import dataset_of

from stylegan.__main__ import main
from stylegan.config import make_config
from stylegan.scores.evidence import open_evidence
from stylegan.scores.intervals import Chance
from stylegan.truth import embedding, maps
from stylegan.truth.embedding import choose_rows, deal_people, deal_within, embed, neighbour_agreement, neighbour_mixing


def two_sets(shift: float, n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (n, 10)).astype(np.float32), rng.normal(shift, 1, (n, 10)).astype(np.float32)


def heads(people: int, levels: int, seed: int) -> np.ndarray:
    """Features [people * levels, 8] as slices have them: the level is the main axis, and a person's slices stand together."""
    rng, level = np.random.default_rng(seed), np.linspace(-3, 3, levels)[:, None] * np.eye(8)[0]
    return (rng.normal(0, 1, (people, 1, 8)) + level + rng.normal(0, 0.1, (people, levels, 8))).reshape(-1, 8)


@pytest.mark.parametrize("method", ["umap", "pca"])
def test_a_map_is_seeded_keeps_clusters_apart_and_fakes_cannot_shape_one_fitted_to_reals(method):
    real, fake = two_sets(4.0, 40)
    joint, again = (embed(real, fake, method, n_neighbors=8, seed=1) for _ in range(2))
    assert joint.shape == (80, 2) and joint.dtype == np.float32 and np.isfinite(joint).all() and np.array_equal(joint, again)
    alone, other = (embed(real, x, method, n_neighbors=8, seed=1, mode="fit-real")[:40] for x in (fake, fake + 9))
    assert np.array_equal(alone, other) and not np.array_equal(joint[:40], alone)
    gap = np.linalg.norm(joint[:40].mean(axis=0) - joint[40:].mean(axis=0))
    assert gap > 2 * max(joint[:40].std(), joint[40:].std())


def test_a_map_leaves_torch_its_threads_and_keeps_what_it_compiles_and_wrong_ones_are_refused(monkeypatch):
    """The compiler of UMAP gives torch as many as there are cores."""
    umap, before, (real, fake) = pytest.importorskip("umap"), torch.get_num_threads(), two_sets(4.0, 40)
    monkeypatch.setattr(umap.UMAP, "fit_transform", lambda _, x: (torch.set_num_threads(before + 1), x[:, :2])[1])
    embed(real, fake, "umap")
    assert torch.get_num_threads() == before
    assert umap.umap_.smooth_knn_dist.stats.cache_path and umap.utils.fast_knn_indices.stats.cache_path
    wrong = {"umap, pca": {"method": "tsne"}, "joint, fit-real": {"mode": "label"}, "equally": {"fake": fake[:-1]}}
    for words, changes in wrong.items():
        with pytest.raises(ValueError, match=words):
            embed(real, **{"fake": fake, **changes})


def test_mixing_tells_separated_sets_from_equal_ones_and_counts_neighbours_of_the_other_set():
    apart, same = (neighbour_mixing(*two_sets(shift), 10, permutations=199) for shift in (3.0, 0.0))
    assert apart.value < 0.05 and apart.p_value == 1 / 200 and same.p_value > 0.2
    assert all(abs(result.expected - 60 / 119) < 0.02 for result in (apart, same))
    pairs = np.arange(6.0)[:, None] * 10  # on a line: each real has its fake beside it, and the next pair far away
    assert neighbour_mixing(pairs, pairs + 0.1, 1, permutations=9).value == 1
    assert neighbour_mixing(pairs / 10, pairs / 10 + 100, 3, permutations=9).value == 0
    (real, fake), people = two_sets(0.4), np.zeros(60)
    more, all_others = (neighbour_mixing(real, fake, k, real_groups=people, permutations=9) for k in (99, 60))
    assert more == all_others  # all that are not of this person
    with pytest.raises(ValueError, match="no neighbours of other people"):
        neighbour_mixing(real, fake[:0], 10, real_groups=people, permutations=9)


def test_slices_of_one_person_are_not_taken_for_a_difference():
    """Unrelated people of the very same population: by slice they always look apart, by person they do not."""
    people, found = np.repeat(np.arange(12), 16), []
    for seed in range(20):
        real, other = heads(12, 16, seed), heads(12, 16, 50 + seed)
        fake = np.random.default_rng(seed).permutation(heads(400, 16, 1000 + seed))[: len(real)]
        test = partial(neighbour_mixing, real, k=10, permutations=99)
        by_person = test(fake, real_groups=people), test(other, real_groups=people, fake_groups=people)
        found.append([one.p_value for one in (test(fake), *by_person)])
    naive, *grouped = np.transpose(found)
    assert np.mean(naive < 0.05) > 0.9
    assert all(np.mean(p < 0.05) <= 0.25 and np.median(p) > 0.15 for p in grouped)


def test_what_decides_on_features_is_found_and_what_does_not_is_not_and_names_and_numbers_differ_in_their_way():
    x, who, level = heads(20, 6, 0), np.repeat(np.arange(20), 6), np.tile(np.arange(6.0), 20)
    found = neighbour_agreement(x, level, deal_within(who), 5, groups=who, permutations=99)
    assert found.value < 0.7 * found.expected and found.p_value == 1 / 100
    noise = [np.random.default_rng(s).normal(size=20)[who] for s in range(30)]
    p = [neighbour_agreement(x, one, deal_people(who), 5, groups=who, permutations=99).p_value for one in noise]
    assert np.mean(np.array(p) <= 0.05) < 0.2  # a number of each person, though slices are not independent
    x, values = np.array([[0.0], [1.0], [10.0], [11.0]]), np.array([1.0, 3.0, 10.0, 20.0])
    whole = deal_within(np.zeros(4))
    assert neighbour_agreement(x, values, whole, 1, permutations=9).value == (2 + 2 + 10 + 10) / 4
    assert neighbour_agreement(x, np.array(["a", "b", "c", "c"]), whole, 1, permutations=9).value == 0.5


def test_everybody_gives_the_same_levels_and_is_dealt_whole_and_in_order():
    data = dataset_of(3, 10)
    rows = choose_rows(data, 12)
    assert [data.levels[rows][data.subjects[rows] == one].tolist() for one in np.unique(data.subjects)] == [[0, 3, 6, 9]] * 3
    assert choose_rows(data, 3).size == 3 and len(choose_rows(replace(data, levels=np.full(30, -1)), 12)) == 12
    scans = np.array(["OAS1_0000_MR1", "OAS1_0000_MR2", "OAS1_0001_MR1", "OAS1_0002_MR1"])  # two of one person
    assert choose_rows(replace(data.select([0, 1, 2, 3]), subjects=scans, levels=np.zeros(4, int)), 9).tolist() == [0, 2, 3]
    who, values = np.repeat(np.arange(5), 3), np.arange(15.0)
    dealt = deal_people(who)(values, np.random.default_rng(3))
    assert sorted(dealt) == values.tolist() and not np.array_equal(dealt, values)
    assert all((np.diff(dealt[who == one]) == 1).all() for one in range(5))
    within = deal_within(who)(values, np.random.default_rng(0))
    assert all(sorted(within[who == one]) == values[who == one].tolist() for one in range(5))
    assert len(set(deal_people(np.array([0, 0, 1]))(np.array([1, 1, 2]), np.random.default_rng(1))[:2])) == 1  # uneven people


@pytest.fixture(scope="module")
def path(tmp_path_factory, slices):
    """An untrained generator that names the people of the training split."""
    return save_untrained(tmp_path_factory.mktemp("model") / "G.safetensors", make_config("smoke"), slices)


@pytest.fixture(scope="module")
def sample(path, slices):
    return maps.take_sample(open_evidence(path, slices, device="cpu"), 40)


def test_a_sample_holds_equally_many_held_out_and_generated_slices(sample, path, slices):
    assert len(sample.real) == len(sample.made) == 16 and set(sample.real.splits) <= {"val", "test"} and not sample.note
    truths = {truth.name: truth for truth in sample.truths}
    assert set(truths) >= {"class", "person", "ventricles", "brain"} and len(truths["ventricles"].fakes) == 16
    assert set(truths["class"].fakes) == {""}  # nobody asked an unconditional generator for a class
    rows = maps.reading_rows(sample)
    assert [row["read"].split(" (")[0] for row in rows] == ["ventricles", "brain"]
    assert all("r = " in row["error on held-out people"] for row in rows)
    with pytest.raises(ValueError, match="takes 3 slices or more"):
        maps.take_sample(open_evidence(path, slices.select([0, 1]), device="cpu"))
    # Features of two dimensions are their own map, which loses nothing.
    two = replace(sample, at_real=sample.at_real[:, :2], made=replace(sample.made, at=sample.made.at[:, :2]))
    about, _ = maps.draw(two, "pca")
    assert min(about["trustworthiness"], about["overlap"]) > 0.95 > maps.draw(sample, "pca")[0]["overlap"] > 0


def test_every_panel_has_a_tested_claim(sample):
    told, coords = maps.claims(sample, permutations=19), np.random.default_rng(0).normal(size=(32, 2))
    drawn = maps.truth_maps(sample, told, coords).alt_text
    assert list(told) == ["real and generated", *(truth.name for truth in sample.truths)]
    assert all(("p = 0." in test["claim"] or "p = 1." in test["claim"]) and test["claim"] in drawn for test in told.values())
    unknown = replace(sample, real=replace(sample.real, levels=np.full(len(sample.real), -1)))
    for some, words in ((told, "levels held equal."), (maps.claims(unknown, permutations=19), "levels not held equal.")):
        assert some["ventricles"]["claim"].endswith(words)
    hidden = maps.claims(replace(sample, real=replace(sample.real, subjects_known=False)), permutations=19)
    assert {name for name, test in hidden.items() if test["shown"] is None} == set(hidden) - {"real and generated", "level"}
    names = np.array([f"site {i % 12:02}" for i in range(len(sample.real))])  # more than there are colours
    many = replace(sample, truths=(replace(sample.truths[0], values=names, order=tuple(names[:12])),))
    assert "not named here" in maps.truth_maps(many, maps.claims(many, permutations=19), coords).get_suptitle()


def test_controls_know_what_must_be_found(sample):
    found = {control.name: control for control in embedding.controls(sample, permutations=99)}
    assert len(found) == 4
    apart = found["real and an untrained generator"]
    assert apart.differ and apart.passed and apart.claim.endswith("must be told apart, and is.")
    assert not any(control.differ for control in found.values() if control is not apart)
    failing = embedding.Control("x", Chance(0.1, 0.5, 0.01), differ=False)
    assert not failing.passed and failing.claim.endswith("must not be told apart, and is.")
    assert "no test of 2 people" in embedding.Control("x", Chance(0.0, 0.5, 0.3), True, people=2).claim


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
    found = maps.study(path, slices.select(where(slices)), num=40, seeds=(0,), neighbours=(5,), device="cpu")
    assert {truth.name for truth in found.sample.truths} == truths and bool(found.sample.note) == noted
    assert len(maps.write_study(found, tmp_path)) == 7
    assert bool(maps.reading_rows(found.sample)) == (left == "one slice a person")


def test_a_study_is_written_and_its_coordinates_read_back(path, slices, tmp_path):
    found = maps.study(path, slices, num=40, seeds=(0, 1), neighbours=(8, 15), device="cpu")
    drawn = [f"{m['method']} {m['mode']} {m['seed']}" for m in found.result["maps"]]
    assert drawn == [*(f"umap {mode} {seed}" for mode in embedding.MODES for seed in (0, 1)), "pca joint 0", "pca fit-real 0"]
    written = maps.write_study(found, tmp_path / "out")
    assert all(path.stat().st_size for path in written) and len(written) == 7
    assert "no real person" not in Image.open(tmp_path / "out" / "thumbnails.png").text["Description"]
    with open(tmp_path / "out" / "embedding.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["method"], row["mode"]) == ("umap", "joint")]
    coords = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    assert coords == pytest.approx(found.maps[0][1], abs=1e-4)
    assert [row["kind"] for row in rows] == ["real"] * 16 + ["generated"] * 16 and rows[16]["subject"] == "seed 0"
    assert [row["subject"] for row in rows[:16]] == found.sample.people.tolist() and "age" not in rows[0]
    assert [row["seeds"] for row in maps.stability(found.result["maps"])] == [2, 2, 1, 1]
    assert main(["embed", str(tmp_path / "none.safetensors"), "--out", str(tmp_path)]) == 2


def test_the_summary_says_what_passed_and_what_did_not():
    def test(value, shown, people=12):
        return {"value": value, "expected": 1.0, "p_value": 0.005 if shown else 0.5, "shown": shown, "people": people}

    outcomes = (0.1, True), (0.5, True), (1, False), (1, False, 3)
    apart, in_part, same, few = ({"real and generated": test(*outcome)} for outcome in outcomes)
    level, age = {"level": test(0.2, True)}, {"age": test(0.9, False)}
    assert "**level**" in maps.summary(apart | level | age) and "3 people" in maps.summary(few | level)
    assert len({maps.summary(told) for told in (apart | level, in_part | level, same | level, same | age)}) == 4
