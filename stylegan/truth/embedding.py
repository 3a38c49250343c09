"""Maps of feature vectors in two dimensions, and tests of what such a map seems to show.

A map is for looking, never for proof: distances, densities and gaps in it depend on its settings. So the claim under a
picture ("real and synthetic slices mix") is tested among the neighbours in feature space, and the map only shows where.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from stylegan.checkpoint import load_generator
from stylegan.config import Config
from stylegan.data.subjects import people_of
from stylegan.dataset import SliceDataset
from stylegan.networks import Generator
from stylegan.predict import generate
from stylegan.scores.intervals import Chance, Deal, p_value

if TYPE_CHECKING:
    from stylegan.truth.maps import Sample

METHODS, MODES = ("umap", "pca"), ("joint", "fit-real")
LEAST = 3  # slices of each kind that a map takes
SURE = 0.05
POWER = 6  # held-out people: names are dealt by whole person, and fewer have too few deals for a small p
Groups = np.ndarray | None  # the person of each slice


def embed(
    real: np.ndarray, fake: np.ndarray, method: str = "umap", *, n_neighbors: int = 15, seed: int = 0, mode: str = "joint"
) -> np.ndarray:
    """Coordinates float32 [2n, 2] of the features of real and then of fake slices, both [n, D].

    ``method``: 'umap' (McInnes et al. 2018, arXiv:1802.03426), the same for the same seed (one thread), or 'pca'. ``mode``:
    'joint' fits the map to both; 'fit-real' fits it to the real slices and places the fakes in it, so that they cannot shape
    it (but what is new in them has no place of its own). The map never sees which slice is real or of which class: fed with labels
    it separates anything. ValueError for an unknown method or mode, and for unequal sizes: the larger set would look the denser one.
    """
    if method not in METHODS or mode not in MODES:
        raise ValueError(f"There is no map {method!r}, {mode!r}; take one of {', '.join(METHODS)} and of {', '.join(MODES)}.")
    if len(fake) != len(real):
        raise ValueError(f"A map compares equally many slices; there are {len(real)} real and {len(fake)} fake.")
    if method == "pca":
        from sklearn.decomposition import PCA

        reducer = PCA(n_components=2, random_state=seed)
    else:
        options = {"init": "spectral" if len(real) > 8 else "random", "n_jobs": 1}  # too few points have no spectrum
        reducer = cached_umap()(n_neighbors=n_neighbors, random_state=seed, transform_seed=seed, **options)
    with threadpool_limits(1):  # umap's compiler would leave torch with a thread for each core, however many it had
        if mode == "joint":
            return reducer.fit_transform(np.concatenate([real, fake])).astype(np.float32)
        return np.concatenate([reducer.fit_transform(real), reducer.transform(fake)]).astype(np.float32)


def cached_umap() -> type:
    """UMAP, which keeps what it compiles beside its source, as pynndescent does: 20 s once, and not in every process."""
    import umap  # the very first time takes up to a minute

    for function in [*vars(umap.umap_).values(), *vars(umap.utils).values(), *vars(umap.layouts).values()]:
        if hasattr(function, "enable_caching"):
            with contextlib.suppress(RuntimeError):  # nowhere to keep it
                function.enable_caching()
    return umap.UMAP


# --- Tests among neighbours -----------------------------------------------------------------------------------------------


def neighbour_mixing(
    real: np.ndarray, fake: np.ndarray, k: int, *, permutations: int, real_groups: Groups = None, fake_groups: Groups = None
) -> Chance:
    """Do real [n, D] and fake [m, D] mix in feature space? Among the k nearest of each slice, the share of the other set.

    A one-sided permutation test (Schilling 1986): a small p says that the sets are told apart. Groups ([n], [m]) name the
    subject of each slice. Slices of one subject never count as neighbours, since the next level of the same head is always
    nearest; and names are shuffled by whole subject, since slices of a head stay together in any sample. Where only one set
    has groups, the other's slices fall at random into as many.
    """
    n, m, rng = len(real), len(fake), np.random.default_rng(0)
    apart, together = [], []  # who must not be a neighbour of whom, what is shuffled together
    for first, size, own, other in ((0, n, real_groups, fake_groups), (n, m, fake_groups, real_groups)):
        numbers = np.arange(size) if own is None else np.unique(own, return_inverse=True)[1]
        blocks = rng.permutation(size) % min(size, len(np.unique(other))) if own is None and other is not None else numbers
        apart.append(first + numbers)
        together.append(first + blocks)
    some, block = np.unique(np.concatenate(together), return_index=True, return_inverse=True)[1:]

    def deal(is_fake: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(is_fake[some])[block]

    both, is_fake = np.concatenate([real, fake]), np.arange(n + m) >= n
    return neighbour_agreement(both, is_fake, deal, k, permutations=permutations, groups=np.concatenate(apart))


def neighbour_agreement(
    features: np.ndarray, values: np.ndarray, deal: Deal, k: int, *, permutations: int, groups: Groups = None
) -> Chance:
    """How far neighbours in feature space [N, D] differ in some value [N]: a name (share of others) or a number (distance).

    The less they differ, the more the space knows of it; a one-sided permutation test. ``deal`` gives the values as they would
    be if they meant nothing: whole people (`deal_people`) for what belongs to people, `deal_within` groups for what varies
    there. Slices of one of ``groups`` [N] never count as neighbours.
    """
    alone = np.arange(len(features)) if groups is None else np.unique(groups, return_inverse=True)[1]
    near, names = neighbours(features, alone, k), values.dtype.kind not in "if"

    def differ(some: np.ndarray) -> float:
        there, here = some[near], some[:, None]
        return float((there != here).mean() if names else np.abs(there - here).mean())

    return p_value(differ, values, deal, draws=permutations, small=True)


def neighbours(features: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """Indices [N, k] of the k nearest features [N, D] of other groups (numbers [N]), fewer where the largest leaves fewer."""
    from sklearn.metrics import pairwise_distances

    k = min(k, len(features) - np.bincount(groups).max())
    if k < 1:
        raise ValueError("Slices of one person have no neighbours of other people; give more people.")
    distances = pairwise_distances(features)
    distances[groups[:, None] == groups] = np.inf
    return np.argpartition(distances, k - 1, axis=1)[:, :k]


# --- What chance would give -----------------------------------------------------------------------------------------------


def deal_people(people: np.ndarray) -> Deal:
    """Each person gets another person's values in their order, so that of equal levels in order each keeps its meaning."""
    rows = _rows(people)

    def deal(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        dealt = np.empty_like(values)
        for own, j in zip(rows, rng.permutation(len(rows)), strict=True):
            other = values[rows[j]]
            dealt[own] = other if len(other) == len(own) else rng.choice(other, len(own))
        return dealt

    return deal


def deal_within(groups: np.ndarray) -> Deal:
    """Values are shuffled within each group: levels within a person, people within a level."""
    rows = _rows(groups)

    def deal(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        dealt = np.empty_like(values)
        for own in rows:
            dealt[own] = rng.permutation(values[own])
        return dealt

    return deal


def _rows(groups: np.ndarray) -> list[np.ndarray]:
    """The indices of each group."""
    index = np.unique(groups, return_inverse=True)[1]
    return [np.flatnonzero(index == i) for i in range(index.max() + 1)]


def choose_rows(slices: SliceDataset, most: int) -> np.ndarray:
    """Indices of at most ``most`` slices, by person and level, the same levels of everybody, so that people can be exchanged
    with the level held fixed; of more people than ``most`` some are drawn, and where people share no level any slices."""
    rng, people, levels = np.random.default_rng(0), people_of(slices), slices.levels
    names = np.unique(people)
    names = np.sort(rng.choice(names, min(len(names), most), replace=False))
    shared = set.intersection(*(set(levels[people == name].tolist()) for name in names)) - {-1}
    if not shared:
        return np.sort(rng.choice(len(people), min(most, len(people)), replace=False))
    wanted = np.array(sorted(shared))
    wanted = wanted[np.unique(np.linspace(0, len(wanted) - 1, max(1, most // len(names))).round().astype(int))]
    keys = [*zip(people.tolist(), levels.tolist(), strict=True)]
    first = {key: row for row, key in reversed([*enumerate(keys)])}  # of several scans of a person the first counts
    rows = np.array([first[name, level] for name in names.tolist() for level in wanted.tolist()])
    return rows if len(rows) >= LEAST else np.arange(min(most, len(slices)))


@dataclass(frozen=True)
class Control:
    """Two sets of which it is known beforehand whether they differ."""

    name: str
    test: Chance
    differ: bool  # whether they must be told apart
    sets: Sequence[np.ndarray] | None = None  # features [n, D] of both, to be drawn
    labels: tuple[str, str] = ("", "")
    people: int = POWER  # among the real slices

    @property
    def passed(self) -> bool:
        return (self.test.p_value <= SURE) == self.differ

    @property
    def claim(self) -> str:
        found = f"{self.test.value:.0%} of neighbours are of another kind, {self.test.expected:.0%} by chance (p = {self.test.p_value:.3f})"
        words = "must be told apart" if self.differ else "must not be told apart"
        if self.differ and not self.passed and self.people < POWER:
            return f"{found}: {words}, and no test of {self.people} people can tell."
        return f"{found}: {words}, {'and is' if self.passed == self.differ else 'and is not'}."


def controls(sample: "Sample", early: str | Path | None = None, permutations: int = 199) -> list[Control]:
    """Shuffled names, shuffled classes, held-out against training people, and a generator known to be weak, by default an
    untrained one: only the last must be told apart. A test at 5 % fails one run in twenty where nothing is wrong."""
    e, rng, n, at, people = sample.evidence, np.random.default_rng(0), len(sample.real), sample.at_real, sample.people

    def compared(name: str, sets: Sequence, labels: tuple[str, str], differ: bool = False, **groups: np.ndarray) -> Control:
        test = neighbour_mixing(*sets, sample.k, **groups, permutations=permutations)
        return Control(name, test, differ, sets, labels, len(set(people)))

    halves = np.split(np.concatenate([at, sample.made.at])[rng.permutation(2 * n)], 2)
    found = [compared("names of real and generated shuffled", halves, ("first half", "second half"))]
    for truth in (truth for truth in sample.truths if truth.name == "class"):
        deal = deal_people(people)
        test = neighbour_agreement(at, deal(truth.values, rng), deal, sample.k, groups=people, permutations=permutations)
        found.append(Control("classes exchanged between people", test, False))
    if not sample.note and e.train is not None and len(e.train) >= LEAST:
        train = e.train.select(choose_rows(e.train, n))
        sets, groups = (at, e.features(train.images)), {"real_groups": people, "fake_groups": people_of(train)}
        found.append(compared("held-out and training people", sets, ("held-out", "training"), **groups))
    if early is None:
        with torch.random.fork_rng(devices=[]):  # the random numbers of others are left alone
            torch.manual_seed(0)
            weak, name = Generator(Config.from_dict(e.info["config"])).eval(), "an untrained generator"
    else:
        weak, info = load_generator(early, e.device)
        name = f"a generator of {info['cur_nimg'] / 1000:.0f} kimg"
    sets = at, e.features_once(generate(weak, range(n)))
    return [*found, compared(f"real and {name}", sets, ("real", name), True, real_groups=people)]
