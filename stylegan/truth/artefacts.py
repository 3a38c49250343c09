"""How to fool oneself with a map: pictures that separate for reasons of their making, each beside the control that exposes it.

All are computed from the generator and the slices at hand; none of them says anything about generated slices or about disease.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from stylegan.config import Config
from stylegan.networks import Generator
from stylegan.plots import Figure
from stylegan.predict import generate, styles
from stylegan.truth.embedding import deal_people, deal_within, embed, neighbour_agreement, neighbour_mixing
from stylegan.truth.map_charts import Panel, sheet

K, PERMUTATIONS = 10, 199


@dataclass(frozen=True)
class View:
    """Two sets on a map of their own: the trick, or the control beside it."""

    title: str
    sets: tuple[np.ndarray, np.ndarray]  # vectors [n, D] and [m, D]
    names: tuple[str, str]
    groups: tuple[np.ndarray, np.ndarray] | None = None  # people of each, where slices are theirs
    labels: np.ndarray | None = None  # told to the map, [n + m]: what one must never do

    def test(self) -> dict:
        """{value, expected, p_value}: whether the two sets are told apart among neighbours (`neighbour_mixing`)."""
        groups = {} if self.groups is None else {"real_groups": self.groups[0], "fake_groups": self.groups[1]}
        k = max(1, min(K, min(map(len, self.sets)) // 4))
        return neighbour_mixing(*self.sets, k, permutations=PERMUTATIONS, **groups)._asdict()

    @property
    def claim(self) -> str:
        found = self.test()
        return f"{found['value']:.0%} of neighbours are of the other kind, {found['expected']:.0%} by chance (p = {found['p_value']:.3f})."

    def coordinates(self, n_neighbors: int = 15) -> np.ndarray:
        """UMAP of both, [n + m, 2]."""
        n_neighbors = min(n_neighbors, min(map(len, self.sets)) // 2)
        if self.labels is None:
            return embed(np.concatenate(self.sets), n_neighbors=n_neighbors)
        from umap import UMAP

        told = UMAP(n_neighbors=n_neighbors, random_state=0, n_jobs=1)
        return told.fit_transform(np.concatenate(self.sets), y=self.labels).astype(np.float32)


def show(views: Sequence[View]) -> Figure:
    """The views side by side, each on its own map with its own test under it."""
    second = [np.arange(len(v.sets[0]) + len(v.sets[1])) >= len(v.sets[0]) for v in views]
    panels = [Panel(v.title, np.repeat(v.names, list(map(len, v.sets))), v.claim, v.names) for v in views]
    return sheet([v.coordinates() for v in views], second, panels, columns=len(views))


# --- 1. The w of two models -----------------------------------------------------------------------------------------------


class Turned(nn.Module):
    """A mapping network whose w [N, num_ws, w_dim] are turned by an orthogonal matrix."""

    def __init__(self, mapping: nn.Module, turn: Tensor):
        super().__init__()
        self.mapping = mapping
        self.register_buffer("turn", turn)

    def forward(self, *args, **kwargs) -> Tensor:
        return self.mapping(*args, **kwargs) @ self.turn.T


def turned_twin(G: Generator, seed: int = 0) -> Generator:
    """A generator that draws the very pictures of G and has another W.

    Its w is Q w for a random orthogonal Q, and each style layer's weights A become A Q^T, so that A Q^T Q w = A w. Training
    decides on Q by chance: nothing in any loss prefers one. So where a point lies in W has a meaning within one model only.
    """
    turn = torch.linalg.qr(torch.randn(G.w_dim, G.w_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    twin, device = copy.deepcopy(G), next(G.parameters()).device
    for name, layer in twin.synthesis.named_modules():
        if name.endswith("affine"):
            layer.weight.data = (layer.weight.data.cpu().double() @ turn.T).float().to(device)  # no doubles on some devices
    twin.mapping = Turned(twin.mapping, turn.float().to(device))
    return twin


def two_models(G: Generator, n: int = 300) -> tuple[np.ndarray, np.ndarray, float]:
    """(w [n, w_dim] of G, of its twin, the largest difference of their pictures in grey levels of 255), same seeds."""
    twin, seeds = turned_twin(G), range(n)
    away = (generate(G, seeds[:32]) - generate(twin, seeds[:32])).abs().max() * 127.5
    return styles(G, seeds)[:, 0].numpy(), styles(twin, seeds)[:, 0].numpy(), float(away)


# --- 2. Features that were fed the label ----------------------------------------------------------------------------------


def fed_labels(config: Config, n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(w [n, w_dim], labels [n]) of an *untrained* conditional generator that is told labels drawn by a coin."""
    labels = np.random.default_rng(seed).integers(0, 2, n)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        G = Generator(Config.from_dict({**config.to_dict(), "conditional": "class", "c_dim": 2})).eval()
    return styles(G, range(n), class_index=labels)[:, 0].numpy(), labels


def split_by(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x [n, D] as the rows of label 0 and of label 1."""
    return x[labels == 0], x[labels == 1]


# --- 3. Clusters named as classes -----------------------------------------------------------------------------------------


def clusters(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """k-means into two clusters, int [n]: they always exist."""
    return KMeans(2, n_init=10, random_state=seed).fit_predict(x)


def named_clusters(found: np.ndarray, classes: np.ndarray, people: np.ndarray, levels: np.ndarray) -> dict[str, float]:
    """What two clusters [n] are, if not classes: {both, agreement, expected, p_value, level_gap}.

    ``both``: the share of people with slices in both clusters, who would be ill and healthy at once. ``agreement``: the share of
    slices whose cluster fits their class, in the better naming of the two; ``expected`` and ``p_value`` from classes dealt
    anew to people. ``level_gap``: between the clusters' mean levels, in levels.
    """
    inside = [set(people[found == i]) for i in (0, 1)]
    deal, rng, truth = deal_people(people), np.random.default_rng(0), classes == classes[0]

    def agreement(names: np.ndarray) -> float:
        same = float(np.mean(names == (found == 1)))
        return max(same, 1 - same)

    dealt = np.array([agreement(deal(truth, rng)) for _ in range(PERMUTATIONS)])
    value = agreement(truth)
    return {
        "both": len(inside[0] & inside[1]) / len(inside[0] | inside[1]),
        "agreement": value,
        "expected": float(dealt.mean()),
        "p_value": float((1 + np.sum(dealt >= value - 1e-12)) / (1 + PERMUTATIONS)),
        "level_gap": float(abs(levels[found == 1].mean() - levels[found == 0].mean())),
    }


# --- 4. Mismatched scales -------------------------------------------------------------------------------------------------


def scaled_apart(images: np.ndarray, people: np.ndarray, seed: int = 0) -> tuple[tuple, tuple, tuple]:
    """(pixels of two halves of the people at two scales, at one scale, who is who): real slices only, [n, R R] each.

    The first half lies in [-1, 1] and the second in 0 to 255, as where a data set is normalised and a sampler's output is not.
    """
    names = np.unique(people)
    half = np.isin(people, np.random.default_rng(seed).permutation(names)[: len(names) // 2])
    flat = images.reshape(len(images), -1).astype(np.float32)
    one = flat / 127.5 - 1
    return (one[half], flat[~half]), (one[half], one[~half]), (people[half], people[~half])


# --- 5. Slices counted as people ------------------------------------------------------------------------------------------


def counted(x: np.ndarray, people: np.ndarray, deals: int = 20, seed: int = 0) -> dict[str, float]:
    """How often a class that means nothing is "found": {slices, people}, shares of ``deals`` random classes with p < .05.

    Half of the people [n] are dealt one class and half the other, so nothing is to be found. 'slices' takes every slice for a
    person of her own, as most published maps do; 'people' leaves out neighbours of the same person and deals people.
    """
    rng, index = np.random.default_rng(seed), np.unique(people, return_inverse=True)[1]
    k, found = max(1, min(K, len(x) // 4)), {"slices": 0, "people": 0}
    for _ in range(deals):
        classes = (rng.permutation(index.max() + 1) % 2).astype(str)[index]
        by_slice = neighbour_agreement(x, classes, deal_within(np.zeros(len(x))), k, permutations=99)
        by_person = neighbour_agreement(x, classes, deal_people(people), k, groups=people, permutations=99)
        found["slices"] += by_slice.p_value < 0.05
        found["people"] += by_person.p_value < 0.05
    return {name: count / deals for name, count in found.items()}
