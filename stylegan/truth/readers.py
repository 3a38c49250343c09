"""Reading group, level, ventricles and brain off a slice: what is measured in its pixels, and what is learnt from real people.

Linear models on feature vectors (`features.py`), fitted to training subjects and tried on people they have not seen. Every
choice (the strength of the penalty) is made between subjects, and every interval draws whole subjects: slices of one head
are nearly one picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.stats import wasserstein_distance
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline

from stylegan.data.subjects import person
from stylegan.dataset import SliceDataset
from stylegan.directions import HEAD, Gauge
from stylegan.scores.intervals import spread_of

DEEP = 0.5  # of the way from the surface of the head to its innermost pixel: what lies deeper holds no sulci
DARK = 0.5  # of the bright tissue's grey: what is darker is fluid
PENALTIES = tuple(10.0**power for power in (0, 1, 1.5, 2, 2.5, 3, 4))
STRENGTHS = tuple(10.0**power for power in (-4, -3, -2, -1, 0))
PARTS = 64  # principal components that the classifier sees
FOLDS, DRAWS = 5, 500
HALVES = 50  # splits of people into halves
# Columns that belong to a person: brain volume fraction and age of OASIS, the push at the ventricles' wall of simulated people.
COLUMNS = (("nWBV", "nWBV", "share of the skull"), ("age", "age", "years"), ("ventricle", "enlargement", "mm"))


# --- Measured in the pixels -----------------------------------------------------------------------------------------------


def ventricle_share(pixels: np.ndarray) -> np.ndarray:
    """Dark pixels deep in the head, in % of the head: uint8 [n, R, R] -> float [n].

    The head is what is brighter than the background, its holes filled; deep is what lies more than half as far inside as its
    innermost pixel, where the fluid is that of the ventricles and not of sulci; dark is under half of the bright tissue (the
    upper quartile of the head), so that a slice's own brightness cancels. `groundtruth.measures` says how well it measures.
    """
    head, fluid = _head_and_fluid(pixels)
    depth = np.stack([ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] for mask in head])
    deep = depth > DEEP * depth.max(axis=(1, 2), keepdims=True)
    return _percent(fluid & deep, head)


def brain_share(pixels: np.ndarray) -> np.ndarray:
    """Tissue in % of the head, fluid being the rest: the brain volume fraction of one slice. uint8 [n, R, R] -> float [n]."""
    head, fluid = _head_and_fluid(pixels)
    return _percent(head & ~fluid, head)


def _head_and_fluid(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks bool [n, R, R]; a picture without a head has none of either."""
    head = np.stack([ndimage.binary_fill_holes(picture > HEAD) for picture in pixels])
    bright = [np.quantile(picture[mask], 0.75) if mask.any() else 0 for picture, mask in zip(pixels, head, strict=True)]
    return head, head & (pixels < DARK * np.array(bright)[:, None, None])


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return 100 * part.sum(axis=(1, 2)) / whole.sum(axis=(1, 2)).clip(1)


# --- What is true of real slices ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A number that is true of each real slice."""

    name: str
    unit: str
    values: np.ndarray  # float [N], NaN where unknown
    known: bool  # told by the data set; otherwise measured in the pixels
    gauge: Gauge | None = None  # measures it in the pixels of any picture

    @property
    def origin(self) -> str:
        return "known" if self.known else "measured"


def targets(slices: SliceDataset) -> list[Target]:
    """Level, ventricles, brain, and the columns of `COLUMNS`, as far as these slices have them.

    Ventricles are the true area where the data knows it (simulated slices), elsewhere `ventricle_share`.
    """
    columns = {name: values for name, values in slices.columns.items() if values.dtype.kind == "f"}
    if "ventricle_area" in columns:
        ventricles = Target("ventricles", "% of the brain", columns["ventricle_area"], True, ventricle_share)
    else:
        ventricles = Target("ventricles", "% of the head", ventricle_share(slices.images), False, ventricle_share)
    levels = np.where(slices.levels < 0, np.nan, slices.levels.astype(float))
    told = {"level": ("levels", levels)}
    told |= {name: (unit, columns[column]) for column, name, unit in COLUMNS if column in columns}
    known = {name: Target(name, unit, values, True) for name, (unit, values) in told.items() if enough(slices, values)}
    brain = Target("brain", "% of the head", brain_share(slices.images), False, brain_share)
    return [target for target in (known.pop("level", None), ventricles, brain, *known.values()) if target]


def enough(slices: SliceDataset, values: np.ndarray) -> bool:
    """Whether a number differs, and is known for five people or more on each side of the split."""
    people, train, known = people_of(slices), slices.splits == "train", np.isfinite(values)
    least = min(len(set(people[known & side])) for side in (train, ~train))
    return least >= FOLDS and np.ptp(values[known]) > 0


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; 0 where one of the two does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if min(np.std(a), np.std(b)) > 1e-12 else 0.0


def means_by_person(values: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Mean over each person's slices: values [n, ...] -> [persons, ...], persons in sorted order."""
    index = np.unique(people, return_inverse=True)[1]
    sums = np.zeros((index.max() + 1, *values.shape[1:]))
    np.add.at(sums, index, values)
    return sums / np.bincount(index).reshape(-1, *[1] * (values.ndim - 1))


def people_of(slices: SliceDataset) -> np.ndarray:
    """The person of each slice, str [N]: several scans of one person count as one."""
    return np.array([person(str(subject)) for subject in slices.subjects])


# --- Learnt from real people ----------------------------------------------------------------------------------------------


def fit_reader(x: np.ndarray, values: np.ndarray, people: np.ndarray) -> Ridge:
    """Ridge regression from features x [n, D] to values [n] (NaN left out); the penalty is chosen between people.

    Features are not standardised: that would blow up those which hardly vary among real slices, where a fake may lie anywhere.
    On OASIS standardised features read real slices a little worse, and on fakes agreed with measured ventricles by .75 for .95.
    """
    known = ~np.isnan(values)
    folds = GroupKFold(min(FOLDS, len(np.unique(people[known]))))
    search = GridSearchCV(Ridge(), {"alpha": PENALTIES}, scoring="neg_mean_absolute_error", cv=folds)
    return search.fit(x[known], values[known], groups=people[known]).best_estimator_


def fit_classifier(
    x: np.ndarray, labels: np.ndarray, people: np.ndarray, strengths: Sequence[float] = STRENGTHS
) -> GridSearchCV:
    """Logistic regression on 64 principal components of features x [n, D]; classes weigh alike, however large they are.

    Its strength is chosen between people, each fold holding people of every class.
    """
    parts = max(1, min(PARTS, x.shape[1], len(x) // 3))
    regression = LogisticRegression(class_weight="balanced", max_iter=1000)
    model = make_pipeline(PCA(parts, svd_solver="randomized", random_state=0), regression)
    fewest = min(len(np.unique(people[labels == name])) for name in np.unique(labels))
    folds = StratifiedGroupKFold(min(FOLDS, fewest))
    search = GridSearchCV(model, {"logisticregression__C": strengths}, scoring="balanced_accuracy", cv=folds)
    return search.fit(x, labels, groups=people)


def shuffled_people(labels: np.ndarray, people: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The labels [n] dealt anew to whole people, as many of each as before."""
    first, index = np.unique(people, return_index=True, return_inverse=True)[1:]
    return rng.permutation(labels[first])[index]


# --- Intervals by person --------------------------------------------------------------------------------------------------


def interval(
    statistic: Callable[..., float], people: np.ndarray, *arrays: np.ndarray, strata: np.ndarray | None = None, seed: int = 0
) -> dict[str, float]:
    """{value, low, high}: a statistic of arrays [n, ...] and 95 % of its values over 500 draws of people, with replacement.

    A percentile bootstrap (Efron 1979) of whole people, within each of ``strata`` [n] (a person's class), so that no draw
    lacks one. Right for means and accuracies; distances between slices need another way (`metrics.jackknife`), as a draw
    puts a slice beside itself.
    """
    rng, (names, index) = np.random.default_rng(seed), np.unique(people, return_inverse=True)
    rows = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])  # of each person
    stratum = np.zeros(len(names), int) if strata is None else np.array([strata[own[0]] for own in rows])
    pools = [np.flatnonzero(stratum == s) for s in np.unique(stratum)]
    values = []
    for _ in range(DRAWS):
        drawn = np.concatenate([rng.choice(pool, len(pool)) for pool in pools])
        chosen = np.concatenate([rows[i] for i in drawn])
        values.append(statistic(*(array[chosen] for array in arrays)))
    low, high = np.quantile(values, [0.025, 0.975])
    return {"value": float(statistic(*arrays)), "low": float(low), "high": float(high)}


def balanced_accuracy(truth: np.ndarray, guess: np.ndarray) -> float:
    """Mean over the classes of the share of their slices that is recognised: by chance 1 / (number of classes)."""
    return float(np.mean([np.mean(guess[truth == name] == name) for name in np.unique(truth)]))


def chance_p_value(truth: np.ndarray, guess: np.ndarray, people: np.ndarray, permutations: int = 999, seed: int = 0) -> float:
    """How often the classes, dealt anew to whole people, fit the guesses as well: a one-sided permutation test."""
    rng, found = np.random.default_rng(seed), balanced_accuracy(truth, guess)
    dealt = [balanced_accuracy(shuffled_people(truth, people, rng), guess) for _ in range(permutations)]
    return float((1 + np.sum(np.array(dealt) >= found - 1e-12)) / (1 + permutations))


def spread_apart(real: np.ndarray, people: np.ndarray, fake: np.ndarray, seed: int = 0) -> tuple[dict, dict]:
    """(distance, floor), each {value, low, high}: how differently two sets of readings are spread, in deviations of the real.

    Wasserstein's distance of the readings of half of the people to as many fakes, and to the other half of the people: 50
    random halves, their mean and central 95 %. So both comparisons are of the same size. A fake is a person of its own: where
    people differ much, unrelated fakes of a perfect generator stay below the floor.
    """
    rng, (names, index) = np.random.default_rng(seed), np.unique(people, return_inverse=True)
    far, floor, unit = [], [], max(real.std(), 1e-12)
    for _ in range(HALVES):
        half = np.isin(index, rng.permutation(len(names))[: len(names) // 2])
        far.append(wasserstein_distance(real[half], rng.choice(fake, min(half.sum(), len(fake)), replace=False)) / unit)
        floor.append(wasserstein_distance(real[half], real[~half]) / unit)
    return spread_of(far), spread_of(floor)
