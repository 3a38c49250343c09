"""Does a generator repeat what it was trained on, and could somebody tell who was in the training set?

Every measure here has a yardstick of people the generator never saw, and the person, not the slice, is its unit.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from stylegan.data.subjects import person
from stylegan.dataset import SliceDataset
from stylegan.networks import Discriminator, Generator
from stylegan.latent import project
from stylegan.scores.intervals import Interval, leave_out


def nearest(vectors: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distance [n], index [n]) of the nearest of ``others`` [m, D] to each of ``vectors`` [n, D]."""
    distance, index = NearestNeighbors(n_neighbors=1).fit(others).kneighbors(vectors)
    return distance[:, 0], index[:, 0]


def people_of(slices: SliceDataset) -> np.ndarray:
    """The person of each slice: str [N]; two scans of one person are one."""
    return np.array([person(str(subject)) for subject in slices.subjects])


# ---------------------------------------------------------------------------------------------------- nearest distances


def memory(fake: np.ndarray, heldout: np.ndarray, people: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """``{ratio, low, high, p_value}`` from distances to the nearest training slice, of fakes [m] and of held-out slices [n].

    The ratio of the medians, about 1 where fakes lie as near to the training slices as new people do and 0 for copies; its
    interval is by ``people`` [n]. The p-value is of the one-sided test that fakes lie *nearer* than new people: for each
    person the share of (slice, fake) in which the fake is nearer, and Wilcoxon's signed-rank test of these shares against
    1/2, so that n is the number of people. A generator whose slices are bad lies far from everything, and a ratio above 1
    is no proof that it copied none: `copied` looks at the near end.
    """

    def ratio(held: np.ndarray, fakes: np.ndarray) -> dict[str, float]:
        return {"": float(np.median(fake[fakes]) / max(np.median(heldout[held]), 1e-12))}

    interval = leave_out(ratio, people, len(fake), seed=seed)[""]
    nearer = 1 - np.searchsorted(np.sort(fake), heldout, side="left") / len(fake)  # share of fakes at least as far away
    shares = np.array([1 - nearer[people == name].mean() for name in np.unique(people)])
    signs = shares - 0.5
    p_value = stats.wilcoxon(signs, alternative="greater").pvalue if np.any(signs) else 1.0
    return {
        "ratio": interval["value"],
        "low": max(interval["low"], 0.0),
        "high": interval["high"],
        "p_value": float(p_value),
    }


def copied(fake: np.ndarray, heldout: np.ndarray, quantile: float = 0.01) -> float:
    """Share of fakes nearer to a training slice than the nearest 1 % of held-out slices are: about .01 where none is copied."""
    return float((fake < np.quantile(heldout, quantile)).mean())


def nearest_people(
    fake: np.ndarray, train: np.ndarray, people: np.ndarray, unseen: np.ndarray, others: np.ndarray, *, draws: int = 9999
) -> dict:
    """Is the person nearest to a fake more often one it was trained on? ``{share, expected, p_value}``.

    Fakes [m, D], training slices of ``people``, held-out slices of ``others``. For each fake the nearest slice of all tells a
    person; ``share`` is how many of these persons are training persons, ``expected`` what it would be if the names 'training'
    and 'held-out' were dealt to the people at random, and p how often that gives as large a share (one-sided permutation test;
    the person is its unit). A blurred slice lies nearer or further than a sharp one, which shifts the ratio of `memory`; here it
    does so for both sides (in the spirit of the three-sample test of Meehan et al. 2020, arXiv:2004.05675). A copy too blurred
    for the feature space escapes all the same, see `memoriser`.
    """
    whose = np.concatenate([people, others])
    names, index = np.unique(whose, return_inverse=True)
    _, row = nearest(fake, np.concatenate([train, unseen]))
    weight = np.bincount(index[row], minlength=len(names)) / len(fake)  # of each person, among the nearest
    member = np.isin(names, people)
    rng = np.random.default_rng(0)
    dealt = np.array([weight[rng.permutation(member)].sum() for _ in range(draws)])
    share = float(weight[member].sum())
    p_value = (1 + np.sum(dealt >= share - 1e-12)) / (1 + draws)
    return {"share": share, "expected": float(dealt.mean()), "p_value": float(p_value)}


def closest_pairs(fake: np.ndarray, index: np.ndarray, count: int = 16) -> list[tuple[int, int, float]]:
    """(fake, training slice, distance) of the nearest pairs, each training slice once, from `nearest`'s distances and indices."""
    pairs, taken = [], set()
    for row in np.argsort(fake):
        if int(index[row]) not in taken:
            taken.add(int(index[row]))
            pairs.append((int(row), int(index[row]), float(fake[row])))
    return pairs[:count]


# -------------------------------------------------------------------------------------------------------------- attacks


def membership(values: np.ndarray, member: np.ndarray, people: np.ndarray) -> Interval:
    """{value, low, high}: area under the ROC curve of guessing from ``values`` [n] which slices were trained on (``member`` [n]).

    1/2: nobody can tell; 1: everybody can. Intervals leave out people (Shokri et al. 2017, arXiv:1610.05820, on the attack;
    Hayes et al. 2019, arXiv:1705.07663, with the logits of a GAN's discriminator; Chen et al. 2020, arXiv:1909.03935, with
    the distance to the nearest fake, which needs no more than the published generator).
    """

    def auc(rows: np.ndarray, _: np.ndarray) -> dict[str, float]:
        return {"": float(roc_auc_score(member[rows], values[rows]))}

    return leave_out(auc, people, 0)[""]


@torch.no_grad()
def logits(D: Discriminator, slices: SliceDataset, *, c: torch.Tensor | None = None, seed: int = 0) -> np.ndarray:
    """D's logits of all slices, without augmentation: [N]. In shuffled order, since its minibatch statistics see groups of slices."""
    device, order = next(D.parameters()).device, np.random.default_rng(seed).permutation(len(slices))
    found = np.empty(len(slices), np.float32)
    for rows in np.array_split(order, max(len(slices) // 32, 1)):
        rows = np.resize(rows, -(-len(rows) // 4) * 4)  # whole groups; repeated rows get one value twice
        classes = None if c is None else c[rows].to(device)
        found[rows] = D(slices.tensor(rows).to(device), classes)[:, 0].float().cpu().numpy()
    return found


def projection_gap(
    G: Generator, train: SliceDataset, heldout: SliceDataset, count: int = 24, *, steps: int = 200, seed: int = 0
) -> dict:
    """Are training slices found again in W better than held-out ones? ``{train, heldout, gap, p_value, n}``, residuals in grey levels.

    One slice of each of ``count`` people on either side, of the same levels where levels are known; a one-sided Mann-Whitney
    test (training residuals lower). A generator that draws people it saw and no others has a gap (Karras et al. 2020a,
    arXiv:1912.04958, section 5, on projection as a test; Webster et al. 2019, arXiv:1901.03396, on the gap).
    """
    count = min(count, len(set(people_of(train))), len(set(people_of(heldout))))
    sides = [one_each(side, count, seed) for side in (train, heldout)]
    found = project(G, torch.cat([side.tensor() for side in sides]), steps=steps, seed=seed).residual
    a, b = found[:count], found[count:]
    p_value = stats.mannwhitneyu(a, b, alternative="less").pvalue
    return {
        "train": float(a.mean()),
        "heldout": float(b.mean()),
        "gap": float(b.mean() - a.mean()),
        "p_value": float(p_value),
        "n": count,
    }


def one_each(slices: SliceDataset, count: int, seed: int = 0) -> SliceDataset:
    """One slice of each of ``count`` people, the k-th of them at the k-th of ``count`` evenly spaced places of its levels."""
    people = people_of(slices)
    chosen = np.random.default_rng(seed).permutation(np.unique(people))[:count]
    rows = []
    for place, name in zip(np.linspace(0, 1, count), chosen, strict=True):
        own = np.flatnonzero(people == name)
        own = own[np.argsort(slices.levels[own], kind="stable")]
        rows.append(own[round(place * (len(own) - 1))])
    return slices.select(np.array(rows))


# ----------------------------------------------------------------------------------------------------------- duplicates


def duplicates(slices: SliceDataset, most: int = 12_000, seed: int = 0) -> dict:
    """Slices that occur twice: ``{slices, exact, yardstick, near, pairs}``.

    ``exact``: slices equal to an earlier one, pixel by pixel. ``near``: slices of one person nearer to a slice of another than
    half of the neighbouring levels of one head are to each other (``yardstick``, root mean square of grey levels): one person
    under two names, or one scan twice, would look so. None where levels are unknown, or so far apart that half of all slices
    would be near. ``pairs``: up to ten of these as (subject, level, subject, level, distance), nearest first.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(slices))[:most])
    slices = slices.select(rows) if len(rows) < len(slices) else slices
    pixels = np.array(slices.images)
    _, first = np.unique(pixels.reshape(len(pixels), -1), axis=0, return_index=True)
    scale = max(pixels.shape[-1] // 32, 1)
    size = pixels.shape[-1] // scale
    small = pixels[:, : size * scale, : size * scale].reshape(len(pixels), size, scale, size, scale).mean(axis=(2, 4))
    small = small.reshape(len(pixels), -1).astype(np.float32) / size  # so that a distance is a root mean square
    yardstick = _between_levels(small, slices)
    pairs = [] if yardstick is None else _near_pairs(small, people_of(slices), yardstick)
    near = len({i for pair in pairs for i in pair[:2]})
    if yardstick is None or near > len(slices) / 2:
        return {"slices": len(slices), "exact": len(slices) - len(first), "yardstick": None, "near": None, "pairs": []}
    told = [
        (str(slices.subjects[i]), int(slices.levels[i]), str(slices.subjects[j]), int(slices.levels[j]), d)
        for i, j, d in pairs[:10]
    ]
    return {"slices": len(slices), "exact": len(slices) - len(first), "yardstick": yardstick, "near": near, "pairs": told}


def _between_levels(small: np.ndarray, slices: SliceDataset) -> float | None:
    """Median distance of neighbouring levels of one subject."""
    place = {(s, k): i for i, (s, k) in enumerate(zip(slices.subjects.tolist(), slices.levels.tolist(), strict=True)) if k >= 0}
    pairs = [(i, place[s, k + 1]) for (s, k), i in place.items() if (s, k + 1) in place]
    if not pairs:
        return None
    a, b = np.array(pairs).T
    return float(np.median(np.linalg.norm(small[a] - small[b], axis=1)))


def _near_pairs(small: np.ndarray, people: np.ndarray, limit: float) -> list[tuple[int, int, float]]:
    """(i, j, distance) of the pairs of two people nearer than the limit, nearest first."""
    tree = NearestNeighbors(radius=limit, algorithm="brute").fit(small)
    distances, indices = tree.radius_neighbors(small)
    pairs = [
        (i, int(j), float(d))
        for i, (row, near) in enumerate(zip(distances, indices, strict=True))
        for d, j in zip(row, near, strict=True)
        if i < j and people[i] != people[j]
    ]
    return sorted(pairs, key=lambda pair: pair[2])
