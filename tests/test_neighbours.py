"""Precision, recall, density, coverage, 1-NN and the classifier: against prdc, against loops, by subject, and on controls."""

import numpy as np
import pytest

from stylegan.scores.neighbours import K_DENSITY, K_PRECISION, Neighbourhood, apart, told_apart


def gaussian(n: int, d: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, scale, (n, d))


def scores(real: np.ndarray, fake: np.ndarray, people: np.ndarray | None = None, fake_people: np.ndarray | None = None) -> dict:
    return Neighbourhood(real, np.arange(len(real)) if people is None else people, fake, fake_people).scores()


@pytest.mark.parametrize(("mean", "scale"), [(0, 1), (0.6, 1), (0, 0.6), (0.3, 1.5)])
def test_against_prdc_where_everybody_has_one_slice(mean, scale):
    prdc = pytest.importorskip("prdc")
    real, fake = gaussian(90, 6, 0), gaussian(110, 6, 1, mean, scale)
    ours = scores(real, fake)
    three, five = (prdc.compute_prdc(real, fake, k) for k in (K_PRECISION, K_DENSITY))
    assert ours["precision"] == pytest.approx(three["precision"]) and ours["recall"] == pytest.approx(three["recall"])
    assert ours["density"] == pytest.approx(five["density"]) and ours["coverage"] == pytest.approx(five["coverage"])


def test_against_loops_with_several_slices_a_person():
    real, fake = gaussian(24, 3, 0), gaussian(20, 3, 1, 0.4)
    people, fake_people = np.repeat(np.arange(6), 4), np.repeat(np.arange(5), 4)

    def reach(x: np.ndarray, names: np.ndarray, i: int, k: int) -> float:
        return sorted(np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if names[j] != names[i])[k - 1]

    def away(i: int, j: int) -> float:
        return np.linalg.norm(real[i] - fake[j])

    n, m, ours = range(24), range(20), scores(real, fake, people, fake_people)
    reached = [[away(i, j) < reach(real, people, i, 5) for i in n] for j in m]
    assert ours["precision"] == pytest.approx(np.mean([any(away(i, j) < reach(real, people, i, 3) for i in n) for j in m]))
    assert ours["recall"] == pytest.approx(np.mean([any(away(i, j) < reach(fake, fake_people, j, 3) for j in m) for i in n]))
    assert ours["density"] == pytest.approx(np.sum(reached) / (5 * 20))
    assert ours["coverage"] == pytest.approx(np.mean(np.any(reached, axis=0)))
    nearer = [reach(real, people, i, 1) < min(away(i, j) for j in m) for i in n]
    assert ours["nn_accuracy_real"] == pytest.approx(np.mean(nearer))
    nearer = [reach(fake, fake_people, j, 1) < min(away(i, j) for i in n) for j in m]
    assert ours["nn_accuracy_fake"] == pytest.approx(np.mean(nearer))


def test_slices_of_one_person_are_no_neighbours():
    """Heads far apart, four slices each: by slice everybody has near neighbours, by person the next head is far."""
    people = np.repeat(np.arange(12), 4)
    real = 100 * gaussian(12, 3, 0)[people] + gaussian(48, 3, 1)
    distances = apart(real, people)
    assert np.isinf(distances[people[:, None] == people[None]]).all()
    assert distances.min() > 5 * np.median(apart(real, np.arange(48)).min(axis=1))


def test_one_population_copies_shifts_and_collapse():
    real, same = gaussian(300, 4, 0), gaussian(300, 4, 1)
    good = scores(real, same)
    assert all(good[name] > 0.85 for name in ("precision", "recall", "coverage")) and 0.85 < good["density"] < 1.15
    assert all(abs(good[name] - 0.5) < 0.1 for name in ("nn_accuracy_real", "nn_accuracy_fake"))
    copy = scores(real, real.copy())
    assert copy["nn_accuracy_real"] == 0 == copy["nn_accuracy_fake"]  # each has its copy at no distance: overfitting
    far = scores(real, same + 100)
    assert far["precision"] == far["recall"] == far["density"] == far["coverage"] == 0
    assert far["nn_accuracy_real"] == far["nn_accuracy_fake"] == 1
    few = scores(real, np.repeat(same[:5], 60, axis=0) + gaussian(300, 4, 2, 0, 1e-3))
    assert few["precision"] > 0.8 and few["recall"] < 0.05 and few["coverage"] < 0.2 and few["nn_accuracy_fake"] == 1


def test_a_set_too_small_for_its_neighbours_reaches_nothing():
    found = scores(gaussian(2, 3, 0), gaussian(2, 3, 1))
    assert found["precision"] == found["recall"] == found["density"] == found["coverage"] == 0


def test_the_classifier_tells_apart_what_can_be_told_and_nothing_else():
    people = np.repeat(np.arange(20), 6)
    home = gaussian(20, 8, 5)[people]
    real, same = home + gaussian(120, 8, 0), gaussian(20, 8, 6)[people] + gaussian(120, 8, 1)
    chance = np.mean([side.mean() for side in told_apart(real, people, same, people)])
    assert 0.3 < chance < 0.65
    shifted = np.mean([side.mean() for side in told_apart(real, people, same + 2, people)])
    assert shifted > 0.9


def test_shuffled_names_cannot_be_told_apart():
    both = np.concatenate([gaussian(150, 8, 0), gaussian(150, 8, 1, 2)])
    shuffled = both[np.random.default_rng(2).permutation(300)]
    sorted_out = np.mean([side.mean() for side in told_apart(both[:150], np.arange(150), both[150:])])
    mixed = np.mean([side.mean() for side in told_apart(shuffled[:150], np.arange(150), shuffled[150:])])
    assert sorted_out > 0.95 and 0.4 < mixed < 0.6
    assert (
        scores(shuffled[:150], shuffled[150:])["nn_accuracy_fake"] < 0.62 < scores(both[:150], both[150:])["nn_accuracy_fake"]
    )


def test_the_classifier_judges_people_it_never_saw():
    """Each head far from all others, real and fake heads alike: a classifier that had seen a head's other slices would know them."""
    people = np.repeat(np.arange(10), 8)
    real, fake = (5 * gaussian(10, 30, seed)[people] + gaussian(80, 30, seed + 1) for seed in (0, 10))
    by_person = np.mean([side.mean() for side in told_apart(real, people, fake, people)])
    by_slice = np.mean([side.mean() for side in told_apart(real, np.arange(80), fake, np.arange(80))])
    assert by_slice > 0.9 and by_person < 0.75
