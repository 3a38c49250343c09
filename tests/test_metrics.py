"""Distances, neighbours and the classifier: against torchmetrics, prdc, closed forms and loops; intervals, floors and spoiled sets."""

import numpy as np
import pytest
import torch
from phantoms import phantoms

from stylegan.scores.features import features
from stylegan.scores.intervals import draw_people, jackknife, leave_out, p_value
from stylegan.scores.memorisation import nearest
from stylegan.scores.metrics import (
    K_DENSITY,
    K_PRECISION,
    Neighbourhood,
    apart,
    compare_features,
    compare_pictures,
    compare_variety,
    control_sets,
    floor_draws,
    frechet_distance,
    kernel_distance,
    score_control,
    told_apart,
)


def gaussian(n: int, d: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(mean, scale, (n, d))).astype(np.float32)


class Passed(torch.nn.Module):
    """Lets torchmetrics score features as they are: a 'picture' [n, D, 1, 1] is its own feature."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.num_features = d

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


# ------------------------------------------------------------------------------------------------------------- distances


def test_kernel_distance_against_torchmetrics():
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = gaussian(80, 12, 0), gaussian(80, 12, 1, mean=0.3)
    oracle = kid.KernelInceptionDistance(feature=Passed(12), subsets=1, subset_size=80).set_dtype(torch.float64)
    oracle.update(torch.from_numpy(x).double(), real=True)
    oracle.update(torch.from_numpy(y).double(), real=False)
    assert kernel_distance(x, y) == pytest.approx(float(oracle.compute()[0]), rel=1e-5)


@pytest.mark.parametrize("d", [6, 40])
def test_frechet_distance_against_torchmetrics(d):
    fid = pytest.importorskip("torchmetrics.image.fid")
    x, y = gaussian(100, d, 0), gaussian(90, d, 1, mean=0.3, scale=1.5)
    oracle = fid.FrechetInceptionDistance(feature=Passed(d), input_img_size=(1, 1, 1)).set_dtype(torch.float64)
    oracle.update(torch.from_numpy(x)[..., None, None].double(), real=True)
    oracle.update(torch.from_numpy(y)[..., None, None].double(), real=False)
    assert frechet_distance(x, y) == pytest.approx(float(oracle.compute()), rel=1e-4)


def test_kernel_distance_against_the_double_sum():
    x, y = gaussian(7, 3, 0).astype(float), gaussian(5, 3, 1).astype(float)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (a @ b / 3 + 1) ** 3

    within_x = np.mean([k(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
    across = np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(within_x + within_y - 2 * across, rel=1e-9)


def test_kernel_distance_is_unbiased_at_small_n():
    values = [kernel_distance(gaussian(20, 8, 2 * s), gaussian(20, 8, 2 * s + 1)) for s in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20
    assert min(values) < 0


def sample_with(mean: np.ndarray, covariance: np.ndarray, n: int, seed: int) -> np.ndarray:
    """n points with exactly this mean and covariance."""
    z = gaussian(n, len(mean), seed).astype(np.float64)
    z -= z.mean(axis=0)
    z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T))).T
    return z @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_known_gaussians():
    """Commuting covariances: |m|^2 + sum (sqrt a - sqrt b)^2 over the shared axes."""
    axes = np.linalg.qr(gaussian(5, 5, 7).astype(float))[0]
    a, b, shift = np.array([1, 2, 3, 4, 5.0]), np.array([2, 2, 1, 9, 0.5]), np.arange(5) / 3
    x = sample_with(np.zeros(5), axes @ np.diag(a) @ axes.T, 50, 0)
    y = sample_with(shift, axes @ np.diag(b) @ axes.T, 60, 1)
    assert frechet_distance(x, y) == pytest.approx(shift @ shift + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2), rel=1e-9)


def test_frechet_distance_with_fewer_points_than_dimensions():
    """Zero columns add dimensions and no distance; a set scaled by s about its mean is (s - 1)^2 times its variance away."""
    x, y = gaussian(30, 10, 0), gaussian(30, 10, 1, 0.5, 2)
    wide = [np.hstack([z, np.zeros((30, 90))]) for z in (x, y)]
    assert frechet_distance(*wide) == pytest.approx(frechet_distance(x, y), rel=1e-6)
    x = gaussian(20, 200, 3).astype(np.float64)
    scaled = x.mean(axis=0) + 3 * (x - x.mean(axis=0))
    assert frechet_distance(x, scaled) == pytest.approx(4 * x.var(axis=0, ddof=1).sum(), rel=1e-6)


@pytest.mark.parametrize("distance", [kernel_distance, frechet_distance])
def test_distances_are_symmetric_and_refuse_unfit_samples(distance):
    x, y = gaussian(30, 50, 0), gaussian(45, 50, 1, 0.2)
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-6)
    for a, b in ((x, y[:, :5]), (x[:1], y), (x[0], y)):
        with pytest.raises(ValueError, match="samples"):
            distance(a, b)


# ------------------------------------------------------------------------------------------------- intervals and floors


def population(people: int, levels: int, seed: int, d: int = 6) -> np.ndarray:
    """Features [people * levels, d] in which the slices of a person stand together."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 1, (people, 1, d)) + rng.normal(0, 0.3, (people, levels, d))).reshape(-1, d)


def test_interval_is_as_wide_as_scores_of_new_people_spread():
    """Over 60 samples of 12 people the interval holds the long-run score about 95 % of the time; by slice it would be far too narrow."""
    people = np.repeat(np.arange(12), 8)
    pairs = [(population(12, 8, s), gaussian(96, 6, 1000 + s, 0.7)) for s in range(60)]
    found = [jackknife(kernel_distance, x, people, y) for x, y in pairs]
    values = np.array([entry["value"] for entry in found])
    half = np.array([entry["high"] - entry["value"] for entry in found])
    assert np.mean(np.abs(values - values.mean()) < half) >= 0.85
    assert 0.6 < np.mean(half) / (2.2 * values.std()) < 1.7
    by_slice = [jackknife(kernel_distance, x, np.arange(96), y) for x, y in pairs[:10]]
    assert np.mean([entry["high"] - entry["value"] for entry in by_slice]) < 0.6 * np.mean(half)


def test_interval_needs_two_people():
    with pytest.raises(ValueError, match="at least 2 subjects"):
        jackknife(kernel_distance, gaussian(9, 3, 0), np.zeros(9), gaussian(9, 3, 1))


def test_draws_take_whole_people_and_exactly_n():
    people = np.repeat(np.arange(30), 4)
    rows = draw_people(people, 5, 20, np.random.default_rng(0))
    assert len(set(rows)) == 20 and len(set(people[rows])) == 5
    thin = draw_people(people, 10, 20, np.random.default_rng(0))
    assert len(set(thin)) == 20 and 5 < len(set(people[thin])) <= 10
    more = draw_people(people, 1, 20, np.random.default_rng(0))
    assert len(set(people[more])) == 5
    assert len(draw_people(people, 4, 120, np.random.default_rng(0))) == 120


def test_a_group_without_a_number_is_passed_over():
    """A number that cannot be taken without one of the groups has its interval from the others, and none from a single one."""
    people = np.repeat(np.arange(6), 2)
    found = leave_out(
        lambda r, _: {"mean": r.mean(), "often": np.nan if 0 in r else 1.0, "whole": 3.0 if len(r) == 12 else np.nan}, people
    )
    assert found["mean"]["low"] < found["mean"]["value"] < found["mean"]["high"]
    assert found["whole"] == {"value": 3.0, "low": 3.0, "high": 3.0}


def test_p_values_are_uniform_under_chance_and_small_for_an_effect():
    """The shared permutation test: of 100 shuffled sets a tenth has p <= .1; a set in order has the smallest p there is."""

    def slope(values: np.ndarray) -> float:
        return float(np.corrcoef(values, np.arange(len(values)))[0, 1])

    def deal(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(values)

    ps = [p_value(slope, np.random.default_rng(s).normal(size=12), deal, draws=99, seed=s).p_value for s in range(100)]
    assert 0.03 <= np.mean(np.array(ps) <= 0.1) <= 0.2 and 0.4 < np.mean(ps) < 0.6
    found = p_value(slope, np.arange(12.0), deal, draws=99)
    assert found.p_value == 0.01 and found.value == pytest.approx(1) and abs(found.expected) < 0.2
    assert p_value(slope, np.arange(12.0), deal, draws=99, small=True).p_value == 1


# ----------------------------------------------------------------------------------------------------------- neighbours


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


def test_the_classifier_judges_people_it_never_saw():
    """Each head far from all others, real and fake heads alike: a classifier that had seen a head's other slices would know them."""
    people = np.repeat(np.arange(10), 8)
    real, fake = (5 * gaussian(10, 30, seed)[people] + gaussian(80, 30, seed + 1) for seed in (0, 10))
    by_person = np.mean([side.mean() for side in told_apart(real, people, fake, people)])
    by_slice = np.mean([side.mean() for side in told_apart(real, np.arange(80), fake, np.arange(80))])
    assert by_slice > 0.9 and by_person < 0.75


def test_symmetric_recall_counts_real_slices_with_a_fake_in_their_own_reach():
    real, fake, people = gaussian(40, 4, 0), gaussian(30, 4, 1, 0.3), np.repeat(np.arange(10), 4)
    others = [sorted(np.linalg.norm(real[i] - real[j]) for j in range(40) if people[j] != people[i])[2] for i in range(40)]
    expected = np.mean([np.linalg.norm(fake - real[i], axis=1).min() < others[i] for i in range(40)])
    assert scores(real, fake, people)["recall_symmetric"] == pytest.approx(expected) and 0 < expected < 1
    # Drawn in towards the mean by a third, recall is lost and the symmetric one is not.
    shrunk = scores(real, 0.65 * gaussian(40, 4, 7))
    assert shrunk["recall"] < 0.6 * shrunk["recall_symmetric"]


def test_realism_is_the_best_ratio_of_reach_and_distance():
    real, fake = gaussian(20, 3, 0), np.concatenate([gaussian(5, 3, 0), np.full((1, 3), 50.0)])
    found = Neighbourhood(real, np.arange(20), fake).realism()
    reach = np.sort(apart(real, np.arange(20)), axis=1)[:, 2]
    kept = reach <= np.median(reach)
    expected = [max(reach[kept] / np.linalg.norm(real[kept] - x, axis=1).clip(1e-12)) for x in fake]
    assert found == pytest.approx(expected) and found.argmin() == 5 and found[5] < 0.1


# -------------------------------------------------------------------------------------------- all at once, and spoiled sets


@pytest.fixture(scope="module")
def sides():
    """(slices, features, people) of 12 held-out people and of 36 others."""
    people, pictures = np.repeat(np.arange(48), 5), phantoms(48, 5, 0)
    at = features(pictures)
    return tuple((pictures[rows], at[rows], people[rows]) for rows in (people < 12, people >= 12))


@pytest.fixture(scope="module")
def judged(sides):
    """(scores and floors of fresh people in place of fakes, scores of each control)."""
    held, (others, at_others, other_people) = sides
    draws = floor_draws(held[2], other_people)
    fresh = phantoms(60, 5, 7)[np.arange(60) * 5 + np.arange(60) % 5]  # a perfect generator: nobody twice
    good = compare_features(held[1], held[2], features(fresh), at_others, other_people)
    good |= compare_pictures(held[0], held[2], fresh, others, draws)
    found = {}
    for name, control in control_sets(others, draws[0]).items():
        whose = None if name == "collapsed" else other_people[draws[0]]
        found[name] = score_control(held, (control, features(control), whose))
        found[name]["memory"] = np.median(nearest(features(control), at_others)[0])
    return good, found


@pytest.mark.parametrize("how", ["blurred", "noised"])
def test_spoiled_slices_fail_where_they_must(judged, how):
    good, controls = judged
    for key in ("kid", "fd", "nn_accuracy_fake", "classifier", *["spectrum"] * (how == "blurred")):
        assert controls[how][key] > good[f"{key}_floor"]["high"], key  # phantoms have noise of their own
    for key in ("precision", "coverage"):
        assert controls[how][key] < good[f"{key}_floor"]["low"], key


def test_few_slices_again_and_again_lack_recall_and_coverage(judged):
    good, controls = judged
    few = controls["collapsed"]
    assert few["precision"] > 0.5 and few["nn_accuracy_fake"] == 1
    assert few["recall"] < good["recall_floor"]["low"] and few["coverage"] < good["coverage_floor"]["low"]
    assert few["ms_ssim"] > good["ms_ssim_real"]["value"] and few["dimensions"] < 0.5 * controls["memorised"]["dimensions"]


def test_memorised_slices_have_no_fault_but_their_nearness(judged):
    good, controls = judged
    copies = controls["memorised"]
    for key in ("kid", "fd", "spectrum"):
        assert copies[key] <= good[f"{key}_floor"]["high"], key
    assert copies["recall"] >= good["recall_floor"]["low"] and copies["classifier"] < 0.65
    assert copies["memory"] == pytest.approx(0, abs=1e-3) and controls["blurred"]["memory"] > 1


def test_variety_of_new_people_reaches_the_floor_and_a_collapse_does_not(sides):
    (real, _, people), (others, _, other_people) = sides
    draws = floor_draws(people, other_people)
    fresh = phantoms(60, 5, 7)[np.arange(60) * 5 + np.arange(60) % 5]
    few = np.resize(fresh[:3], fresh.shape) + np.random.default_rng(0).integers(0, 2, fresh.shape).astype(np.uint8)
    found = compare_variety(real, people, {"": fresh, "_fixed_noise": few}, others, other_people, draws)
    assert found["n"] == 60
    for name in ("dimensions", "dimensions_90", "spread"):
        good, bad = found[name], found[f"{name}_fixed_noise"]
        assert good["high"] >= good["floor"]["low"] and bad["high"] < bad["floor"]["low"], name
        assert good["ratio"]["value"] == pytest.approx(good["value"] / good["real"]) and bad["real"] == good["real"]
        assert bad["ratio"]["low"] <= bad["ratio"]["value"] <= bad["ratio"]["high"] < 0.9


def test_scores_are_times_1000_and_refuse_shared_people(sides):
    (_, at_real, people), (_, at_others, other_people) = sides
    fake = at_others[:60]
    found = compare_features(at_real, people, fake, at_others[60:], other_people[60:])
    assert found["kid"]["value"] == pytest.approx(1000 * kernel_distance(at_real, fake))
    assert found["fd"]["value"] == pytest.approx(frechet_distance(at_real, fake))
    with pytest.raises(ValueError, match="disjoint"):
        compare_features(at_real, people, fake, at_real, people)
    with pytest.raises(ValueError, match="equally many"):
        compare_features(at_real, people, fake[:-1], at_others, other_people)


def test_floor_draws_take_as_many_slices_and_people(sides):
    (_, _, people), (_, _, others) = sides
    draws = floor_draws(people, others)
    assert all(len(set(rows)) == len(people) and len(set(others[rows])) == 12 for rows in draws) and len(draws) == 20
