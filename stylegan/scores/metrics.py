"""What compares two sets of slices: feature vectors (KID, FD, neighbours, a classifier) and pixels (variety, SSIM, spectra, areas).

Pixels show what a network trained on photographs may not see: folds that are alike in every head, a checkerboard, blur, a head that
is too large. `evaluate` gives each score its interval and its floor.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import ThreadpoolController
from torch import Tensor

from stylegan.scores.intervals import Interval, interval_of

Rows = np.ndarray | slice
EVERY = slice(None)
BLAS = ThreadpoolController()  # looked up once: that takes longer than the eigenvalues it is for


@dataclass(frozen=True)
class Side:
    """Slices of one kind: of some people, or generated (each a person of its own, called by its seed)."""

    images: np.ndarray  # uint8 [n, R, R]
    at: np.ndarray  # float32 [n, D], their features
    people: np.ndarray  # [n], names or seeds
    labels: np.ndarray | None = None  # int64 [n], the class, of generated ones as it was asked for; None without classes

    def __len__(self) -> int:
        return len(self.at)

    def rows(self, where: Rows) -> "Side":
        values = (getattr(self, field.name) for field in fields(self))
        return Side(*(None if value is None else value[where] for value in values))

    @cached_property
    def products(self) -> np.ndarray:
        """Inner products [n, n] of the features."""
        return self.at.astype(np.float64) @ self.at.T.astype(np.float64)

    @cached_property
    def apart(self) -> np.ndarray:
        """Distances [n, n] between the features, infinite between those of one person (and of a slice to itself)."""
        return _apart(self.products, self.people)


def _apart(products: np.ndarray, people: np.ndarray) -> np.ndarray:
    squares = products.diagonal()
    return np.where(people[:, None] == people, np.inf, _lengths(products, squares, squares))


def _lengths(products: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distances [n, m] of vectors from their inner products [n, m] and their squared lengths [n], [m]."""
    return np.sqrt((x[:, None] + y - 2 * products).clip(0))


# --- Distances of feature vectors -------------------------------------------------------------------------------------------------


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Kernel distance of x [n, D] and y [m, D]: KID in the given feature space, usually reported times 1000.

    The unbiased squared maximum mean discrepancy under k(a, b) = (a.b / D + 1)^3 (Binkowski et al. 2018, arXiv:1801.01401,
    sections 2.1 and 4): mean of k over pairs within x, plus within y, minus twice across. It may be slightly negative.
    """
    x, y = _as_samples(x, y)
    return _kernel_distance(x @ x.T, y @ y.T, x @ y.T, x.shape[1])


def _kernel_distance(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray, d: int) -> float:
    """From the inner products [n, n], [m, m] and [n, m] of D-dimensional vectors."""

    def cubed(products: np.ndarray) -> np.ndarray:
        scaled = products / d + 1
        return scaled * scaled * scaled

    # without k(a_i, a_i): unbiased
    within = [(cubed(some).sum() - cubed(some.diagonal()).sum()) / (len(some) * (len(some) - 1)) for some in (xx, yy)]
    return float(within[0] + within[1] - 2 * cubed(xy).mean())


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
    with BLAS.limit(limits=1):  # LAPACK's threads wait for each other: two on a busy machine took forty times as long
        overlap = np.sqrt(np.linalg.eigvalsh(small).clip(0)).sum()
    shift = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    return float(max(shift + np.square(a).sum() + np.square(b).sum() - 2 * overlap, 0))


def _as_samples(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        shapes = f"{list(x.shape)} and {list(y.shape)}"
        raise ValueError(f"Distances take samples [n, D] and [m, D] with n, m >= 2; these are {shapes}.")
    return x.astype(np.float64), y.astype(np.float64)


def _covariance_root(x: np.ndarray) -> np.ndarray:
    """A with A^T A = the covariance of x, of min(n, D) rows."""
    a = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return a if len(a) <= a.shape[1] else np.linalg.qr(a, mode="r")


# --- Neighbours --------------------------------------------------------------------------------------------------------------------
# The next level of the same head is always nearest, so slices of one person never count as neighbours: every k-th nearest slice
# is the k-th nearest *of another person*.

K_PRECISION, K_DENSITY = 3, 5
NEIGHBOUR_SCORES = ("precision", "recall", "density", "coverage", "nn_accuracy_real", "nn_accuracy_fake", "recall_symmetric")


class Comparison:
    """Products and distances within and between the features of two sides, from which the scores of any of their rows follow."""

    def __init__(self, real: Side, fake: Side):
        self.real, self.fake = real, fake
        self.products = real.at.astype(np.float64) @ fake.at.T.astype(np.float64)  # [n, m]
        self.across = _lengths(self.products, real.products.diagonal(), fake.products.diagonal())  # [n, m]

    def scores(self, real: Rows = EVERY, fake: Rows = EVERY) -> dict[str, float]:
        """{kid, fd, and the `NEIGHBOUR_SCORES`} of these rows; KID times 1000."""
        return self.distances(real, fake) | self.neighbours(real, fake)

    def distances(self, real: Rows = EVERY, fake: Rows = EVERY) -> dict[str, float]:
        """{kid, fd} of these rows; KID times 1000."""
        fd = frechet_distance(self.real.at[real], self.fake.at[fake])
        within = self.real.products[real][:, real], self.fake.products[fake][:, fake]
        return {"kid": 1000 * _kernel_distance(*within, self.products[real][:, fake], self.real.at.shape[1]), "fd": fd}

    def neighbours(self, real: Rows = EVERY, fake: Rows = EVERY) -> dict[str, float]:
        """The `NEIGHBOUR_SCORES` of these rows; the reach of a slice is its distance to the k-th nearest of its own kind.

        precision: share of fakes within the reach (k = 3) of some real slice; recall: the same with real and fake exchanged
        (Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2). recall_symmetric: the smaller one of recall and of the share of
        real slices with a fake within their *own* reach, k = 3 (Khayatkhoei & AbdAlmageed 2023, arXiv:2306.09618): fakes that are
        wide apart do not raise it. density: how many real slices, of 5, reach a fake on average; coverage: share of real slices
        that reach a fake, both with k = 5 (Naeem et al. 2020, arXiv:2002.09797, eq. 3 and 4). nn_accuracy: share of real (fake)
        slices whose nearest is real (fake), near 1/2 for one population (Lopez-Paz & Oquab 2017, arXiv:1610.06545; Xu et al. 2018,
        arXiv:1806.07755: both high is a bad generator, both low a copying one). A slice without k others reaches nothing.
        """
        rr, ff, rf = self.real.apart[real][:, real], self.fake.apart[fake][:, fake], self.across[real][:, fake]
        near_real, near_fake = (_kth_nearest(d, K_PRECISION) for d in (rr, ff))
        reached = rf < _kth_nearest(rr, K_DENSITY)[:, None]  # [n, m]
        recall = float((rf < near_fake[None]).any(axis=1).mean())
        return {
            "precision": float((rf < near_real[:, None]).any(axis=0).mean()),
            "recall": recall,
            "density": float(reached.mean() * len(rr) / K_DENSITY),
            "coverage": float(reached.any(axis=1).mean()),
            "nn_accuracy_real": float((rr.min(axis=1) < rf.min(axis=1)).mean()),
            "nn_accuracy_fake": float((ff.min(axis=1) < rf.min(axis=0)).mean()),
            "recall_symmetric": min(recall, float((rf.min(axis=1) < near_real).mean())),
        }

    def realism(self) -> np.ndarray:
        """Of each fake the largest ratio of a real slice's reach to its distance: [m], above 1 inside (eq. 3 of Kynkäänniemi et al.).

        The half of the real slices that reaches furthest is left out, as the paper advises: outliers would vouch for anything.
        """
        reach = _kth_nearest(self.real.apart, K_PRECISION)
        near = reach <= np.median(reach)
        return (reach[near, None] / self.across[near].clip(1e-12)).max(axis=0)


def _kth_nearest(distances: np.ndarray, k: int) -> np.ndarray:
    """The k-th smallest of each row [n]; 0, a reach of nothing, where a row has fewer than k finite ones."""
    if distances.shape[1] < k:
        return np.zeros(len(distances))
    radius = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return np.where(np.isfinite(radius), radius, 0)


def told_apart(real: Side, fake: Side) -> tuple[np.ndarray, np.ndarray]:
    """The classifier two-sample test (Lopez-Paz & Oquab 2017): which slices a classifier puts right that never saw their person.

    (right [n], right [m]), bool. Logistic regression on 64 principal components, each fifth of the people judged by one that
    was fitted to the others. Half of them right: it cannot tell; all right: everything here tells real from fake.
    """
    x, y = np.concatenate([real.at, fake.at]), np.repeat([0, 1], [len(real), len(fake)])
    groups = np.unique([*(f"r{p}" for p in real.people), *(f"f{p}" for p in fake.people)], return_inverse=True)[1]
    right = np.zeros(len(x), bool)
    for fit, judge in GroupKFold(min(5, len(np.unique(groups)))).split(x, y, groups):
        if len(set(y[fit])) == 2:  # of two people, one fold holds all the real slices there are: nothing is told apart there
            parts = PCA(min(64, len(fit) - 1, x.shape[1]), random_state=0)
            model = make_pipeline(StandardScaler(), parts, LogisticRegression(C=0.1, class_weight="balanced", max_iter=500))
            with np.errstate(invalid="ignore"):  # on tiny sets numpy may flag a product whose values are all finite
                right[judge] = model.fit(x[fit], y[fit]).predict(x[judge]) == y[judge]
    return right[: len(real)], right[len(real) :]


# --- Variety ----------------------------------------------------------------------------------------------------------------------

SHARES = {"dimensions": 0.8, "dimensions_90": 0.9, "dimensions_95": 0.95}
PICTURES = 256  # that variety is measured on: dimensions grow with their number, so compare at equal n


class Variety:
    """How various pictures are: uint8 [n, R, R], each of a person [n] (without names everybody is another one)."""

    def __init__(self, pictures: np.ndarray, people: np.ndarray | None = None):
        x = np.asarray(pictures).reshape(len(pictures), -1) / 127.5 - 1
        x -= x.mean(axis=0)
        self.products = x @ x.T  # [n, n], from which all numbers of any of these pictures follow
        self.people = np.arange(len(x)) if people is None else people

    def numbers(self, rows: Rows = EVERY) -> dict[str, float]:
        """{dimensions, dimensions_90, dimensions_95, spread} of these rows.

        dimensions: how many principal components of the pixels hold 80 (90, 95) % of the variance; 0 for equal pictures.
        spread: median distance to the third-nearest picture of somebody else, the root of the summed squares of pixels in
        [-1, 1]; 0 where there are not three. Where folds are alike in every head, both are a small part of people's.
        """
        products, people = self.products[rows][:, rows], self.people[rows]
        centred = products - products.mean(axis=0) - products.mean(axis=1)[:, None] + products.mean()
        with BLAS.limit(limits=1):
            variances = np.linalg.eigvalsh(centred)[::-1].clip(0).cumsum()
        holds = variances / max(variances[-1], 1e-12)
        found = {name: float((holds < share).sum() + 1) if variances[-1] > 1e-6 else 0.0 for name, share in SHARES.items()}
        return found | {"spread": float(np.median(_kth_nearest(_apart(products, people), 3)))}


# --- Similarity of pictures -------------------------------------------------------------------------------------------------------

WINDOW, SIGMA = 11, 1.5  # of the Gaussian that SSIM weighs neighbours with
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales of MS-SSIM
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ms_ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Multi-scale structural similarity of pairs of slices, uint8 [n, R, R] each: [n], 1 for equal pictures.

    Wang, Simoncelli, Bovik 2003, eq. 7: contrast and structure at each scale, luminance at the last, halved by the mean of
    2 x 2 in between. Their five scales need 176 px; here as many as fit are taken (3 at 64 px), their weights scaled to the
    sum 1, so that numbers compare at one resolution only. Negative structure counts as 0.
    """
    x, y = (torch.tensor(pictures, dtype=torch.float32) for pictures in (a, b))
    scales = int(np.clip(1 + np.floor(np.log2(max(x.shape[-1], WINDOW) / WINDOW)), 1, len(WEIGHTS)))
    result = torch.ones(len(x))
    for scale, weight in enumerate(np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])):
        structure, luminance = _ssim_parts(_moments(x), _moments(y))
        part = structure * luminance if scale == scales - 1 else structure
        result *= part.mean(dim=(1, 2)).clamp(min=0) ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return result.numpy()


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(pictures [n, H, W], their mean and variance at every place where the window fits)."""
    mean = _window(x)
    return x, mean, _window(x * x) - mean * mean


def _ssim_parts(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(contrast and structure, luminance) of pairs of pictures, from their `_moments` (Wang et al. 2004, eq. 13)."""
    (x, mx, vx), (y, my, vy) = a, b
    return (2 * (_window(x * y) - mx * my) + C2) / (vx + vy + C2), (2 * mx * my + C1) / (mx * mx + my * my + C1)


def _window(x: Tensor) -> Tensor:
    """Gaussian mean of [..., H, W] -> [..., H - 10, W - 10], as two products with banded matrices; smaller pictures shrink the window."""
    down, across = (_band(size) for size in x.shape[-2:])
    return down @ x @ across.T


@lru_cache(maxsize=16)
def _band(size: int) -> Tensor:
    width = min(WINDOW, size)
    taps = torch.exp(-((torch.arange(width) - (width - 1) / 2) ** 2) / (2 * SIGMA**2))
    band = torch.zeros(size - width + 1, size)
    for i in range(len(band)):
        band[i, i : i + width] = taps / taps.sum()
    return band


def similarity_of_pairs(pictures: np.ndarray, people: np.ndarray | None = None) -> Interval:
    """{value, low, high}: mean MS-SSIM of 1000 random pairs of slices [n, R, R], of two people where ``people`` are named.

    High means that all look alike: a generator above the real value has lost variety (Odena et al. 2017, arXiv:1610.09585,
    section 4.2). The jackknife leaves out every pair that has a slice of the group.
    """
    names = np.arange(len(pictures)) if people is None else people
    a, b = np.random.default_rng(0).integers(0, len(pictures), (2, 4000))
    a, b = (rows[names[a] != names[b]][:1000] for rows in (a, b))
    values = ms_ssim(pictures[a], pictures[b])

    def mean(rows: np.ndarray, _: np.ndarray) -> float:
        kept = values[np.isin(a, rows) & np.isin(b, rows)]
        return kept.mean() if len(kept) else np.nan

    blocks = np.arange(len(pictures)) % 24 if people is None else people  # fakes are independent: any groups will do
    return interval_of(mean, blocks, high=1)


def best_similarity(real: np.ndarray, fake: np.ndarray) -> Interval:
    """{value, low, high}: mean over ``fake`` [m, R, R] of the largest SSIM to any of ``real`` [n, R, R], uint8; of 200 drawn by chance.

    Often reported as *the* SSIM of a generator, and no measure of quality: a copy of the test set would have 1, a blurred slice has
    more than a sharp one, one good picture drawn again and again more than a population. Looked for among the 48 nearest in pixels.
    """
    chosen = np.random.default_rng(0).permutation(len(fake))[:200]  # slices stand by class or person
    x, y = (torch.tensor(pictures, dtype=torch.float32) for pictures in (fake[chosen], real))
    near = torch.cdist(x.flatten(1), y.flatten(1)).argsort(dim=1)[:, :48]
    at_x, at_y = _moments(x), _moments(y)
    found = np.empty(len(x))
    for i, rows in enumerate(near):
        structure, luminance = _ssim_parts([part[i] for part in at_x], [part[rows] for part in at_y])
        found[i] = (structure * luminance).mean(dim=(1, 2)).max()
    half = 1.96 * found.std() / np.sqrt(len(found))  # the fakes are independent, and the real slices those it is asked for
    return {"value": float(found.mean()), "low": float(found.mean() - half), "high": float(found.mean() + half)}
