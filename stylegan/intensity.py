"""Grey values before training: fixed, by percentiles of each person, or standardised and then stretched.

Pixels stay uint8; training maps 0..255 to [-1, 1] in any case. Every rule takes one person's slices together, so that bright levels stay
bright beside dark ones. A generator draws what its data looked like: scores compare it with slices under the same rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from stylegan.dataset import SliceDataset

Rule = Callable[[np.ndarray], np.ndarray]  # values of one person -> values in [0, 1]
LOW, HIGH = 0.5, 99.5  # percentiles that become black and white


def percentiles(x: np.ndarray) -> np.ndarray:
    """The 0.5th percentile becomes 0 and the 99.5th 1; what lies beyond is cut off: a few hot pixels decide nothing."""
    low, high = np.percentile(x, [LOW, HIGH])
    return ((x - low) / max(high - low, 1e-12)).clip(0, 1)


def standardise_then_unit(x: np.ndarray) -> np.ndarray:
    """(x - mean) / deviation, and the result from its least to its greatest value onto [0, 1], as two steps.

    The first step cancels out of the second: this is `min_max`, whatever the mean and the deviation are.
    """
    z = (x - x.mean()) / max(x.std(), 1e-12)
    return min_max(z)


def min_max(x: np.ndarray) -> np.ndarray:
    """(x - min) / (max - min)."""
    return (x - x.min()) / max(x.max() - x.min(), 1e-12)


RULES: dict[str, Rule | None] = {"fixed": None, "percentiles": percentiles, "standardise": standardise_then_unit}


def normalised(data: SliceDataset, rule: str) -> SliceDataset:
    """The slices under one of `RULES`, person by person; 'fixed' leaves them as they are. ValueError for another name."""
    if rule not in RULES:
        raise ValueError(f"normalise is {rule!r}; choose one of {', '.join(RULES)}.")
    function = RULES[rule]
    if function is None:
        return data
    images = np.empty(data.images.shape, dtype=np.uint8)
    for subject in np.unique(data.subjects):
        rows = np.flatnonzero(data.subjects == subject)
        images[rows] = np.rint(function(data.images[rows].astype(np.float64)) * 255)
    key = hashlib.sha256(f"{data.key} {rule}".encode()).hexdigest()
    return replace(data, images=images, key=key)
