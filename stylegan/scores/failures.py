"""Where a generator fails: the worst of many fakes, picked by rules that no eye had a part in, each with a guess at the cause."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.metrics import pairwise_distances

from stylegan.scores.neighbours import K_PRECISION, apart
from stylegan.scores.picture_scores import area, spectrum, symmetry


class Reading(NamedTuple):
    """One number of each slice, and which end of it is bad."""

    real: np.ndarray  # [n]
    fake: np.ndarray  # [m]
    unit: str
    worst: Callable[[np.ndarray], int]  # the row of the case


def failure_cases(
    fake: np.ndarray, at_fake: np.ndarray, real: np.ndarray, at_real: np.ndarray, people: np.ndarray
) -> list[dict]:
    """Five cases ``{row, rule, value, real_low, real_high, unit, guess}`` among fakes uint8 [m, R, R], measured by real slices [n, R, R].

    The rules: least realistic (furthest from what real slices reach, Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 3), most
    asymmetric, oddest spectrum, smallest and largest head for what real heads are. ``real_low`` to ``real_high`` hold 98 % of the
    real slices. The guess is one: a hint where to look first, chosen by the sign of what is off.
    """
    tilt_real, tilt_fake, odd_real, odd_fake = _spectra(real, fake)
    readings = {
        "least realistic": Reading(
            _realism(at_real, people, at_real, people), _realism(at_real, people, at_fake), "realism", np.argmin
        ),
        "most asymmetric": Reading(symmetry(real), symmetry(fake), "correlation with its mirror", np.argmin),
        "oddest spectrum": Reading(odd_real, odd_fake, "standard deviations of real slices", np.argmax),
        "smallest head": Reading(area(real), area(fake), "% of the picture", np.argmin),
        "largest head": Reading(area(real), area(fake), "% of the picture", np.argmax),
    }
    guesses = {name: guess for name, guess in GUESSES.items() if not isinstance(guess, tuple)}
    cases, taken = [], set()
    for rule, reading in readings.items():
        free = np.array([row for row in range(len(fake)) if row not in taken])
        if not len(free):
            break
        row = int(free[reading.worst(reading.fake[free])])
        taken.add(row)
        low, high = np.quantile(reading.real, [0.01, 0.99])
        guess = (
            GUESSES["oddest spectrum"][int(tilt_fake[row] > tilt_real.mean())] if rule == "oddest spectrum" else guesses[rule]
        )
        inside = low <= reading.fake[row] <= high
        guess = "no failure: 98 of 100 real slices reach as far" if inside else guess
        cases.append(
            {"row": row, "rule": rule, "value": float(reading.fake[row]), "real_low": float(low), "real_high": float(high)}
            | {"unit": reading.unit, "guess": guess}
        )
    return cases


# A rule -> where to look first; for the spectrum (too little, too much) at high frequencies.
GUESSES: dict[str, str | tuple[str, str]] = {
    "least realistic": "a w from the rim of W, where few training slices pull the mapping: lower ψ, or train on",
    "most asymmetric": "coarse styles that disagree about the midline: nothing in the loss asks for symmetry, only examples do",
    "oddest spectrum": (
        "detail missing: the finest layers were not pulled at here (R1 too strong, or too short a training)",
        "too much of the finest detail: noise inputs grown too strong, or the checkerboard of the last resampling",
    ),
    "smallest head": "levels near the top of the head are the rarest, and interpolation between levels overshoots there",
    "largest head": "a head at the edge of the frame: augmentation by scale may have leaked into the generator",
}


def _realism(at_real: np.ndarray, people: np.ndarray, vectors: np.ndarray, names: np.ndarray | None = None) -> np.ndarray:
    """max over real slices of their reach (3rd nearest of another person) over the distance to them: [m], above 1 inside.

    The half of the real slices that reaches furthest is left out, as the paper advises: outliers would vouch for anything.
    """
    reach = np.partition(apart(at_real, people), K_PRECISION - 1, axis=1)[:, K_PRECISION - 1]
    near = np.flatnonzero(reach <= np.median(reach))
    distance = pairwise_distances(vectors, at_real[near])
    if names is not None:
        distance[names[:, None] == people[near][None]] = np.inf
    return (reach[near] / distance.clip(1e-12)).max(axis=1)


def _spectra(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(high frequencies of real [n], of fake [m] in dB, oddness of real [n], of fake [m]: root mean square z-score over rings)."""
    a, b = spectrum(real), spectrum(fake)
    mean, spread = a.mean(axis=0), a.std(axis=0).clip(1e-6)
    half = a.shape[1] // 2
    odd = [np.sqrt(np.square((x - mean) / spread).mean(axis=1)) for x in (a, b)]
    return a[:, half:].mean(axis=1), b[:, half:].mean(axis=1), *odd
