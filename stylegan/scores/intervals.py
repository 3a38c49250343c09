"""How sure a score is: intervals by person, floors from other people, and the p-value of every permutation test.

People, not slices, are the independent observations: neighbouring levels of one head are nearly one picture. A bootstrap gives
no interval here: drawing with replacement puts a slice beside itself, where distances are 0 and k(x, x) enters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

Statistic = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]  # rows of real and of fake slices -> named numbers
Interval = dict[str, float]  # {value, low, high}
Deal = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # values [N] -> the same as they might be if they meant nothing


def leave_out(statistic: Statistic, people: np.ndarray, fakes: int = 0) -> dict[str, Interval]:
    """Each number of ``statistic(real rows, fake rows)`` as {value, low, high}, a 95 % interval by person.

    ``people`` [n] names the person of each real slice. They fall at random into g = min(people, 24) groups; the numbers are
    taken g times, each time without one group and without one g-th of the fakes, and their variance is (g-1)/g times the summed
    squared deviations from their mean (the delete-a-group jackknife, Kott 2001; Student's t with g-1 degrees of freedom). So
    the interval holds both sources of chance, who was scanned and which fakes were drawn, and the bias at small n, the same in
    all g, stays out of it. A group without which a number is nan is passed over. ValueError for fewer than two people.
    """
    names, index = np.unique(people, return_inverse=True)
    groups = min(len(names), 24)  # with so many people each is left out alone
    if groups < 2:
        raise ValueError(f"An interval by subject needs slices of at least 2 subjects; these are of {len(names)}.")
    real_group = np.random.default_rng(0).permutation(len(names))[index] % groups
    fake_group = np.arange(fakes) % groups
    whole = statistic(np.arange(len(people)), np.arange(fakes))
    parts = [statistic(np.flatnonzero(real_group != g), np.flatnonzero(fake_group != g)) for g in range(groups)]
    found = {}
    for name, value in whole.items():
        without, half = np.array([part[name] for part in parts]), 0.0
        without = without[np.isfinite(without)]
        if (g := len(without)) > 1:
            half = stats.t.ppf(0.975, g - 1) * np.sqrt((g - 1) / g * np.square(without - without.mean()).sum())
        found[name] = {"value": float(value), "low": float(value - half), "high": float(value + half)}
    return found


def interval_of(
    statistic: Callable[[np.ndarray, np.ndarray], float], people: np.ndarray, fakes: int = 0, high: float = np.inf
) -> Interval:
    """`leave_out` of a single number, cut to the range from 0 to ``high`` that it can have."""
    return clipped(leave_out(lambda *rows: {"": float(statistic(*rows))}, people, fakes)[""], high=high)


def clipped(interval: Interval, low: float = 0.0, high: float = np.inf) -> Interval:
    """An interval cut to the range that its score can have: that of a jackknife knows no bounds."""
    return {name: float(np.clip(value, low, high)) for name, value in interval.items()}


def spread_of(values: Sequence[float]) -> Interval:
    """{value, low, high}: mean and central 95 % of some numbers."""
    low, high = np.quantile(values, [0.025, 0.975])
    return {"value": float(np.mean(values)), "low": float(low), "high": float(high)}


def floors_of(rows: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    """`spread_of` of each number that some draws of other people gave, its name followed by ``_floor``."""
    return {f"{name}_floor": spread_of([row[name] for row in rows]) for name in rows[0]}


def share(right: int, n: int) -> Interval:
    """{value, low, high}: a share of n answers with its exact 95 % interval (Clopper & Pearson 1934)."""
    bounds = stats.binomtest(right, n).proportion_ci(0.95)
    return {"value": right / n, "low": float(bounds.low), "high": float(bounds.high)}


def draw_people(people: np.ndarray, count: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of n slices of ``count`` random people, thinned at random; of more people where these have too few."""
    names, index, slices = np.unique(people, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    enough = int(np.searchsorted(np.cumsum(slices[order]), n)) + 1
    chosen = np.flatnonzero(np.isin(index, order[: max(count, enough)]))
    return np.sort(rng.choice(chosen, n, replace=False))


class Chance(NamedTuple):
    value: float
    expected: float  # mean of the values that chance gives
    p_value: float


def p_value(
    statistic: Callable[[np.ndarray], float], values: np.ndarray, deal: Deal, *, draws: int = 999, small: bool = False
) -> Chance:
    """How often ``statistic(deal(values, rng))`` is as large as ``statistic(values)``, or for ``small`` as small: one-sided.

    ``deal`` rearranges whole people where a person is the unit. The p-value of a permutation test, (1 + such draws) / (1 +
    draws), is never 0 (Phipson & Smyth 2010).
    """
    rng, value, sign = np.random.default_rng(0), float(statistic(values)), -1 if small else 1
    chance = np.array([statistic(deal(values, rng)) for _ in range(draws)])
    return Chance(value, float(chance.mean()), float((1 + np.sum(sign * (chance - value) >= -1e-12)) / (1 + draws)))
