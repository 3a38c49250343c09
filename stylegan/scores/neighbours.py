"""Scores that ask who lies beside whom in feature space: precision and recall, density and coverage, 1-NN, a classifier.

The next level of the same head is always nearest, so slices of one person never count as neighbours: every k-th nearest slice
here is the k-th nearest *of another person*. A fake is a person of its own.
"""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

K_PRECISION, K_DENSITY = 3, 5
SCORES = ("precision", "recall", "density", "coverage", "nn_accuracy_real", "nn_accuracy_fake")


class Neighbourhood:
    """Distances within and between real [n, D] and fake [m, D], those between slices of one person taken out."""

    def __init__(self, real: np.ndarray, people: np.ndarray, fake: np.ndarray, fake_people: np.ndarray | None = None):
        self.within_real = apart(real, people)  # [n, n]
        self.within_fake = apart(fake, np.arange(len(fake)) if fake_people is None else fake_people)  # [m, m]
        self.across = pairwise_distances(real, fake)  # [n, m]

    def scores(self, real: np.ndarray | slice = slice(None), fake: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """The six `SCORES` of these rows.

        precision: share of fakes within the reach of some real slice, its distance to the 3rd nearest real one; recall: the
        same with real and fake exchanged (Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2). density: how many real
        slices, of 5, reach a fake on average; coverage: share of real slices that reach a fake, both with the distance to the
        5th (Naeem et al. 2020, arXiv:2002.09797, eq. 3 and 4): unlike precision they are not led astray by one real slice far
        out. nn_accuracy: share of real (fake) slices whose nearest is real (fake), near 1/2 for one population (Lopez-Paz &
        Oquab 2017, arXiv:1610.06545; apart, as Xu et al. 2018, arXiv:1806.07755, advise: real high and fake high is a bad
        generator, real low and fake high is a copying one). A slice without k others reaches nothing.
        """
        rr, ff, rf = self.within_real[real][:, real], self.within_fake[fake][:, fake], self.across[real][:, fake]
        near_real, near_fake = (_kth_nearest(d, K_PRECISION) for d in (rr, ff))
        reached = rf < _kth_nearest(rr, K_DENSITY)[:, None]  # [n, m]
        return {
            "precision": float((rf < near_real[:, None]).any(axis=0).mean()),
            "recall": float((rf < near_fake[None]).any(axis=1).mean()),
            "density": float(reached.mean() * len(rr) / K_DENSITY),
            "coverage": float(reached.any(axis=1).mean()),
            "nn_accuracy_real": float((rr.min(axis=1) < rf.min(axis=1)).mean()),
            "nn_accuracy_fake": float((ff.min(axis=1) < rf.min(axis=0)).mean()),
        }


def apart(vectors: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Distances [n, n] between vectors [n, D], infinite between those of one person (and of a slice to itself)."""
    distances = pairwise_distances(vectors)
    distances[people[:, None] == people[None]] = np.inf
    return distances


def _kth_nearest(distances: np.ndarray, k: int) -> np.ndarray:
    """The k-th smallest of each row [n]; 0, a reach of nothing, where a row has fewer than k finite ones."""
    if distances.shape[1] < k:
        return np.zeros(len(distances))
    radius = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return np.where(np.isfinite(radius), radius, 0)


def told_apart(
    real: np.ndarray, people: np.ndarray, fake: np.ndarray, fake_people: np.ndarray | None = None, *, folds: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """The classifier two-sample test (Lopez-Paz & Oquab 2017): which slices a classifier puts right that never saw their person.

    (right [n], right [m]), bool. Logistic regression on 64 principal components, each fold of people judged by one that was
    fitted to the others. Half of them right: it cannot tell; all right: everything here tells real from fake.
    """
    fake_people = np.arange(len(fake)) if fake_people is None else fake_people
    x, y = np.concatenate([real, fake]), np.repeat([0, 1], [len(real), len(fake)])
    groups = np.unique(np.concatenate([[f"r{p}" for p in people], [f"f{p}" for p in fake_people]]), return_inverse=True)[1]
    right = np.zeros(len(x), bool)
    for fit, judge in GroupKFold(min(folds, len(np.unique(groups)))).split(x, y, groups):
        size = min(64, len(fit) - 1, x.shape[1])
        parts = StandardScaler(), PCA(size, random_state=0), LogisticRegression(C=0.1, class_weight="balanced", max_iter=500)
        right[judge] = make_pipeline(*parts).fit(x[fit], y[fit]).predict(x[judge]) == y[judge]
    return right[: len(real)], right[len(real) :]
