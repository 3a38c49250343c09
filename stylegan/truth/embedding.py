"""Maps of feature vectors in two dimensions, and tests of what such a map seems to show.

A map is for looking, never for proof: distances, densities and gaps in it depend on its settings. So the claim under a
picture ("real and synthetic slices mix") is tested among the neighbours in feature space, and the map only shows where.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

METHODS = ("umap", "pca")
MODES = ("joint", "fit-real")


def embed(
    real: np.ndarray,
    fake: np.ndarray | None = None,
    method: str = "umap",
    *,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    seed: int = 0,
    mode: str = "joint",
) -> np.ndarray:
    """Coordinates float32 [n, 2] of features real [n, D], or [2n, 2] of real and then fake [n, D].

    ``mode='joint'`` fits one map to both; ``'fit-real'`` fits it to the real slices and places the fakes in it, so that
    they cannot shape it (but what is new in them has no place of its own). The map is never told which slice is real or of
    which class: a map fed with labels separates anything. ``method``: 'umap' (McInnes et al. 2018, arXiv:1802.03426), the
    same for the same seed (one thread), or 'pca', without any choice. Raises ValueError for an unknown method or mode, too
    few slices or sets of unequal size: the larger set would look the denser and wider one (`equal_sets` thins it).
    """
    _check(real, fake, method, mode, n_neighbors if method == "umap" else 1)
    reducer = _reducer(method, n_neighbors, min_dist, seed)
    if fake is None:
        return np.asarray(reducer.fit_transform(real), dtype=np.float32)
    if mode == "joint":
        return np.asarray(reducer.fit_transform(np.concatenate([real, fake])), dtype=np.float32)
    at_real = reducer.fit_transform(real)
    return np.concatenate([at_real, reducer.transform(fake)]).astype(np.float32)


def equal_sets(n: int, m: int, *, most: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sorted random indices into sets of n and m slices, equally many of each and at most ``most``."""
    size = min(n, m, n if most is None else most)
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(n, size, replace=False)), np.sort(rng.choice(m, size, replace=False))


def trustworthiness(features: np.ndarray, coordinates: np.ndarray, n_neighbors: int = 15) -> float:
    """How far neighbours on the map [N, 2] are neighbours in feature space [N, D]: 1 all, about .5 for a random map.

    Venna & Kaski 2001. Raises ValueError (scikit-learn's) unless n_neighbors < N / 2.
    """
    from sklearn import manifold

    return float(manifold.trustworthiness(features, coordinates, n_neighbors=n_neighbors))


def knn_overlap(features: np.ndarray, coordinates: np.ndarray, k: int = 15) -> float:
    """Share of the k nearest in feature space [N, D] that are also among the k nearest on the map [N, 2].

    Lee & Verleysen 2009 (Neurocomputing 72), their Q_NX at one k: 1 for a perfect map, k / (N - 1) for a random one. Trustworthiness
    forgives neighbours that are nearly right; this counts them.
    """
    alone = np.arange(len(features))
    near, shown = (_neighbours(x, alone, k) for x in (features, coordinates))
    return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(near, shown, strict=True)]) / k)


class Mixing(NamedTuple):
    """Outcome of `neighbour_mixing`."""

    value: float  # fraction of neighbours from the other set
    expected: float  # its mean when the names of the two sets mean nothing
    p_value: float  # how often shuffled names mix as little


def neighbour_mixing(
    real: np.ndarray,
    fake: np.ndarray,
    k: int = 10,
    *,
    real_groups: np.ndarray | None = None,
    fake_groups: np.ndarray | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Mixing:
    """Do real [n, D] and fake [m, D] mix in feature space? Among the k nearest of each slice, how many are of the other set?

    A one-sided permutation test (Schilling 1986; p = (1 + as little mixed) / (1 + permutations)): a small p says that the
    sets are told apart. Groups ([n], [m]) name the subject of each slice. Slices of one subject never count as neighbours,
    since the next level of the same head is always nearest; and names are shuffled by whole subject, since slices of a head
    stay together in any sample. Where only one set has groups, the other's slices are dealt at random into as many. Raises
    ValueError unless k slices are left beside any subject's.
    """
    n, m = len(real), len(fake)
    rng = np.random.default_rng(seed)
    apart, together = _groups(real_groups, fake_groups, n, m, rng)
    neighbours = _neighbours(np.concatenate([real, fake]), apart, k)
    is_fake = np.arange(n + m) >= n

    def mixed(names: np.ndarray) -> float:
        return float((names[neighbours] != names[:, None]).mean())

    value = mixed(is_fake)
    shuffled = np.array([mixed(_shuffle(is_fake, together, rng)) for _ in range(permutations)])
    p_value = (1 + np.sum(shuffled <= value + 1e-12)) / (1 + permutations)
    return Mixing(value, float(shuffled.mean()), float(p_value))


class Agreement(NamedTuple):
    """Outcome of `neighbour_agreement`; the less neighbours differ, the more the space knows of what was asked."""

    value: float  # mean difference of a slice to its neighbours: of names the share that is another, of numbers the distance
    expected: float  # its mean when the values are dealt anew
    p_value: float  # how often dealt values differ as little


Deal = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # values [N] -> the same values dealt anew


def neighbour_agreement(
    features: np.ndarray,
    values: np.ndarray,
    deal: Deal,
    k: int = 10,
    *,
    groups: np.ndarray | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Agreement:
    """Do neighbours in feature space [N, D] agree in some value [N], a name or a number? One-sided permutation test.

    ``deal`` draws the values as they would be if they meant nothing: whole people (`deal_people`) for what belongs to people,
    `deal_within` groups for what varies there. Slices of one of ``groups`` [N] never count as neighbours.
    """
    alone = np.arange(len(features)) if groups is None else np.unique(groups, return_inverse=True)[1]
    near, rng = _neighbours(features, alone, k), np.random.default_rng(seed)
    names = values.dtype.kind not in "if"

    def differ(some: np.ndarray) -> float:
        there, here = some[near], some[:, None]
        return float((there != here).mean() if names else np.abs(there - here).mean())

    value = differ(values)
    dealt = np.array([differ(deal(values, rng)) for _ in range(permutations)])
    return Agreement(value, float(dealt.mean()), float((1 + np.sum(dealt <= value + 1e-12)) / (1 + permutations)))


def deal_people(people: np.ndarray) -> Deal:
    """Each person gets another person's values, in the order in which they stand.

    Where everybody has the same levels in order, the level of each slice keeps its meaning and only the person loses hers.
    """
    index = np.unique(people, return_inverse=True)[1]
    rows = [np.flatnonzero(index == i) for i in range(index.max() + 1)]

    def deal(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        dealt = np.empty_like(values)
        for own, j in zip(rows, rng.permutation(len(rows)), strict=True):
            other = values[rows[j]]
            dealt[own] = other if len(other) == len(own) else rng.choice(other, len(own))
        return dealt

    return deal


def deal_within(groups: np.ndarray) -> Deal:
    """Values are shuffled within each group: levels within a person, people within a level."""
    index = np.unique(groups, return_inverse=True)[1]
    rows = [np.flatnonzero(index == i) for i in range(index.max() + 1)]

    def deal(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        dealt = np.empty_like(values)
        for own in rows:
            dealt[own] = rng.permutation(values[own])
        return dealt

    return deal


def same_levels(people: np.ndarray, levels: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    """Indices of at most ``most`` slices, the same levels of everybody, by person and level.

    So people can be dealt anew with the level held fixed. Levels are spread evenly over those that all people have; of more
    people than ``most`` some are drawn. Where people share no level the slices are drawn at random.
    """
    rng, names = np.random.default_rng(seed), np.unique(people)
    names = np.sort(rng.choice(names, min(len(names), most), replace=False))
    shared = set.intersection(*(set(levels[people == name].tolist()) for name in names)) - {-1}
    if not shared:
        return np.sort(rng.choice(len(people), min(most, len(people)), replace=False))
    wanted = np.array(sorted(shared))
    wanted = wanted[np.unique(np.linspace(0, len(wanted) - 1, max(1, most // len(names))).round().astype(int))]
    first = {}
    for row, key in enumerate(zip(people.tolist(), levels.tolist(), strict=True)):
        first.setdefault(key, row)
    return np.array([first[name, level] for name in names.tolist() for level in wanted.tolist()])


# ------------------------------------------------------------------------------------------------------------- parts


def _check(real: np.ndarray, fake: np.ndarray | None, method: str, mode: str, n_neighbors: int) -> None:
    if method not in METHODS:
        raise ValueError(f"There is no embedding {method!r}; choose one of {', '.join(METHODS)}.")
    if mode not in MODES:
        raise ValueError(f"There is no mode {mode!r}; choose one of {', '.join(MODES)}.")
    if len(real) <= max(n_neighbors, 2):
        raise ValueError(
            f"A map with n_neighbors = {n_neighbors} takes more than {max(n_neighbors, 2)} slices; there are {len(real)}."
        )
    if fake is not None and len(fake) != len(real):
        raise ValueError(
            f"A map compares equally many slices; there are {len(real)} real and {len(fake)} fake (see equal_sets)."
        )


def _reducer(method: str, n_neighbors: int, min_dist: float, seed: int):
    """What has fit_transform and transform; imported here, as UMAP's first import takes up to a minute."""
    if method == "pca":
        from sklearn.decomposition import PCA

        return PCA(n_components=2, random_state=seed)
    from umap import UMAP

    return UMAP(n_neighbors=n_neighbors, min_dist=min_dist, random_state=seed, transform_seed=seed, n_jobs=1)


def _groups(
    real_groups: np.ndarray | None, fake_groups: np.ndarray | None, n: int, m: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers [n + m]: (who must not be a neighbour of whom, what is shuffled together)."""
    apart, together = [], []
    for size, own, other in ((n, real_groups, fake_groups), (m, fake_groups, real_groups)):
        alone = np.arange(size)
        numbers = alone if own is None else np.unique(own, return_inverse=True)[1]
        assert len(numbers) == size, "one group per slice"
        blocks = rng.permutation(size) % min(size, len(np.unique(other))) if own is None and other is not None else numbers
        apart.append(numbers + (max(apart[0]) + 1 if apart else 0))
        together.append(blocks + (max(together[0]) + 1 if together else 0))
    return np.concatenate(apart), np.concatenate(together)


def _neighbours(features: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """Indices [N, k] of the k nearest slices of other groups."""
    from sklearn.metrics import pairwise_distances

    largest = np.bincount(groups).max()
    if not 0 < k <= len(features) - largest:
        raise ValueError(f"k is {k}; take 1 to {len(features) - largest}, the slices beside those of the largest subject.")
    distances = pairwise_distances(features)
    distances[groups[:, None] == groups] = np.inf
    return np.argpartition(distances, k - 1, axis=1)[:, :k]


def _shuffle(names: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The names dealt anew to whole groups, as many groups of each name as before."""
    first = np.unique(groups, return_index=True)[1]
    return rng.permutation(names[first])[groups]
