"""Does a generator repeat what it was trained on, and could somebody tell who was in the training set?

Every measure here is compared with people the generator never saw, and the person, not the slice, is its unit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from stylegan.augment import dither
from stylegan.checkpoint import load_discriminator
from stylegan.config import Config
from stylegan.data.subjects import people_of
from stylegan.dataset import SliceDataset, one_hot
from stylegan.latent import project
from stylegan.networks import Discriminator, Generator
from stylegan.rng import BatchRNG
from stylegan.scores.evidence import Evidence
from stylegan.scores.intervals import Interval, clipped, leave_out, p_value

UNKNOWN = dict.fromkeys(("ratio", "low", "high", "p_value"))  # where no copies can be looked for


def nearest(vectors: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distance [n], index [n]) of the nearest of ``others`` [m, D] to each of ``vectors`` [n, D]."""
    distance, index = NearestNeighbors(n_neighbors=1).fit(others).kneighbors(vectors)
    return distance[:, 0], index[:, 0]


# ---------------------------------------------------------------------------------------------------- nearest distances


def memory(fake: np.ndarray, heldout: np.ndarray, people: np.ndarray, *, seed: int = 0) -> dict[str, float | None]:
    """``{ratio, low, high, p_value}`` from distances to the nearest training slice, of fakes [m] and of held-out slices [n].

    The ratio of the medians, about 1 where fakes lie as near to the training slices as new people do and 0 for copies; its
    interval is by ``people`` [n]. The p-value is of the one-sided test that fakes lie *nearer* than new people: for each
    person the share of (slice, fake) in which the fake is nearer, and Wilcoxon's signed-rank test of these shares against
    1/2, so that n is the number of people. A generator whose slices are bad lies far from everything, and a ratio above 1
    is no proof that it copied none: `copied` looks at the near end. All None for fewer than two held-out people.
    """
    if len(set(people)) < 2:
        return dict(UNKNOWN)

    def ratio(held: np.ndarray, fakes: np.ndarray) -> dict[str, float]:
        return {"": float(np.median(fake[fakes]) / max(np.median(heldout[held]), 1e-12))}

    interval = clipped(leave_out(ratio, people, len(fake), seed=seed)[""])
    nearer = 1 - np.searchsorted(np.sort(fake), heldout, side="left") / len(fake)  # share of fakes at least as far away
    signs = 0.5 - np.array([nearer[people == name].mean() for name in np.unique(people)])
    p = stats.wilcoxon(signs, alternative="greater").pvalue if np.any(signs) else 1.0
    return {"ratio": interval["value"], "low": interval["low"], "high": interval["high"], "p_value": float(p)}


def copied(fake: np.ndarray, heldout: np.ndarray, quantile: float = 0.01) -> float:
    """Share of fakes nearer to a training slice than the nearest 1 % of held-out slices are: about .01 where none is copied."""
    return float((fake < np.quantile(heldout, quantile)).mean())


def nearest_people(fake: np.ndarray, at: np.ndarray, people: np.ndarray, member: np.ndarray, *, draws: int = 9999) -> dict:
    """Is the person nearest to a fake more often one it was trained on? ``{share, expected, p_value}``.

    Fakes [m, D], slices [n, D] of ``people`` [n], of which ``member`` [n] were trained on. For each fake the nearest slice of all
    names a person; ``share`` is how many of these are training people, ``expected`` what it would be if 'training' and 'held-out' meant
    nothing, and p how often chance gives as large a share (`intervals.p_value`). A blurred slice lies nearer or further than a
    sharp one, which shifts the ratio of `memory`; here it does so for both sides (in the spirit of the three-sample test of
    Meehan et al. 2020, arXiv:2004.05675). A copy too blurred for the feature space escapes all the same.
    """
    names, index = np.unique(people, return_inverse=True)
    weight = np.bincount(index[nearest(fake, at)[1]], minlength=len(names)) / len(fake)  # of each person, among the nearest
    trained = np.isin(names, people[member])
    found = p_value(lambda some: weight[some].sum(), trained, lambda some, rng: rng.permutation(some), draws=draws)
    return {"share": found.value, "expected": found.expected, "p_value": found.p_value}


def closest_pairs(fake: np.ndarray, index: np.ndarray, count: int = 16) -> list[tuple[int, int, float]]:
    """(fake, training slice, distance) of the nearest pairs, each training slice once, from `nearest`'s distances and indices."""
    pairs, taken = [], set()
    for row in np.argsort(fake):
        if int(index[row]) not in taken:
            taken.add(int(index[row]))
            pairs.append((int(row), int(index[row]), float(fake[row])))
    return pairs[:count]


# -------------------------------------------------------------------------------------------------------------- attacks


def membership(values: np.ndarray, member: np.ndarray, people: np.ndarray) -> Interval | None:
    """{value, low, high}: area under the ROC curve of guessing from ``values`` [n] which slices were trained on (``member`` [n]).

    1/2: nobody can tell; 1: everybody can. Intervals leave out people; None for fewer than two people on either side (Shokri et
    al. 2017, arXiv:1610.05820, on the attack; Hayes et al. 2019, arXiv:1705.07663, with the logits of a GAN's discriminator;
    Chen et al. 2020, arXiv:1909.03935, with the distance to the nearest fake, which needs the published generator alone).
    """
    if min(len(set(people[member])), len(set(people[~member]))) < 2:
        return None

    def auc(rows: np.ndarray, _: np.ndarray) -> dict[str, float]:
        both = len(set(member[rows])) == 2
        return {"": float(roc_auc_score(member[rows], values[rows])) if both else np.nan}

    return clipped(leave_out(auc, people)[""], high=1)


@torch.no_grad()
def logits(D: Discriminator, config: Config, slices: SliceDataset, *, seed: int = 0) -> np.ndarray:
    """D's logits of all slices [N], shown as in training but without augmentation: dithered where the run does so, told their class.

    In shuffled order and whole groups, since D's minibatch statistics see ``mbstd_group_size`` slices at a time.
    """
    device, order = next(D.parameters()).device, np.random.default_rng(seed).permutation(len(slices))
    draws, found = BatchRNG(device, torch.Generator(device).manual_seed(seed)), np.empty(len(slices), np.float32)
    group = config.mbstd_group_size
    for rows in np.array_split(order, max(len(slices) // max(32, group), 1)):
        rows = np.resize(rows, -(-len(rows) // group) * group)  # repeated rows get one value twice
        img = slices.tensor(rows).to(device)
        img = dither(img, draws) if config.dither else img
        found[rows] = D(img, one_hot(slices.labels[rows], config.c_dim, device))[:, 0].float().cpu().numpy()
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
    p = stats.mannwhitneyu(a, b, alternative="less").pvalue
    means = {"train": float(a.mean()), "heldout": float(b.mean()), "gap": float(b.mean() - a.mean())}
    return {**means, "p_value": float(p), "n": count}


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
    found = {"slices": len(slices), "exact": len(slices) - len(first)}
    if yardstick is None or near > len(slices) / 2:
        return found | {"yardstick": None, "near": None, "pairs": []}
    names = [(str(subject), int(level)) for subject, level in zip(slices.subjects, slices.levels, strict=True)]
    return found | {"yardstick": yardstick, "near": near, "pairs": [(*names[i], *names[j], d) for i, j, d in pairs[:10]]}


def duplicates_sentence(found: Mapping) -> str:
    """What `duplicates` found, in words."""
    near = "levels are unknown or far apart, so that near ones could not be judged"
    if found["near"] is not None:
        near = f"{found['near']} are nearer to another person's slice than half of the neighbouring levels of one head are to each other"
    return f"Of {found['slices']:,} real slices {found['exact']} are equal to an earlier one, pixel by pixel; {near}."


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
    distances, indices = NearestNeighbors(radius=limit, algorithm="brute").fit(small).radius_neighbors(small)
    rows = np.repeat(np.arange(len(small)), [len(row) for row in indices])
    found = zip(rows.tolist(), np.concatenate(indices).tolist(), np.concatenate(distances).tolist(), strict=True)
    return sorted(((i, j, d) for i, j, d in found if i < j and people[i] != people[j]), key=lambda pair: pair[2])


# --- All of it for one generator ---------------------------------------------------------------------------------------------------


def copies_of(evidence: Evidence, fakes: int) -> tuple[dict[str, float | None], dict]:
    """Are fakes nearer to training slices than people it never saw? (`memory` of all held-out splits, the distances).

    The distances: ``{drawn, fake, row, mirrored, heldout, people}``, the fakes, of each the nearest of `Evidence.at_train`, its slice's
    row and whether it is the mirrored one, of each held-out slice the distance and the person. Without training or held-out slices
    all numbers are None and there are none.
    """
    if evidence.train is None or evidence.held is None:
        return dict(UNKNOWN), {}
    train, held = evidence.at_train, evidence.side(evidence.held)
    drawn = evidence.fakes(evidence.train, min(fakes, 2 * len(evidence.train)))
    (near, row), usual = nearest(drawn.at, train), nearest(held.at, train)[0]
    found = {"drawn": drawn, "fake": near, "heldout": usual, "people": held.people}
    found["mirrored"], found["row"] = np.divmod(row, len(evidence.train))
    return memory(near, usual, held.people, seed=evidence.seed), found


def memory_of(evidence: Evidence, distances: dict, projections: int = 0) -> dict:
    """``{copied, people, attack, logits, pairs, projection}``: training against held-out people; ``distances`` from `copies_of`.

    ``pairs``: the closest fakes and training slices, ``{seed, class, subject, level, ratio}`` each. ``logits`` is None where a
    generator's discriminator is not at hand, ``projection`` stands there for ``projections`` above 0.
    """
    slices, held, drawn, usual = evidence.train, evidence.held, distances["drawn"], float(np.median(distances["heldout"]))
    sides = evidence.side(slices), evidence.side(held)
    at, people = (np.concatenate([getattr(side, name) for side in sides]) for name in ("at", "people"))
    member = np.arange(len(at)) < len(slices)
    # Whoever has more slices is nearest more often: of held-out people as many are kept as `Evidence` keeps of those it saw.
    kept = min(len(held), round(len(slices) * len(set(sides[1].people)) / len(set(sides[0].people))))
    rows = np.r_[: len(slices), len(slices) + np.sort(np.random.default_rng(0).permutation(len(held))[:kept])]
    pairs = [
        {**evidence.origin(drawn, fake), "subject": str(slices.subjects[row]), "level": int(slices.levels[row]),
         "ratio": distance / max(usual, 1e-12)}
        for fake, row, distance in closest_pairs(distances["fake"], distances["row"])
    ]  # fmt: skip
    found = {
        "copied": copied(distances["fake"], distances["heldout"]),
        "people": nearest_people(drawn.at, at[rows], people[rows], member[rows]),
        "attack": membership(-nearest(at, drawn.at)[0], member, people),
        "logits": _attack_by_logits(evidence, member, people),
        "pairs": pairs,
    }
    return found | ({"projection": projection_gap(evidence.G, slices, held, projections)} if projections else {})


def _attack_by_logits(evidence: Evidence, member: np.ndarray, people: np.ndarray) -> Interval | None:
    """Only a run folder keeps its discriminator; whoever gets the generator alone cannot attack in this way."""
    try:
        D, config, _ = load_discriminator(evidence.path, evidence.device)
    except FileNotFoundError:
        return None
    found = [logits(D, config, side) for side in (evidence.train, evidence.held)]
    return membership(np.concatenate(found), member, people)


def pairs_sheet(evidence: Evidence, distances: dict, count: int = 16) -> tuple[np.ndarray, int]:
    """(slices, columns): the closest pairs, generated above training (as D saw it, mirrored or not), in two double rows."""
    train, pairs = evidence.train_images, closest_pairs(distances["fake"], distances["row"], count)
    half, rows = -(-len(pairs) // 2), []
    for part in (pairs[:half], pairs[half:]):
        blank = [np.full_like(distances["drawn"].images[0], 255)] * (half - len(part))
        rows += [*(distances["drawn"].images[fake] for fake, _, _ in part), *blank]
        rows += [*(train[distances["mirrored"][fake]][row] for fake, row, _ in part), *blank]
    return np.stack(rows), half
