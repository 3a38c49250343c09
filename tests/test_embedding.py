"""Maps and what they claim: seeded, blind to labels, and tested among neighbours in feature space."""

import subprocess
import sys

import numpy as np
import pytest

from stylegan.truth.embedding import embed, equal_sets, neighbour_mixing, trustworthiness


def two_sets(shift: float, n: int = 60, d: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (n, d)).astype(np.float32), rng.normal(shift, 1, (n, d)).astype(np.float32)


def heads(people: int, levels: int, seed: int, d: int = 8) -> np.ndarray:
    """Features [people * levels, d] as slices have them: the level is the main axis, and a person's slices stand together."""
    rng = np.random.default_rng(seed)
    level = np.linspace(-3, 3, levels)[:, None] * np.eye(d)[0]
    return (rng.normal(0, 1, (people, 1, d)) + level + rng.normal(0, 0.1, (people, levels, d))).reshape(-1, d)


# ------------------------------------------------------------------------------------------------------------------ maps


@pytest.mark.parametrize("mode", ["joint", "fit-real"])
def test_umap_is_the_same_for_the_same_seed(mode):
    real, fake = two_sets(0.5)
    first, again, other = (embed(real, fake, n_neighbors=8, seed=seed, mode=mode) for seed in (1, 1, 2))
    assert first.shape == (120, 2) and first.dtype == np.float32 and np.isfinite(first).all()
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("method", ["umap", "pca"])
def test_fakes_cannot_shape_a_map_fitted_to_reals(method):
    real, fake = two_sets(3.0)
    alone = embed(real, method=method, n_neighbors=8)
    assert np.array_equal(embed(real, fake, method, n_neighbors=8, mode="fit-real")[:60], alone)
    assert not np.array_equal(embed(real, fake, method, n_neighbors=8, mode="joint")[:60], alone)


@pytest.mark.parametrize("method", ["umap", "pca"])
def test_a_map_keeps_clusters_apart_and_is_trustworthy(method):
    real, fake = two_sets(4.0)
    points = embed(real, fake, method, n_neighbors=10)
    gap = np.linalg.norm(points[:60].mean(axis=0) - points[60:].mean(axis=0))
    assert gap > 2 * max(points[:60].std(), points[60:].std())
    both = np.concatenate([real, fake])
    assert trustworthiness(both, points, 10) > trustworthiness(both, np.random.default_rng(0).normal(size=(120, 2)), 10) + 0.1
    assert trustworthiness(both, both, 10) == pytest.approx(1)


def test_pca_is_the_projection_on_the_widest_directions():
    real, _ = two_sets(0)
    real = real * np.array([5, 3, *[1] * 8], dtype=np.float32)
    points = embed(real, method="pca")
    _, scale, directions = np.linalg.svd(real - real.mean(axis=0), full_matrices=False)
    assert np.allclose(np.abs(points), np.abs((real - real.mean(axis=0)) @ directions[:2].T), atol=1e-3)
    assert np.allclose(np.linalg.norm(points, axis=0), scale[:2], rtol=1e-4)


def test_equal_sets_draws_as_many_of_each():
    a, b = equal_sets(100, 30, seed=1)
    assert len(set(a)) == len(set(b)) == 30 and a.max() < 100 and b.max() < 30
    assert [len(rows) for rows in equal_sets(100, 90, most=12)] == [12, 12]
    assert np.array_equal(equal_sets(100, 30, seed=1)[0], a) and not np.array_equal(equal_sets(100, 30, seed=2)[0], a)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "tsne"}, "umap, pca"),
        ({"mode": "label"}, "joint, fit-real"),
        ({"n_neighbors": 60}, "more than 60"),
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
    p = [
        neighbour_mixing(
            heads(12, 16, s), heads(12, 16, 50 + s), real_groups=people, fake_groups=people, permutations=99, seed=s
        ).p_value
        for s in range(20)
    ]
    assert np.mean(np.array(p) < 0.05) <= 0.2
    moved = heads(12, 16, 50) + 3
    assert neighbour_mixing(heads(12, 16, 0), moved, real_groups=people, fake_groups=people, permutations=199).p_value < 0.02


def test_mixing_is_deterministic_and_checks_k():
    real, fake = two_sets(0.4)
    assert neighbour_mixing(real, fake, permutations=49, seed=3) == neighbour_mixing(real, fake, permutations=49, seed=3)
    with pytest.raises(ValueError, match="beside those of the largest subject"):
        neighbour_mixing(real, fake, k=61, real_groups=np.zeros(60), permutations=9)
