"""Two sets of slices compared: distances (KID, FD), neighbours (precision to 1-NN), a classifier, and all scores at once with floors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from stylegan.scores.intervals import Distance, Interval, clipped, draw_people, floor, jackknife, leave_out, spread_of
from stylegan.scores.pixels import (
    PICTURE_SCORES,
    PICTURES,
    Variety,
    best_similarity,
    blurred,
    noised,
    similarity_of_pairs,
)

DRAWS = 20  # of other people for the floor

# --- Distances of feature vectors -------------------------------------------------------------------------------------------------


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Kernel distance of x [n, D] and y [m, D]: KID in the given feature space, usually reported times 1000.

    The unbiased squared maximum mean discrepancy under k(a, b) = (a.b / D + 1)^3 (Binkowski et al. 2018, arXiv:1801.01401,
    sections 2.1 and 4): mean of k over pairs within x, plus within y, minus twice across. It may be slightly negative.
    """
    x, y = _as_samples(x, y)

    def mean_within(a: np.ndarray) -> float:
        kernel = _cubic_kernel(a, a)
        return (kernel.sum() - np.trace(kernel)) / (len(a) * (len(a) - 1))  # without k(a_i, a_i): unbiased

    return float(mean_within(x) + mean_within(y) - 2 * _cubic_kernel(x, y).mean())


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance of Gaussians fitted to x [n, D] and y [m, D] (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    |mx - my|^2 + tr Sx + tr Sy - 2 tr (Sx Sy)^(1/2). With Sx = A^T A (A: centred rows over sqrt(n - 1)) and Sy = B^T B the
    last trace is the sum of the singular values of A B^T, found from min(n, m, D) rows in double precision: singular
    covariances (n < D) do no harm. Biased upwards at small n: compare only at equal n.
    """
    x, y = _as_samples(x, y)
    a, b = _covariance_root(x), _covariance_root(y)
    product = a @ b.T
    small = product @ product.T if len(a) <= len(b) else product.T @ product
    with threadpool_limits(1):  # LAPACK's threads wait for each other: two on a busy machine took forty times as long
        overlap = np.sqrt(np.linalg.eigvalsh(small).clip(0)).sum()
    shift = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    return float(max(shift + np.square(a).sum() + np.square(b).sum() - 2 * overlap, 0))


def _as_samples(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        shapes = f"{list(x.shape)} and {list(y.shape)}"
        raise ValueError(f"Distances take samples [n, D] and [m, D] with n, m >= 2; these are {shapes}.")
    return x.astype(np.float64), y.astype(np.float64)


def _cubic_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _covariance_root(x: np.ndarray) -> np.ndarray:
    """A with A^T A = the covariance of x, of min(n, D) rows."""
    a = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return a if len(a) <= a.shape[1] else np.linalg.qr(a, mode="r")


# A distance is one row: its name, the function, what it is multiplied by when reported.
DISTANCES: tuple[tuple[str, Distance, float], ...] = (("kid", kernel_distance, 1000.0), ("fd", frechet_distance, 1.0))

# --- Neighbours --------------------------------------------------------------------------------------------------------------------
# The next level of the same head is always nearest, so slices of one person never count as neighbours: every k-th nearest slice
# is the k-th nearest *of another person*. A fake is a person of its own.

K_PRECISION, K_DENSITY = 3, 5
NEIGHBOUR_SCORES = ("precision", "recall", "density", "coverage", "nn_accuracy_real", "nn_accuracy_fake", "recall_symmetric")


class Neighbourhood:
    """Distances within and between real [n, D] and fake [m, D], those between slices of one person taken out."""

    def __init__(self, real: np.ndarray, people: np.ndarray, fake: np.ndarray, fake_people: np.ndarray | None = None):
        self.within_real = apart(real, people)  # [n, n]
        self.within_fake = apart(fake, np.arange(len(fake)) if fake_people is None else fake_people)  # [m, m]
        self.across = pairwise_distances(real, fake)  # [n, m]

    def scores(self, real: np.ndarray | slice = slice(None), fake: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """The `NEIGHBOUR_SCORES` of these rows; the reach of a slice is its distance to the k-th nearest of its own kind.

        precision: share of fakes within the reach (k = 3) of some real slice; recall: the same with real and fake exchanged
        (Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2). recall_symmetric: share of real slices with a fake within
        their *own* reach (k = 3), which does not fall to 0 with the fakes' reach (Khayatkhoei & AbdAlmageed 2023, arXiv:2306.09618).
        density: how many real slices, of 5, reach a fake on average; coverage: share of real slices that reach a fake, both with
        k = 5 (Naeem et al. 2020, arXiv:2002.09797, eq. 3 and 4). nn_accuracy: share of real (fake) slices whose nearest is real
        (fake), near 1/2 for one population (Lopez-Paz & Oquab 2017, arXiv:1610.06545; Xu et al. 2018, arXiv:1806.07755: real
        high and fake high is a bad generator, both low a copying one). A slice without k others reaches nothing.
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
            "recall_symmetric": float((rf.min(axis=1) < near_real).mean()),
        }

    def realism(self) -> np.ndarray:
        """Of each fake the largest ratio of a real slice's reach to its distance: [m], above 1 inside (eq. 3 of Kynkäänniemi et al.).

        The half of the real slices that reaches furthest is left out, as the paper advises: outliers would vouch for anything.
        """
        reach = _kth_nearest(self.within_real, K_PRECISION)
        near = reach <= np.median(reach)
        return (reach[near, None] / self.across[near].clip(1e-12)).max(axis=0)


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
        if len(set(y[fit])) == 2:  # of two people, one fold holds all the real slices there are: nothing is told apart there
            size = min(64, len(fit) - 1, x.shape[1])
            parts = (
                StandardScaler(),
                PCA(size, random_state=0),
                LogisticRegression(C=0.1, class_weight="balanced", max_iter=500),
            )
            with np.errstate(invalid="ignore"):  # on tiny sets numpy may flag a product whose values are all finite
                right[judge] = make_pipeline(*parts).fit(x[fit], y[fit]).predict(x[judge]) == y[judge]
    return right[: len(real)], right[len(real) :]


# --- All scores of real slices and fakes, beside draws of other people -------------------------------------------------------------


def compare_features(
    real: np.ndarray, people: np.ndarray, fake: np.ndarray, others: np.ndarray, other_people: np.ndarray, *, seed: int = 0
) -> dict[str, Interval]:
    """All scores of feature vectors and their floors, each {value, low, high}; KID times 1000.

    ``kid, fd``, the `NEIGHBOUR_SCORES`, ``classifier`` (share put right by `told_apart`), and each of them again with ``_floor``.
    ``real`` [n, D] of ``people`` [n] against ``fake`` [n, D]; the floor is ``real`` against n slices at a time of as many *other*
    people (``others`` [m, D], m >= n), its value the mean over 20 draws, low to high the range of 95 % of them. Score and floor
    share ``real`` and n, and differ only in what stands on the other side.

    Two cautions. Where there are hardly more other people than one draw takes, draws resemble each other and their range is
    too narrow. And slices of one person resemble each other, which raises the floor of a distance from both sides and the
    score from one: unrelated slices of a perfect generator score *below* the floor.
    """
    if not len(real) == len(fake) <= len(others):
        counts = f"{len(real)} real, {len(fake)} fake and {len(others)} of others"
        raise ValueError(f"Scores take equally many real and fake slices and at least as many of other people, not {counts}.")
    if set(people) & set(other_people):
        raise ValueError("The floor compares disjoint people, and some stand on both sides.")
    draws, found = floor_draws(people, other_people, seed), {}
    for name, distance, unit in DISTANCES:
        pair = {name: jackknife(distance, real, people, fake, seed=seed)}
        pair[f"{name}_floor"] = floor(distance, real, [others[rows] for rows in draws])
        found |= {key: {bound: unit * value for bound, value in entry.items()} for key, entry in pair.items()}
    near = leave_out(Neighbourhood(real, people, fake).scores, people, len(fake), seed=seed)
    found |= {name: clipped(entry, high=np.inf if name == "density" else 1) for name, entry in near.items()}
    floors = [Neighbourhood(real, people, others[rows], other_people[rows]).scores() for rows in draws]
    found |= {f"{name}_floor": spread_of([row[name] for row in floors]) for name in NEIGHBOUR_SCORES}
    again = [_classifier(real, people, others[rows], other_people[rows], seed)["value"] for rows in draws[:5]]
    return found | {"classifier": _classifier(real, people, fake, None, seed), "classifier_floor": spread_of(again)}


def _classifier(real: np.ndarray, people: np.ndarray, fake: np.ndarray, fake_people: np.ndarray | None, seed: int) -> Interval:
    """Share of slices put right, real and fake weighing the same."""
    a, b = told_apart(real, people, fake, fake_people)
    return clipped(leave_out(lambda r, f: {"": (a[r].mean() + b[f].mean()) / 2}, people, len(fake), seed=seed)[""])


def compare_pictures(
    real: np.ndarray, people: np.ndarray, fake: np.ndarray, others: np.ndarray, draws: Sequence[np.ndarray], *, seed: int = 0
) -> dict[str, Interval]:
    """The scores of pixels, uint8 [n, R, R] real of ``people`` [n] and fake, and the floors from draws (rows of ``others``).

    ``ms_ssim`` of random pairs of fakes and ``ms_ssim_real`` of pairs of two people; ``best_ssim`` of fakes and ``best_ssim_real``
    of other people; of each row of `PICTURE_SCORES` the gap and its ``_floor``.
    """
    found = {"ms_ssim": similarity_of_pairs(fake, seed=seed), "ms_ssim_real": similarity_of_pairs(real, people, seed=seed)}
    for name, (describe, gap) in PICTURE_SCORES.items():
        at_real, at_others = describe(real), describe(others)
        found[name] = jackknife(gap, at_real, people, describe(fake), seed=seed)
        found[f"{name}_floor"] = floor(gap, at_real, [at_others[rows] for rows in draws])
    strangers = np.random.default_rng(0).permutation(others[draws[0]])
    return found | {"best_ssim": best_similarity(real, fake), "best_ssim_real": best_similarity(real, strangers)}


def compare_variety(
    real: np.ndarray,
    people: np.ndarray,
    fake: dict[str, np.ndarray],
    others: np.ndarray,
    other_people: np.ndarray,
    draws: Sequence[np.ndarray],
    *,
    seed: int = 0,
) -> dict:
    """How various fakes are where people are: ``{n, name: {value, low, high, real, floor{...}, ratio{...}}}``.

    Fake i answers to real slice i (its class). The names are those of `Variety.numbers`, each followed by a key of ``fake`` ('' for
    noise drawn, '_fixed_noise' for noise fixed). ``value`` is the fakes' with its interval by person, ``real`` the real slices',
    ``ratio`` fake over real, ``floor`` the other people's. All of n pictures, 256 or as many as there are. A perfect generator is
    *above* the floor in dimensions: its slices are strangers to each other, those of people come in families.
    """
    rng, n = np.random.default_rng(seed), min(PICTURES, len(real))
    rows = np.sort(rng.permutation(len(real))[:n])
    theirs, people, found = Variety(real[rows], people[rows]), people[rows], {"n": n}
    usual, few = theirs.numbers(), [rng.permutation(rows)[:n] for rows in draws]
    floors = [Variety(others[rows], other_people[rows]).numbers() for rows in few]
    for suffix, pictures in fake.items():
        ours = Variety(pictures[rows])

        def compared(r: np.ndarray, f: np.ndarray, ours: Variety = ours) -> dict[str, float]:
            made, there = ours.numbers(f), theirs.numbers(r)
            return made | {f"{name}/": made[name] / max(there[name], 1e-12) for name in made}

        entries = leave_out(compared, people, n, seed=seed)
        for name, value in usual.items():
            entry = {"real": value, "floor": spread_of([row[name] for row in floors]), "ratio": entries[f"{name}/"]}
            found[name + suffix] = {**entries[name], **entry}
    return found


def floor_draws(people: np.ndarray, other_people: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Rows [n] of each draw of other people: as many slices and people as ``people`` [n] has."""
    rng, count = np.random.default_rng(seed), len(set(people))
    return [draw_people(other_people, count, len(people), rng) for _ in range(DRAWS)]


def control_sets(others: np.ndarray, rows: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Sets [n, R, R] that a score should find fault with, from slices of people the generator saw (``rows`` [n] of ``others``).

    'blurred' and 'noised': the slices with their detail gone or drowned; 'collapsed': one in 24 of them, drawn again and again
    a grey level off; 'memorised': the slices themselves, for which scores of quality have no reproach and memory has.
    """
    chosen = np.array(others[rows])
    few = np.resize(chosen[:: max(len(chosen) // max(len(chosen) // 24, 2), 1)], chosen.shape)
    return {
        "blurred": blurred(chosen),
        "noised": noised(chosen, seed=seed),
        "collapsed": noised(few, 0.7, seed),
        "memorised": chosen,
    }


def score_control(held: tuple, control: tuple) -> dict[str, float]:
    """All scores of one (slices, vectors, people) against another."""
    (real, at_real, people), (made, at_made, names) = held, control
    few = np.random.default_rng(0).permutation(len(made))[:PICTURES]
    right = told_apart(at_real, people, at_made, names)
    return {
        **{name: unit * distance(at_real, at_made) for name, distance, unit in DISTANCES},
        **Neighbourhood(at_real, people, at_made, names).scores(),
        "classifier": float(np.mean([side.mean() for side in right])),
        "ms_ssim": similarity_of_pairs(made)["value"],
        **{name: gap(describe(real), describe(made)) for name, (describe, gap) in PICTURE_SCORES.items()},
        **Variety(made[few], None if names is None else names[few]).numbers(),
        "best_ssim": best_similarity(real, np.random.default_rng(0).permutation(made))["value"],
    }
