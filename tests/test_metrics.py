"""Scores: against torchmetrics and closed forms, and intervals and floors by subject."""

import numpy as np
import pytest
import torch
from phantoms import phantoms

from stylegan.scores.features import features
from stylegan.scores.metrics import (
    draw_people,
    floor,
    frechet_distance,
    jackknife,
    kernel_distance,
    kid_against,
    score,
    scores_while_training,
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


@pytest.mark.parametrize("shape", [(300, 8), (40, 200)])
def test_identical_sets_are_at_no_distance_and_shifts_add_up(shape):
    x = gaussian(*shape, 0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-4)
    assert kernel_distance(x, x) <= 0  # the pairs (x_i, x_i) across count, those within do not
    steps = [0.2, 0.4, 0.8]
    assert [frechet_distance(x, x + s) for s in steps] == pytest.approx([shape[1] * s**2 for s in steps], rel=1e-3)
    kid = [kernel_distance(x, x + s) for s in steps]
    assert kid == sorted(kid) and kid[0] > kernel_distance(x, x)


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


def test_interval_contains_the_value_and_does_not_depend_on_names():
    x, y, people = population(10, 5, 0), gaussian(50, 6, 1, 0.5), np.repeat(np.arange(10), 5)
    found = jackknife(frechet_distance, x, people, y)
    assert found["low"] < found["value"] < found["high"]
    assert found["value"] == frechet_distance(x, y)
    renamed = np.array([f"person {chr(75 - p)}" for p in people])  # at most 24 people: each left out alone, in any order
    other = jackknife(frechet_distance, x, renamed, y, seed=5)
    assert other["high"] - other["low"] == pytest.approx(found["high"] - found["low"], rel=0.5)


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


def test_floor_is_the_mean_and_range_of_its_draws():
    x = gaussian(40, 6, 0)
    draws = [gaussian(40, 6, s) for s in range(1, 9)]
    values = [kernel_distance(x, y) for y in draws]
    found = floor(kernel_distance, x, draws)
    assert found["value"] == pytest.approx(np.mean(values))
    assert min(values) <= found["low"] < found["value"] < found["high"] <= max(values)


def spoiled(pictures: np.ndarray, how: str) -> np.ndarray:
    x = pictures.astype(np.float64)
    if how == "blur":
        x = sum(np.roll(x, shift, axis) for shift in (-1, 0, 1) for axis in (1, 2)) / 6
    if how == "checkerboard":
        x = x + 20 * (np.indices(x.shape[1:]).sum(axis=0) % 2)
    if how == "noise":
        x = x + np.random.default_rng(0).normal(0, 12, x.shape)
    return x.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def real_and_others() -> tuple:
    names = np.repeat(np.arange(40), 6)
    pictures = phantoms(40, 6, 0)
    at = features(pictures)
    return pictures, at, names


def test_other_people_reach_the_floor_and_controls_do_not(real_and_others):
    pictures, at, names = real_and_others
    real, fresh, others = names < 10, (names >= 10) & (names < 20), names >= 20

    def scored(fake: np.ndarray) -> dict:
        return score(at[real], names[real], fake, at[others], names[others])

    good = scored(at[fresh])
    assert {f"{name}{end}" for name in ("kid", "fd", "recall", "classifier") for end in ("", "_floor")} < set(good)
    for name in ("kid", "fd"):
        assert good[name]["low"] < good[f"{name}_floor"]["high"]  # as good as real
    for how in ("blur", "checkerboard", "noise"):
        bad = scored(features(spoiled(pictures[fresh], how)))
        for name in ("kid", "fd"):
            assert bad[name]["low"] > bad[f"{name}_floor"]["high"], (how, name)
            assert bad[f"{name}_floor"] == good[f"{name}_floor"]  # the floor knows nothing of the fakes


def test_score_is_reported_times_1000_and_refuses_shared_people(real_and_others):
    _, at, names = real_and_others
    real, others = names < 10, names >= 20
    fake = at[(names >= 10) & (names < 20)]
    found = score(at[real], names[real], fake, at[others], names[others])
    assert found["kid"]["value"] == pytest.approx(1000 * kernel_distance(at[real], fake))
    assert found["fd"]["value"] == pytest.approx(frechet_distance(at[real], fake))
    with pytest.raises(ValueError, match="disjoint"):
        score(at[real], names[real], fake, at, names)
    with pytest.raises(ValueError, match="equally many"):
        score(at[real], names[real], fake[:-1], at[others], names[others])


def test_kid_during_training_is_the_same_number(real_and_others):
    pictures, at, names = real_and_others
    images = torch.from_numpy(pictures[names >= 20])[:, None].float() / 127.5 - 1
    expected = kernel_distance(at[names < 10], at[names >= 20])
    assert kid_against(at[names < 10], images) == pytest.approx(expected, rel=1e-3)
    found = scores_while_training(at[names < 10], names[names < 10], images)
    assert found["kid"] == pytest.approx(1000 * expected, rel=1e-3)
    assert found["precision"] > 0.5 and found["recall"] > 0.5  # other people of the same kind
