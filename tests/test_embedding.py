"""Maps and what they claim: seeded, blind to labels, and tested among neighbours in feature space."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from test_evaluate import dataset_of

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
    assert trustworthiness(both, both, 10) == pytest.approx(1)


def test_pca_is_the_projection_on_the_widest_directions():
    real, _ = two_sets(0)
    real = real * np.array([5, 3, *[1] * 8], dtype=np.float32)
    points = embed(real, method="pca")
    _, scale, directions = np.linalg.svd(real - real.mean(axis=0), full_matrices=False)
    assert np.allclose(np.abs(points), np.abs((real - real.mean(axis=0)) @ directions[:2].T), atol=1e-3)
    assert np.allclose(np.linalg.norm(points, axis=0), scale[:2], rtol=1e-4)
    assert knn_overlap(real, real, 5) == 1 > knn_overlap(real, points, 5) > 5 / 59


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "tsne"}, "umap, pca"),
        ({"mode": "label"}, "joint, fit-real"),
        ({"n_neighbors": 60}, "takes 61 slices"),
        ({}, "equally"),
    ],
)
def test_wrong_maps_are_refused_in_a_sentence(changes, words):
    real, fake = two_sets(0)
    with pytest.raises(ValueError, match=words):
        embed(real, fake if changes else fake[:-1], **changes)


def test_import_is_light():
    code = "import sys, stylegan.truth.embedding; print('umap' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


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
    """Fakes of unrelated people from the very same population: by slice they always look apart, by person they do not."""
    naive, grouped = [], []
    people = np.repeat(np.arange(12), 16)
    for seed in range(20):
        real = heads(12, 16, seed)
        fake = np.random.default_rng(seed).permutation(heads(400, 16, 1000 + seed))[: len(real)]
        naive.append(neighbour_mixing(real, fake, permutations=99, seed=seed).p_value)
        grouped.append(neighbour_mixing(real, fake, real_groups=people, permutations=99, seed=seed).p_value)
    assert np.mean(np.array(naive) < 0.05) > 0.9
    assert np.mean(np.array(grouped) < 0.05) <= 0.25 and np.median(grouped) > 0.15


def test_real_against_real_by_person():
    people = np.repeat(np.arange(12), 16)
    test = partial(neighbour_mixing, real_groups=people, fake_groups=people)
    p = [test(heads(12, 16, s), heads(12, 16, 50 + s), permutations=99, seed=s).p_value for s in range(20)]
    assert np.mean(np.array(p) < 0.05) <= 0.2
    moved = heads(12, 16, 50) + 3
    assert test(heads(12, 16, 0), moved, permutations=199).p_value < 0.02


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


def ladder(people: int = 20, levels: int = 6, seed: int = 0, step: float = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [n, 6] of people whose slices move along one axis with the level; who and level [n]."""
    rng = np.random.default_rng(seed)
    who, level = np.repeat(np.arange(people), levels), np.tile(np.arange(levels), people)
    x = rng.normal(0, 1, (people, 6))[who] + rng.normal(0, 0.1, (people * levels, 6))
    x[:, 0] += step * level
    return x, who, level


def test_what_decides_on_features_is_found_and_what_does_not_is_not():
    x, who, level = ladder()
    found = neighbour_agreement(x, level.astype(float), deal_within(who), 5, groups=who, permutations=99)
    assert found.value < 0.5 * found.expected and found.p_value == 1 / 100
    noise = [np.random.default_rng(s).normal(size=20)[who] for s in range(30)]
    p = [neighbour_agreement(x, one, deal_people(who), 5, groups=who, permutations=99).p_value for one in noise]
    assert np.mean(np.array(p) <= 0.05) < 0.2  # a number of each person, though slices are not independent


def test_by_slice_a_number_of_a_person_looks_like_knowledge():
    x, who, _ = ladder(step=0.1)
    noise = [np.random.default_rng(s).normal(size=20)[who] for s in range(10)]
    alone = [neighbour_agreement(x, one, deal_within(np.zeros(len(who))), 5, permutations=99).p_value for one in noise]
    assert np.mean(np.array(alone) <= 0.05) > 0.9


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
