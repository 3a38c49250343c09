"""Train on synthetic slices, test on real ones: does what is learnt from fakes hold for people?

Esteban et al. 2017 (arXiv:1706.02633, section 4.2). Each arm learns from equally many slices and is tried on the same held-out
people. What counts is the difference to the arm that learnt from real slices, with its interval by person.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stylegan.directions import Gauge
from stylegan.truth.evidence import Evidence
from stylegan.truth.readers import balanced_accuracy, fit_classifier, fit_reader, interval

SHUFFLES = 5
Statistic = Callable[[np.ndarray, np.ndarray], float]  # (truth [n], guess [n]) -> number


def learn_groups(e: Evidence, names: list[int]) -> dict:
    """Balanced accuracy on held-out people of classifiers that learnt from real, from synthetic, from both, from shuffled slices.

    {arms{name: {value, low, high}}, synthetic_minus_real, chance, n}; {} without a conditional generator or two classes.
    """
    if e.asked is None or len(names) < 2:
        return {}
    real, fakes = e.train & np.isin(e.slices.labels, names), np.isin(e.asked, names)
    held = ~e.train & np.isin(e.slices.labels, names)
    rows, drawn = _equally_many(np.flatnonzero(real), np.flatnonzero(fakes))
    seeds = np.array([f"seed {i}" for i in drawn])  # every fake is a person of its own
    sets = {
        "real": (e.at[rows], e.slices.labels[rows], e.people[rows]),
        "synthetic": (e.at_fakes[drawn], e.asked[drawn], seeds),
    }
    sets["both"] = tuple(np.concatenate(pair) for pair in zip(*sets.values(), strict=True))
    guesses, truth = {name: fit_classifier(*one).predict(e.at[held]) for name, one in sets.items()}, e.slices.labels[held]
    found = _arms(balanced_accuracy, truth, guesses, e.people[held], truth)

    def score(dealt: np.ndarray) -> float:
        return balanced_accuracy(truth, fit_classifier(e.at_fakes[drawn], dealt, seeds).predict(e.at[held]))

    found["arms"]["synthetic, shuffled"] = _control(score, e.asked[drawn])
    return {**found, "chance": 1 / len(names), "n": len(rows)}


def learn_levels(e: Evidence, gauge: Gauge | None) -> dict:
    """Mean error in levels on held-out people of readers that learnt from real and from synthetic slices.

    Nobody tells a fake's level, so a teacher does: ``gauge``, which reads it off 16 x 16 means and never sees features. An arm
    of real slices with the teacher's levels tells apart what the teacher costs from what the fakes cost; the difference is
    taken to that arm. {arms, synthetic_minus_real, guess_the_mean, n}; {} where levels or the teacher are missing.
    """
    if gauge is None:
        return {}
    rows, drawn = _equally_many(np.flatnonzero(e.train), np.arange(len(e.fakes)))
    seeds, levels = np.array([f"seed {i}" for i in drawn]), e.slices.levels.astype(float)
    told = gauge(e.slices.images[rows]), gauge(e.fakes[drawn])
    sets = {
        "real, true levels": (e.at[rows], levels[rows], e.people[rows]),
        "real": (e.at[rows], told[0], e.people[rows]),
        "synthetic": (e.at_fakes[drawn], told[1], seeds),
    }
    held = ~e.train
    guesses = {name: fit_reader(*one).predict(e.at[held]) for name, one in sets.items()}
    found = _arms(_error, levels[held], guesses, e.people[held])

    def score(dealt: np.ndarray) -> float:
        return _error(levels[held], fit_reader(e.at_fakes[drawn], dealt, seeds).predict(e.at[held]))

    found["arms"]["synthetic, shuffled"] = _control(score, told[1])
    return {**found, "guess_the_mean": _error(levels[held], np.full(held.sum(), levels[rows].mean())), "n": len(rows)}


def _control(score: Callable[[np.ndarray], float], told: np.ndarray) -> dict[str, float]:
    """{value, low, high}: mean and range of the score over five shuffles of what the slices are said to show: nothing to learn.

    One would not do: a weight that chance gave to the widest direction tells classes apart, or just the wrong way round.
    """
    rng = np.random.default_rng(0)
    found = [score(rng.permutation(told)) for _ in range(SHUFFLES)]
    return {"value": float(np.mean(found)), "low": min(found), "high": max(found)}


def _error(truth: np.ndarray, guess: np.ndarray) -> float:
    return float(np.abs(truth - guess).mean())


def _equally_many(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rng, n = np.random.default_rng(0), min(len(a), len(b))
    return np.sort(rng.choice(a, n, replace=False)), np.sort(rng.choice(b, n, replace=False))


def _arms(statistic: Statistic, truth: np.ndarray, guesses: dict, people: np.ndarray, strata: np.ndarray | None = None) -> dict:
    """Each arm's statistic, and that of 'synthetic' less that of 'real' on the same draws of people."""

    def difference(truth: np.ndarray, synthetic: np.ndarray, real: np.ndarray) -> float:
        return statistic(truth, synthetic) - statistic(truth, real)

    arms = {name: interval(statistic, people, truth, guess, strata=strata) for name, guess in guesses.items()}
    apart = interval(difference, people, truth, guesses["synthetic"], guesses["real"], strata=strata)
    return {"arms": arms, "synthetic_minus_real": apart}
